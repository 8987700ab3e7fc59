"""NumPy archives: every layout and kind of number, and every way they can be broken."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.data.loading import load, parts_of, preview, refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), np.uint8)
LABELS = np.arange(24) % 3


def _save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def _raw(source: str, out: Path, **options: Any) -> tuple[NDArray[Any], float | None]:
    data = load(source, out, **options)
    (raw,) = data.raw.values()
    return raw.array[:], raw.full_scale


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_labels_and_names(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    data = load(f"npz:{tmp_path / 'a.npz'}", tmp_path / "out")
    assert (data.kind, data.classes, data.raw["image"].full_scale) == ("image", ("0", "1", "2"), 255)
    assert np.array_equal(data.raw["image"].array[:], PIXELS)
    assert np.array_equal(data.labels, LABELS)
    assert data.ids[:2] == ("x[0]", "x[1]")


@pytest.mark.parametrize(
    ("given", "stored", "full_scale"),
    [
        (PIXELS.transpose(0, 3, 1, 2).copy(), PIXELS, 255),
        (PIXELS[..., 0].copy(), PIXELS[..., :1], 255),
        (PIXELS[..., :1].copy(), PIXELS[..., :1], 255),
        (PIXELS.astype(np.int64), PIXELS, 255),
        (PIXELS.astype(">u2"), PIXELS, 255),
        (PIXELS[..., 0] > 99, (PIXELS[..., :1] > 99).astype(np.uint8), 1),
        (PIXELS.astype(np.float64), PIXELS, 255),
        (PIXELS.astype(np.float32) / np.float32(255), PIXELS, 255),
        (PIXELS.astype(np.float32) * np.float32(1 / 255), PIXELS, 255),
        (PIXELS / 255, PIXELS, 255),
        ((PIXELS / 255).astype(np.float16), PIXELS, 255),
        (PIXELS.astype(np.float32) / np.float32(256), PIXELS.astype(np.float32) / np.float32(256), 1),
        (PIXELS.astype(np.float32) * np.float32(0.7), PIXELS.astype(np.float32) * np.float32(0.7), 255),
        ((PIXELS[..., 0] > 99).astype(np.float32), (PIXELS[..., :1] > 99) * np.uint8(255), 255),
    ],
)
def test_every_kind_of_image(tmp_path: Path, given: NDArray[Any], stored: NDArray[Any], full_scale: int) -> None:
    found, white = _raw(_save(tmp_path / "a.npz", x=given, y=LABELS), tmp_path / "out")
    assert (found.dtype, white) == (stored.dtype, full_scale)
    assert np.array_equal(found, stored)


def test_float_images_are_normalised_as_8_bit_ones_are(tmp_path: Path) -> None:
    exact = load(_save(tmp_path / "a.npz", x=PIXELS, y=LABELS), tmp_path / "a")
    float_pixels = PIXELS.astype(np.float32) / 255
    float_pixels[0, 0, 0, 0] += 1e-4  # no multiple of 1/255 any more
    floats = load(_save(tmp_path / "b.npz", x=float_pixels, y=LABELS), tmp_path / "b")
    assert floats.raw["image"].array.dtype == np.float32
    assert floats.inputs[0].value_range == exact.inputs[0].value_range == (0.0, 1.0)
    indices = floats.splits.train
    assert np.allclose(floats.batch(indices)["image"], exact.batch(indices)["image"], atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.sampled_from(["<f4", ">f8", "<i8", "u1", "?", "<f2"]), st.integers(0, 99))
def test_features(tmp_path_factory: pytest.TempPathFactory, width: int, kind: str, seed: int) -> None:
    folder = tmp_path_factory.mktemp("features")
    rows = np.random.default_rng(seed).normal(0, 50, (24, width)).astype(kind, casting="unsafe")
    found, white = _raw(_save(folder / "a.npz", features=rows, targets=LABELS.astype(np.float32)), folder / "out")
    assert found.dtype == np.float32
    assert white is None
    assert np.array_equal(found, rows.astype(np.float32))


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("x_train", "y_train", "x_test", "y_test"), ("train", "test")),
        (
            ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
            ("train", "validation", "test"),
        ),
        (("X_Train", "Y_Train", "X_dev", "Y_dev"), ("train", "validation")),
    ],
)
def test_splits_by_name(tmp_path: Path, names: tuple[str, ...], parts: tuple[str, ...]) -> None:
    arrays: dict[str, Any] = {}
    for number, (samples, labels) in enumerate(zip(names[::2], names[1::2], strict=True)):
        count = 24 - 3 * number
        arrays |= {labels: (LABELS[:count])[:, None].astype(np.uint8), samples: PIXELS[:count]}
    source = _save(tmp_path / "a.npz", **arrays)
    assert preview(source).parts == {part: 24 - 3 * number for number, part in enumerate(parts)}
    found = parts_of(load(source, tmp_path / "out"))
    for part, name in zip(parts, names[::2], strict=True):
        assert {each.partition("[")[0] for each in found[part]} == {name}


@pytest.mark.parametrize(
    ("labels", "more", "classes", "indices"),
    [
        (np.asarray(["dog", "cat", "emu"])[LABELS], {}, ("cat", "dog", "emu"), np.asarray([1, 0, 2])[LABELS]),
        (np.asarray([b"dog", b"cat", b"emu"])[LABELS], {}, ("cat", "dog", "emu"), np.asarray([1, 0, 2])[LABELS]),
        (np.asarray([10, 9, -1])[LABELS], {}, ("-1", "9", "10"), np.asarray([2, 1, 0])[LABELS]),
        (LABELS, {"classes": np.asarray(["x", "b", "a"])}, ("x", "b", "a"), LABELS),
        (np.asarray(["b", "a", "x"])[LABELS], {"label_names": np.asarray(["x", "b", "a"])}, ("x", "b", "a"), np.asarray([1, 2, 0])[LABELS]),
        (LABELS.astype(np.uint64), {}, ("0", "1", "2"), LABELS),
    ],
)  # fmt: skip
def test_labels(
    tmp_path: Path, labels: NDArray[Any], more: dict[str, Any], classes: tuple[str, ...], indices: NDArray[Any]
) -> None:
    data = load(_save(tmp_path / "a.npz", x=PIXELS, y=labels, **more), tmp_path / "out")
    assert data.classes == classes
    assert np.array_equal(data.labels, indices)


def test_columns_by_option(tmp_path: Path) -> None:
    source = _save(tmp_path / "a.npz", left=PIXELS, right=PIXELS + 1, kind_train=LABELS, kind=LABELS)
    found, _ = _raw(source, tmp_path / "out", input_column="right", label_column="kind")
    assert np.array_equal(found, PIXELS + 1)
    split = _save(tmp_path / "b.npz", left_train=PIXELS, left_test=PIXELS, kind_train=LABELS, kind_test=LABELS)
    assert preview(split, input_column="left", label_column="kind").parts == {"train": 24, "test": 24}


def test_preview_tells_shape_and_kind(tmp_path: Path) -> None:
    found = preview(_save(tmp_path / "a.npz", x=PIXELS / 255, y=LABELS))
    assert (found.kind, found.classes, found.counts, found.parts) == ("image", ("0", "1", "2"), (8, 8, 8), {})
    assert found.samples == ("x[0], 6x5x3 float64: 0", "x[1], 6x5x3 float64: 1", "x[2], 6x5x3 float64: 2")


def test_preview_reads_no_samples(tmp_path: Path) -> None:
    source = _save(tmp_path / "a.npz", x=np.repeat(PIXELS, 50, 0), y=np.repeat(LABELS, 50))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[50_000] ^= 1  # within x
    (tmp_path / "a.npz").write_bytes(content)
    assert sum(preview(source).counts) == 1200
    assert "is no whole .npz file: Bad CRC-32" in refusal(source, tmp_path / "out")


_OBJECTS = np.asarray([{"a": 1}, None] * 12, dtype=object)
_NAN = np.where(np.arange(48).reshape(24, 2) == 15, np.nan, 1.0)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": _OBJECTS, "y": LABELS}, "array 'x' holds Python objects; unpickling them could run code, so they are not read"),
        ({"x": PIXELS, "y": LABELS, "extra": _OBJECTS}, "array 'extra' holds Python objects"),
        ({"x": PIXELS, "y": LABELS[:-1]}, "array 'x' has 24 rows, 'y' has 23"),
        ({"x": PIXELS}, "has no labels; its arrays: 'x' [24, 6, 5, 3]"),
        ({"y": LABELS}, "has no samples; its arrays: 'y' [24]"),
        ({"x": PIXELS, "images": PIXELS, "y": LABELS}, "which array holds the samples is not clear: 'x' or 'images'"),
        ({"x": PIXELS, "x_test": PIXELS, "y": LABELS}, "which array holds the samples is not clear: 'x' or 'x_test'"),
        ({"x_train": PIXELS, "x_test": PIXELS, "y_train": LABELS}, "array 'x_test' has no labels beside it"),
        ({"x_test": PIXELS, "y_test": LABELS}, "has no training samples"),
        ({"x": PIXELS, "y": np.eye(3)[LABELS]}, "array 'y' has shape [24, 3], expected are labels of shape [n]"),
        ({"x": PIXELS, "y": LABELS / 2}, "array 'y' has 0.5 at 1, which is no class"),
        ({"x": PIXELS, "y": LABELS.astype(complex)}, "array 'y' has type complex128, which is no label"),
        ({"x": PIXELS, "y": LABELS, "classes": np.asarray(["a", "b"])}, "array 'y' has label 2, but there are 2 class names"),
        ({"x": PIXELS, "y": LABELS, "classes": np.asarray(["a", "b", "a"])}, "array 'classes' has a name twice"),
        ({"x": PIXELS, "y": LABELS, "classes": np.arange(3)}, "array 'classes' holds no list of names"),
        ({"x": LABELS, "y": LABELS}, "array 'x' has shape [24] and type int64, which are no samples"),
        ({"x": np.asarray(["a"] * 24), "y": LABELS}, "array 'x' has shape [24] and type str"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "array 'x' has shape [0, 6, 5, 3]"),
        ({"x": np.zeros((24, 2, 5, 6, 7)), "y": LABELS}, "array 'x' has shape [24, 2, 5, 6, 7], which are neither images nor features"),
        ({"x": np.zeros((24, 5, 6, 7)), "y": LABELS}, "array 'x' has shape [24, 5, 6, 7], which are neither images nor features"),
        ({"x": np.asfortranarray(PIXELS), "y": LABELS}, "array 'x' is stored column by column"),
        ({"x": PIXELS.astype(np.float32) / 127.5 - 1, "y": LABELS}, "images have values from -1 to"),
        ({"x": PIXELS.astype(np.int32) + 1, "y": LABELS}, "images have values from 0 to 256, expected are 0 to 1 or 0 to 255"),
        ({"x": np.where(PIXELS > 250, np.nan, PIXELS), "y": LABELS}, "images hold NaN or infinity"),
        ({"x": _NAN, "y": LABELS}, "x[7] holds NaN, infinity, or a number beyond 32 bits"),
        ({"x": np.full((24, 2), 1e39), "y": LABELS}, "x[0] holds NaN, infinity, or a number beyond 32 bits"),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:, 1:], "y_test": LABELS}, "samples of the splits differ in shape or type"),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS / 255, "y_test": LABELS}, "samples of the splits differ in shape or type"),
        ({"x": PIXELS, "y": np.arange(24)}, "class '0' has 1 sample(s) to split"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_one_line(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    message = refusal(_save(tmp_path / "a.npz", **arrays), tmp_path / "out")
    assert expected in message
    assert message.startswith((str(tmp_path / "a.npz"), "class '0'"))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    source = _save(tmp_path / "a.npz", left=PIXELS, y=LABELS)
    assert "has no array 'lift'; did you mean 'left'?" in refusal(source, tmp_path / "out", input_column="lift")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_or_mutated_files_are_one_line_or_the_same_data(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.npz"
    save(path, x=PIXELS, y=LABELS)
    whole = path.read_bytes()
    for length in [0, 1, 30, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "is no whole .npz file" in refusal(f"npz:{path}", tmp_path / "out")
    generator = np.random.default_rng(0)
    for turn in range(60):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 3):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content)
        try:
            data = load(f"npz:{path}", tmp_path / f"out-{turn}")
        except Exception:
            assert refusal(f"npz:{path}", tmp_path / f"again-{turn}").startswith(str(path))
        else:  # the bytes that changed meant nothing: a time stamp
            assert np.array_equal(data.raw["image"].array[:], PIXELS)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, PIXELS)
    assert "is a single array, not an archive" in refusal(f"npz:{path}", tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "holds no arrays" in refusal(f"npz:{path}", tmp_path / "out")
    path.write_bytes(b"PK" + b"\0" * 100)
    assert "is no whole .npz file" in refusal(f"npz:{path}", tmp_path / "out")
    assert "is a folder" in refusal(f"npz:{tmp_path}", tmp_path / "out")
    assert "does not exist; did you mean 'a.npz'?" in refusal(f"npz:{tmp_path / 'b.npz'}", tmp_path / "out")


def test_a_header_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 8, 8)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"\0" * 64)
    assert "array 'x' has 192 bytes, its header says" in refusal(f"npz:{path}", tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os').x()")
    assert "is no whole .npz file" in refusal(f"npz:{path}", tmp_path / "out")
