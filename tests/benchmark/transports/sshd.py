"""A real ``sshd`` on the loopback address, with keys, configuration and user files of its own."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
_START_S = 20.0


@dataclass(frozen=True)
class Server:
    """A running ``sshd``.

    Attributes:
        folder: Its keys and configurations: ``known_hosts``, ``client`` (the private key), ``ssh_config``.
        port: Where it listens.
        process: The listening process; each connection has a child of its own.
        temp: ``TMPDIR`` of whoever logs in.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    temp: Path

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def options(self) -> tuple[str, str]:
        return "-F", str(self.folder / "ssh_config")

    def configure(self, **settings: str | Path) -> tuple[str, str]:
        """Write another configuration of the client; return the arguments that choose it."""
        common: dict[str, str | Path] = {
            "IdentityFile": self.folder / "client", "IdentitiesOnly": "yes", "IdentityAgent": "none",
            "UserKnownHostsFile": self.folder / "known_hosts", "GlobalKnownHostsFile": "/dev/null",
        }  # fmt: skip
        path = self.folder / f"ssh_config_{len(list(self.folder.iterdir()))}"
        path.write_text("".join(f"{key} {value}\n" for key, value in (common | settings).items()))
        return "-F", str(path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


@contextmanager
def running_sshd(folder: Path, **settings: str) -> Iterator[Server]:
    """Start ``sshd`` as this user, with everything in ``folder``; stop it and its connections at the end."""
    assert SSHD is not None
    temp = folder / "tmp"
    temp.mkdir(parents=True)
    make_key(folder / "host")
    make_key(folder / "client")
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    port = free_port()
    common = {
        "Port": str(port), "ListenAddress": "127.0.0.1", "HostKey": str(folder / "host"), "PidFile": "none",
        "AuthorizedKeysFile": str(folder / "authorized_keys"), "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no", "SetEnv": f"TMPDIR={temp}",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in (common | settings).items()))
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    if sys.platform == "linux" and getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of Debian, started by root, locks itself in
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log, start_new_session=True)
    server = Server(folder, port, process, temp)
    Path(server.configure()[1]).rename(folder / "ssh_config")
    try:
        _wait_for(port, process, folder / "sshd.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")
