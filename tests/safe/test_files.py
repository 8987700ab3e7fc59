"""Atomic files."""

import errno
import os
from pathlib import Path

import pytest

from edgekd.errors import ResourceError, UsageError
from edgekd.safe.files import atomic_path, disk_errors, remove_temporaries, sha256_file, write_bytes, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, ResourceError),
        (errno.EDQUOT, ResourceError),
        (errno.EFBIG, ResourceError),
        (errno.EACCES, UsageError),
        (errno.EROFS, UsageError),
    ],
)
def test_disk_refusals_are_one_clear_line(code: int, kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind, match=str(tmp_path)) as error, disk_errors(tmp_path / "x"):
        raise OSError(code, os.strerror(code))
    assert getattr(error.value, "hint", None)


def test_other_os_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "kept", b"x")
    (tmp_path / "a" / ".kept.123.tmp").write_bytes(b"half")
    (tmp_path / "a" / ".images.npy.123.tmp.npy").write_bytes(b"half")
    (tmp_path / "a" / ".scratch.tmp").mkdir()
    (tmp_path / "a" / ".scratch.tmp" / "inner").write_bytes(b"half")
    remove_temporaries(tmp_path)
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()] == ["a/kept"]
    assert sha256_file(tmp_path / "a" / "kept") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
