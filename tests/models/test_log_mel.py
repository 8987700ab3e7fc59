"""The log-mel front end against SciPy's Fourier transform and against other definitions of mel filters."""

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from edgekd.models.log_mel import LogMel, LogMelNetwork, mel_filters


@pytest.mark.parametrize("sample_rate", [8_000, 16_000])
def test_equals_a_windowed_fourier_transform(sample_rate: int) -> None:
    layer = LogMel(sample_rate)
    sound = np.random.default_rng(0).normal(0, 0.1, sample_rate).astype(np.float32)
    found = layer(torch.from_numpy(sound)[None])[0, 0].numpy()
    frame, hop = round(0.03 * sample_rate), round(0.02 * sample_rate)
    size = 2 ** int(np.ceil(np.log2(frame)))
    window = hann(frame, sym=False)
    starts = range(0, len(sound) - frame + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(sound[start : start + frame] * window, size)) ** 2 for start in starts])
    filters = mel_filters(40, size // 2 + 1, sample_rate, 20.0, sample_rate / 2).numpy()
    expected = np.log(power @ filters.T + 1e-6)
    assert found.shape == (49, 40)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # SciPy's own short-time transform agrees on where frames lie.
    other = ShortTimeFFT(window, hop, sample_rate, mfft=size, phase_shift=None).spectrogram(sound, k_offset=frame // 2, p0=0)
    np.testing.assert_allclose(power[:40], other.T[:40], rtol=1e-3, atol=1e-6)


def test_filters_are_those_of_transformers() -> None:
    audio = pytest.importorskip("transformers.audio_utils")
    theirs = audio.mel_filter_bank(129, 40, 20.0, 4000.0, 8000, norm=None, mel_scale="htk", triangularize_in_mel_space=True)
    np.testing.assert_allclose(mel_filters(40, 129, 8000, 20.0, 4000.0).numpy().T, theirs, atol=1e-5)


def test_silence_and_full_scale_are_finite() -> None:
    layer = LogMel(8_000)
    for sound in (torch.zeros(1, 8_000), torch.ones(1, 8_000), torch.full((1, 8_000), -1.0)):
        assert torch.isfinite(layer(sound)).all()


def test_a_tone_is_loudest_in_its_band() -> None:
    layer = LogMel(8_000)
    filters = mel_filters(40, 129, 8_000, 20.0, 4_000.0)
    for hertz in (300, 1_000, 2_500):
        tone = torch.sin(2 * torch.pi * hertz * torch.arange(8_000) / 8_000)[None]
        loudest = int(layer(tone)[0, 0].mean(0).argmax())
        assert abs(loudest - int(filters[:, round(hertz / 4_000 * 128)].argmax())) <= 1


def test_autocast_leaves_the_spectrogram_in_float32() -> None:
    layer = LogMel(8_000)
    sound = torch.randn(2, 8_000) * 0.1
    plain = layer(sound)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(sound), plain)


def test_network_takes_waveforms() -> None:
    network = LogMelNetwork(8_000, 8_000, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3)))
    assert network(torch.randn(2, 8_000)).shape == (2, 3)
