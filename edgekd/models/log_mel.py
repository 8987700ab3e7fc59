"""The log-mel front end as a layer, so that an exported graph takes the waveform itself.

Frames, windowed Fourier transform and mel filters are one strided convolution and one matrix product, which ONNX and
TFLite both have; nothing is left for an app to reimplement.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def mel_filters(bands: int, bins: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return triangular filters of equal width on the mel scale, ``[bands, bins]``.

    The scale is ``2595 log10(1 + f / 700)`` (O'Shaughnessy, 1987), as in HTK; filters have a peak of 1.

    Args:
        bands: Number of filters.
        bins: Frequencies from 0 to half of ``sample_rate``.
        sample_rate: In Hz.
        low_hz, high_hz: Where the first filter begins and the last one ends.
    """

    def mel(hertz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hertz / 700)

    edges = torch.linspace(float(mel(torch.tensor(low_hz))), float(mel(torch.tensor(high_hz))), bands + 2, dtype=torch.float64)
    places = mel(torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64))
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


class LogMel(nn.Module):
    """Waveform to log-mel spectrogram: frames of 30 ms every 20 ms, Hann window, 40 mel bands by default.

    The setting of keyword spotting (Zhang et al., 2017, "Hello Edge"; there followed by a cosine transform).

    Args:
        sample_rate: In Hz.
        bands: Mel bands.
        frame_ms, hop_ms: Length of a frame, and from one to the next.
    """

    def __init__(self, sample_rate: int, bands: int = 40, frame_ms: float = 30.0, hop_ms: float = 20.0) -> None:
        super().__init__()
        frame, self.hop = round(sample_rate * frame_ms / 1000), round(sample_rate * hop_ms / 1000)
        size = 2 ** math.ceil(math.log2(frame))
        bins = size // 2 + 1
        window = torch.hann_window(frame, periodic=True, dtype=torch.float64)
        angles = (
            2 * math.pi * torch.arange(bins, dtype=torch.float64)[:, None] * torch.arange(frame, dtype=torch.float64) / size
        )
        filters = mel_filters(bands, bins, sample_rate, 20.0, sample_rate / 2)
        used = filters.sum(0) > 0  # frequencies that no filter sees need no transform
        fourier = torch.cat([torch.cos(angles)[used] * window, torch.sin(angles)[used] * window])
        self.register_buffer("fourier", fourier.float()[:, None], persistent=False)
        self.register_buffer("filters", filters[:, used], persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Map ``waveform [n, samples]`` in [-1, 1] to ``[n, 1, frames, bands]``: natural logarithms of mel power."""
        if torch.is_autocast_enabled(waveform.device.type):
            # In bfloat16 the quiet bands drown in the rounding of the loud ones.
            with torch.autocast(waveform.device.type, enabled=False):
                return self._spectrogram(waveform.float())
        return self._spectrogram(waveform)

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        parts = nn.functional.conv1d(waveform[:, None], self.fourier, stride=self.hop).transpose(1, 2)  # type: ignore[arg-type]
        cosine, sine = parts.chunk(2, dim=2)
        mel = torch.matmul(cosine * cosine + sine * sine, self.filters.T)  # type: ignore[arg-type]
        return torch.log(mel + 1e-6)[:, None]


class LogMelNetwork(nn.Module):
    """A network on the log-mel spectrogram of its waveform, normalised by a batch norm of one channel.

    Args:
        samples: Length of the waveform.
        sample_rate: In Hz.
        network: Maps ``[n, 1, frames, bands]`` to logits.
    """

    def __init__(self, samples: int, sample_rate: int, network: nn.Module) -> None:
        super().__init__()
        self.samples = samples
        self.log_mel = LogMel(sample_rate)
        self.normalise = nn.BatchNorm2d(1)
        self.network = network

    def forward(self, waveform: Tensor) -> Tensor:
        """Map ``waveform [n, samples]`` to logits ``[n, classes]``."""
        logits: Tensor = self.network(self.normalise(self.log_mel(waveform)))
        return logits
