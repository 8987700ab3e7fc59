"""The device's side of ``adb`` over TCP, enough for a real ``adb`` client: shell (old and v2) and sync services.

Messages are 24 bytes, six little-endian words (command, two arguments, length, checksum, inverted command), and a payload.
Commands run with this machine's ``sh`` in a folder of the test. Described in Android's system/adb: protocol.txt, SYNC.TXT.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
VERSION = 0x01000001  # no checksums
MOST = 256 << 10
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
CHUNK = 64 << 10


class Hangup(Exception):
    """The other side is gone."""


class Daemon:
    """A device that listens on the loopback address.

    Args:
        folder: Where commands run.
        shell_v2: Whether it has the shell that tells exit status and stderr, as Android 7 and later.
        authorized: Whether its owner has accepted this computer.
        cut_after: Drop the connection, once, after so many bytes of payload; ``None``: never.
    """

    def __init__(self, folder: Path, *, shell_v2: bool = True, authorized: bool = True, cut_after: int | None = None) -> None:
        self.folder = folder
        self.features = "shell_v2,cmd" if shell_v2 else "cmd"
        self.authorized = authorized
        self.cut_after = cut_after
        self.received = 0
        self.connections: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.drop()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def drop(self) -> None:
        """Lose all connections, as if the cable were pulled."""
        while self.connections:
            with contextlib.suppress(OSError):
                self.connections.pop().shutdown(socket.SHUT_RDWR)

    def stop_listening(self) -> None:
        """Die: no connection will be accepted any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=Connection(self, connection).serve, daemon=True).start()

    def count(self, size: int) -> None:
        """Note received payload, and pull the cable where a test asked for it."""
        self.received += size
        if self.cut_after is not None and self.received > self.cut_after:
            self.cut_after = None
            self.drop()
            raise Hangup


class Connection:
    """One connection of a client's server, with its streams."""

    def __init__(self, daemon: Daemon, connection: socket.socket) -> None:
        self.daemon = daemon
        self._socket = connection
        self._sending = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)

    def serve(self) -> None:
        with contextlib.suppress(Hangup, OSError):
            while True:
                command, first, second, payload = self._receive()
                self._answer(command, first, second, payload)
        for each in self._streams.values():
            each.hang_up()
        self._socket.close()

    def send(self, command: int, first: int, second: int, payload: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(payload), 0, command ^ 0xFFFFFFFF)
        with self._sending:
            try:
                self._socket.sendall(header + payload)
            except OSError as error:
                raise Hangup from error

    def _receive(self) -> tuple[int, int, int, bytes]:
        command, first, second, length, _, _ = struct.unpack("<6I", self._exactly(24))
        return command, first, second, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            block = self._socket.recv(length - len(data))
            if not block:
                raise Hangup
            data += block
        return bytes(data)

    def _answer(self, command: int, first: int, second: int, payload: bytes) -> None:
        if command in {CNXN, AUTH} and not self.daemon.authorized:
            if command == CNXN or first == 2:  # 2: a signature, which is refused; 3: a key for the owner to accept
                self.send(AUTH, 1, 0, os.urandom(20))
        elif command == CNXN:
            banner = (
                f"device::ro.product.name=test;ro.product.model=Test;ro.product.device=test;features={self.daemon.features}"
            )
            self.send(CNXN, VERSION, MOST, banner.encode())
        elif command == OPEN:
            self._open(first, payload.rstrip(b"\0").decode(errors="surrogateescape"))
        elif second in self._streams:
            stream = self._streams[second]
            if command == OKAY:
                stream.ready.release()
            elif command == WRTE:
                self.daemon.count(len(payload))
                stream.incoming.put(payload)
            elif command == CLSE:
                stream.hang_up()
                del self._streams[second]

    def _open(self, remote: int, service: str) -> None:
        kind, _, argument = service.partition(":")
        serve: Callable[[Stream, str], None] | None = None
        if kind.startswith("shell,v2"):
            serve = shell_v2
        elif kind == "shell":
            serve = shell_v1
        elif kind == "sync":
            serve = sync
        if serve is None:
            self.send(CLSE, 0, remote)
            return
        stream = Stream(self, next(self._ids), remote)
        self._streams[stream.id] = stream
        self.send(OKAY, stream.id, remote)
        threading.Thread(target=stream.serve, args=(serve, argument), daemon=True).start()


class Stream:
    """One service of one connection."""

    def __init__(self, connection: Connection, own: int, remote: int) -> None:
        self.connection = connection
        self.id = own
        self.remote = remote
        self.ready = threading.Semaphore(1)  # one unacknowledged write at a time
        self.incoming: queue.Queue[bytes | None] = queue.Queue()
        self.gone = False
        self._writing = threading.Lock()
        self._rest = b""

    def serve(self, service: Callable[[Stream, str], None], argument: str) -> None:
        with contextlib.suppress(Hangup):
            service(self, argument)
            self.connection.send(CLSE, self.id, self.remote)

    def hang_up(self) -> None:
        self.gone = True
        self.incoming.put(None)
        self.ready.release()

    def write(self, data: bytes) -> None:
        with self._writing:
            self.ready.acquire()
            if self.gone:
                raise Hangup
            self.connection.send(WRTE, self.id, self.remote, data)

    def read(self, length: int) -> bytes:
        """Return exactly so many bytes."""
        while len(self._rest) < length:
            block = self.incoming.get()
            if block is None:
                raise Hangup
            self.connection.send(OKAY, self.id, self.remote)
            self._rest += block
        data, self._rest = self._rest[:length], self._rest[length:]
        return data


def _start(stream: Stream, command: str, stderr: int) -> subprocess.Popen[bytes]:
    daemon = stream.connection.daemon
    process = subprocess.Popen(
        ["sh", "-c", os.fsencode(command)], cwd=daemon.folder, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip
    daemon.processes.append(process)
    return process


def _pump(source: IO[bytes], write: Callable[[bytes], None]) -> None:
    with contextlib.suppress(Hangup, ValueError):
        while block := os.read(source.fileno(), CHUNK):
            write(block)
    source.close()


def shell_v2(stream: Stream, command: str) -> None:
    """Packets of kind, length and data: input, both outputs and the exit status apart."""
    process = _start(stream, command, subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None

    def sender(kind: int) -> Callable[[bytes], None]:
        return lambda data: stream.write(struct.pack("<BI", kind, len(data)) + data)

    pumps = [
        threading.Thread(target=_pump, args=(process.stdout, sender(STDOUT)), daemon=True),
        threading.Thread(target=_pump, args=(process.stderr, sender(STDERR)), daemon=True),
        threading.Thread(target=_feed, args=(stream, process.stdin), daemon=True),
    ]
    for each in pumps:
        each.start()
    code = process.wait()
    for each in pumps[:2]:
        each.join()
    sender(EXIT)(bytes([code & 0xFF if code >= 0 else 128 - code]))


def _feed(stream: Stream, target: IO[bytes]) -> None:
    with contextlib.suppress(Hangup, BrokenPipeError):
        while True:
            kind, length = struct.unpack("<BI", stream.read(5))
            data = stream.read(length)
            if kind == STDIN:
                target.write(data)
                target.flush()
            elif kind == CLOSE_STDIN:
                break
    with contextlib.suppress(BrokenPipeError):
        target.close()


def shell_v1(stream: Stream, command: str) -> None:
    """One stream for both outputs, with a terminal's line ends; no exit status."""
    process = _start(stream, command, subprocess.STDOUT)
    assert process.stdin is not None and process.stdout is not None
    threading.Thread(target=_feed_raw, args=(stream, process.stdin), daemon=True).start()
    _pump(process.stdout, lambda data: stream.write(data.replace(b"\n", b"\r\n")))
    process.wait()


def _feed_raw(stream: Stream, target: IO[bytes]) -> None:
    with contextlib.suppress(Hangup, BrokenPipeError):
        while True:
            target.write(stream.read(1))
            target.flush()
    with contextlib.suppress(BrokenPipeError):
        target.close()


def sync(stream: Stream, _: str) -> None:
    """File transfer: requests of four letters, a length and a path."""
    while True:
        name, length = struct.unpack("<4sI", stream.read(8))
        if name == b"QUIT":
            return
        path = os.fsdecode(stream.read(length))
        if name == b"STAT":
            stream.write(b"STAT" + struct.pack("<3I", *_stat(path)))
        elif name == b"LIST":
            _list(stream, path)
        elif name == b"RECV":
            _send_file(stream, path)
        elif name == b"SEND":
            _receive_file(stream, path.rpartition(",")[0])
        else:
            _fail(stream, f"unknown request {name!r}")


def _stat(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).lstat()
    except OSError:
        return 0, 0, 0
    return found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)


def _list(stream: Stream, path: str) -> None:
    for name in os.listdir(path) if Path(path).is_dir() else []:  # noqa: PTH208 - names, not paths
        stream.write(b"DENT" + struct.pack("<4I", *_stat(f"{path}/{name}"), len(os.fsencode(name))) + os.fsencode(name))
    stream.write(b"DONE" + bytes(16))


def _send_file(stream: Stream, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            while block := file.read(CHUNK):
                stream.write(b"DATA" + struct.pack("<I", len(block)) + block)
    except OSError as error:
        _fail(stream, f"open failed: {error.strerror}")
        return
    stream.write(b"DONE" + bytes(4))


def _receive_file(stream: Stream, path: str) -> None:
    problem = ""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file: IO[bytes] | None = Path(path).open("wb")  # noqa: SIM115 - what follows must be read all the same
    except OSError as error:
        file, problem = None, f"couldn't create file: {error.strerror}"
    while True:
        name, length = struct.unpack("<4sI", stream.read(8))
        if name == b"DONE":
            break
        block = stream.read(length)
        if file is not None:
            file.write(block)
    if file is None:
        _fail(stream, problem)
        return
    file.close()
    Path(path).chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR)
    stream.write(b"OKAY" + bytes(4))


def _fail(stream: Stream, message: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(message)) + message.encode())
