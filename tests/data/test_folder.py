"""Image folders: layouts, decoding against Pillow, and everything that can be wrong with one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgekd.data.dataset import Dataset
from edgekd.data.folder import list_images, preview
from edgekd.data.images import decode_image, kept_shape
from edgekd.data.load import load_data
from edgekd.errors import DataError
from edgekd.progress import Silent
from edgekd.recipe import Data, Recipe
from edgekd.workspace import open_workspace

CLASSES = ("cat", "dog")


def _pixels(seed: int, height: int = 12, width: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _folder(root: Path, per_class: int = 6, parts: tuple[str, ...] = ("",), grey: bool = False) -> Path:
    for part in parts:
        for number, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                image = Image.fromarray(_pixels(100 * number + index))
                (image.convert("L") if grey else image).save(folder / f"{index}.png")
    return root


class _Warnings(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def _load(root: Path, out: Path, listener: Silent | None = None, **options: object) -> Dataset:
    data = Data.model_validate({"source": f"folder:{root}", **options})
    with open_workspace(out, listener or Silent()) as workspace:
        return load_data(Recipe(data=data), workspace)


def test_pixels_labels_and_ids_are_those_of_the_files(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    data = _load(root, tmp_path / "out")
    assert (data.classes, data.raw["image"].array.shape, data.raw["image"].full_scale) == (CLASSES, (12, 12, 12, 3), 255)
    for pixels, label, name in zip(data.raw["image"].array[:], data.labels, data.ids, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(root / name)))
        assert name.startswith(CLASSES[label] + "/")
    together = np.concatenate([data.splits.train, data.splits.validation, data.splits.test])
    assert sorted(together) == list(range(12))


def test_a_test_folder_is_the_test_split(tmp_path: Path) -> None:
    data = _load(_folder(tmp_path / "images", parts=("train", "test")), tmp_path / "out")
    assert {data.ids[index].split("/")[0] for index in data.splits.test} == {"test"}
    assert {data.ids[index].split("/")[0] for index in [*data.splits.train, *data.splits.validation]} == {"train"}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_a_validation_folder_is_the_validation_split(tmp_path: Path, name: str) -> None:
    root = _folder(tmp_path / "images", parts=("train", "test", name))
    (root / "notes").mkdir()  # beside splits, other folders are no data
    assert preview(Data(source=f"folder:{root}")).parts == {"train": 12, "validation": 12, "test": 12}
    data = _load(root, tmp_path / "out")
    assert {data.ids[index].split("/")[0] for index in data.splits.validation} == {name}
    assert {data.ids[index].split("/")[0] for index in data.splits.train} == {"train"}
    assert {data.ids[index].split("/")[0] for index in data.splits.test} == {"test"}


def test_a_validation_folder_without_a_test_folder(tmp_path: Path) -> None:
    data = _load(_folder(tmp_path / "images", parts=("train", "val")), tmp_path / "out")
    assert {data.ids[index].split("/")[0] for index in data.splits.validation} == {"val"}
    assert {data.ids[index].split("/")[0] for index in [*data.splits.train, *data.splits.test]} == {"train"}
    (tmp_path / "images" / "dev").mkdir()
    with pytest.raises(DataError, match="two folders of one split: dev and val"):
        list_images(tmp_path / "images")


def test_train_may_be_a_class(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    (root / "cat").rename(root / "train")
    assert list_images(root).classes == ("dog", "train")


def test_the_preview_opens_three_images(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    (root / "dog" / "1.png").write_bytes(b"")
    (root / "dog" / "5.png").write_bytes(b"no image, and never opened")
    found = preview(Data(source=f"folder:{root}"))
    assert (found.kind, found.classes, found.counts, found.parts) == ("image", CLASSES, (6, 6), {})
    assert found.samples == ("cat/0.png, 12x12 RGB: cat", "dog/0.png, 12x12 RGB: dog", "cat/1.png, 12x12 RGB: cat")


def test_a_file_of_no_bytes_is_called_empty(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    (root / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        _load(root, tmp_path / "out")
    assert caught.value.message == "1 image cannot be decoded: dog/1.png (is empty)"


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images", grey=True)
    data = _load(root, tmp_path / "out")
    assert data.raw["image"].array.shape == (12, 12, 12, 1)
    assert np.array_equal(data.raw["image"].array[:1][0, ..., 0], np.asarray(Image.open(root / data.ids[0])))


def test_images_are_turned_upright_and_brought_to_size(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    image = Image.fromarray(_pixels(7, 12, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "cat" / "turned.png", exif=exif)
    data = _load(root, tmp_path / "out", image_size=12)
    upright = image.transpose(Image.Transpose.ROTATE_270).crop((0, 4, 12, 16))
    found = data.raw["image"].array[np.asarray([data.ids.index("cat/turned.png")])][0]
    assert np.array_equal(found, np.asarray(upright))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1", "I;16", "RGBA"])
def test_the_shape_that_is_kept_is_that_of_the_decoded_image(mode: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.new(mode, (9, 6)).save(path, exif=exif)
    for size in (None, 4):
        decoded = decode_image(path, size)
        assert not isinstance(decoded, str)
        pixels, grey = decoded
        assert kept_shape([path], size) == (*pixels.shape[:2], 1 if grey else 3)
    (tmp_path / "b.png").write_bytes(b"no image")
    assert kept_shape([tmp_path / "b.png"], None) is None
    assert kept_shape([tmp_path / "b.png", path], None) == kept_shape([path], None)


def test_different_sizes_ask_for_image_size(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    Image.fromarray(_pixels(1, 10, 14)).save(root / "dog" / "z.png")
    with pytest.raises(DataError, match=r"12x12 pixels, .*z\.png has 14x10") as error:
        _load(root, tmp_path / "out")
    assert "data.image_size" in str(error.value)


def test_truncated_images_are_named_and_counted_and_skipped_only_if_asked(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    Image.fromarray(_pixels(3)).save(root / "cat" / "whole.jpg")
    content = (root / "cat" / "whole.jpg").read_bytes()
    (root / "cat" / "broken.jpg").write_bytes(content[: len(content) // 2])
    (root / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 images cannot be decoded: cat/broken\.jpg \(.*(?i:truncated).*\), dog/empty\.jpg"
    ) as error:
        _load(root, tmp_path / "out")
    assert "data.skip_bad=true" in str(error.value)
    assert not list((tmp_path / "out").rglob("*.npy*"))
    listener = _Warnings()
    data = _load(root, tmp_path / "out", listener, skip_bad=True)
    assert len(data.raw["image"].array) == 13
    assert not {"cat/broken.jpg", "dog/empty.jpg"} & set(data.ids)
    (warning,) = listener.warnings
    assert "2 images were left out" in warning


def test_a_class_with_no_good_image_is_an_error(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    (root / "emu").mkdir()
    (root / "emu" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="class 'emu'"):
        _load(root, tmp_path / "out", skip_bad=True)


def test_layout_mistakes_are_named(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images", parts=("train",))
    with pytest.raises(DataError, match="has train/ but no test/"):
        list_images(root)
    (root / "test" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="different classes: dog"):
        list_images(root)
    (root / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"test/cat has no images"):
        list_images(root)
    with pytest.raises(DataError, match="does not exist; did you mean 'images'"):
        preview(Data(source=f"folder:{tmp_path / 'image'}"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        list_images(tmp_path / "bare")


def test_what_is_no_image_is_ignored(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / ".git").mkdir()
    assert (len(list_images(root)), list_images(root).classes) == (12, CLASSES)


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    before = _load(root, tmp_path / "out")
    again = _load(root, tmp_path / "out")
    assert before.digest == again.digest
    Image.fromarray(_pixels(999)).save(root / "cat" / "0.png")
    after = _load(root, tmp_path / "out")
    assert after.digest != before.digest
    assert np.array_equal(after.raw["image"].array[np.asarray([after.ids.index("cat/0.png")])][0], _pixels(999))


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
@pytest.mark.parametrize("kibibytes", [4, 40, 80, 120])
def test_a_full_disk_is_one_error_however_far_the_cache_got(tmp_path: Path, kibibytes: int) -> None:
    root = _folder(tmp_path / "images", per_class=150)  # 300 images of 432 bytes: 127 KiB.
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("this container may not mount a small disk")
    code = "import sys; from tests.data.test_folder import _load; from pathlib import Path; _load(Path(sys.argv[1]), Path(sys.argv[2]))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), str(disk / "out")], capture_output=True, text=True, check=False
        )
        assert "ResourceError: no space left" in done.stderr, (done.returncode, done.stderr)
        assert not list(disk.rglob("image.npy")) or list(disk.rglob("labels.npy")) == []
        assert not list(disk.rglob(".*.tmp*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
