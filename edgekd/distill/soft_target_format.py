"""How a teacher's outputs lie on the disk, and what is checked before they are believed.

::

    FOLDER/store.json                what the outputs belong to, and the SHA-256 of every file; written after each file
    FOLDER/augmentation-000.npy      one row per training sample, in the order of the train split; one file per augmentation
    FOLDER/validation_logits.npy     float32 [n, classes], all members together at a temperature of 1
    FOLDER/test_logits.npy
    FOLDER/lock                      held while files are written

A row has one entry per teaching network: ``peak``, its largest logit (float32), and logits below it in float16, so that
those which matter to a softmax are the finest: one at distance d from the largest is off by at most d/2048.

Up to 128 classes all logits are kept so. With more, the 32 largest are, with their classes; every other one takes a byte:
its distance below ``high``, the largest of them, is ``span * (byte / 255)^2``, finest where the share is largest. Log-sum-exp
of the rest alone would take a tenth of the room, but a rest that is spread evenly is not what a teacher says: at T = 4 the
loss would be off by 30 to 50 % on logits of 1,000 classes with a standard deviation of 1.5 to 2.5; by bytes it is off by
less than 0.1 % (``tests/distill/test_soft_targets.py`` holds it to that).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from edgekd.data.dataset import Dataset
from edgekd.errors import ModelError, UsageError
from edgekd.recipe import Augment
from edgekd.recipe_section import Section
from edgekd.safe.files import sha256_file, write_json

HEADER, LOCK = "store.json", "lock"
VALIDATION_LOGITS, TEST_LOGITS = "validation_logits.npy", "test_logits.npy"
KEPT, ALL_UP_TO = 32, 128
"""How many logits are kept in float16 where there are more than ``ALL_UP_TO`` classes."""
_FORMAT = "edgekd soft targets"
_LOWEST = -65504.0
"""Of float16. A class this far below the largest has no share at any temperature that a recipe may have."""
_WIDEST = 100.0
"""Largest ``span``: what is further below is raised to it, so that one class that cannot be does not blur all others."""
_HEADER_LIMIT = 4 << 20
_CHECKED_ROWS = 4096
_AUGMENTATION = re.compile(r"augmentation-(\d{3})\.npy", re.ASCII)
_Name = Field(..., max_length=20_000, pattern=r"^[^\x00-\x1f\x7f]*$")
_Digest = Field(..., pattern=r"^[0-9a-f]{64}$")


class DamagedStore(ModelError):
    """Kept outputs are not what they should be: cut, changed, or written by someone else."""


class NoStore(ModelError):
    """The folder holds no kept outputs."""


class StoredMember(Section):
    """A network whose outputs are kept."""

    name: str = _Name
    weight: float = Field(..., gt=0, le=1000)


class StoredCost(Section):
    """What the teacher costs, all members together."""

    params: int | None = Field(..., ge=0, lt=1 << 62)
    macs: int | None = Field(..., ge=0, lt=1 << 62)
    size_bytes: int = Field(..., ge=0, lt=1 << 62)


class StoredMetric(Section):
    """How good the teacher is on the test split."""

    name: str = Field(..., max_length=100, pattern=r"^[\w -]*$")
    value: float
    ci95: tuple[float, float]
    n: int = Field(..., ge=0)


class StoredTeacher(Section):
    """Whose outputs are kept."""

    digest: str = _Digest
    combine: Literal["mean_logits", "mean_probabilities", "entropy"]
    members: tuple[StoredMember, ...] = Field(..., min_length=1, max_length=1000)
    cost: StoredCost
    metric: StoredMetric

    @property
    def name(self) -> str:
        """The model references of its members."""
        return " + ".join(each.name for each in self.members)


class StoredFile(Section):
    """A finished file."""

    sha256: str = _Digest
    size: int = Field(..., ge=0)


class StoreHeader(Section):
    """What kept outputs belong to: the content of ``store.json``."""

    format: Literal["edgekd soft targets"] = "edgekd soft targets"
    version: Literal[1] = 1
    teacher: StoredTeacher
    data: str = _Name
    classes: int = Field(..., ge=2, le=1 << 24)
    samples: int = Field(..., ge=0)
    augment: Augment
    seed: int = Field(..., ge=0, lt=1 << 63)
    precision: Literal["fp32", "bf16"]
    files: dict[str, StoredFile]

    @field_validator("files")
    @classmethod
    def _known(cls, value: dict[str, StoredFile]) -> dict[str, StoredFile]:
        for name in value:
            if name not in {VALIDATION_LOGITS, TEST_LOGITS} and not _AUGMENTATION.fullmatch(name):
                raise ValueError("names a file that is none of a store")
        return value

    @model_validator(mode="after")
    def _own_seed(self) -> StoreHeader:
        if self.seed != seed_of(self.data):
            raise ValueError("the seed is not that of the data")
        return self

    @property
    def keys(self) -> int:
        """How many augmentations are there, counted from the first to the first that is missing."""
        count = 0
        while augmentation_file(count) in self.files:
            count += 1
        return count

    @property
    def present(self) -> list[int]:
        """The keys of all augmentations that are there."""
        return sorted(int(found[1]) for name in self.files if (found := _AUGMENTATION.fullmatch(name)))

    @property
    def encoding(self) -> str:
        """How rows are written, for people."""
        return "float16 logits" if self.classes <= ALL_UP_TO else f"{KEPT} logits in float16, the others in a byte each"

    def belongs_to(self) -> dict[str, Any]:
        """Return everything but the files and the teacher's figures: what must be the same for outputs to be the same."""
        content = self.model_dump(mode="json", exclude={"files", "teacher"})
        teacher = self.teacher
        return {
            **content, "teacher": teacher.digest, "combine": teacher.combine,
            "members": [[each.name, each.weight] for each in teacher.members],
        }  # fmt: skip

    def size(self, keys: int) -> int:
        """Return the bytes of the first ``keys`` augmentations."""
        return sum(self.files[augmentation_file(key)].size for key in range(keys))

    def digest(self, keys: int | None = None) -> str:
        """Return the SHA-256 over what is kept: all of it, or the first ``keys`` augmentations."""
        names = self.files if keys is None else [augmentation_file(key) for key in range(keys)]
        everything = [self.belongs_to(), {name: self.files[name].sha256 for name in names}]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def seed_of(data: str) -> int:
    """Return the seed of the augmentations that are kept of a data set with the digest ``data``."""
    return int.from_bytes(hashlib.blake2b(data.encode(), digest_size=7).digest())


def augmentation_file(key: int) -> str:
    """Return the name of the file of one augmentation."""
    return f"augmentation-{key:03d}.npy"


def write_header(folder: Path, header: StoreHeader) -> None:
    """Write ``store.json``, whole or not at all."""
    files = dict(sorted(header.files.items()))  # the same bytes in whatever order they were filled
    write_json(folder / HEADER, header.model_copy(update={"files": files}).model_dump(mode="json"))


def read_header(folder: Path) -> StoreHeader:
    """Return what ``store.json`` says; the files it names are still to be checked.

    Raises:
        NoStore: There is none, or one of another program.
        DamagedStore: It is not as edgekd writes it.
    """
    path = folder / HEADER
    if not path.is_file():
        raise NoStore(f"{folder} holds no soft targets: there is no {HEADER} in it", "fill it by `edgekd teach`")
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_LIMIT + 1)
    except OSError as error:
        raise DamagedStore(f"cannot read {path}: {error.strerror}", _again(folder)) from error
    if _FORMAT.encode() not in content:
        raise NoStore(f"{path} was not written by edgekd", "choose another folder")
    if len(content) > _HEADER_LIMIT:
        raise DamagedStore(f"soft targets in {folder} are damaged: {HEADER} is too long", _again(folder))
    try:
        return StoreHeader.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])[:100]
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise DamagedStore(f"soft targets in {folder} are damaged: {HEADER}: {printable(what)}", _again(folder)) from None


def printable(text: str) -> str:
    """Return ``text`` fit for one line."""
    return "".join(each if each.isprintable() else " " for each in text)[:300]


def _again(folder: Path) -> str:
    return f"copy {folder} again, or fill it anew by `edgekd teach`"


def row_type(classes: int) -> np.dtype[Any]:
    """Return the type of what is kept of one network for one sample."""
    if classes <= ALL_UP_TO:
        return np.dtype([("peak", "<f4"), ("logits", "<f2", (classes,))])
    index = "<u2" if classes <= 1 << 16 else "<u4"
    return np.dtype(
        [("peak", "<f4"), ("high", "<f4"), ("span", "<f4"), ("logits", "<f2", (KEPT,)), ("classes", index, (KEPT,)),
         ("rest", "u1", (classes - KEPT,))]
    )  # fmt: skip


def encode(logits: NDArray[np.float32]) -> NDArray[Any]:
    """Return finite logits ``[..., classes]`` as rows ``[...]`` of :func:`row_type`."""
    classes = logits.shape[-1]
    rows = np.empty(logits.shape[:-1], row_type(classes))
    rows["peak"] = logits.max(-1)
    # In double precision, where a difference of two float32 cannot overflow.
    below = np.maximum(logits.astype(np.float64) - rows["peak"][..., None], _LOWEST)
    if classes > ALL_UP_TO:
        order = np.argpartition(below, classes - KEPT, axis=-1)
        largest = np.sort(order[..., classes - KEPT :], axis=-1)
        others = np.take_along_axis(below, np.sort(order[..., : classes - KEPT], axis=-1), -1)
        high = others.max(-1).astype(np.float32)
        rows["high"], rows["span"] = high, np.clip(high - others.min(-1), 0, _WIDEST)
        span = np.maximum(rows["span"], np.finfo(np.float32).tiny)[..., None]
        rows["rest"] = np.rint(255 * np.sqrt(np.clip((high[..., None] - others) / span, 0, 1)))
        rows["classes"] = largest
        below = np.take_along_axis(below, largest, -1)
    rows["logits"] = below
    return rows


def decode(rows: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """Return the logits ``[..., classes]`` of rows that :func:`encode` made."""
    peak = rows["peak"][..., None]
    largest = peak + rows["logits"].astype(np.float32)
    if classes <= ALL_UP_TO:
        return np.asarray(largest, np.float32)
    logits = np.empty((*rows.shape, classes), np.float32)
    is_rest = np.ones(logits.shape, bool)
    places = rows["classes"].astype(np.int64)
    np.put_along_axis(is_rest, places, False, -1)
    distance = rows["span"][..., None] * (rows["rest"].astype(np.float32) / np.float32(255)) ** 2
    logits[is_rest] = (peak + (rows["high"][..., None] - distance)).ravel()
    np.put_along_axis(logits, places, largest, -1)
    return logits


def _wrong_rows(rows: NDArray[Any], classes: int) -> str | None:
    """Return what is wrong with rows from a file that may hold anything."""
    if not (np.isfinite(rows["peak"]).all() and ((rows["logits"] >= _LOWEST) & (rows["logits"] <= 0)).all()):
        return "holds logits that are NaN, infinite or above the largest"
    if classes > ALL_UP_TO:
        high, span = rows["high"], rows["span"]
        if not ((high >= _LOWEST) & (high <= 0) & (span >= 0) & (span <= _WIDEST)).all():
            return "holds a range of the rest that cannot be"
        if int(rows["classes"].max(initial=0)) >= classes:
            return f"names class {rows['classes'].max()}, and there are {classes}"
        if (np.diff(rows["classes"].astype(np.int64), axis=-1) <= 0).any():
            return "names a class twice, or out of order"
    return None


def open_augmentation(folder: Path, header: StoreHeader, key: int) -> NDArray[Any]:
    """Return the checked rows of one augmentation, ``[samples, members]`` of :func:`row_type`, mapped from the file.

    Raises:
        DamagedStore: The file is not what ``store.json`` says, or holds what no teacher says.
    """
    name = augmentation_file(key)
    rows = _open_array(folder, header, name, row_type(header.classes), (header.samples, len(header.teacher.members)))
    for start in range(0, len(rows), _CHECKED_ROWS):
        wrong = _wrong_rows(np.asarray(rows[start : start + _CHECKED_ROWS]), header.classes)
        if wrong is not None:
            raise DamagedStore(f"soft targets in {folder} are damaged: {name} {wrong}", _again(folder))
        release_memory(rows)
    return rows


def open_logits(folder: Path, header: StoreHeader, split: str, count: int) -> NDArray[np.float32]:
    """Return the teacher's checked logits on the ``validation`` or ``test`` split, ``float32 [count, classes]``.

    Raises:
        DamagedStore: The file is not what ``store.json`` says, or holds what no teacher says.
    """
    name = {"validation": VALIDATION_LOGITS, "test": TEST_LOGITS}[split]
    logits = np.array(_open_array(folder, header, name, np.dtype("<f4"), (count, header.classes)))
    if not np.isfinite(logits).all():
        raise DamagedStore(f"soft targets in {folder} are damaged: {name} holds NaN or infinity", _again(folder))
    return logits


def _open_array(folder: Path, header: StoreHeader, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    def damaged(why: str) -> DamagedStore:
        return DamagedStore(f"soft targets in {folder} are damaged: {name} {why}", _again(folder))

    path, entry = folder / name, header.files.get(name)
    if entry is None:
        raise damaged("is missing")
    try:
        if not path.is_file():
            raise damaged("is missing")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise damaged(f"is not the file that {HEADER} tells of")
        with path.open("rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic != np.lib.format.MAGIC_PREFIX:  # nothing else that np.load knows is opened
            raise damaged("is no array")
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise damaged(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError, OverflowError, MemoryError, RecursionError):
        raise damaged("is no array") from None
    if not isinstance(found, np.memmap) or found.dtype != dtype or found.shape != shape or not found.flags.c_contiguous:
        raise damaged("is no array of the right type and shape")
    return found


def release_memory(rows: NDArray[Any]) -> None:
    """Let go of the pages of a mapped file that were read; they are read again when they are needed."""
    if isinstance(rows.base, mmap.mmap):
        rows.base.madvise(mmap.MADV_DONTNEED)


def store_files(folder: Path) -> Iterator[Path]:
    """Yield the paths of all augmentations in ``folder``."""
    return (each for each in folder.iterdir() if _AUGMENTATION.fullmatch(each.name))


def check_belongs(header: StoreHeader, folder: Path, data: Dataset) -> None:
    """Check that kept outputs are of this data.

    Raises:
        UsageError: They are of another data set, or of other splits.
    """
    if (header.data, header.classes, header.samples) != (data.digest, len(data.classes), len(data.splits.train)):
        same = "data.source, split shares and seed" + (" and data.tokenizer" if data.kind == "text" else "")
        raise UsageError(
            f"soft targets in {folder} belong to another data set, or to other splits of it: "
            f"{header.samples:,} samples of {header.classes} classes, here {len(data.splits.train):,} of {len(data.classes)}",
            f"give the {same} that `edgekd teach` had",
        )
