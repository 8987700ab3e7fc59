"""Sound teachers of transformers, fed through the feature extractor that comes with them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgekd.errors import ModelError


class FromWaveform(nn.Module):
    """A transformers model behind its own feature extractor: it takes waveforms and returns the logits alone.

    Wav2Vec2 and its kin want a normalised waveform, the Audio Spectrogram Transformer a log-mel spectrogram of its own
    kind: the extractor knows. It is NumPy, so this can teach but not be exported.

    Args:
        model: With a classification head.
        extractor: Its feature extractor.
        sample_rate: Of the waveforms, in Hz.
    """

    def __init__(self, model: nn.Module, extractor: Any, sample_rate: int) -> None:
        super().__init__()
        self.model, self.extractor, self.sample_rate = model, extractor, sample_rate

    def forward(self, waveform: Tensor) -> Tensor:
        """Map ``waveform [n, samples]`` in [-1, 1] to logits ``[n, classes]``."""
        features = self.extractor(list(waveform.numpy()), sampling_rate=self.sample_rate, return_tensors="pt")
        logits: Tensor = self.model(**features).logits
        return logits


def with_extractor(model: nn.Module, name: str, reference: str, sample_rate: int) -> nn.Module | None:
    """Return ``model`` behind the feature extractor that its folder or hub page has; ``None`` if there is none.

    Raises:
        ModelError: It was made for another sample rate.
    """
    from transformers import AutoFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    rate = getattr(extractor, "sampling_rate", sample_rate)
    if rate != sample_rate:
        raise ModelError(
            f"{reference} was made for sound of {rate:,} Hz, the data has {sample_rate:,} Hz", f"set data.sample_rate={rate}"
        )
    return FromWaveform(model, extractor, sample_rate)
