"""Sounds by class: every kind of WAV file against the values it was made of, resampling against SciPy, and broken files."""

import io
import os
import struct
import warnings
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from edgekd.data.sounds import FULL_SCALE, Sound, decode_sound, fit_sound
from edgekd.runtimes import feed
from tests.data.loading import load, parts_of, preview, refusal

TONE = np.round(12_000 * np.sin(np.arange(6000) / 7)).astype(np.int16)


def _folder(root: Path, per_class: int = 6, rate: int = 8000, parts: tuple[str, ...] = ("",)) -> str:
    for part in parts:
        for name in ("no", "yes"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                wavfile.write(folder / f"{index}.wav", rate, np.roll(TONE, index))
    return f"audio-folder:{root}"


def _decode(content: bytes) -> Sound | str:
    return decode_sound(io.BytesIO(content))


def _wav(values: NDArray[Any], rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, values)
    return buffer.getvalue()


def test_16_bit_files_are_kept_bit_for_bit(tmp_path: Path) -> None:
    data = load(_folder(tmp_path / "a"), tmp_path / "out", seconds=0.5)
    raw = data.raw["waveform"]
    assert (data.kind, data.classes, raw.full_scale) == ("waveform", ("no", "yes"), FULL_SCALE)
    assert raw.array.dtype == np.int16
    assert np.array_equal(raw.array[:], np.stack([np.roll(TONE, index)[:4000] for index in range(6)] * 2))
    assert (data.inputs[0].sample_rate, data.inputs[0].shape, data.inputs[0].value_range) == (8000, (4000,), (-1.0, 1.0))
    indices = np.arange(12)
    batch = data.batch(indices)["waveform"]
    assert np.array_equal(batch, raw.array[:] / np.float32(32768))
    described = {
        "meaning": "waveform",
        "dtype": "float32",
        "layout": "NC",
        "value_range": [-1, 1],
        "scale": None,
        "zero_point": None,
    }
    assert np.array_equal(feed(raw.array[indices], raw.full_scale, described), batch)


def test_short_sounds_are_padded_with_silence_at_their_end(tmp_path: Path) -> None:
    data = load(_folder(tmp_path / "a"), tmp_path / "out", seconds=1.0)
    row = data.raw["waveform"].array[:1][0]
    assert row.shape == (8000,)
    assert np.array_equal(row[:6000], TONE)
    assert not row[6000:].any()


def _pcm24(values: NDArray[np.int16]) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(8000)
        file.writeframes(b"".join((int(each) * 256).to_bytes(3, "little", signed=True) for each in values))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "atol"),
    [
        (_wav(TONE), 0),
        (_wav(TONE.astype(np.int32) << 16), 0),
        (_pcm24(TONE), 0),
        (_wav((TONE / 32768).astype(np.float32)), 0),
        (_wav(TONE / 32768), 0),
        (_wav((np.round(TONE / 256) + 128).astype(np.uint8)), 1 / 256),
        (_wav(np.stack([TONE, TONE], 1)), 0),
        (_wav(np.stack([TONE + 1000, TONE - 1000], 1)), 0),
    ],
    ids=["int16", "int32", "int24", "float32", "float64", "uint8", "stereo", "stereo apart"],
)
def test_every_kind_of_file(content: bytes, atol: float) -> None:
    sound = _decode(content)
    assert isinstance(sound, Sound)
    assert sound.rate == 8000
    assert np.allclose(sound.values, TONE / 32768, rtol=0, atol=atol)


def test_loud_floats_are_clipped() -> None:
    sound = _decode(_wav(np.asarray([2.0, -3.0, 1.0, 0.5], np.float32)))
    assert isinstance(sound, Sound)
    assert fit_sound(sound, 8000, 4).tolist() == [32767, -32768, 32767, 16384]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]), st.sampled_from([8000, 16000, 11025]), st.integers(1, 9000))
def test_resampling_is_scipys_of_the_whole_sound(rate: int, wanted: int, length: int) -> None:
    values = np.random.default_rng(length).normal(0, 0.1, 3 * 9000)
    divisor = np.gcd(rate, wanted)
    whole = resample_poly(values, wanted // divisor, rate // divisor)
    expected = np.zeros(length)
    expected[: len(whole)] = whole[:length]
    found = fit_sound(Sound(rate, values), wanted, length)
    assert np.abs(found - np.clip(np.round(expected * 32768), -32768, 32767)).max() <= 1


def test_a_tone_keeps_its_pitch(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a")
    for path in (tmp_path / "a").rglob("*.wav"):
        wavfile.write(path, 44100, (20_000 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)).astype(np.int16))
    data = load(source, tmp_path / "out", sample_rate=16000)
    assert data.raw["waveform"].array.shape == (12, 16000)
    spectrum = np.abs(np.fft.rfft(data.raw["waveform"].array[:1][0]))
    assert spectrum.argmax() == 440
    assert data.inputs[0].sample_rate == 16000


def test_folders_of_splits(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a", 4, parts=("train", "dev", "test"))
    found = preview(source)
    assert (found.counts, found.parts) == ((12, 12), {"train": 8, "validation": 8, "test": 8})
    assert found.samples[0] == "train/no/0.wav, 0.75 s at 8,000 Hz: no"
    for part, names in parts_of(load(source, tmp_path / "out")).items():
        assert {name.partition("/")[0] for name in names} == {"dev" if part == "validation" else part}


def test_different_rates_ask_for_sample_rate(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a")
    wavfile.write(tmp_path / "a" / "yes" / "9.wav", 16000, TONE)
    message = refusal(source, tmp_path / "out")
    assert message == (
        f"sounds differ in sample rate: {tmp_path / 'a' / 'no' / '0.wav'} has 8,000 Hz, {tmp_path / 'a' / 'yes' / '9.wav'} has 16,000 Hz"
    )
    assert load(source, tmp_path / "out", sample_rate=8000).raw["waveform"].array.shape == (13, 8000)


WHOLE = _wav(TONE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"ID3\x04 an mp3", "is no WAV file"),
        (WHOLE[:4], "is no WAV file that SciPy reads"),
        (WHOLE[:40], "is no WAV file that SciPy reads"),
        (WHOLE[:5000], "is cut off"),
        (_wav(TONE[:0]), "holds no sound"),
        (_wav(np.asarray([0, np.nan, 0], np.float32)), "holds NaN or infinity"),
        (_wav(np.asarray([0, np.inf, 0], np.float64)), "holds NaN or infinity"),
        (_wav(TONE, 10), "has 10 samples per second; allowed are 1,000 to 192,000"),
        (WHOLE[:20] + struct.pack("<H", 0x55) + WHOLE[22:], "is no WAV file that SciPy reads: Unknown wave file format: MPEGLAYER3"),
    ],
)  # fmt: skip
def test_broken_files_are_named_and_skipped_only_if_asked(tmp_path: Path, content: bytes, expected: str) -> None:
    source = _folder(tmp_path / "a")
    (tmp_path / "a" / "yes" / "bad.wav").write_bytes(content)
    assert refusal(source, tmp_path / "out").startswith(f"1 sound cannot be decoded: yes/bad.wav ({expected}")
    data = load(source, tmp_path / "out", skip_bad=True)
    assert len(data.labels) == 12
    assert "yes/bad.wav" not in data.ids


def test_any_mutation_is_a_sound_or_a_reason() -> None:
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2000):
            content = bytearray(WHOLE[:200])
            for place in generator.integers(0, 60, 2):
                content[place] = generator.integers(0, 256)
            found = _decode(bytes(content))
            assert isinstance(found, Sound | str)
            assert isinstance(found, Sound) or "\n" not in found


def test_layout_mistakes_are_one_line(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a")
    (tmp_path / "a" / "up").mkdir()
    (tmp_path / "a" / "up" / "a.mp3").write_bytes(b"x")
    assert refusal(source, tmp_path / "out") == f"class folder {tmp_path / 'a' / 'up'} has no sounds"
    (tmp_path / "a" / "up" / "a.wav").write_bytes(b"x")
    assert "class 'up'" in refusal(source, tmp_path / "out", skip_bad=True)
    (tmp_path / "b" / "train" / "x").mkdir(parents=True)
    assert "has train/ but no test/" in refusal(f"audio-folder:{tmp_path / 'b'}", tmp_path / "out")


def test_spoken_digits(tmp_path: Path) -> None:
    archive = Path(os.environ.get("EDGEKD_DATA", "no-data")) / "fsdd.zip"
    if not archive.is_file():
        pytest.skip("EDGEKD_DATA names no folder with fsdd.zip")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    source = f"audio-folder:{tmp_path / 'fsdd'}"
    found = preview(source)
    assert (found.classes, found.counts, found.parts) == (tuple("0123456789"), (300,) * 10, {"train": 2700, "test": 300})
    data = load(source, tmp_path / "out")
    assert data.raw["waveform"].array.shape == (3000, 8000)
    for index in (0, 1500, 2999):
        rate, values = wavfile.read(tmp_path / "fsdd" / data.ids[index])
        assert rate == data.inputs[0].sample_rate == 8000
        row = data.raw["waveform"].array[index : index + 1][0]
        assert np.array_equal(row[: len(values)], values[:8000])
