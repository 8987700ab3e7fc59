"""A device behind a shell: what ``ssh``, ``adb`` and the emulated processor have in common.

A :class:`Link` says how one script, or one file, gets to the device; :class:`RemoteTransport` makes a device of it. While
it is open, a keeper runs on the device, whose input is a pipe of this process: however this process ends, the device
notices, stops what runs there and removes the folder. See :mod:`~edgekd.benchmark.transports.remote_scripts`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from edgekd.benchmark.transports import Finished, remote_scripts
from edgekd.errors import DeviceError
from edgekd.safe import stop
from edgekd.safe.files import atomic_path, sha256_file
from edgekd.safe.program import ProgramTimeout, Ran, kill_group, run_program

GRACE_S = 20
"""Seconds that the folder of a lost connection is kept for a new one."""
_KILLED = 128 + signal.SIGKILL
_SHARE_FOR_RECONNECTING = 0.75
_SECONDS_BETWEEN_CONNECTIONS = 0.5
_CONTROL_S = 60.0
_SLOWEST_BYTES_PER_S = 200_000
_LAST_RESORT_S = 30.0
_SECONDS_BETWEEN_POLLS = 0.01
_Got = TypeVar("_Got")


class ConnectionLost(Exception):
    """The connection broke; what was going on may be tried again.

    Args:
        reason: What the program of this machine said.
    """

    def __init__(self, reason: DeviceError) -> None:
        super().__init__(reason.message.rpartition("the device cannot be reached: ")[2])
        self.reason = reason


class Link(Protocol):
    """The way to one device."""

    name: str
    """As the user named it."""
    parents: str
    """Folders of the device that may hold the run's folder: words for its shell, quoted."""
    longest_script: int | None
    """Bytes that :meth:`ask` can take; ``None``: any. A longer script is copied to the device and run from there."""

    def connect(self) -> None:
        """Find the device, again after a lost connection.

        Raises:
            DeviceError: It is not there.
        """

    def close(self) -> None:
        """Leave nothing behind on this machine."""

    def keeper(self, script: str) -> list[str]:
        """Return the program of this machine that runs the keeper on the device, its input joined to that of the script."""

    def ask(self, script: str) -> tuple[list[str], bytes]:
        """Return the program of this machine that runs ``script`` on the device, and what it reads."""

    def command(self, arguments: Sequence[str]) -> list[str] | None:
        """Return the arguments as the device's shell starts them; ``None``: there is no such program."""

    def put(self, source: Path, target: str, resume: bool, timeout_s: float) -> None:
        """Copy a file to the device; with ``resume`` only what ``target`` lacks, where the link can.

        Raises:
            ConnectionLost: Not all of it may have arrived.
            DeviceError: The device refuses, for example since its disk is full.
        """

    def get(self, source: str, target: Path, resume: bool, timeout_s: float) -> None:
        """Copy a file from the device, likewise."""

    def reason(self, ran: Ran) -> DeviceError:
        """Return why the device could not be asked, from what the program of this machine said."""


class RemoteTransport:
    """A :class:`~edgekd.benchmark.transports.Transport` over a link.

    Args:
        link: The way to the device.
        grace_s: Seconds that the device keeps the folder of a lost connection.
    """

    def __init__(self, link: Link, grace_s: int = GRACE_S) -> None:
        self.name = link.name
        self.folder = ""
        self._link = link
        self._grace_s = grace_s
        self._base = ""
        self._word = f"edgekd-{secrets.token_hex(8)}"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> RemoteTransport:
        try:
            self._link.connect()
            self._keep(remote_scripts.make_folder(self._link.parents, f"edgekd-{secrets.token_hex(8)}"))
        except BaseException:
            self._close()
            raise
        self.folder = f"{self._base}/files"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._dismiss_keeper():
                # Its connection is lost. If no other can be had, the device cleans up by itself after the time of grace.
                with contextlib.suppress(DeviceError, ConnectionLost):
                    self._ask(remote_scripts.remove_folder(self._base), stoppable=False)
        finally:
            self._close()

    def push(self, source: Path, name: str) -> None:
        """Copy a file of this machine to ``folder/name``, and compare its SHA-256 there.

        Raises:
            DeviceError: It did not arrive, not at the second try either.
        """
        target, part = self._inside(name), f"{self._base}/part-{next(self._numbers)}"
        information = source.stat()
        limit_s = _transfer_limit_s(information.st_size)
        wanted = sha256_file(source)
        accept = remote_scripts.accept(part, target, wanted, executable=bool(information.st_mode & stat.S_IXUSR))
        for _ in range(2):  # a second time if it arrived wrong
            self._twice(lambda again: self._link.put(source, part, again, limit_s), f"copying {source.name} to it")
            if self._tell(accept, f"cannot write {name!r}").stdout.strip() == b"same":
                return
        raise DeviceError(f"{self.name}: {source.name} arrived with another checksum, twice", "the device's disk may be full")

    def pull(self, name: str, target: Path) -> None:
        """Copy ``folder/name`` to a file of this machine, which is there when it is whole, and compare its SHA-256.

        Raises:
            DeviceError: It did not arrive, or there is no such file.
        """
        source = self._inside(name)
        told = self._tell(remote_scripts.size_and_hash_of(source), f"cannot read {name!r}").stdout.split()
        size, wanted = int(told[0]), told[1].decode("ascii", errors="replace")
        with atomic_path(target) as part:
            self._twice(lambda again: self._link.get(source, part, again, _transfer_limit_s(size)), f"copying {name!r} from it")
            if sha256_file(part) != wanted:
                raise DeviceError(f"{self.name}: {name!r} arrived with another checksum", "try again")

    def run(self, arguments: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Finished:
        """Run a program in the folder, and wait for its end; exit status 127: there is no such program.

        Raises:
            DeviceError: The connection was lost, or the time is over; what ran there is stopped.
            Interrupted: A stop signal came while waiting; likewise.
        """
        number, what, given = next(self._numbers), repr(arguments[0]), "/dev/null"
        command = self._link.command(arguments)
        if command is None:
            return Finished(127, b"", f"no program {what}".encode())
        if stdin:
            given = f"{self._base}/stdin-{number}"
            with tempfile.NamedTemporaryFile() as file:
                file.write(stdin)
                file.flush()
                limit_s = _transfer_limit_s(len(stdin))
                self._twice(lambda again: self._link.put(Path(file.name), given, again, limit_s), "copying input to it")
        try:
            script = remote_scripts.run_program(self._base, number, command, timeout_s + _LAST_RESORT_S, given)
        except ValueError as error:
            raise DeviceError(f"{self.name}: cannot run {what}: {error}") from None
        try:
            finished = self._ask(script, timeout_s)
        except BaseException as error:
            # If this fails too, the keeper does it.
            with contextlib.suppress(DeviceError, ConnectionLost):
                self._ask(remote_scripts.kill_run(self._base, number), stoppable=False)
            if isinstance(error, ProgramTimeout):
                raise DeviceError(f"{self.name}: {what} took longer than {timeout_s:g} s and was stopped") from None
            if isinstance(error, ConnectionLost):
                raise self._lost(what, f": {error}") from None
            raise
        keeper_died = self._keeper is None or self._keeper.poll() is not None
        if keeper_died and finished.code == _KILLED:  # by the keeper, when its own connection had broken
            raise self._lost(what, "")
        return finished

    def _lost(self, what: str, why: str) -> DeviceError:
        hint = "what ran there is stopped; if it fails at the same place again, look for a lack of memory or power"
        return DeviceError(f"{self.name}: the connection was lost while {what} ran{why}", hint)

    def _inside(self, name: str) -> str:
        if not name or name in {".", ".."} or "/" in name or "\0" in name:
            raise DeviceError(f"{self.name}: {name!r} is no file name")
        return f"{self.folder}/{name}"

    def _keep(self, folder_script: str) -> None:
        """Start the keeper, and wait until it has said which folder it keeps."""
        script = remote_scripts.keep_folder(folder_script, self._word, self._grace_s)
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
            try:
                self._keeper = keeper = subprocess.Popen(
                    self._link.keeper(script), stdin=subprocess.PIPE, stdout=said, stderr=errors, start_new_session=True
                )
            except FileNotFoundError as error:
                raise DeviceError(f"{self.name}: no program '{error.filename}' on this machine", "install it") from None
            deadline = time.monotonic() + _CONTROL_S
            mark = f"{self._word} ".encode()
            while True:
                ended = keeper.poll() is not None
                said.seek(0)
                line = next((each for each in said.read().splitlines(keepends=True) if each.startswith(mark)), b"")
                if line.endswith(b"\n"):
                    self._base = line[len(mark) :].decode(errors="surrogateescape").rstrip("\r\n")
                    return
                if ended or time.monotonic() > deadline:
                    errors.seek(0)
                    said.seek(0)
                    stderr = errors.read() if ended else b"it does not answer"
                    raise self._link.reason(Ran(keeper.returncode if ended else 255, said.read(), stderr))
                stop.check_stop()
                time.sleep(_SECONDS_BETWEEN_POLLS)

    def _dismiss_keeper(self) -> bool:
        """Tell the keeper that all is done; return whether it has removed the folder."""
        keeper = self._keeper
        if keeper is None or keeper.stdin is None:
            return False
        with contextlib.suppress(BrokenPipeError):  # it is dead: its exit status tells
            keeper.stdin.write(f"{self._word}\n".encode())
            keeper.stdin.close()
        try:
            return keeper.wait(_CONTROL_S) == 0
        except subprocess.TimeoutExpired:
            return False

    def _close(self) -> None:
        if self._keeper is not None:
            if self._keeper.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._keeper.stdin.close()
            kill_group(self._keeper)
            self._keeper = None
        self._link.close()

    def _twice(self, attempt: Callable[[bool], _Got], what: str) -> _Got:
        """Attempt something; where the connection is lost, connect anew, take the folder over, and attempt it again."""
        try:
            return attempt(False)
        except ConnectionLost:
            self._reconnect()
        try:
            return attempt(True)
        except ConnectionLost as error:
            raise DeviceError(f"{self.name}: the connection was lost twice while {what}: {error}", error.reason.hint) from None

    def _reconnect(self) -> None:
        """Connect anew while the device keeps the folder: a network, or a cable, may be away for some seconds."""
        deadline = time.monotonic() + self._grace_s * _SHARE_FOR_RECONNECTING
        while True:
            self._close()
            try:
                self._link.connect()
                self._keep(remote_scripts.take_over(self._base))
                return
            except DeviceError:
                if time.monotonic() > deadline:
                    raise
            stop.check_stop()
            time.sleep(_SECONDS_BETWEEN_CONNECTIONS)

    def _tell(self, script: str, trouble: str) -> Finished:
        """Run a short script that may run twice, and must succeed."""

        def attempt(_: bool) -> Finished:
            try:
                return self._ask(script)
            except ProgramTimeout:
                raise ConnectionLost(DeviceError(f"{self.name}: it did not answer within {_CONTROL_S:.0f} s")) from None

        finished = self._twice(attempt, "asking it")
        if finished.code != 0:
            said = (finished.stderr.strip() or finished.stdout.strip()).decode(errors="replace").splitlines()
            raise DeviceError(f"{self.name}: {trouble}: {said[-1] if said else f'exit status {finished.code}'}")
        return finished

    def _ask(self, script: str, timeout_s: float = _CONTROL_S, *, stoppable: bool = True) -> Finished:
        """Run a script on the device.

        Raises:
            ConnectionLost: It did not say that it ended.
            ProgramTimeout: The time is over.
        """
        arguments, stdin = self._link.ask(remote_scripts.framed(self._short(script), self._word))
        ran = run_program(arguments, timeout_s=timeout_s, stdin=stdin, stoppable=stoppable)
        code, stdout, stderr = remote_scripts.unframed(ran.stdout, ran.stderr, self._word)
        if code is None:
            raise ConnectionLost(self._link.reason(ran))
        return Finished(code, stdout, stderr)

    def _short(self, script: str) -> str:
        """Return the script, or one that runs it as a file where it is longer than the link can take."""
        most = self._link.longest_script
        content = os.fsencode(script)
        if most is None or len(content) <= most:
            return script
        there = f"{self._base}/script-{next(self._numbers)}"
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self._link.put(Path(file.name), there, False, _transfer_limit_s(len(content)))
        return f"sh {remote_scripts.quoted([there])}"


def _transfer_limit_s(size: int) -> float:
    return _CONTROL_S + size / _SLOWEST_BYTES_PER_S
