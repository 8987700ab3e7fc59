"""This machine as a device of its own: the same pushes, pulls and runs, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgekd.benchmark.transports import Finished
from edgekd.errors import DeviceError
from edgekd.safe import stop

_PYTHON = "python3"
_SECONDS_BETWEEN_POLLS = 0.1


class LocalTransport:
    """Runs programs of this machine, each in a process group of its own, which is killed when its time is over.

    ``python3`` is the Python of edgekd: its runtimes are the ones a user has installed.
    """

    def __init__(self) -> None:
        self.name = "local"
        self.folder = ""
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> LocalTransport:
        self.folder = tempfile.mkdtemp(prefix="edgekd-device-")
        return self

    def __exit__(self, *_: object) -> None:
        for process in list(self._running):
            self._kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def push(self, source: Path, name: str) -> None:
        """Copy a file of this machine into the folder."""
        self._copy(source, self._inside(name))

    def pull(self, name: str, target: Path) -> None:
        """Copy a file out of the folder."""
        self._copy(self._inside(name), target)

    def run(self, arguments: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Finished:
        """Run a program in the folder, and wait for its end.

        Raises:
            DeviceError: There is no such program, or the time is over; everything it had started is killed.
            Interrupted: A stop signal came while waiting; likewise.
        """
        command = [sys.executable if arguments[0] == _PYTHON else arguments[0], *arguments[1:]]
        try:
            process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: a null character in an argument
            raise DeviceError(f"{self.name}: cannot run {arguments[0]!r}: {error}") from None
        self._running.add(process)
        try:
            stdout, stderr = self._wait(process, arguments[0], timeout_s, stdin)
        finally:
            self._kill(process)
        return Finished(process.returncode, stdout, stderr)

    def _wait(self, process: subprocess.Popen[bytes], program: str, timeout_s: float, stdin: bytes) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + timeout_s
        given: bytes | None = stdin
        while True:
            stop.check_stop()
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceError(f"{self.name}: {program!r} took longer than {timeout_s:g} s and was stopped")
            try:
                return process.communicate(given, timeout=min(left, _SECONDS_BETWEEN_POLLS))
            except subprocess.TimeoutExpired:
                given = None  # communicate goes on with what it was given at first

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and all of its group: it may have ended and left others behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._running.discard(process)

    def _inside(self, name: str) -> Path:
        if not name or name in {".", ".."} or "/" in name or "\0" in name:
            raise DeviceError(f"{self.name}: {name!r} is no file name")
        return Path(self.folder, name)

    def _copy(self, source: Path, target: Path) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot copy {source} to {target}: {error.strerror or error}") from None
