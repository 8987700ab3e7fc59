"""Measure files on a device: send them, run blocks of all of them in turn with a canary, and keep every sample."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.benchmark.device_session import PartialAnswer, Session, open_session
from edgekd.benchmark.golden_vectors import find_golden, read_golden, vectors_file
from edgekd.benchmark.measurements import (
    DeviceBenchmark,
    Measurement,
    Named,
    checked_events,
    compared,
    measured,
    measured_natively,
    turns_of,
)
from edgekd.benchmark.model_facts import ModelFacts, kind_of, model_facts
from edgekd.benchmark.native import TOOLS, Load, Tool, check_tool, find_tool, measure_block, native_environment
from edgekd.benchmark.native_parsers import NativeRun
from edgekd.benchmark.transports import Transport
from edgekd.devices.profiles import Profile
from edgekd.errors import DeviceError, Interrupted, UsageError
from edgekd.progress import Listener, Silent
from edgekd.safe.files import write_json, write_text

_MOST_TOGETHER = 4
_TOGETHER_SHARE = 0.5
_PROCESS_BYTES = 120 << 20
_MEMORY_OF_FILE = 4
_LOAD_S = 300.0
_START_S = 60.0
_PUSH_S = 120.0


@dataclass(frozen=True)
class Protocol:
    """How much is measured; the defaults are those of ``docs/benchmarking.md``.

    Attributes:
        runs, seconds: Of each file in each block; both are reached.
        blocks: How often everything is started anew.
        warmup_runs, warmup_s: Before a file is timed; both are reached.
        turn_s: How long a file runs before the next one's turn.
        canary_s: Of the fixed work before and after each block.
        idle_s: How long idle power is measured where power can be.
        most_s: Of a file in one block; a file that is too slow for ``runs`` ends there.
        state_s: Seconds between looks at temperature and clock.
        sustained_s: Above 0: one block, in which each file runs that long without a pause.
    """

    runs: int = 50
    seconds: float = 5.0
    blocks: int = 3
    warmup_runs: int = 10
    warmup_s: float = 0.5
    turn_s: float = 0.25
    canary_s: float = 0.5
    idle_s: float = 3.0
    most_s: float = 150.0
    state_s: float = 1.0
    sustained_s: float = 0.0

    def __post_init__(self) -> None:
        whole = {"runs": self.runs, "blocks": self.blocks, "turn_s": self.turn_s, "most_s": self.most_s}
        for name, value in whole.items():
            if not math.isfinite(value) or value <= 0:
                raise UsageError(f"{name} of a measurement is {value}, and must be above 0")

    def sustained(self) -> Protocol:
        """Return what is run: this, or one long block."""
        if not self.sustained_s:
            return self
        return replace(
            self, blocks=1, runs=1, seconds=self.sustained_s, most_s=self.sustained_s + self.most_s, turn_s=1.0, state_s=5.0
        )


def benchmark_files(
    files: Sequence[Path], profile: Profile, transport: Transport, *, threads: Sequence[int] = (),
    protocol: Protocol | None = None, runner: str = "auto", tool_path: str | None = None, python: str = "python3",
    golden: Path | None = None, out: Path | None = None, opened: bool = False, listener: Listener | None = None,
) -> DeviceBenchmark:  # fmt: skip
    """Measure the latency of files on a device, and leave nothing on it.

    Args:
        files: ``.onnx``, ``.ort`` and ``.tflite`` files; several are compared with the first.
        profile: The device.
        transport: The way to it.
        threads: Settings to measure; none: those of the profile.
        protocol: How much is measured.
        runner: ``python``, a tool of :data:`~edgekd.benchmark.native.TOOLS`, or ``auto``.
        tool_path: Where the tool is on the device.
        python: Python on the device.
        golden: Folder of golden vectors, see :func:`~edgekd.benchmark.golden_vectors.find_golden`, whose first input each
            file is run on; ``None``: random numbers, the same each time.
        out: Gets ``samples.jsonl``, ``benchmark.json`` and ``benchmark.svg``.
        opened: The transport was entered by the caller, who also leaves it.
        listener: Is told how far it is.

    Raises:
        UsageError: A file or an option is wrong, or the device is emulated, which has no latency.
        DeviceError: The device cannot be reached, lacks what is needed, died, or is too small for a file.
    """
    if transport.name.startswith("emulated"):
        raise UsageError(
            "an emulated processor has no latency worth telling",
            "it runs what an ARM board runs, not as fast: edgekd verify FILE --via emulated proves a file, "
            "edgekd devices predict FILE tells what to expect",
        )
    plan = (protocol or Protocol()).sustained()
    kinds = [kind_of(each) for each in files]
    if runner not in ("auto", "python", *TOOLS):
        raise UsageError(f"no runner '{runner}', allowed: auto, python, {', '.join(TOOLS)}")
    listener = listener or Silent()
    scope: AbstractContextManager[Any] = nullcontext() if opened else transport
    with scope:
        chosen, tool, session, environment = _runner(transport, profile, python, runner, tool_path, files, kinds)
        for path in files:
            _check_memory(path, environment, profile, transport.name)
        facts = [model_facts(each) for each in files]
        names = _send(transport, facts)
        settings = tuple(threads) or _threads(profile, environment)
        work = _Work(transport, profile, plan, facts, names, settings, environment, out, listener)
        if tool is None:
            assert session is not None
            return work.by_python(session, golden)
        return work.by_tool(chosen, tool, session)


def _runner(
    transport: Transport, profile: Profile, python: str, runner: str, tool_path: str | None, files: Sequence[Path],
    kinds: Sequence[str],
) -> tuple[Any, str | None, Session | None, dict[str, Any]]:  # fmt: skip
    """Return the runner, the path of a native tool, the Python session, and what the device is. One of the two is missing."""
    wanted: list[Tool] = [each for each in TOOLS if runner in (each, "auto")]
    session, missing = None, None
    try:
        session, environment = open_session(transport, profile, python, kinds)
    except DeviceError as error:
        if runner == "python" or isinstance(error, PartialAnswer):
            raise
        missing, environment = error, native_environment(transport)
    if runner == "auto":
        # A Jetson is bought for its GPU; elsewhere a tool is what is left where there is no Python.
        wanted = [each for each in wanted if all(kind in TOOLS[each] for kind in kinds)
                  and (missing is not None or (profile.kind == "jetson" and each == "trtexec"))]  # fmt: skip
    for tool in wanted:
        for path, kind in zip(files, kinds, strict=True):
            check_tool(tool, path, kind)
        place = tool_path or find_tool(transport, tool)
        if place is not None:
            return tool, place, session, environment
        if runner != "auto":
            raise DeviceError(
                f"{transport.name}: no {tool} on the device", f"copy it there, and name it with --tool PATH/{tool}"
            )
    if missing is not None:
        raise missing
    return "python", None, session, environment


def _threads(profile: Profile, environment: dict[str, Any]) -> tuple[int, ...]:
    usable = environment.get("affinity")
    cores = len(usable) if isinstance(usable, list) and usable else environment.get("cores")
    every = cores if isinstance(cores, int) and cores > 0 else sum(each.count for each in profile.clusters) or 1
    return tuple(dict.fromkeys(every if each == "all" else each for each in profile.threads))


def _check_memory(path: Path, environment: dict[str, Any], profile: Profile, name: str) -> None:
    told = [environment.get("memory_bytes"), profile.memory_bytes]
    most = next((each for each in told if isinstance(each, int) and each > 0), None)
    size = path.stat().st_size
    if most is not None and size > most:
        raise DeviceError(
            f"{path} of {size / 2**20:,.0f} MiB does not fit into the {most / 2**20:,.0f} MiB of memory of {name}",
            "quantize it, or choose a smaller network",
        )


def _send(transport: Transport, facts: Sequence[ModelFacts]) -> list[str]:
    names = []
    for index, each in enumerate(facts):
        names.append(f"model{index}.{each.kind}")
        transport.push(each.path, names[-1])
    return names


@dataclass
class _Work:
    """One measurement on an open device."""

    transport: Transport
    profile: Profile
    plan: Protocol
    facts: Sequence[ModelFacts]
    names: Sequence[str]
    threads: tuple[int, ...]
    environment: dict[str, Any]
    out: Path | None
    listener: Listener

    def by_python(self, session: Session, golden: Path | None) -> DeviceBenchmark:
        inputs = [self._send_inputs(each, golden, index) for index, each in enumerate(self.facts)]
        files = [{"path": name, "kind": each.kind, "sha256": each.sha256, "inputs": given}
                 for name, each, given in zip(self.names, self.facts, inputs, strict=True)]  # fmt: skip
        events: list[dict[str, Any]] = []
        began = time.monotonic()
        for threads in self.threads:
            for block in range(self.plan.blocks):
                self._tell(threads, block)
                start = time.monotonic() - began
                request = {
                    **asdict(self.plan), "command": "measure", "files": files, "block": block, "threads": threads,
                    "together": self._together(),
                }  # fmt: skip
                try:
                    answer = session.ask(request, self._limit_s())
                except DeviceError as error:
                    partial = error.events if isinstance(error, PartialAnswer) else []
                    events += _placed(partial, threads, start)
                    raise self._kept(error, events) from None
                except Interrupted:
                    self._kept(DeviceError("stopped"), events)
                    raise
                events += _placed(checked_events(answer, self.transport.name, len(files)), threads, start)
        return self._result(events)

    def _send_inputs(self, each: ModelFacts, golden: Path | None, index: int) -> str | None:
        if golden is None:
            return None
        with tempfile.TemporaryDirectory(prefix="edgekd-inputs-") as folder:
            self.transport.push(vectors_file(read_golden(find_golden(each.path, golden)), Path(folder)), f"inputs{index}.npz")
        return f"inputs{index}.npz"

    def _together(self) -> bool:
        """Whether all files may be loaded at once, to take turns, by their number and the memory of the device."""
        if len(self.facts) > _MOST_TOGETHER or self.plan.sustained_s:
            return False
        free = self.environment.get("memory_available_bytes") or self.environment.get("memory_bytes")
        needed = sum(_PROCESS_BYTES + _MEMORY_OF_FILE * each.size_bytes for each in self.facts)
        return not isinstance(free, int) or needed < _TOGETHER_SHARE * free

    def _limit_s(self) -> float:
        plan = self.plan
        each = _LOAD_S + plan.warmup_s + 2 * plan.most_s
        return _START_S + plan.idle_s + 2 * plan.canary_s + each * len(self.facts)

    def _tell(self, threads: int, block: int) -> None:
        done = self.threads.index(threads) * self.plan.blocks + block
        self.listener.stage_advanced(done, len(self.threads) * self.plan.blocks, f"block {block + 1}, threads {threads}")

    def _kept(self, error: DeviceError, events: Sequence[dict[str, Any]]) -> DeviceError:
        """Keep what came before a failure, and return the error that says so."""
        count = sum(len(each["ms"]) for each in events if each["event"] == "samples" and isinstance(each.get("ms"), list))
        if self.out is None or not count:
            return DeviceError(error.message, error.hint)
        path = self.out / "samples.jsonl"
        _write_samples(path, events)
        return DeviceError(f"{error.message}; the {count:,} samples so far are in {path}", error.hint)

    def _result(self, events: Sequence[dict[str, Any]]) -> DeviceBenchmark:
        found: list[Measurement] = []
        failed = []
        files = self._named()
        for threads in self.threads:
            mine = [each for each in events if each["threads"] == threads]
            for index, file in enumerate(files):
                why = next((str(each["why"]) for each in mine if each["event"] == "failed" and each["file"] == index), None)
                measurement = None if why else measured(file, index, threads, mine)
                if measurement is None:
                    failed.append((file.name, threads, _plain(why or "no samples")))
                else:
                    found.append(measurement)
        if not found:
            raise self._kept(DeviceError(f"{self.transport.name}: {failed[0][0]} does not run there: {failed[0][2]}"), events)
        canary = [replace(each, turn=index) for index, each in enumerate(turns_of(events, None))]
        return self._written("python", None, found, failed, canary, events)

    def by_tool(self, tool: Tool, path: str, session: Session | None) -> DeviceBenchmark:
        self._check_sent(session)
        runs: dict[tuple[int, int], list[NativeRun]] = {}
        events: list[dict[str, Any]] = []
        plan = self.plan
        for threads in self.threads if tool != "trtexec" else self.threads[:1]:
            for block in range(plan.blocks):
                self._tell(threads, block)
                load = Load(plan.runs, plan.seconds, plan.warmup_runs, plan.warmup_s, plan.most_s, threads)
                order = list(enumerate(zip(self.names, self.facts, strict=True)))
                for index, (name, facts) in reversed(order) if block % 2 else order:
                    try:
                        run = measure_block(self.transport, tool, path, name, facts, load)
                    except DeviceError as error:
                        raise self._kept(error, events) from None
                    runs.setdefault((threads, index), []).append(run)
                    events.append({"event": "native", "threads": threads, "block": block, "file": index, **asdict(run)})
        named = self._named()
        found = [measured_natively(named[index], threads, each) for (threads, index), each in sorted(runs.items())]
        return self._written(tool, next(iter(runs.values()))[0].version, found, [], [], events)

    def _check_sent(self, session: Session | None) -> None:
        """Check that what arrived is what was sent: by the runner, as at every request of it, or by the device's own tool."""
        if session is not None:
            sent = [
                {"path": name, "kind": "none", "sha256": each.sha256} for name, each in zip(self.names, self.facts, strict=True)
            ]
            session.ask({"command": "check", "files": sent}, _PUSH_S)
            return
        for name, each in zip(self.names, self.facts, strict=True):
            ended = self.transport.run(["sha256sum", name], timeout_s=_PUSH_S)
            if ended.code != 0 or ended.stdout.split()[:1] != [each.sha256.encode()]:
                raise DeviceError(f"{self.transport.name}: {name} is not what was sent: its SHA-256 is another", "try again")

    def _named(self) -> list[Named]:
        names = [each.path.name for each in self.facts]
        return [Named(name if names.count(name) == 1 else str(each.path), each.path, each.kind, each.sha256, each.size_bytes)
                for name, each in zip(names, self.facts, strict=True)]  # fmt: skip

    def _written(
        self, runner: str, version: str | None, found: Sequence[Measurement], failed: Sequence[tuple[str, int, str]],
        canary: Sequence[Any], events: Sequence[dict[str, Any]],
    ) -> DeviceBenchmark:  # fmt: skip
        result = DeviceBenchmark(
            self.profile.id, self.transport.name, runner, version, self.environment, tuple(found), compared(found),
            tuple(failed), tuple(canary), self.out,
        )  # fmt: skip
        if self.out is not None:
            from edgekd.benchmark.chart import chart

            _write_samples(self.out / "samples.jsonl", [{"event": "environment", **self.environment}, *events])
            write_json(self.out / "benchmark.json", result.to_json())
            write_text(self.out / "benchmark.svg", chart(result))
        return result


def _placed(events: Sequence[dict[str, Any]], threads: int, start: float) -> list[dict[str, Any]]:
    """Return events with their number of threads, and their time counted from the first block."""
    placed = []
    for each in events:
        told = each.get("t_s")
        later = {"t_s": round(start + told, 3)} if isinstance(told, int | float) else {}
        placed.append({**each, "threads": threads, **later})
    return placed


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:300]


def _write_samples(path: Path, events: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(each, allow_nan=False) + "\n" for each in events))
