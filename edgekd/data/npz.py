"""NumPy archives: ``npz:FILE`` with arrays of samples and labels, compressed or not.

Arrays are found by name, in any case: samples are ``x``, ``images``, ``data``, ``features``, ...; labels are ``y``, ``labels``,
``targets``, ...; ``data.input_column`` and ``data.label_column`` name others. A split is told by ``train``, ``val`` or ``test``
before or behind the name: ``x_train`` as in Keras's files, ``train_images`` as in MedMNIST's. Class names may be in an array
of strings, ``classes``, ``class_names`` or ``label_names``.

What samples are is told by their shape. ``[n, d]`` are features. The others are images: ``[n, height, width]``, with channels
last (``[n, height, width, 1 to 4]``) or first, where only the first dimension can be channels. Their values are:

- ``uint8`` or other integers from 0 to 255: taken as they are; ``bool``: black and white;
- floats from 0 to 1: as 8-bit values if every one is a multiple of 1/255, as 8-bit images divided by 255 are, else as
  ``float32``;
- floats from 0 to 255: as 8-bit values if every one is whole, else as ``float32`` where 255 stands for 1.

Archives are read slice by slice, so memory stays flat; nothing in them is unpickled.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.arrays import Scale, channels_last, find_scale, image_layout, to_features
from edgekd.data.cache import PART_NAMES, PARTS_BY_NAME, TRAIN, UNASSIGNED, Advanced, ArrayFile, Preview, SampleWriter
from edgekd.data.classes import LABEL_NAMES, sort_classes
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.names import did_you_mean
from edgekd.safe import stop
from edgekd.safe.files import sha256_file

if TYPE_CHECKING:
    from edgekd.recipe import Data

_SAMPLES = (
    "x", "image", "images", "img", "imgs", "data", "feature", "features", "sample", "samples", "input", "inputs", "arr_0",
)  # fmt: skip
_LABELS = (*LABEL_NAMES, "arr_1")
_CLASS_NAMES = ("classes", "class_names", "label_names")
_SPLIT = "|".join(PARTS_BY_NAME)
_NAME = re.compile(rf"(?:({_SPLIT})_)?(.+?)(?:_({_SPLIT}))?")
_SLICE_BYTES = 1 << 22
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Array:
    """One array of the archive, known by its header."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Content:
    """What an archive holds: samples and labels of every split, in split order."""

    path: Path
    samples: dict[int, _Array]
    labels: dict[int, NDArray[np.int64]]
    classes: tuple[str, ...]
    layout: str
    """``NHW``, ``NHWC``, ``NCHW``, or ``NC`` for features."""

    @property
    def kind(self) -> str:
        return "features" if self.layout == "NC" else "image"


def fingerprint(options: Data) -> dict[str, Any]:
    """Return the SHA-256 of the file, and which arrays are read."""
    return {"file": sha256_file(_file(options)), "columns": [options.input_column, options.label_column]}


def preview(options: Data) -> Preview:
    """Return classes, counts and three samples, reading headers and labels only."""
    found = _open(options)
    labels = np.concatenate(list(found.labels.values()))
    counts = np.bincount(labels, minlength=len(found.classes)).tolist()
    parts = {PART_NAMES[part]: array.shape[0] for part, array in found.samples.items() if part != UNASSIGNED}
    first_part, first = next(iter(found.samples.items()))
    shape = "x".join(map(str, first.shape[1:]))
    samples = [
        f"{first.name}[{index}], {shape} {first.dtype.name}: {found.classes[label]}"
        for index, label in enumerate(found.labels[first_part][:3])
    ]
    return Preview(found.kind, found.classes, tuple(counts), parts, tuple(samples), _row_shape(found))


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Write the samples to ``cache``: images as ``uint8`` or ``float32``, features as ``float32``.

    Raises:
        DataError: The file is no archive, is cut off, or its arrays are not as expected.
        ResourceError: The disk is full.
    """
    found = _open(options)
    total = sum(array.shape[0] for array in found.samples.values())
    if found.kind == "image":
        every = (rows for array in found.samples.values() for _, rows in _slices(found.path, array))
        scale = find_scale(every, str(found.path))
    else:
        scale = Scale(np.dtype(np.float32), 1, None)
    shape = _row_shape(found)
    name = "image.npy" if found.kind == "image" else "features.npy"
    with SampleWriter(cache) as samples, ArrayFile(cache / name, scale.dtype, shape) as file:
        for part, array in found.samples.items():
            for start, rows in _slices(found.path, array):
                stop.check_stop()
                if found.kind == "image":
                    file.append(scale.apply(channels_last(rows, found.layout)))
                else:
                    file.append(to_features(rows, f"{found.path}: {array.name}", start))
                for index in range(start, start + len(rows)):
                    samples.append(int(found.labels[part][index]), part, f"{array.name}[{index}]")
                advanced(len(samples), total, "")
    return {
        "kind": found.kind, "classes": list(found.classes), "shape": [total, *shape], "full_scale": scale.full_scale,
        "skipped": [],
    }  # fmt: skip


def _row_shape(found: _Content) -> tuple[int, ...]:
    """Return the shape of one sample as it is kept, channels last."""
    shape = next(iter(found.samples.values())).shape[1:]
    return shape if found.layout == "NC" else channels_last(np.empty((0, *shape), np.uint8), found.layout).shape[1:]


def _file(options: Data) -> Path:
    path = source_path(options, "data file")
    if path.is_dir():
        raise DataError(f"data file {path} is a folder", "name the .npz file")
    return path


def _open(options: Data) -> _Content:
    """Find samples, labels and classes, reading nothing but headers and labels."""
    path = _file(options)
    arrays = _headers(path)
    samples = _by_part(path, arrays, options.input_column, _SAMPLES, "samples", "input_column")
    labels = _by_part(path, arrays, options.label_column, _LABELS, "labels", "label_column")
    if samples.keys() != labels.keys():
        lonely = next(each for part, each in {**samples, **labels}.items() if (part in samples) != (part in labels))
        other = "labels" if lonely in samples.values() else "samples"
        raise DataError(
            f"{path}: array '{lonely.name}' has no {other} beside it; its arrays: {_listed(arrays)}",
            "name arrays with data.input_column and data.label_column",
        )
    if UNASSIGNED not in samples and TRAIN not in samples:
        raise DataError(f"{path} has no training samples; its arrays: {_listed(arrays)}", "name them x_train and y_train")
    layouts = {}
    for part, array in samples.items():
        rows, label_rows = array.shape[0] if array.shape else 0, labels[part].shape[0] if labels[part].shape else 0
        if rows != label_rows:
            raise DataError(
                f"{path}: array '{array.name}' has {rows:,} rows, '{labels[part].name}' has {label_rows:,}",
                "every sample needs one label",
            )
        if 0 in array.shape or len(array.shape) < 2 or array.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: array '{array.name}' has shape {list(array.shape)} and type {array.dtype.name}, which are no samples",
                "expected are numbers of shape [n, d], [n, height, width] or [n, height, width, channels]",
            )
        layouts[array] = image_layout(array.shape, f"{path}: array '{array.name}'")
    if len({(array.shape[1:], array.dtype) for array in layouts}) > 1:
        listed = ", ".join(f"'{array.name}' {list(array.shape)} {array.dtype.name}" for array in layouts)
        raise DataError(f"{path}: samples of the splits differ in shape or type: {listed}", "bring them to one")
    indices, classes = _class_indices(path, labels, _class_names(path, arrays))
    return _Content(path, samples, indices, classes, next(iter(layouts.values())))


def _headers(path: Path) -> dict[str, _Array]:
    """Return every array of the archive by name.

    Raises:
        DataError: The file is no archive, an array is cut off, or holds Python objects.
    """
    found = {}
    with _broken(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as stream:
                shape, fortran_order, dtype = _header(stream)
                start = stream.tell()
            if dtype.hasobject:
                raise DataError(
                    f"{path}: array '{name}' holds Python objects; unpickling them could run code, so they are not read",
                    "save it as numbers or strings: np.asarray(values, np.float32)",
                )
            if fortran_order and len(shape) > 1 and info.file_size > start:
                raise DataError(
                    f"{path}: array '{name}' is stored column by column", "save np.ascontiguousarray(values) instead"
                )
            expected = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            if info.file_size != expected:
                raise DataError(
                    f"{path}: array '{name}' has {info.file_size:,} bytes, its header says {expected:,}", "save the file again"
                )
            found[name] = _Array(name, shape, dtype)
    if not found:
        raise DataError(f"{path} holds no arrays", "save them with np.savez(file, x=samples, y=labels)")
    return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Turn what zipfile, zlib and NumPy raise on a broken file into one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read data file {path}: {error.strerror or error}", "check data.source") from error
    except _BROKEN as error:
        with path.open("rb") as file:
            single = file.read(6) == b"\x93NUMPY"
        if single:
            raise DataError(
                f"{path} is a single array, not an archive", "save samples and labels together: np.savez(file, x=..., y=...)"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} is no whole .npz file: {reason[:200]}", "save or download it again") from None


def _slices(path: Path, array: _Array) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the index of the first row, and rows, a few megabytes at a time."""
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    step = max(1, _SLICE_BYTES // max(1, row_bytes))
    with _broken(path), zipfile.ZipFile(path) as archive, archive.open(f"{array.name}.npy") as stream:
        _header(stream)
        for start in range(0, array.shape[0], step):
            count = min(step, array.shape[0] - start)
            content = stream.read(count * row_bytes)
            if len(content) < count * row_bytes:
                raise EOFError(f"array '{array.name}' is cut off")
            yield start, np.frombuffer(content, array.dtype).reshape(count, *array.shape[1:])
        stream.read(1)  # reaching the end checks the archive's checksum


def _by_part(
    path: Path, arrays: dict[str, _Array], wanted: str | None, usual: tuple[str, ...], role: str, option: str
) -> dict[int, _Array]:
    """Return the array of every split that plays a role."""
    if wanted is not None and wanted in arrays:
        return {UNASSIGNED: arrays[wanted]}
    found: dict[int, _Array] = {}
    for name, array in arrays.items():
        matched = _NAME.fullmatch(name if wanted is not None else name.lower())
        if matched is None or matched[2] not in ((wanted,) if wanted is not None else usual) or (matched[1] and matched[3]):
            continue
        split = matched[1] or matched[3]
        part = PARTS_BY_NAME[split] if split else UNASSIGNED
        if part in found or (found and (part == UNASSIGNED) != (UNASSIGNED in found)):
            raise DataError(
                f"{path}: which array holds the {role} is not clear: '{next(reversed(found.values())).name}' or '{name}'",
                f"name it with data.{option}",
            )
        found[part] = array
    if not found:
        message = f"{path} has no array '{wanted}'" + did_you_mean(wanted, list(arrays)) if wanted else f"{path} has no {role}"
        raise DataError(f"{message}; its arrays: {_listed(arrays)}", f"name one with data.{option}")
    return dict(sorted(found.items()))


def _listed(arrays: dict[str, _Array]) -> str:
    return ", ".join(f"'{each.name}' {list(each.shape)}" for each in list(arrays.values())[:20])


def _class_names(path: Path, arrays: dict[str, _Array]) -> tuple[str, ...] | None:
    array = next((each for name, each in arrays.items() if name.lower() in _CLASS_NAMES), None)
    if array is None:
        return None
    if array.dtype.kind not in "US" or len(array.shape) != 1:
        raise DataError(f"{path}: array '{array.name}' holds no list of names", "save np.array(['cat', 'dog'])")
    names = tuple(str(each) for each in _strings(path, array))
    if len(set(names)) < len(names):
        raise DataError(f"{path}: array '{array.name}' has a name twice", "give every class its own name")
    return names


def _strings(path: Path, array: _Array) -> NDArray[np.str_]:
    values = np.concatenate([np.zeros(0, array.dtype), *(rows for _, rows in _slices(path, array))])
    try:
        return values if array.dtype.kind == "U" else np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: array '{array.name}' holds bytes that are no UTF-8 text", "save strings instead") from None


def _class_indices(
    path: Path, labels: dict[int, _Array], names: tuple[str, ...] | None
) -> tuple[dict[int, NDArray[np.int64]], tuple[str, ...]]:
    """Return the class index of every sample of every split, and the class names."""
    values = {part: _label_values(path, array) for part, array in labels.items()}
    if len({each.dtype.kind for each in values.values()}) > 1:
        raise DataError(f"{path}: labels are numbers in one split and words in another", "save the same in all")
    distinct, inverse = np.unique(np.concatenate(list(values.values())), return_inverse=True)
    where = f"{path}: array '{next(iter(labels.values())).name}'"
    if names is not None and distinct.dtype.kind == "i":
        if distinct[0] < 0 or distinct[-1] >= len(names):
            raise DataError(
                f"{where} has label {distinct[0] if distinct[0] < 0 else distinct[-1]}, but there are {len(names)} class names",
                "labels are indices into the class names, from 0",
            )
        classes, order = list(names), distinct
    else:
        words = [str(each) for each in distinct]
        classes = sort_classes(words, where) if names is None else list(names)
        unknown = next((each for each in words if each not in classes), None)
        if unknown is not None:
            raise DataError(f"{where} has label '{unknown}', which is none of the class names", "add it to them")
        place = {name: index for index, name in enumerate(classes)}
        order = np.asarray([place[each] for each in words])
    joined = order[inverse].astype(np.int64)
    edges = np.cumsum([len(each) for each in values.values()])[:-1]
    return dict(zip(values, np.split(joined, edges), strict=True)), tuple(classes)


def _label_values(path: Path, array: _Array) -> NDArray[Any]:
    """Return labels as ``int64`` or strings, ``[n]``."""
    count = array.shape[0]
    where = f"{path}: array '{array.name}'"
    if array.shape not in {(count,), (count, 1)}:
        hint = "save class indices: np.argmax(labels, axis=1)" if len(array.shape) == 2 else "save one label per sample"
        raise DataError(f"{where} has shape {list(array.shape)}, expected are labels of shape [n]", hint)
    if array.dtype.kind in "US":
        return _strings(path, array).reshape(count)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {array.dtype.name}, which is no label", "save integers or strings")
    values = np.concatenate([rows for _, rows in _slices(path, array)]).reshape(count)
    if array.dtype.kind == "f" and not (np.isfinite(values) & (values == np.round(values))).all():
        index = int(np.flatnonzero(~(np.isfinite(values) & (values == np.round(values))))[0])
        raise DataError(f"{where} has {values[index]} at {index}, which is no class", "save integers or strings")
    return values.astype(np.int64)
