"""Talk with the runner on a device: send it, ask it, and read its answers as data that may be anything."""

from __future__ import annotations

import itertools
import json
import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.benchmark.transports import Finished, Transport
from edgekd.devices.profiles import Profile
from edgekd.errors import DeviceError

RUNNER = Path(__file__).with_name("device_runner.py")
_NAME = "device_runner.py"
_NO_SUCH_PROGRAM = frozenset({126, 127})
_REFUSED = 3
_LAST_LINES = 5
_LONGEST_LINE = 200
_MOST_BYTES = 256 << 20
_DESCRIBE_S = 60.0
_LAUNCH_S = 30.0

Event = dict[str, Any]


class PartialAnswer(DeviceError):
    """A device that died, hung or lost its connection; ``events`` are those that came before."""

    def __init__(self, message: str, hint: str | None = None, events: Sequence[Event] = ()) -> None:
        super().__init__(message, hint)
        self.events = list(events)


@dataclass(frozen=True)
class Session:
    """A device with the runner on it.

    Attributes:
        transport: The way to it, open.
        profile: What is there.
        python: Path of its Python.
        kinds: Formats that should run there, for what is said where something is missing.
    """

    transport: Transport
    profile: Profile
    python: str
    kinds: tuple[str, ...] = ("onnx", "tflite")
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> list[Event]:
        """Send a request, and return the events it was answered with.

        Raises:
            DeviceError: Something is missing on the device; the hint says how to install it.
            PartialAnswer: The answer is not whole.
        """
        log = f"events{next(self._numbers)}.jsonl"
        content = {**request, "give_up_s": int(timeout_s), "log": log}
        with tempfile.TemporaryDirectory(prefix="edgekd-request-") as folder:
            file = Path(folder, "request.json")
            file.write_text(json.dumps(content), encoding="utf-8")
            self.transport.push(file, "request.json")
        try:
            ended = self.transport.run([self.python, _NAME, "request.json"], timeout_s=timeout_s + _LAUNCH_S)
        except DeviceError as error:
            raise PartialAnswer(error.message, error.hint, self._logged(log)) from None
        events, noise = read_events(ended.stdout)
        for each in events:
            if each["event"] == "problem":
                raise self._problem(each)
        if ended.code in _NO_SUCH_PROGRAM and not events:
            raise no_python(self, _said(ended, noise))
        if not events and b"SyntaxError" in ended.stderr:  # 3.7 and older, as of JetPack 4, cannot even read the runner
            raise self._problem({"what": "python", "found": "older than 3.8"})
        if ended.code != 0 or not events or events[-1]["event"] != "done":
            kept = [each for each in events if each["event"] != "done"]
            what = (
                "the runner answered with something else than JSON" if not events else f"the runner ended early ({ended.code})"
            )
            raise PartialAnswer(f"{self.transport.name}: {what}: {_said(ended, noise)}", None, kept)
        return events[:-1]

    def _logged(self, log: str) -> list[Event]:
        """Return what the runner had written on the device before the connection broke, if it can still be reached."""
        with tempfile.TemporaryDirectory(prefix="edgekd-events-") as folder:
            file = Path(folder, log)
            try:
                self.transport.pull(log, file)
                return read_events(file.read_bytes())[0]
            except (DeviceError, OSError):
                return []  # the error that led here is the one to tell

    def _problem(self, found: Event) -> DeviceError:
        what, kinds = found.get("what"), [str(each) for each in found.get("kinds", [])]
        name = self.transport.name
        if what == "checksum":
            return DeviceError(f"{name}: {found.get('path')} is not what was sent: its SHA-256 is another", "try again")
        if what == "python":
            return DeviceError(f"{name}: its Python is {found.get('found')}; the runner needs 3.9 or later",
                               install_hint(self.profile, kinds or self.kinds))  # fmt: skip
        runtimes = " and ".join("LiteRT" if kind == "tflite" else "ONNX Runtime" for kind in kinds)
        return DeviceError(f"{name}: no {runtimes} for {self.python} on the device", install_hint(self.profile, kinds))


def open_session(
    transport: Transport, profile: Profile, python: str, kinds: Sequence[str] = ("onnx", "tflite")
) -> tuple[Session, Event]:
    """Copy the runner to an open transport; return the session, and what the device is, see ``environment`` of the runner.

    Raises:
        DeviceError: There is no Python on it, or it does not answer.
    """
    if python.startswith("~/"):
        python = posixpath.join(home(transport), python[2:])
    transport.push(RUNNER, _NAME)
    session = Session(transport, profile, python, tuple(kinds))
    answer = session.ask({"command": "describe"}, _DESCRIBE_S)
    found = next((each for each in answer if each["event"] == "environment"), None)
    if found is None:
        raise DeviceError(f"{transport.name}: the runner does not say what the device is")
    return session, {key: value for key, value in found.items() if key != "event"}


def home(transport: Transport) -> str:
    """Return the home folder on a device.

    Raises:
        DeviceError: It has none.
    """
    ended = transport.run(["printenv", "HOME"], timeout_s=_LAUNCH_S)
    found = ended.stdout.decode(errors="replace").strip().splitlines()
    if ended.code != 0 or not found or not found[-1].startswith("/"):
        raise DeviceError(f"{transport.name}: the device does not tell its home folder", "give the whole path")
    return found[-1]


def read_events(output: bytes) -> tuple[list[Event], list[str]]:
    """Return the events in what a device wrote, and its other lines: a login may greet on the same stream."""
    events, noise = [], []
    for raw in output[:_MOST_BYTES].splitlines():
        line = raw.decode(errors="replace").strip()
        try:
            content = json.loads(line, parse_constant=_refuse) if line.startswith("{") else None
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and isinstance(content.get("event"), str):
            events.append(content)
        elif line:
            noise.append(line)
    return events, noise


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def last_lines(text: str) -> str:
    """Return the last lines of what a program said, on one line, without anything that a terminal would act on."""
    lines = [each.strip()[:_LONGEST_LINE] for each in text.splitlines() if each.strip()][-_LAST_LINES:]
    return "".join(each if each.isprintable() else "?" for each in " | ".join(lines)) or "it said nothing"


def _said(ended: Finished, noise: Sequence[str]) -> str:
    return last_lines("\n".join([*noise, *ended.stderr.decode(errors="replace").splitlines()]))


def no_python(session: Session, said: str) -> DeviceError:
    """Return the error for a device on which there is no Python."""
    name, python = session.transport.name, session.python
    return DeviceError(f"{name}: cannot run {python} on the device: {said}", install_hint(session.profile, session.kinds))


def install_hint(profile: Profile, kinds: Sequence[str]) -> str:
    """Return the line that installs what files of those kinds need on such a device."""
    packages = ["numpy", *(["onnxruntime"] if {"onnx", "ort"} & {*kinds} else []),
                *(["ai-edge-litert"] if "tflite" in kinds else [])]  # fmt: skip
    names = " ".join(packages)
    if profile.kind == "host":
        return f"python3 -m pip install {names}"
    if profile.kind == "android":
        tool = "benchmark_model" if "tflite" in kinds else "onnxruntime_perf_test"
        return (
            f"phones have no Python: adb push {tool} /data/local/tmp/ && adb shell chmod 755 /data/local/tmp/{tool}, "
            f"then run again with --runner {tool}"
        )
    if profile.kind == "ios":
        return "no transport reaches an iPhone: run the kit's GoldenTests.swift in Xcode instead (edgekd kit --target ios)"
    return (
        f"on the device: python3 -m venv ~/edgekd-venv && ~/edgekd-venv/bin/pip install {names}; "
        "then run again with --python '~/edgekd-venv/bin/python3'"
    )
