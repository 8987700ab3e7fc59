"""Image folders: ``PATH/CLASS/*.jpg``, or ``PATH/{train,test}/CLASS/*.jpg`` with splits of their own.

Images are decoded once, by Pillow, into one array.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.data.bad_samples import check_bad
from edgekd.data.cache import Advanced, Preview, SampleWriter
from edgekd.data.class_folders import ClassFolders, list_class_folders
from edgekd.data.images import ImageWriter, decode_image, image_size_of, kept_shape
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.safe import stop

if TYPE_CHECKING:
    from edgekd.recipe import Data

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_BATCH = 64


def list_images(root: Path) -> ClassFolders:
    """List the images under ``root`` without opening them.

    Raises:
        DataError: See :func:`~edgekd.data.class_folders.list_class_folders`.
    """
    return list_class_folders(root, SUFFIXES, "images")


def fingerprint(options: Data) -> dict[str, Any]:
    """Return names, sizes and modification times of all images, hashed, and what decides how they are decoded."""
    found = list_images(source_path(options))
    return {"images": found.fingerprint(), "image_size": options.image_size, "skip_bad": options.skip_bad}


def preview(options: Data) -> Preview:
    """Return classes, counts and three images, opening none of the others."""
    root = source_path(options)
    found = list_images(root)
    examples = found.examples()
    samples = [f"{file.relative}, {image_size_of(root / file.relative)}: {found.classes[file.label]}" for file in examples]
    shape = kept_shape((root / file.relative for file in examples), options.image_size)
    return Preview("image", found.classes, found.totals(), found.parts(), tuple(samples), shape)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Decode every image of the folder into ``cache``.

    Images become RGB, or grey if all of them are; see :func:`~edgekd.data.images.decode_image`.

    Raises:
        DataError: Images that cannot be decoded (unless ``skip_bad``), or of different sizes without ``image_size``.
        ResourceError: The disk is full.
    """
    root = source_path(options)
    found = list_images(root)
    bad: list[str] = []
    seen = 0
    with SampleWriter(cache) as samples, ImageWriter(cache) as images, ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = iter(found)
        while files := list(islice(waiting, _BATCH)):
            stop.check_stop()
            decoded_files = pool.map(lambda file: decode_image(root / file.relative, options.image_size), files)
            for file, decoded in zip(files, decoded_files, strict=True):
                if isinstance(decoded, str):
                    bad.append(f"{file.relative} ({decoded})")
                    continue
                images.append(*decoded, str(root / file.relative))
                samples.append(file.label, file.part, file.relative)
            seen += len(files)
            advanced(seen, len(found), f"{len(bad)} bad" if bad else "")
        check_bad(bad, "image", options)
        check_classes_left(samples, found)
    return {"kind": "image", "classes": list(found.classes), "shape": images.shape, "full_scale": 255, "skipped": bad}


def check_classes_left(samples: SampleWriter, found: ClassFolders) -> None:
    """Check that every class has a sample left.

    Raises:
        DataError: All samples of a class are bad.
    """
    for name, count in zip(found.classes, samples.counts(len(found.classes)), strict=True):
        if count == 0:
            raise DataError(
                f"class '{name}' under {found.root} has no {found.what[:-1]} that can be decoded",
                f"mend its {found.what} or remove its folder",
            )
