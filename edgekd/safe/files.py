"""Files that are either there whole or not there at all.

Every file of a run is written under a temporary name in the same folder, flushed to the disk,
and renamed; a killed process leaves at most a ``.tmp`` file, which the next run removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.errors import ResourceError, UsageError

TEMPORARY_SUFFIX = ".tmp"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOENT,
}  # fmt: skip


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into one clear line.

    Raises:
        ResourceError: The disk or the quota is full, or a file grew over its limit.
        UsageError: The place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise ResourceError(
                f"no space left to write {path} ({os.strerror(error.errno or 0)})",
                "free some space, or choose another folder with --out; what is done so far is kept",
            ) from error
        if error.errno in _REFUSED:
            raise UsageError(f"cannot write {path}: {os.strerror(error.errno)}", "choose another folder with --out") from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it is synced and renamed to ``path``.

    On any error the temporary file is removed and ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write ``content`` to ``path`` as indented JSON, whole or not at all; NaN is an error."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_array(path: Path, array: Any) -> None:
    """Write a NumPy array to ``path`` as ``.npy``, whole or not at all."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left under ``folder``. Call it only while holding the folder's lock."""
    for leftover in list(folder.rglob(f".*{TEMPORARY_SUFFIX}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
