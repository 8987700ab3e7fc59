"""MNIST's files: written here by the format's description, gzipped or not, whole or broken."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.loading import load, parts_of, preview, refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 7, 9), np.uint8)
LABELS = (np.arange(30) % 3 + 1).astype(np.uint8)


def _idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _folder(root: Path, suffix: str = "", prefix: str = "", test: str = "t10k", separator: str = "-") -> str:
    root.mkdir(exist_ok=True)
    for part, chosen in (("train", slice(0, 18)), (test, slice(18, 30))):
        _write(root / f"{prefix}{part}-images{separator}idx3-ubyte{suffix}", _idx(PIXELS[chosen]))
        _write(root / f"{prefix}{part}-labels{separator}idx1-ubyte{suffix}", _idx(LABELS[chosen]))
    return f"idx:{root}"


@pytest.mark.parametrize(
    ("suffix", "prefix", "test", "separator"),
    [("", "", "t10k", "-"), (".gz", "", "t10k", "-"), (".gz", "emnist-letters-", "test", "-"), ("", "", "t10k", ".")],
)
def test_images_labels_and_splits(tmp_path: Path, suffix: str, prefix: str, test: str, separator: str) -> None:
    source = _folder(tmp_path / "a", suffix, prefix, test, separator)
    data = load(source, tmp_path / "out")
    assert (data.kind, data.classes, data.raw["image"].full_scale) == ("image", ("1", "2", "3"), 255)
    assert np.array_equal(data.raw["image"].array[:], PIXELS[..., None])
    assert np.array_equal(data.labels, LABELS - 1)
    assert data.splits.test.tolist() == list(range(18, 30))
    assert {name.partition("-images")[0] for name in parts_of(data)["validation"]} == {f"{prefix}train"}
    found = preview(source)
    assert (found.counts, found.parts) == ((10, 10, 10), {"train": 18, "test": 12})
    assert found.samples[0] == f"{prefix}train-images{separator}idx3-ubyte{suffix}[0], 7x9x1: 1"


def test_without_test_files_a_test_split_is_made(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a")
    for path in (tmp_path / "a").glob("t10k*"):
        path.unlink()
    assert preview(source).parts == {}
    assert {part: len(names) for part, names in parts_of(load(source, tmp_path / "out")).items()} == {
        "train": 12,
        "validation": 3,
        "test": 3,
    }


def test_unzipped_files_go_first(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a", ".gz")
    _folder(tmp_path / "a")
    assert preview(source).samples[0].startswith("train-images-idx3-ubyte[0]")


IMAGES = "train-images-idx3-ubyte"
WHOLE = _idx(PIXELS[:18])
ZIPPED = gzip.compress(WHOLE)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (IMAGES, b"", "begins with 0x(nothing), files of images begin with 0x00000803"),
        (IMAGES, b"\x89PNG....", "begins with 0x89504e47, files of images begin with 0x00000803"),
        (IMAGES, _idx(LABELS[:18]), "begins with 0x00000801, files of images begin with 0x00000803"),
        (IMAGES, bytes([0, 0, 13, 3]) + WHOLE[4:], "begins with 0x00000d03"),
        (IMAGES, ZIPPED, "begins with 0x1f8b"),
        (IMAGES, WHOLE[:9], "ends within its header"),
        (IMAGES, WHOLE[:-1], "is cut off: its header says 18 images, it has 17"),
        (IMAGES, WHOLE + b"\0", "has bytes behind its 18 images"),
        (IMAGES, _idx(PIXELS[:17]), "has 17 images, train-labels-idx1-ubyte has 18 labels"),
        (IMAGES, _idx(PIXELS[:18, :0]), "holds no pixels: its header says [18, 0, 9]"),
        (IMAGES, _idx(PIXELS[:18, :5]), "images of the splits differ in size: train 5x9, test 7x9"),
        (IMAGES + ".gz", WHOLE, "is no whole gzip file: Not a gzipped file"),
        (IMAGES + ".gz", ZIPPED[:-20], "is no whole gzip file: Compressed file ended before"),
        (IMAGES + ".gz", ZIPPED[:-8] + b"\0" * 8, "is no whole gzip file: CRC check failed"),
        (IMAGES + ".gz", ZIPPED[:12] + b"\xff" * 20 + ZIPPED[32:], "is no whole gzip file: "),
        ("train-labels-idx1-ubyte", _idx(LABELS[:18])[:-2], "is cut off: its header says 18 labels, it has 16"),
    ],
)  # fmt: skip
def test_broken_files_are_one_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    source = _folder(tmp_path / "a")
    (tmp_path / "a" / name.removesuffix(".gz")).unlink()
    (tmp_path / "a" / name).write_bytes(content)
    message = refusal(source, tmp_path / "out")
    assert expected in message
    assert str(tmp_path / "a" / name) in message or message.startswith("images of the splits")


def test_layout_mistakes_are_one_line(tmp_path: Path) -> None:
    source = _folder(tmp_path / "a")
    (tmp_path / "a" / "t10k-labels-idx1-ubyte").unlink()
    assert "has no t10k-labels-idx1-ubyte, with .gz or without" in refusal(source, tmp_path / "out")
    (tmp_path / "b").mkdir()
    assert "has no train-images-idx3-ubyte" in refusal(f"idx:{tmp_path / 'b'}", tmp_path / "out")
    _folder(tmp_path / "c")
    _folder(tmp_path / "c", ".gz", "emnist-letters-", "test")
    assert "holds several data sets: emnist-letters, without prefix" in refusal(f"idx:{tmp_path / 'c'}", tmp_path / "out")
    _folder(tmp_path / "d")
    _folder(tmp_path / "d", separator=".")
    assert "has several files of labels: train-labels-idx1-ubyte, train-labels.idx1-ubyte" in refusal(
        f"idx:{tmp_path / 'd'}", tmp_path / "out"
    )
    assert "is a file, not a folder" in refusal(f"idx:{tmp_path / 'd' / IMAGES}", tmp_path / "out")
