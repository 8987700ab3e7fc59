"""Run a program of this machine: arguments as a list, a time limit, and nothing of it left when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from edgekd.errors import ResourceError
from edgekd.safe import stop

MOST_OUTPUT = 256 << 20
"""Bytes of output after which a program is stopped: a device may send without end."""
_SECONDS_BETWEEN_POLLS = 0.1


class ProgramTimeout(Exception):
    """A program took longer than it may, and was stopped with all that it had started."""


@dataclass(frozen=True)
class Ran:
    """A program that ended.

    Attributes:
        code: Exit status, negative: the signal that ended it.
        stdout, stderr: What it wrote; ``stdout`` is empty where it was sent to a file.
    """

    code: int
    stdout: bytes
    stderr: bytes


def run_program(
    arguments: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes | IO[bytes] = b"",
    stdout: IO[bytes] | None = None,
    stoppable: bool = True,
) -> Ran:
    """Run a program in a process group of its own, and wait for its end.

    Its output goes to unnamed files, not pipes: a helper that it leaves running, as ``adb`` does, keeps nobody waiting.

    Args:
        arguments: The program and its arguments; no shell reads them.
        timeout_s: Seconds after which its group is killed.
        stdin: What it reads: bytes, or an open file from its position on.
        stdout: An open file that gets its standard output.
        stoppable: Whether a stop signal ends the wait; not while cleaning up.

    Raises:
        ProgramTimeout: The time is over.
        Interrupted: A stop signal came while waiting; the group is killed.
        ResourceError: It wrote more than ``MOST_OUTPUT`` bytes.
        FileNotFoundError: There is no such program.
    """
    with contextlib.ExitStack() as files:
        if isinstance(stdin, bytes):
            given = files.enter_context(tempfile.TemporaryFile())
            given.write(stdin)
            given.seek(0)
            stdin = given
        output = stdout if stdout is not None else files.enter_context(tempfile.TemporaryFile())
        errors = files.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(arguments, stdin=stdin, stdout=output, stderr=errors, start_new_session=True)
        try:
            watched = (errors,) if stdout is not None else (output, errors)
            _wait(process, time.monotonic() + timeout_s, watched, stoppable)
        finally:
            kill_group(process)
        return Ran(process.returncode, b"" if stdout is not None else _content(output), _content(errors))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group where it still runs, with its group, and reap it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], deadline: float, written: Sequence[IO[bytes]], stoppable: bool) -> None:
    while True:
        if stoppable:
            stop.check_stop()
        if any(os.fstat(file.fileno()).st_size > MOST_OUTPUT for file in written):
            raise ResourceError(f"{process.args!r:.200} wrote more than {MOST_OUTPUT >> 20} MiB and was stopped")
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProgramTimeout
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(left, _SECONDS_BETWEEN_POLLS))
            return


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
