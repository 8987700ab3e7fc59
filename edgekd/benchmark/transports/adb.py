"""An Android device reached by the system's own ``adb``, through the server that it finds or starts.

``ADB_SERVER_SOCKET``, ``ANDROID_ADB_SERVER_PORT`` and ``ANDROID_SERIAL`` count as they do for ``adb`` itself. A server that
``adb`` starts stays, as always: other programs may have come to use it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from edgekd.benchmark.transports.remote import GRACE_S, ConnectionLost, RemoteTransport
from edgekd.errors import DeviceError, UsageError
from edgekd.names import did_you_mean
from edgekd.safe.program import ProgramTimeout, Ran, run_program

ROOT = "/data/local/tmp"
"""The folder of Android where ``adb`` may write and run programs."""
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9_.:%\[\]-]*")
_NETWORK_SERIAL = re.compile(r".+:[0-9]+")
_CONTROL_S = 60.0
_LONGEST_OLD_SCRIPT = 700
"""Bytes of a command that every old ``adb`` takes: 1024 with what is around it."""
_LOST = re.compile(
    r"device .*not found|device offline|no devices|error: closed|connect failed|protocol fault|couldn't read|EOF|"
    r"connection reset|broken pipe|failed to read copy response|read failed|write failed",
    re.IGNORECASE,
)
_STATES = {
    "unauthorized": "unlock its screen and accept the question 'Allow USB debugging?'",
    "offline": "unplug it and plug it in again, or restart adb: adb kill-server",
    "no permissions": "install Android's udev rules: sudo apt install android-sdk-platform-tools-common",
    "authorizing": "wait a moment and try again",
    "recovery": "start Android on it", "sideload": "start Android on it", "bootloader": "start Android on it",
}  # fmt: skip


def adb_transport(serial: str | None = None, *, root: str = ROOT, grace_s: int = GRACE_S) -> RemoteTransport:
    """Return the Android device with this serial number; ``None``: the only one there is.

    Args:
        serial: As ``adb devices`` lists it, for example ``emulator-5554`` or ``192.168.1.5:5555``.
        root: Folder of the device for the run's folder.
        grace_s: Seconds that the device keeps the folder of a lost connection.

    Raises:
        UsageError: It is no serial number. Nothing that ``adb`` could take for an option gets through.
    """
    if serial is not None and not _SERIAL.fullmatch(serial):
        raise UsageError(f"{serial!r} is no serial number of a device", "adb devices lists them")
    return RemoteTransport(AdbLink(serial, root), grace_s)


class AdbLink:
    """The way to a device by ``adb``; see :class:`~edgekd.benchmark.transports.remote.Link`."""

    def __init__(self, serial: str | None, root: str) -> None:
        self.name = f"adb:{serial}" if serial else "adb"
        self.longest_script: int | None = None
        self.parents = shlex.quote(root)
        self._serial = serial
        self._one_stream = False

    def connect(self) -> None:
        """Choose the device, wait for one that was lost, and see whether its ``adb`` is an old one."""
        self._serial = self._choose()
        try:
            features = self._run(["features"], _CONTROL_S)
        except ConnectionLost as error:
            raise error.reason from None
        if features.code != 0:
            raise self.reason(features)
        self._one_stream = b"shell_v2" not in features.stdout.split()
        self.longest_script = _LONGEST_OLD_SCRIPT if self._one_stream else None

    def close(self) -> None:
        """Do nothing: ``adb`` leaves nothing but its server."""

    def keeper(self, script: str) -> list[str]:
        """Return the ``adb`` that runs the keeper."""
        return self._adb(["shell", f"sh -c {shlex.quote(script)}"])

    def ask(self, script: str) -> tuple[list[str], bytes]:
        """Return the ``adb`` that runs a script: as input, or for old ones, whose input is a terminal, as an argument."""
        if self._one_stream:
            return self._adb(["shell", script]), b""
        return self._adb(["shell", "sh"]), os.fsencode(script) + b"\n"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments as they are."""
        return list(arguments)

    def put(self, source: Path, target: str, resume: bool, timeout_s: float) -> None:
        """Push a file, from its start: ``adb`` cannot resume."""
        self._copy(["push", str(source.absolute()), target], timeout_s)

    def get(self, source: str, target: Path, resume: bool, timeout_s: float) -> None:
        """Pull a file, likewise."""
        self._copy(["pull", source, str(target.absolute())], timeout_s)

    def reason(self, ran: Ran) -> DeviceError:
        """Return what ``adb`` said."""
        return DeviceError(
            f"{self.name}: the device cannot be reached: {_last_line(ran)}", "see that it is listed: adb devices"
        )

    def _adb(self, arguments: Sequence[str]) -> list[str]:
        return ["adb", *(["-s", self._serial] if self._serial else []), *arguments]

    def _run(self, arguments: Sequence[str], timeout_s: float) -> Ran:
        try:
            return run_program(self._adb(arguments), timeout_s=timeout_s)
        except FileNotFoundError:
            raise DeviceError(f"{self.name}: no program 'adb' on this machine", "sudo apt install adb") from None
        except ProgramTimeout:
            raise ConnectionLost(DeviceError(f"{self.name}: adb {arguments[0]} took longer than {timeout_s:.0f} s")) from None

    def _copy(self, arguments: Sequence[str], timeout_s: float) -> None:
        ran = self._run(arguments, timeout_s)
        if ran.code != 0:
            said = (ran.stdout + ran.stderr).decode(errors="replace")
            if _LOST.search(said):
                raise ConnectionLost(self.reason(ran))
            raise DeviceError(f"{self.name}: the device failed to copy: {_last_line(ran)}")

    def _choose(self) -> str:
        """Return the serial number of the device that was asked for, where it can be talked to."""
        wanted = self._serial or os.environ.get("ANDROID_SERIAL")
        devices = self._devices()
        if wanted is None:
            if len(devices) > 1:
                names = " or ".join(f"adb:{serial}" for serial in sorted(devices))
                raise DeviceError("adb: more than one device is connected", f"name one: {names}")
            if not devices:
                raise DeviceError("adb: no device is connected", "plug one in, and turn on its USB debugging")
            wanted = next(iter(devices))
        elif devices.get(wanted, "offline") == "offline" and _NETWORK_SERIAL.fullmatch(wanted):
            run_program(["adb", "disconnect", wanted], timeout_s=_CONTROL_S)
            said = run_program(["adb", "connect", wanted], timeout_s=_CONTROL_S)
            devices = self._devices()
            if wanted not in devices:
                raise DeviceError(
                    f"adb:{wanted}: the device cannot be reached: {_last_line(said)}", "is it in the same network?"
                )
        if wanted not in devices:
            raise DeviceError(
                f"adb:{wanted}: no such device is connected{did_you_mean(wanted, devices)}",
                f"connected: {', '.join(sorted(devices)) or 'none'}",
            )
        state = devices[wanted]
        if state != "device":
            hint = next((hint for known, hint in _STATES.items() if state.startswith(known)), None)
            raise DeviceError(f"adb:{wanted}: the device is {state}", hint)
        return wanted

    def _devices(self) -> dict[str, str]:
        """Return ``{serial: state}`` of all devices that the server knows."""
        try:
            listed = run_program(["adb", "devices"], timeout_s=_CONTROL_S)
        except FileNotFoundError:
            raise DeviceError("adb: no program 'adb' on this machine", "sudo apt install adb") from None
        except ProgramTimeout:
            raise DeviceError(f"adb: its server did not answer within {_CONTROL_S:.0f} s", "adb kill-server") from None
        if listed.code != 0:
            raise DeviceError(f"adb: its server cannot be started: {_last_line(listed)}")
        rows = (line.split("\t", 1) for line in listed.stdout.decode(errors="replace").splitlines() if "\t" in line)
        return {serial.strip(): state.strip() for serial, state in rows}


def _last_line(ran: Ran) -> str:
    said = (ran.stdout + b"\n" + ran.stderr).decode(errors="replace").strip().splitlines()
    lines = [line for line in said if not line.startswith("*")]  # "* daemon started successfully"
    return lines[-1].removeprefix("adb: ").removeprefix("error: ") if lines else f"exit status {ran.code}"
