"""How a device is reached: this machine, ``ssh``, ``adb``, or an emulated ARM processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Finished:
    """A command that ended on a device.

    Attributes:
        code: Its exit status.
        stdout, stderr: What it wrote. Where a transport cannot tell them apart, as old ``adb``, all is in ``stdout``.
    """

    code: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """A device within reach, with a folder of its own there, which is removed when the ``with`` block ends.

    Every argument arrives on the device as one argument, whatever is in it. Every call has a time limit.
    """

    name: str
    """As the user named it, for example ``ssh://pi@raspberrypi:22``."""
    folder: str
    """The folder on the device, absolute."""

    def __enter__(self) -> Transport:
        """Connect and make the folder.

        Raises:
            DeviceError: The device cannot be reached.
        """

    def __exit__(self, *_: object) -> None:
        """Stop what still runs there, and remove the folder."""

    def push(self, source: Path, name: str) -> None:
        """Copy a file of this machine to ``folder/name`` on the device."""

    def pull(self, name: str, target: Path) -> None:
        """Copy ``folder/name`` of the device to a file of this machine."""

    def run(self, arguments: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Finished:
        """Run a program on the device, in the folder, and wait for its end.

        Raises:
            DeviceError: The connection was lost, or the time is over; what ran there is stopped.
        """
