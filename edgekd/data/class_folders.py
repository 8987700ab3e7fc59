"""Folders of samples by class: ``PATH/CLASS/FILE``, or ``PATH/{train,test}/CLASS/FILE`` with splits of their own.

A validation split beside them is called ``validation``, ``valid``, ``val`` or ``dev``. Other folders beside the splits'
are no data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd.data.cache import PART_NAMES, PARTS_BY_NAME, TRAIN, UNASSIGNED
from edgekd.errors import DataError

_NAMED = 5


@dataclass(frozen=True)
class SampleFile:
    """One file: its path relative to the root, class, split, and what tells that it changed."""

    relative: str
    label: int
    part: int
    size: int
    modified_ns: int


@dataclass(frozen=True)
class ClassFolders:
    """What a folder holds. Only counts are kept, so that memory stays flat however many files there are.

    Attributes:
        root: The folder.
        suffixes: Of the files that count, in lower case.
        what: What they are, for messages: ``images``.
        folders: Every split's folder by its number; ``{UNASSIGNED: ""}`` where there are none.
        classes: Class names, sorted.
        counts: Files of every class, by split.
    """

    root: Path
    suffixes: frozenset[str]
    what: str
    folders: dict[int, str]
    classes: tuple[str, ...]
    counts: dict[int, tuple[int, ...]]

    def __len__(self) -> int:
        return sum(map(sum, self.counts.values()))

    def __iter__(self) -> Iterator[SampleFile]:
        """Yield every file, split by split and class by class, sorted by name within."""
        for part, folder in self.folders.items():
            for label, name in enumerate(self.classes):
                for file in _files(self.root / folder / name, self.suffixes, self.what):
                    yield self._sample(Path(folder, name, file), label, part)

    def fingerprint(self) -> str:
        """Return a SHA-256 over names, sizes and modification times."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for file in self:
            digest.update(json.dumps([file.relative, file.size, file.modified_ns]).encode())
        return digest.hexdigest()

    def totals(self) -> tuple[int, ...]:
        """Return the number of files of each class, over all splits."""
        return tuple(map(sum, zip(*self.counts.values(), strict=True)))

    def parts(self) -> dict[str, int]:
        """Return the number of files of each split that has a folder, by its name."""
        return {PART_NAMES[part]: sum(counts) for part, counts in self.counts.items() if part != UNASSIGNED}

    def examples(self) -> list[SampleFile]:
        """Return three files from different places, found without looking at most others."""
        part, folder = next((part, folder) for part, folder in self.folders.items() if part in {TRAIN, UNASSIGNED})
        labels = sorted({turn * len(self.classes) // 3 for turn in range(3)})
        found: list[SampleFile] = []
        for place in range(3):
            for label in labels:
                files = _files(self.root / folder / self.classes[label], self.suffixes, self.what)
                if len(found) < 3 and place < len(files):
                    found.append(self._sample(Path(folder, self.classes[label], files[place]), label, part))
        return found

    def _sample(self, relative: Path, label: int, part: int) -> SampleFile:
        try:
            status = (self.root / relative).stat()
        except OSError as error:
            raise DataError(f"cannot read {self.root / relative}: {error.strerror}", "check data.source") from error
        return SampleFile(str(relative), label, part, status.st_size, status.st_mtime_ns)


def list_class_folders(root: Path, suffixes: frozenset[str], what: str) -> ClassFolders:
    """List the class folders under ``root`` and count their files, without opening them.

    Args:
        root: The folder.
        suffixes: Of the files that count, in lower case: ``.wav``.
        what: What they are, for messages: ``images``.

    Raises:
        DataError: The folder is missing or unreadable, holds no class folders, a class folder holds no
            file of those, or the splits have different classes.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} is a file, not a folder", "name the folder that holds the class folders")
    layout = f"expected PATH/CLASS/ or PATH/{{train,test}}/CLASS/ with {what}"
    names = _folders(root)
    if not names:
        raise DataError(f"data folder {root} has no class folders", layout)
    folders = _split_folders(root, names, what)
    classes = _folders(root / folders.get(TRAIN, ""))
    if not classes:
        raise DataError(f"data folder {root / folders[TRAIN]} has no class folders", layout)
    for folder in folders.values():
        others = _folders(root / folder)
        if others != classes:
            different = ", ".join(sorted(set(classes) ^ set(others))[:_NAMED])
            raise DataError(
                f"train/ and {folder}/ under {root} have different classes: {different}", "give both the same class folders"
            )
    counts = {
        part: tuple(len(_files(root / folder / name, suffixes, what)) for name in classes) for part, folder in folders.items()
    }
    return ClassFolders(root, suffixes, what, folders, tuple(classes), counts)


def _split_folders(root: Path, names: list[str], what: str) -> dict[int, str]:
    """Return the folder of every split. ``train`` beside folders that are no splits is a class: a railway."""
    splits = [name for name in names if name in PARTS_BY_NAME]
    if "train" not in splits or (len(splits) == 1 and len(names) > 1):
        return {UNASSIGNED: ""}
    if len(splits) == 1:
        kind = "folder" if what == "images" else "audio-folder"
        raise DataError(f"data folder {root} has train/ but no test/", f"add test/, or use data.source={kind}:{root / 'train'}")
    folders: dict[int, str] = {}
    for name in splits:
        part = PARTS_BY_NAME[name]
        if part in folders:
            raise DataError(f"data folder {root} has two folders of one split: {folders[part]} and {name}", "keep one of them")
        folders[part] = name
    return dict(sorted(folders.items()))


def _folders(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read data folder {root}: {error.strerror}", "check data.source") from error


def _files(folder: Path, suffixes: frozenset[str], what: str) -> list[str]:
    """Return the names of the files of one class folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in suffixes and entry.is_file()
            ]
    except OSError as error:
        raise DataError(f"cannot read class folder {folder}: {error.strerror}", "check data.source") from error
    if not found:
        raise DataError(
            f"class folder {folder} has no {what}", f"add {what} ({', '.join(sorted(suffixes))}) or remove the folder"
        )
    return sorted(found)
