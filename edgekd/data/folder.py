"""Image folders: ``PATH/CLASS/*.jpg``, or ``PATH/{train,test}/CLASS/*.jpg`` with a test split of its own.

Images are decoded once, by Pillow, into one memory-mapped array.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.cache import TEST, TRAIN, UNASSIGNED, Advanced, ArrayFile, Preview, write_samples
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.safe import stop

if TYPE_CHECKING:
    from edgekd.recipe import Data

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_NAMED = 5
_BATCH = 512


@dataclass(frozen=True)
class ImageFile:
    """One image file: its path relative to the root, class, split, and what tells that it changed."""

    relative: str
    label: int
    in_test_folder: bool
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        classes: Class names, sorted.
        files: Every image, sorted by relative path.
        has_test_folder: Whether the test split is a folder of its own.
    """

    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    has_test_folder: bool

    def fingerprint(self) -> str:
        """Return a SHA-256 over names, sizes and modification times."""
        rows = [(file.relative, file.size, file.modified_ns) for file in self.files]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()


def fingerprint(options: Data) -> dict[str, Any]:
    """Return names, sizes and modification times of all images, hashed, and what decides how they are decoded."""
    listing = list_images(source_path(options))
    return {"images": listing.fingerprint(), "image_size": options.image_size, "skip_bad": options.skip_bad}


def preview(options: Data) -> Preview:
    """Return classes, counts and three images, opening none of the others."""
    from PIL import Image

    root = source_path(options)
    listing = list_images(root)
    counts = [0] * len(listing.classes)
    for file in listing.files:
        counts[file.label] += 1
    samples = []
    for file in listing.files[:: max(1, len(listing.files) // 3)][:3]:
        try:
            with Image.open(root / file.relative) as image:
                found = f"{image.width}x{image.height} {image.mode}"
        except (OSError, SyntaxError, ValueError):
            found = "cannot be decoded"
        samples.append(f"{file.relative}, {found}: {listing.classes[file.label]}")
    in_test = sum(file.in_test_folder for file in listing.files)
    parts = {"train": len(listing.files) - in_test, "test": in_test} if listing.has_test_folder else {}
    return Preview("image", listing.classes, tuple(counts), parts, tuple(samples))


def list_images(root: Path) -> Listing:
    """List the images under ``root`` without opening them.

    Raises:
        DataError: The folder is missing or unreadable, holds no class folders, a class folder holds no
            image, or train/ and test/ have different classes.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} is a file, not a folder", "name the folder that holds the class folders")
    names = _folders(root)
    if not names:
        raise DataError(
            f"data folder {root} has no class folders", "expected PATH/CLASS/*.jpg or PATH/{train,test}/CLASS/*.jpg"
        )
    if "train" not in names:
        return Listing(tuple(names), tuple(_class_files(root, "", names, False)), False)
    if "test" not in names:
        raise DataError(f"data folder {root} has train/ but no test/", f"add test/, or use data.source=folder:{root / 'train'}")
    classes, in_test = _folders(root / "train"), _folders(root / "test")
    if classes != in_test:
        different = ", ".join(sorted(set(classes) ^ set(in_test))[:_NAMED])
        raise DataError(
            f"train/ and test/ under {root} have different classes: {different}", "give both the same class folders"
        )
    if not classes:
        raise DataError(f"data folder {root / 'train'} has no class folders", "expected PATH/{train,test}/CLASS/*.jpg")
    files = _class_files(root, "test", classes, True) + _class_files(root, "train", classes, False)
    return Listing(tuple(classes), tuple(files), True)


def _folders(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read data folder {root}: {error.strerror}") from error


def _class_files(root: Path, part: str, classes: list[str], in_test_folder: bool) -> list[ImageFile]:
    found = []
    for label, name in enumerate(classes):
        folder = root / part / name
        try:
            entries = sorted((entry for entry in os.scandir(folder)), key=lambda entry: entry.name)
            images = [
                entry for entry in entries
                if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()
            ]  # fmt: skip
        except OSError as error:
            raise DataError(f"cannot read class folder {folder}: {error.strerror}") from error
        if not images:
            raise DataError(
                f"class folder {folder} has no images", f"add images ({', '.join(sorted(SUFFIXES))}) or remove the folder"
            )
        for entry in images:
            status = entry.stat()
            relative = str(Path(part, name, entry.name))
            found.append(ImageFile(relative, label, in_test_folder, status.st_size, status.st_mtime_ns))
    return found


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Decode every image of the folder into ``cache``.

    Images become RGB, or grey if all of them are; they are turned upright by their EXIF tag. With
    ``image_size`` they are scaled so that the shorter side fits, and cropped to the centre square.

    Raises:
        DataError: Images that cannot be decoded (unless ``skip_bad``), or of different sizes without ``image_size``.
        ResourceError: The disk is full.
    """
    root = source_path(options)
    listing = list_images(root)
    good: list[ImageFile] = []
    bad: list[tuple[str, str]] = []
    grey = True
    out: ArrayFile | None = None
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        for start in range(0, len(listing.files), _BATCH):
            stop.check_stop()
            batch = listing.files[start : start + _BATCH]
            rows = []
            decoded_batch = pool.map(lambda file: _decode(root / file.relative, options.image_size), batch)
            for file, decoded in zip(batch, decoded_batch, strict=True):
                if isinstance(decoded, str):
                    bad.append((file.relative, decoded))
                    continue
                pixels, is_grey = decoded
                if out is None:
                    out = stack.enter_context(ArrayFile(cache / "image.npy", np.uint8, pixels.shape))
                if pixels.shape != out.row_shape:
                    raise DataError(
                        f"images differ in size: {root / good[0].relative} has {out.row_shape[1]}x{out.row_shape[0]} "
                        f"pixels, {root / file.relative} has {pixels.shape[1]}x{pixels.shape[0]}",
                        "set data.image_size to bring them to one size",
                    )
                grey = grey and is_grey
                good.append(file)
                rows.append(pixels)
            if out is not None and rows:
                out.append(np.stack(rows))
            advanced(start + len(batch), len(listing.files), f"{len(bad)} bad" if bad else "")
        if bad and not options.skip_bad:
            raise DataError(
                skipped_message([f"{name} ({why})" for name, why in bad], "cannot be decoded"),
                "mend or remove them, or leave them out with data.skip_bad=true",
            )
        _check_classes_left(root, listing, good)
    assert out is not None
    shape = (*out.row_shape[:2], 1 if grey else 3)
    if grey:
        colored = np.load(cache / "image.npy", mmap_mode="r", allow_pickle=False)
        with ArrayFile(cache / "image.npy", np.uint8, shape) as file_of_grey:
            for start in range(0, len(colored), _BATCH):
                file_of_grey.append(colored[start : start + _BATCH, ..., :1])
    given = {True: TEST, False: TRAIN} if listing.has_test_folder else {False: UNASSIGNED}
    parts = [given[file.in_test_folder] for file in good]
    write_samples(cache, [file.label for file in good], parts, [file.relative for file in good])
    skipped = [f"{name} ({why})" for name, why in bad]
    return {
        "kind": "image",
        "classes": list(listing.classes),
        "shape": [len(good), *shape],
        "full_scale": 255,
        "skipped": skipped,
    }


def skipped_message(skipped: list[str], what: str = "were left out: they cannot be decoded") -> str:
    """Return one line that counts ``skipped`` and names the first few."""
    more = f", and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    images = "image" if len(skipped) == 1 else "images"
    return f"{len(skipped)} {images} {what}: {', '.join(skipped[:_NAMED])}{more}"


def _decode(path: Path, image_size: int | None) -> tuple[NDArray[np.uint8], bool] | str:
    """Return RGB pixels and whether the image was grey, or why it cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            is_grey = image.mode in {"1", "L", "LA", "I;16"}
            if image.mode == "I;16":
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
            if image_size is not None and image.size != (image_size, image_size):
                image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(image), is_grey
    # Pillow's decoders raise many types on broken files (SyntaxError and struct.error among them);
    # whatever it is, this file is bad, and its name and the reason are reported.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return reason.replace(f" {str(path)!r}", "")[:120]


def _check_classes_left(root: Path, listing: Listing, good: list[ImageFile]) -> None:
    left = {file.label for file in good}
    for label, name in enumerate(listing.classes):
        if label not in left:
            raise DataError(
                f"class '{name}' under {root} has no image that can be decoded", "mend its images or remove its folder"
            )
