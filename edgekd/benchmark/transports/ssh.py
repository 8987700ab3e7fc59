"""A device reached by the system's own ``ssh``, which honours the user's configuration, keys and agent.

Files go through ``ssh`` as well, not ``scp``: that quotes paths differently before and after OpenSSH 9, and cannot resume.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from edgekd.benchmark.transports import remote_scripts
from edgekd.benchmark.transports.remote import GRACE_S, ConnectionLost, RemoteTransport
from edgekd.errors import DeviceError, UsageError
from edgekd.safe.program import ProgramTimeout, Ran, run_program

_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*)|\[(?P<address>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
_CONTROL_S = 60.0
_MOST_CHATTER = 1 << 20
"""Bytes that a login shell may print before the output begins."""
_LONGEST_SOCKET = 80
"""Bytes of a socket's path that every system takes, with what ``ssh`` appends to it for a while."""


def parse_ssh_url(url: str) -> tuple[str | None, str, int | None]:
    """Return ``(user, host, port)`` of ``ssh://[user@]host[:port]``; ``None``: as the user's configuration says.

    Raises:
        UsageError: It is no such URL. Nothing that ``ssh`` could take for an option gets through.
    """
    found = _URL.fullmatch(url)
    port = int(found["port"]) if found is not None and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65535):
        raise UsageError(f"'{url}' is no address of a device", "write ssh://user@host or ssh://user@host:port")
    return found["user"], found["host"] or found["address"], port


def ssh_transport(
    url: str, *, ssh_options: Sequence[str] = (), grace_s: int = GRACE_S, connect_timeout_s: int = 10
) -> RemoteTransport:
    """Return the device at ``ssh://[user@]host[:port]``.

    Args:
        url: Its address; a host may be a name of the user's ``~/.ssh/config``.
        ssh_options: More arguments of ``ssh``, before all others, for example ``("-F", "file")``.
        grace_s: Seconds that the device keeps the folder of a lost connection.
        connect_timeout_s: Seconds after which a host that does not answer is called unreachable.

    Raises:
        UsageError: The address is no address.
    """
    return RemoteTransport(SshLink(url, ssh_options, connect_timeout_s), grace_s)


class SshLink:
    """The way to a device by ``ssh``; see :class:`~edgekd.benchmark.transports.remote.Link`.

    The keeper's connection is the master that later commands share. Where sharing is not possible, ``ssh`` makes a
    connection for each.
    """

    def __init__(self, url: str, ssh_options: Sequence[str], connect_timeout_s: int) -> None:
        user, self._host, port = parse_ssh_url(url)
        self.name = url.removesuffix("/")
        self.longest_script: int | None = None
        self.parents = '"${TMPDIR:-/tmp}" "$HOME/.cache/edgekd"'
        settings = {
            "BatchMode": "yes", "ConnectTimeout": connect_timeout_s, "ConnectionAttempts": 1,
            "ServerAliveInterval": 5, "ServerAliveCountMax": 3,
            "ClearAllForwardings": "yes", "ForwardAgent": "no", "ForwardX11": "no", "PermitLocalCommand": "no",
            "RequestTTY": "no", "RemoteCommand": "none", "ControlPersist": "no",
        }  # fmt: skip
        self._start = ["ssh", *ssh_options, *(f"-o{key}={value}" for key, value in settings.items())]
        self._to = [*(["-p", str(port)] if port else []), *(["-l", user] if user else []), "--", self._host]
        self._login = f"{user}@{self._host}" if user else self._host
        self._port = f"-p {port} " if port else ""
        self._known_as = f"'[{self._host}]:{port}'" if port not in {None, 22} else self._host
        self._socket = "none"

    def connect(self) -> None:
        """Choose where the shared connection is found."""
        socket = Path(tempfile.gettempdir(), f"edgekd-{secrets.token_hex(8)}.ssh")
        self._socket = str(socket) if len(str(socket).encode()) <= _LONGEST_SOCKET else "none"

    def close(self) -> None:
        """Remove the socket of a master that was killed."""
        if self._socket != "none":
            Path(self._socket).unlink(missing_ok=True)

    def keeper(self, script: str) -> list[str]:
        """Return the ``ssh`` that runs the keeper and is the master of the others."""
        master = ["-oControlMaster=yes", f"-oControlPath={self._socket}"]
        return [*self._start, *master, *self._to, f"sh -c {shlex.quote(script)}"]

    def ask(self, script: str) -> tuple[list[str], bytes]:
        """Return the ``ssh`` that runs a script: its text is input, so that no login shell, of any kind, reads it."""
        return self._ssh("sh"), script.encode(errors="surrogateescape") + b"\n"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments as they are."""
        return list(arguments)

    def put(self, source: Path, target: str, resume: bool, timeout_s: float) -> None:
        """Send a file from its first missing byte on."""
        there = self._size(target) if resume else 0
        with source.open("rb") as file:
            file.seek(there)
            self._talk(f"cat {'>>' if resume else '>'} {shlex.quote(target)}", timeout_s, stdin=file)

    def get(self, source: str, target: Path, resume: bool, timeout_s: float) -> None:
        """Fetch a file from its first missing byte on."""
        here = target.stat().st_size if resume and target.exists() else 0
        with target.open("ab" if here else "wb") as file:
            self._talk(f"tail -c +{here + 1} {shlex.quote(source)}", timeout_s, stdout=file)

    def reason(self, ran: Ran) -> DeviceError:
        """Return what ``ssh`` said, with what to do."""
        lines = [line.strip() for line in ran.stderr.decode(errors="replace").splitlines() if line.strip()]
        said = "\n".join(lines)
        by_hand = f"ssh {self._port}{self._login}"
        if "HOST IDENTIFICATION HAS CHANGED" in said:
            return DeviceError(
                f"{self.name}: the device's host key is not the one that was known",
                f"if the device was set up anew: ssh-keygen -R {self._known_as}, then connect once by hand: {by_hand}",
            )
        if "Host key verification failed" in said:
            return DeviceError(
                f"{self.name}: the device's host key is not known yet", f"connect once by hand and accept it: {by_hand}"
            )
        refused = next((line for line in lines if "Permission denied (" in line or "Too many authentication" in line), None)
        if refused is not None:
            return DeviceError(
                f"{self.name}: the device does not accept your key: {refused.rpartition(': ')[2]}",
                f"put it there: ssh-copy-id {self._port}{self._login}; a key with a passphrase must be in the agent: ssh-add",
            )
        reason = next((line for line in reversed(lines) if not line.startswith("**")), "the connection broke")
        return DeviceError(f"{self.name}: the device cannot be reached: {reason}", f"see that this works: {by_hand}")

    def _ssh(self, command: str) -> list[str]:
        shared = ["-oControlMaster=no", f"-oControlPath={self._socket}"]
        return [*self._start, *shared, *self._to, command]

    def _size(self, path: str) -> int:
        with tempfile.TemporaryFile() as said:
            self._talk(f"wc -c < {shlex.quote(path)} 2>/dev/null || echo 0", _CONTROL_S, stdout=said)
            said.seek(0)
            return int(said.read())

    def _talk(self, script: str, timeout_s: float, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> None:
        """Run a script whose input and output are files of this machine."""
        word = f"edgekd-{secrets.token_hex(8)}"
        arguments = self._ssh(f"sh -c {shlex.quote(remote_scripts.framed(script, word))}")
        with tempfile.TemporaryFile() as said:
            try:
                ran = run_program(arguments, timeout_s=timeout_s, stdin=stdin or b"", stdout=said)
            except ProgramTimeout:
                raise ConnectionLost(DeviceError(f"{self.name}: it took longer than {timeout_s:.0f} s")) from None
            said.seek(0)
            start = remote_scripts.body_start(said.read(_MOST_CHATTER), word)
            if stdout is not None and start is not None:
                said.seek(start)
                shutil.copyfileobj(said, stdout)
        code, _, stderr = remote_scripts.unframed(b"", ran.stderr, word)
        if code is None:
            raise ConnectionLost(self.reason(ran))
        if code != 0:
            lines = stderr.decode(errors="replace").strip().splitlines()
            raise DeviceError(f"{self.name}: the device failed to copy: {lines[-1] if lines else f'exit status {code}'}")
