"""An emulated ARM processor: the arm64 builds of both runtimes, run by ``qemu-aarch64-static`` on this machine.

It proves what a file computes on ARM's kernels, never how long that takes: emulation has another speed. The folder with
Debian's arm64 Python is made by ``tools/make_arm64_device.py``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekd.benchmark.transports.remote import GRACE_S, RemoteTransport
from edgekd.errors import DeviceError
from edgekd.safe.program import Ran

CPU = "cortex-a76"
"""The emulated processor, of a Raspberry Pi 5: with dot product and half-precision arithmetic."""
ABOUT = "edgekd-arm64.json"
"""File in the root that says what is in it."""
COUNTER = "edgekd-instruction-counter.so"
"""File in the root: the emulator's plugin that counts instructions, where it could be compiled."""
COUNTS = "instructions"
"""File in the run's folder that it writes; see ``tools/instruction_counter.c``."""
_SCHEMA = 1
_EMULATOR = "qemu-aarch64-static"
_COUNTING_EMULATOR = "qemu-aarch64"  # the other one has no plugins
_MAKE = "python tools/make_arm64_device.py"
_PLACES = ("usr/local/bin", "usr/bin", "bin", "usr/sbin", "sbin")


def default_root() -> Path:
    """Return where the root is unless told otherwise: ``~/.cache/edgekd/arm64``, or below ``XDG_CACHE_HOME``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgekd" / "arm64"


def emulator(root: Path, counting: bool = False) -> list[str]:
    """Return the start of a command that runs an arm64 program of ``root``, and counts its instructions into ``COUNTS``."""
    if counting:
        return [_COUNTING_EMULATOR, "-plugin", f"{root / COUNTER},out={COUNTS}", "-cpu", CPU, "-L", str(root)]
    return [_EMULATOR, "-cpu", CPU, "-L", str(root)]


def emulated_transport(root: Path | None = None, *, counting: bool = False, grace_s: int = GRACE_S) -> RemoteTransport:
    """Return the emulated device; its folder is on this machine.

    Args:
        root: Made by ``tools/make_arm64_device.py``; ``None``: :func:`default_root`.
        counting: Whether it counts instructions, which makes it some times slower.
        grace_s: Seconds that the folder is kept after the death of this process.
    """
    return RemoteTransport(EmulatedLink(root or default_root(), counting), grace_s)


class EmulatedLink:
    """The way to programs of another processor; see :class:`~edgekd.benchmark.transports.remote.Link`."""

    def __init__(self, root: Path, counting: bool) -> None:
        self.name = "emulated"
        self.root = root.absolute()
        self._counting = counting
        self.longest_script: int | None = None
        self.parents = shlex.quote(tempfile.gettempdir())

    def connect(self) -> None:
        """Check that emulator and root are there."""
        for program, package in ((_EMULATOR, "qemu-user-static"), (_COUNTING_EMULATOR, "qemu-user")):
            if shutil.which(program) is None and (self._counting or program == _EMULATOR):
                hint = f"sudo apt install --no-install-recommends {package}"
                raise DeviceError(f"emulated: no program '{program}' on this machine", hint)
        try:
            about = json.loads((self.root / ABOUT).read_text())
        except FileNotFoundError:
            raise DeviceError(f"emulated: there is no ARM device in {self.root}", f"make it: {_MAKE}") from None
        except (OSError, ValueError) as error:
            raise DeviceError(f"emulated: {self.root / ABOUT} cannot be read: {error}", f"{_MAKE} --replace") from None
        if not isinstance(about, dict) or about.get("schema") != _SCHEMA:
            raise DeviceError(f"emulated: {self.root} was made for another edgekd", f"make it again: {_MAKE} --replace")
        if self._counting and not (self.root / COUNTER).is_file():
            raise DeviceError(f"emulated: {self.root} has no instruction counter", f"with a C compiler: {_MAKE} --replace")

    def close(self) -> None:
        """Do nothing: the keeper has removed the folder."""

    def keeper(self, script: str) -> list[str]:
        """Return the shell of this machine that runs the keeper."""
        return ["sh", "-c", script]

    def ask(self, script: str) -> tuple[list[str], bytes]:
        """Return the shell of this machine that runs ``script``."""
        return ["sh"], os.fsencode(script) + b"\n"

    def command(self, arguments: Sequence[str]) -> list[str] | None:
        """Return the emulator with the program of the root."""
        if "/" in arguments[0]:
            places = [Path(arguments[0])]
        else:
            places = [self.root / place / arguments[0] for place in _PLACES] if arguments[0] else []
        found = next((each for each in places if each.is_file()), None)
        return None if found is None else [*emulator(self.root, self._counting), str(found), *arguments[1:]]

    def put(self, source: Path, target: str, resume: bool, timeout_s: float) -> None:
        """Copy a file within this machine."""
        _copy(source, Path(target))

    def get(self, source: str, target: Path, resume: bool, timeout_s: float) -> None:
        """Copy a file within this machine."""
        _copy(Path(source), target)

    def reason(self, ran: Ran) -> DeviceError:
        """Return what the shell said."""
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        return DeviceError(f"emulated: {said[-1] if said else f'exit status {ran.code}'}")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise DeviceError(f"emulated: cannot copy {source} to {target}: {error.strerror or error}") from None
