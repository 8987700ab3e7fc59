"""What was measured on a device, file by file, from the events of the runner; and as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.benchmark.native import as_turns, judge_native, summarise_native
from edgekd.benchmark.native_parsers import NativeRun
from edgekd.benchmark.statistics import Comparison, Summary, Turn, Verdict, compare_turns, judge, slowdown, summarise_turns
from edgekd.errors import DeviceError

SCHEMA = 1
_LEAST_TURN_MS = 1e-6


@dataclass(frozen=True)
class Measurement:
    """Of one file at one number of threads.

    Attributes:
        name: The file's name, or its path where two have the same name.
        path, kind, sha256, size_bytes: The file.
        threads: Of the runtime.
        summary: Of its times.
        verdict: Whether they can be trusted.
        load_ms, first_ms: Medians over the blocks; ``None``: the tool does not tell.
        peak_bytes: Memory of the process at its peak.
        model_bytes: How much of it came with the model.
        energy_mj: Energy per inference in millijoules, idle subtracted; ``None``: not measurable there.
        slowdown: Share by which the end was slower than the beginning.
        temperature_c, mhz: At the beginning and at the end, of the hottest sensor and the fastest core.
        delegated: Operators that a delegate took, and all.
        turns: The samples.
    """

    name: str
    path: Path
    kind: str
    sha256: str
    size_bytes: int
    threads: int
    summary: Summary
    verdict: Verdict
    load_ms: float | None
    first_ms: float | None
    peak_bytes: int | None
    model_bytes: int | None
    energy_mj: float | None
    slowdown: float | None
    temperature_c: tuple[float, float] | None
    mhz: tuple[float, float] | None
    delegated: tuple[int, int] | None
    turns: tuple[Turn, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, without the samples."""
        content = asdict(self) | {"path": str(self.path), "verdict": self.verdict.word, "reasons": list(self.verdict.reasons)}
        del content["turns"]
        return content


@dataclass(frozen=True)
class DeviceBenchmark:
    """A measurement of one file or more on a device.

    Attributes:
        target, via: The profile, and how it was reached.
        runner, runner_version: What measured: ``python``, or a native tool; its version, where it tells.
        environment: What the device told of itself, see ``environment`` of the runner.
        measurements: By file and number of threads.
        comparisons: Of files at the same number of threads, with the first.
        failed: Why the device could not run a file, by name and number of threads.
        canary: Turns of the fixed work.
        folder: Where samples, figures and chart are; ``None``: nowhere.
    """

    target: str
    via: str
    runner: str
    runner_version: str | None
    environment: dict[str, Any]
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    failed: tuple[tuple[str, int, str], ...]
    canary: tuple[Turn, ...]
    folder: Path | None

    @property
    def stable(self) -> bool:
        """Whether every file was measured, and each measurement is stable."""
        return not self.failed and all(each.verdict.word == "stable" for each in self.measurements)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data: ``edgekd benchmark --json``."""
        return {
            "schema": SCHEMA, "target": self.target, "via": self.via, "runner": self.runner,
            "runner_version": self.runner_version, "environment": self.environment,
            "files": [each.to_json() for each in self.measurements],
            "comparisons": [asdict(each) | {"differs": each.differs} for each in self.comparisons],
            "failed": [{"name": name, "threads": threads, "why": why} for name, threads, why in self.failed],
            "energy": self.environment.get("energy", "not measurable"),
            "folder": None if self.folder is None else str(self.folder),
        }  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A file that is measured, see :class:`Measurement`."""

    name: str
    path: Path
    kind: str
    sha256: str
    size_bytes: int


def checked_events(events: Iterable[dict[str, Any]], name: str, files: int) -> list[dict[str, Any]]:
    """Return events whose numbers can be counted on.

    Args:
        events: From the runner.
        name: Of the device, for the message.
        files: How many files there are.

    Raises:
        DeviceError: One is not what the runner writes.
    """
    kept = []
    for each in events:
        try:
            if each["event"] in {"samples", "canary"}:
                times = [float(one) for one in each["ms"]]
                if not times or not all(0 <= one < 1e9 for one in times):
                    raise ValueError("times that are none")
            if each["event"] in {"samples", "loaded", "unloaded", "failed"} and not 0 <= int(each["file"]) < files:
                raise ValueError("a file that was not sent")
            if each["event"] == "samples":
                int(each["turn"]), int(each["runs"]), float(each["max_ms"]), float(each["t_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(f"{name}: the runner's answer is not what it should be: {error!r}") from None
        kept.append(each)
    return kept


def turns_of(events: Iterable[dict[str, Any]], file: int | None) -> list[Turn]:
    """Return the turns of a file, or of the canary: ``None``."""
    if file is None:
        canary = [each for each in events if each["event"] == "canary"]
        return [_turn(each, index, len(each["ms"]), max(each["ms"])) for index, each in enumerate(canary)]
    return [_turn(each, int(each["turn"]), int(each["runs"]), float(each["max_ms"])) for each in events
            if each["event"] == "samples" and each["file"] == file]  # fmt: skip


def _turn(event: dict[str, Any], turn: int, runs: int, longest: float) -> Turn:
    times = tuple(max(_LEAST_TURN_MS, float(each)) for each in event["ms"])  # a clock may stand still between two readings
    return Turn(int(event["block"]), turn, float(event["t_s"]), times, runs, longest)


def measured(file: Named, index: int, threads: int, events: Sequence[dict[str, Any]]) -> Measurement | None:
    """Return the measurement of a file from the events of all blocks; ``None``: there are no samples of it."""
    turns = turns_of(events, index)
    if not turns:
        return None
    states = [each for each in events if each["event"] == "state"]
    mine = [each for each in events if each.get("file") == index]
    ends = [each for each in mine if each["event"] == "unloaded" and each.get("peak_rss_bytes")]
    peak = max((int(each["peak_rss_bytes"]) for each in ends), default=None)
    grown = [int(each["peak_rss_bytes"]) - int(each["rss_before_bytes"]) for each in ends if each.get("rss_before_bytes")]
    return Measurement(
        file.name, file.path, file.kind, file.sha256, file.size_bytes, threads, summarise_turns(turns),
        judge(turns, turns_of(events, None), states), _median(mine, "load_ms"), _median(mine, "first_ms"), peak,
        max(grown, default=None), _energy_mj(events, index), slowdown(turns),
        _ends(states, "temperatures", 1.0), _ends(states, "frequencies", 1e-3), None, tuple(turns),
    )  # fmt: skip


def measured_natively(file: Named, threads: int, runs: Sequence[NativeRun]) -> Measurement:
    """Return the measurement of a file by a native tool, from its blocks."""
    loads, firsts = ([getattr(each, key) for each in runs if getattr(each, key) is not None] for key in ("load_ms", "first_ms"))
    memory = max((each.memory_bytes for each in runs if each.memory_bytes is not None), default=None)
    whole = runs[0].tool == "onnxruntime_perf_test"
    return Measurement(
        file.name, file.path, file.kind, file.sha256, file.size_bytes, threads, summarise_native(runs), judge_native(runs),
        statistics.median(loads) if loads else None, statistics.median(firsts) if firsts else None,
        memory if whole else None, None if whole else memory, None, None, None, None, runs[-1].delegated, tuple(as_turns(runs)),
    )  # fmt: skip


def compared(measurements: Sequence[Measurement]) -> tuple[Comparison, ...]:
    """Compare every file with the first one at the same number of threads."""
    found = []
    for threads in dict.fromkeys(each.threads for each in measurements):
        first, *others = [each for each in measurements if each.threads == threads]
        for each in others:
            comparison = compare_turns((first.name, each.name), first.turns, each.turns)
            if comparison is not None:
                found.append(comparison)
    return tuple(found)


def _median(events: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [float(each[key]) for each in events if each["event"] == "loaded" and each.get(key) is not None]
    return statistics.median(values) if values else None


def _ends(states: Sequence[dict[str, Any]], key: str, scale: float) -> tuple[float, float] | None:
    values = [max(each[key].values()) * scale for each in states if each.get(key)]
    return (values[0], values[-1]) if values else None


def _energy_mj(events: Sequence[dict[str, Any]], index: int) -> float | None:
    """Return the energy of one inference: power while it ran, less that of idling before it, times the time it took."""
    idle = [
        float(each["watts"]) for each in events if each["event"] == "power" and each.get("file") is None and each.get("watts")
    ]
    mine = [each for each in events if each["event"] == "power" and each.get("file") == index]
    runs = sum(int(each["runs"]) for each in mine)
    if not idle or not runs:
        return None
    base = statistics.median(idle)
    return 1e3 * sum((float(each["watts"]) - base) * float(each["seconds"]) for each in mine) / runs
