"""MNIST's file format: ``idx:FOLDER`` with image and label files, gzipped or not.

::

    train-images-idx3-ubyte   train-labels-idx1-ubyte
    t10k-images-idx3-ubyte    t10k-labels-idx1-ubyte     may be missing: a test split is then made by seed

With ``.gz`` behind the names or not (a file without it goes first), with ``.idx3-ubyte`` as some mirrors have it, and with a
prefix as in EMNIST, ``emnist-letters-train-images-idx3-ubyte.gz``, where the folder holds one data set only.

A file is a magic number (0, 0, 8 for unsigned bytes, number of dimensions), each dimension as four bytes, the most
significant first, and the values (LeCun, "THE IDX FILE FORMAT").
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.arrays import WHITE
from edgekd.data.cache import PART_NAMES, TEST, TRAIN, UNASSIGNED, Advanced, ArrayFile, Preview, SampleWriter
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.safe import stop
from edgekd.safe.files import sha256_file

if TYPE_CHECKING:
    from edgekd.recipe import Data

_NAME = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_DIMENSIONS = {"images": 3, "labels": 1}
_SLICE_BYTES = 1 << 22


@dataclass(frozen=True)
class _Pair:
    """The image and the label file of one split."""

    images: Path
    labels: Path


def fingerprint(options: Data) -> dict[str, Any]:
    """Return the SHA-256 of every file."""
    pairs = _pairs(options)
    return {"files": {path.name: sha256_file(path) for pair in pairs.values() for path in (pair.images, pair.labels)}}


def preview(options: Data) -> Preview:
    """Return classes, counts and three samples, reading headers and labels only."""
    pairs = _pairs(options)
    shapes, labels = _checked(pairs)
    classes, counts = np.unique(np.concatenate(list(labels.values())), return_counts=True)
    given = {PART_NAMES[part]: len(each) for part, each in labels.items()} if len(pairs) > 1 else {}
    size = "x".join(map(str, shapes[TRAIN][1:]))
    samples = [f"{pairs[TRAIN].images.name}[{index}], {size}x1: {label}" for index, label in enumerate(labels[TRAIN][:3])]
    shape = (*shapes[TRAIN][1:], 1)
    return Preview("image", tuple(map(str, classes)), tuple(counts.tolist()), given, tuple(samples), shape)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Write the images to ``cache``.

    Raises:
        DataError: A file is missing, cut off, too long, or of another format; or numbers of images and labels differ.
        ResourceError: The disk is full.
    """
    pairs = _pairs(options)
    shapes, labels = _checked(pairs)
    classes = np.unique(np.concatenate(list(labels.values())))
    total = sum(len(each) for each in labels.values())
    shape = (*shapes[TRAIN][1:], 1)
    with SampleWriter(cache) as samples, ArrayFile(cache / "image.npy", np.uint8, shape) as file:
        for part, pair in pairs.items():
            indices = np.searchsorted(classes, labels[part])
            for start, rows in _slices(pair.images, "images"):
                stop.check_stop()
                file.append(rows[..., np.newaxis])
                for index in range(start, start + len(rows)):
                    samples.append(int(indices[index]), part if len(pairs) > 1 else UNASSIGNED, f"{pair.images.name}[{index}]")
                advanced(len(samples), total, "")
    return {
        "kind": "image", "classes": [str(each) for each in classes], "shape": [total, *shape], "full_scale": WHITE,
        "skipped": [],
    }  # fmt: skip


def _pairs(options: Data) -> dict[int, _Pair]:
    """Return the files of every split."""
    root = source_path(options)
    if not root.is_dir():
        raise DataError(f"data folder {root} is a file, not a folder", "name the folder that holds the idx files")
    found: dict[tuple[int, str], dict[str, Path]] = {}
    prefixes = set()
    for path in sorted(root.iterdir(), reverse=True):  # so that a file goes before itself with .gz
        matched = _NAME.fullmatch(path.name)
        if matched and path.is_file():
            prefixes.add(matched[1] or "")
            key = (TRAIN if matched[2] == "train" else TEST, matched[3])
            found.setdefault(key, {})[path.name.removesuffix(".gz")] = path
    if len(prefixes) > 1:
        raise DataError(
            f"data folder {root} holds several data sets: {', '.join(sorted(each or 'without prefix' for each in prefixes))}",
            "put each into a folder of its own",
        )
    for (_, role), names in found.items():
        if len(names) > 1:
            raise DataError(f"data folder {root} has several files of {role}: {', '.join(sorted(names))}", "keep one of them")
    for part, name in ((TRAIN, "train"), (TEST, "t10k")):
        for role in _DIMENSIONS:
            needed = part == TRAIN or any(key[0] == part for key in found)
            if needed and (part, role) not in found:
                raise DataError(
                    f"data folder {root} has no {name}-{role}-idx{_DIMENSIONS[role]}-ubyte, with .gz or without",
                    "expected are MNIST's file names",
                )
    one = {key: next(iter(names.values())) for key, names in found.items()}
    return {part: _Pair(one[part, "images"], one[part, "labels"]) for part in (TRAIN, TEST) if (part, "images") in one}


def _checked(pairs: dict[int, _Pair]) -> tuple[dict[int, tuple[int, ...]], dict[int, NDArray[np.uint8]]]:
    """Return the shape of the images and the labels of every split, having checked that they fit each other."""
    shapes, labels = {}, {}
    for part, pair in pairs.items():
        with _open(pair.images) as file:
            shapes[part] = _header(file, pair.images, "images")
        labels[part] = np.concatenate([np.zeros(0, np.uint8), *(rows for _, rows in _slices(pair.labels, "labels"))])
        if shapes[part][0] != len(labels[part]):
            raise DataError(
                f"{pair.images} has {shapes[part][0]:,} images, {pair.labels.name} has {len(labels[part]):,} labels",
                "every image needs one label; download both again",
            )
        if 0 in shapes[part]:
            raise DataError(f"{pair.images} holds no pixels: its header says {list(shapes[part])}", "download it again")
    if len({shape[1:] for shape in shapes.values()}) > 1:
        sizes = ", ".join(f"{PART_NAMES[part]} {shape[1]}x{shape[2]}" for part, shape in shapes.items())
        raise DataError(f"images of the splits differ in size: {sizes}", "use files of one data set")
    return shapes, labels


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, gzipped or not."""
    try:
        with path.open("rb") as file:
            yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole gzip file: {error}", "download it again") from None
    except OSError as error:
        raise DataError(f"cannot read data file {path}: {error.strerror or error}", "check data.source") from error


def _header(file: IO[bytes], path: Path, role: str) -> tuple[int, ...]:
    """Read magic number and dimensions."""
    dimensions = _DIMENSIONS[role]
    magic = file.read(4)
    expected = bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise DataError(
            f"{path} begins with 0x{magic.hex() or '(nothing)'}, files of {role} begin with 0x{expected.hex()}",
            "it is empty, or no file of this kind",
        )
    content = file.read(4 * dimensions)
    if len(content) < 4 * dimensions:
        raise DataError(f"{path} ends within its header", "download it again")
    return struct.unpack(f">{dimensions}I", content)


def _slices(path: Path, role: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the index of the first row, and rows, a few megabytes at a time; the file must end where its header says."""
    with _open(path) as file:
        shape = _header(file, path, role)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64))
        step = max(1, _SLICE_BYTES // max(1, row_bytes))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            content = file.read(count * row_bytes)
            if len(content) < count * row_bytes:
                whole = start + len(content) // max(1, row_bytes)
                raise DataError(
                    f"{path} is cut off: its header says {shape[0]:,} {role}, it has {whole:,}", "download it again"
                )
            yield start, np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
        if file.read(1):
            raise DataError(f"{path} has bytes behind its {shape[0]:,} {role}", "download it again")
