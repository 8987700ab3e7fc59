"""Teacher outputs that are computed once and kept: for later epochs, later runs, and machines without the teacher.

Augmentation is a function of (seed, key, index), so a teacher's output for a sample and a key never changes. A store
has a seed of its own, made from the data, so that runs of different seeds share it. See
:mod:`edgekd.distill.soft_target_format` for what lies on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from edgekd.data.batches import augment as augmented
from edgekd.data.dataset import Dataset
from edgekd.distill.ensemble import combine
from edgekd.distill.processes import join_processes
from edgekd.distill.soft_target_format import (
    HEADER,
    LOCK,
    TEST_LOGITS,
    VALIDATION_LOGITS,
    DamagedStore,
    NoStore,
    StoredCost,
    StoredFile,
    StoredMember,
    StoredMetric,
    StoredTeacher,
    StoreHeader,
    augmentation_file,
    check_belongs,
    decode,
    encode,
    open_augmentation,
    open_logits,
    printable,
    read_header,
    release_memory,
    row_type,
    seed_of,
    store_files,
    write_header,
)
from edgekd.distill.teacher import NotFinite, Teacher, Voice, voices
from edgekd.distill.trainer import EVALUATION_BATCH, tensors
from edgekd.errors import ModelError, UsageError
from edgekd.models.references import kind_of, model_path
from edgekd.recipe import Augment
from edgekd.safe import stop
from edgekd.safe.files import disk_errors, remove_temporaries, save_array, sha256_file
from edgekd.workspace import Workspace

_SECONDS_BETWEEN_TRIES = 0.2
_NAMED_SAMPLES = 3
_ROWS_BETWEEN_RELEASES = 1024


class SoftTargets:
    """Kept outputs of a teacher for all training samples, read from mapped files.

    Args:
        header: What they belong to.
        rows: Per augmentation, ``[samples, members]``, see :mod:`edgekd.distill.soft_target_format`.
        train: Data set indices of the samples, in the order of the rows.
        computed: How many augmentations had to be computed for this.

    Attributes:
        header: What they belong to.
        keys: How many augmentations there are; keys are 0 to ``keys - 1``.
        computed: How many of them were computed just now.
        shares: Weight of each network of the teacher.
        rule: How they agree, see :func:`edgekd.distill.ensemble.combine`.
    """

    def __init__(self, header: StoreHeader, rows: list[NDArray[Any]], train: NDArray[np.int64], computed: int) -> None:
        self.header, self.keys, self.computed = header, len(rows), computed
        self.shares, self.rule = tuple(each.weight for each in header.teacher.members), header.teacher.combine
        self._rows, self._last, self._touched = rows, 0, 0
        self._places = np.full(int(train.max(initial=-1)) + 1, -1, np.int64)
        self._places[train] = np.arange(len(train))

    @property
    def described(self) -> str:
        """What is kept, for the report."""
        times = f"{self.keys:,} augmentations of " if self.keys > 1 else ""
        return f"stored: {times}{self.header.samples:,} samples, {_bytes(self.header.size(self.keys))}"

    @property
    def digest(self) -> str:
        """SHA-256 of what is kept and of what it belongs to."""
        return self.header.digest(self.keys)

    def member_logits(self, indices: NDArray[np.int64], key: int) -> list[Tensor]:
        """Return the logits of each network of the teacher, ``float32 [len(indices), classes]``.

        Args:
            indices: Of training samples in the data set.
            key: Of their augmentation, below :attr:`keys`.

        Raises:
            IndexError: A sample is not in the train split, or there is no such augmentation.
        """
        if not 0 <= key < self.keys:
            raise IndexError(f"augmentation {key}, and there are {self.keys}")
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self._places)):
            raise IndexError("a sample is not in the train split")
        places = self._places[indices]
        if (places < 0).any():
            raise IndexError("a sample is not in the train split")
        logits = decode(self._rows[key][places], self.header.classes)
        self._touched += len(places)
        if self._touched >= _ROWS_BETWEEN_RELEASES or key != self._last:
            # Pages of a mapped file count as this process's memory once they were read, and a read maps some around it.
            release_memory(self._rows[self._last])
            release_memory(self._rows[key])
            self._last, self._touched = key, 0
        return [torch.from_numpy(np.ascontiguousarray(logits[:, member])) for member in range(logits.shape[1])]

    def logits(self, indices: NDArray[np.int64], key: int, temperature: float = 1.0) -> Tensor:
        """Return what the teacher as a whole says, ``float32 [len(indices), classes]``.

        Args:
            indices: Of training samples in the data set.
            key: Of their augmentation, below :attr:`keys`.
            temperature: Networks that agree by probabilities are softened by it before they are mixed.
        """
        return combine(self.member_logits(indices, key), self.shares, self.rule, temperature)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def store_seed(data: Dataset) -> int:
    """Return the seed of a store's augmentations: of the data alone, so that runs of all seeds share it."""
    return seed_of(data.digest)


def used_augment(data: Dataset, augment: Augment) -> Augment:
    """Return the augmentation that samples of ``data`` really get: images only have one."""
    return augment if data.kind == "image" else Augment()


def useful_keys(data: Dataset, augment: Augment, wanted: int, epochs: int) -> int:
    """Return how many augmentations are worth keeping: as many as wanted or seen, and one where nothing is random."""
    return min(wanted, epochs) if used_augment(data, augment) != Augment() else 1


def open_soft_targets(
    teacher: Teacher, data: Dataset, augment: Augment, keys: int, folder: Path, workspace: Workspace,
    precision: str = "fp32",
) -> SoftTargets:  # fmt: skip
    """Return the outputs of ``teacher`` for ``keys`` augmentations of the training samples; compute what is missing.

    What is in ``folder`` is checked first: outputs of another teacher, data set or augmentation, and damaged files are
    computed anew, and the listener is warned. A killed run goes on after the last whole augmentation. Other runs may use
    ``folder`` at the same time. A ``store:`` teacher has its own folder, which is only read.

    Args:
        teacher: Whose outputs.
        data: Of which samples: those of its train split.
        augment: How they are augmented, with the seed :func:`store_seed`.
        keys: How many augmentations.
        folder: Where outputs are kept.
        workspace: Its listener is told, its log gets what runtimes print.
        precision: Of the teacher's computation where it is a network of PyTorch; ``bf16``: autocast.

    Raises:
        ModelError: The teacher says NaN or infinity, or a ``store:`` is damaged.
        UsageError: The folder holds something else, or a ``store:`` does not fit the data or the recipe.
        Interrupted: A stop signal came; whole augmentations are kept.
    """
    stored = [each.source.model for each in teacher.members if kind_of(each.source.model) == "store"]
    if stored:
        if len(teacher.members) > 1:
            raise UsageError(
                f"teacher {stored[0]} is kept outputs, which teach alone, but the ensemble has {len(teacher.members)} teachers",
                "leave teacher.ensemble out; `edgekd teach` keeps the outputs of a whole ensemble in one store",
            )
        return _open_given(model_path(stored[0]), data, augment, keys)
    wanted = _identity(teacher, data, augment, precision)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, workspace):
        header, rows = _usable(folder, wanted, keys, teacher, data, workspace)
        missing = [key for key in range(keys) if key not in rows]
        if missing:
            header = _fill(folder, header, missing, teacher, data, workspace)
            rows |= {key: open_augmentation(folder, header, key) for key in missing}
    return SoftTargets(header, [rows[key] for key in range(keys)], data.splits.train, len(missing))


def _identity(teacher: Teacher, data: Dataset, augment: Augment, precision: str) -> StoreHeader:
    cost, metric = teacher.cost, teacher.metric
    described = StoredTeacher(
        digest=hashlib.sha256(teacher.digest.encode()).hexdigest(), combine=teacher.combine,  # type: ignore[arg-type]
        members=tuple(StoredMember(name=printable(each.source.model), weight=each.source.weight) for each in teacher.members),
        cost=StoredCost(params=cost.params, macs=cost.macs, size_bytes=cost.size_bytes),
        metric=StoredMetric(name=metric.name, value=metric.value, ci95=metric.ci95, n=metric.n),
    )  # fmt: skip
    return StoreHeader(
        teacher=described, data=data.digest, classes=len(data.classes), samples=len(data.splits.train),
        augment=used_augment(data, augment), seed=store_seed(data), precision=precision, files={},  # type: ignore[arg-type]
    )  # fmt: skip


@contextmanager
def _alone(folder: Path, workspace: Workspace) -> Iterator[None]:
    """Hold the lock of ``folder``; wait while another run fills it."""
    lock = FileLock(folder / LOCK)
    with disk_errors(folder):
        waiting = False
        while not lock.is_locked:
            stop.check_stop()
            try:
                lock.acquire(timeout=0 if not waiting else _SECONDS_BETWEEN_TRIES)
            except Timeout:
                if not waiting:
                    workspace.listener.stage_advanced(0, 1, f"waiting for another run to fill {folder}")
                waiting = True
    try:
        remove_temporaries(folder)
        yield
    finally:
        lock.release()


def _usable(
    folder: Path, wanted: StoreHeader, keys: int, teacher: Teacher, data: Dataset, workspace: Workspace
) -> tuple[StoreHeader, dict[int, NDArray[Any]]]:
    """Return what of the first ``keys`` augmentations in ``folder`` is whole and ours; begin anew if nothing is."""
    found = _found(folder, wanted, workspace)
    if found is None:
        # First a header that names no file: whoever is killed now leaves nothing that looks whole.
        write_header(folder, wanted)
        for path in store_files(folder):
            path.unlink()
        found = wanted
    files, rows = dict(found.files), dict[int, NDArray[Any]]()
    for key in (each for each in found.present if each < keys):
        try:
            rows[key] = open_augmentation(folder, found, key)
        except DamagedStore as damaged:
            workspace.listener.warned(f"{damaged.message}; computed anew")
            del files[augmentation_file(key)]
    counts = {"validation": len(data.splits.validation), "test": len(data.splits.test)}
    for split, name in (("validation", VALIDATION_LOGITS), ("test", TEST_LOGITS)):
        try:
            open_logits(folder, found, split, counts[split])
        except DamagedStore as damaged:
            if name in files:
                workspace.listener.warned(f"{damaged.message}; written anew")
            save_array(folder / name, teacher.logits(split).astype("<f4"))
            files[name] = _file(folder / name)
    if files != found.files:
        found = found.model_copy(update={"files": files})
        write_header(folder, found)
    return found, rows


def _found(folder: Path, wanted: StoreHeader, workspace: Workspace) -> StoreHeader | None:
    """Return the header in ``folder`` if it is the one that is wanted.

    Raises:
        UsageError: The folder is in use for something else.
    """
    try:
        found = read_header(folder)
    except NoStore as error:
        others = [each.name for each in folder.iterdir() if each.name != LOCK]
        if others:
            raise UsageError(
                f"{folder} is not empty and holds no soft targets" if HEADER not in others else error.message,
                "choose a new or empty folder for soft targets",
            ) from None
        return None
    except DamagedStore as damaged:
        workspace.listener.warned(f"{damaged.message}; computed anew")
        return None
    has, needs = found.belongs_to(), wanted.belongs_to()
    if has == needs:
        # The teacher's figures may have been measured anew; what is kept is the same.
        return wanted.model_copy(update={"files": found.files})
    if has["data"] != needs["data"]:
        what = "another data set, or to other splits of it"
    elif has["augment"] != needs["augment"]:
        what = f"another augmentation ({shown_augment(found.augment)})"
    elif any(has[each] != needs[each] for each in ("teacher", "members", "combine")):
        what = f"another teacher ({found.teacher.name})"
    else:
        what = f"a teacher that computes in another way ({found.precision})"
    workspace.listener.warned(f"soft targets in {folder} belong to {what}; computed anew")
    return None


def shown_augment(augment: Augment) -> str:
    """Return the options of an augmentation in one line."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in augment.model_dump().items())


def _fill(
    folder: Path, header: StoreHeader, missing: list[int], teacher: Teacher, data: Dataset, workspace: Workspace
) -> StoreHeader:
    """Ask the teacher for the ``missing`` augmentations, one file after the other; return the header that names them."""
    from edgekd.data.cache import ArrayFile

    train, device = data.splits.train, join_processes().device
    total, done = len(train) * len(missing), 0
    with voices(teacher, data.inputs, workspace, device) as opened:
        for position, key in enumerate(missing, 1):
            path = folder / augmentation_file(key)
            with ArrayFile(path, row_type(header.classes), (len(opened),)) as file:
                for start in range(0, len(train), EVALUATION_BATCH):
                    stop.check_stop()
                    indices = train[start : start + EVALUATION_BATCH]
                    file.append(encode(_said(opened, header, data, indices, key, device)))
                    done += len(indices)
                    workspace.listener.stage_advanced(done, total, f"teacher asked, {position} of {len(missing)} augmentations")
            header = header.model_copy(update={"files": {**header.files, path.name: _file(path)}})
            write_header(folder, header)
    return header


def _said(
    opened: list[Voice], header: StoreHeader, data: Dataset, indices: NDArray[np.int64], key: int, device: torch.device
) -> NDArray[np.float32]:
    """Return the logits of all networks for augmented samples, ``float32 [n, members, classes]``."""
    arrays = data.batch(indices)
    if data.kind == "image":
        arrays["image"] = augmented(arrays["image"], indices, header.augment, header.seed, key)
    inputs, rows = tensors(arrays, device=device), []
    with torch.autocast(device.type, torch.bfloat16, enabled=header.precision == "bf16"):
        for voice in opened:
            try:
                rows.append(voice.ask(inputs).float().cpu().numpy())
            except NotFinite as error:
                ids = data.ids
                named = ", ".join(ids[indices[row]] for row in error.rows[:_NAMED_SAMPLES])
                more = f" and {len(error.rows) - _NAMED_SAMPLES} more" if len(error.rows) > _NAMED_SAMPLES else ""
                raise ModelError(
                    f"teacher {voice.name} yields NaN or infinite outputs on training sample {named}{more}", error.hint
                ) from None
    return np.stack(rows, 1)


def _file(path: Path) -> StoredFile:
    return StoredFile(sha256=sha256_file(path), size=path.stat().st_size)


def _open_given(folder: Path, data: Dataset, augment: Augment, keys: int) -> SoftTargets:
    """Return the outputs in a folder that someone else filled: believed only as far as they can be checked."""
    header = read_header(folder)
    check_belongs(header, folder, data)
    wanted = used_augment(data, augment)
    if header.augment != wanted:
        settings = " ".join(f"data.augment.{name}={str(each).lower()}" for name, each in header.augment.model_dump().items())
        raise UsageError(
            f"soft targets in {folder} are of images augmented by {shown_augment(header.augment)}, "
            f"the recipe has {shown_augment(wanted)}",
            f"set {settings}",
        )
    if header.keys < keys:
        raise UsageError(
            f"soft targets in {folder} are of {header.keys} augmentations, and this training takes {keys}",
            f"set distill.soft_targets.augmentations={header.keys}, or have `edgekd teach` add more"
            if header.keys
            else "have `edgekd teach` fill it",
        )
    rows = [open_augmentation(folder, header, key) for key in range(keys)]
    return SoftTargets(header, rows, data.splits.train, 0)
