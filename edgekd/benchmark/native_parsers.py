"""Read what the benchmark tools of the runtimes print, in the formats of their versions so far."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from edgekd.benchmark.device_session import last_lines
from edgekd.errors import DeviceError

_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"
_MOST_TIMES = 10_000_000


@dataclass(frozen=True)
class NativeRun:
    """One run of such a tool. Times are in milliseconds; ``None``: it does not tell.

    Attributes:
        tool: Its name.
        version: Of its runtime.
        runs: Number of inferences.
        mean, min, max, std, p50, p90, p99: Of their times.
        first_ms: The first inference.
        load_ms: Loading the file.
        memory_bytes: What the model needs, or of ``onnxruntime_perf_test`` the peak of the whole process.
        delegated: Operators that a delegate took, and all operators.
        times: Of every inference.
    """

    tool: str
    version: str | None
    runs: int
    mean: float
    min: float
    max: float
    std: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    first_ms: float | None = None
    load_ms: float | None = None
    memory_bytes: int | None = None
    delegated: tuple[int, int] | None = None
    times: tuple[float, ...] = ()


def parse_benchmark_model(text: str) -> NativeRun:
    """Read the output of TFLite's or LiteRT's ``benchmark_model``, whose times are in microseconds.

    Raises:
        DeviceError: It has no result.
    """
    counts = re.findall(
        rf"count=(\d{{1,12}}) first={_NUMBER} curr={_NUMBER} min={_NUMBER} max={_NUMBER} avg={_NUMBER} std={_NUMBER}"
        rf"(?: p5={_NUMBER} median={_NUMBER} p95={_NUMBER})?", text,
    )  # fmt: skip
    timings = re.search(rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}", text)
    old = re.search(
        rf"Average inference timings in us: Warmup: {_NUMBER}, Init: {_NUMBER}, (?:no stats|Inference): {_NUMBER}", text
    )
    if not counts or (timings is None and old is None):
        raise _unreadable("benchmark_model", text)
    runs, _, _, least, most, mean, std, _, median, _ = counts[-1]  # before it: the warm-up
    load = timings.group(1) if timings else old.group(2) if old else None
    first = timings.group(2) if timings else old.group(1) if old else None
    memory = re.search(rf"Memory footprint delta from the start of the tool \(MB\): init={_NUMBER} overall={_NUMBER}", text)
    memory = memory or re.search(rf"Peak memory footprint \(MB\): init={_NUMBER} overall={_NUMBER}", text)
    taken = re.findall(r"Replacing (\d{1,9}) (?:out of (\d{1,9}) )?node\(s\) with delegate", text)
    run = NativeRun(
        "benchmark_model", None, int(runs), float(mean) / 1e3, float(least) / 1e3, float(most) / 1e3, float(std) / 1e3,
        p50=float(median) / 1e3 if median else None,
        first_ms=None if first is None else float(first) / 1e3, load_ms=None if load is None else float(load) / 1e3,
        memory_bytes=None if memory is None else int(float(memory.group(2)) * 2**20),
        delegated=(sum(int(each) for each, _ in taken), int(taken[0][1])) if taken and taken[0][1] else None,
    )  # fmt: skip
    return _checked(run, text)


def parse_perf_test(text: str) -> NativeRun:
    """Read the output of ``onnxruntime_perf_test``, with ``-s``, whose times are in seconds but for the average.

    Raises:
        DeviceError: It has no result.
    """

    def found(pattern: str, scale: float = 1e3) -> float | None:
        match = re.search(pattern, text)
        return None if match is None else float(match.group(1)) * scale

    mean = found(rf"Average(?: inference)? time cost(?: total)?: ?{_NUMBER} ms", 1)
    runs = re.search(r"(?:Total inference requests|Total iterations|Runs): ?(\d{1,12})", text)
    if mean is None or runs is None:
        raise _unreadable("onnxruntime_perf_test", text)
    latency = {name: found(rf"{name} Latency(?: is|:) ?{_NUMBER} ?s") for name in ("Min", "Max", "P50", "P90", "P99")}
    memory = re.search(r"Peak working set size: ?(\d{1,18})", text)
    run = NativeRun(
        "onnxruntime_perf_test", None, int(runs.group(1)), mean,
        mean if latency["Min"] is None else latency["Min"], mean if latency["Max"] is None else latency["Max"],
        p50=latency["P50"], p90=latency["P90"], p99=latency["P99"],
        first_ms=found(rf"First inference time cost: ?{_NUMBER} ms", 1),
        load_ms=found(rf"Session creation time cost: ?{_NUMBER} s"),
        memory_bytes=None if memory is None else int(memory.group(1)),
    )  # fmt: skip
    return _checked(run, text)


def parse_trtexec(text: str, exported: str | None = None) -> NativeRun:
    """Read the output of ``trtexec``: its GPU Compute Time, for what "Latency" means differs between versions.

    Args:
        text: What it printed.
        exported: Its ``--exportTimes`` file.

    Raises:
        DeviceError: It has no result.
    """
    line = re.search(r"GPU Compute Time: (min = .*)", text)
    block = re.search(r"GPU Compute\s*\n((?:.*(?:min|max|mean|median|percentile): .*\n?){3,})", text)
    found: dict[str, float] = {}
    if line is not None:
        for name, value in re.findall(rf"([a-z]+(?:\([0-9.]+%\))?) = {_NUMBER} ms", line.group(1)):
            found[name] = float(value)
    elif block is not None:  # TensorRT 7
        for name, value, share in re.findall(
            rf"(min|max|mean|median|percentile): {_NUMBER} ms(?: at ([0-9.]+%))?", block.group(1)
        ):
            found[f"percentile({share})" if share else name] = float(value)
    if not {"min", "max", "mean", "median"} <= found.keys():
        raise _unreadable("trtexec", text)
    times = _exported_times(exported) if exported else ()
    queries = re.search(r"Timing trace has (\d{1,12}) queries over", text)
    rate, wall = (re.search(rf"{name}: {_NUMBER}", text) for name in ("Throughput", "Total Host Walltime"))
    runs = len(times) or (int(queries.group(1)) if queries else 0)
    runs = runs or (max(1, round(float(rate.group(1)) * float(wall.group(1)))) if rate and wall else 1)
    load = re.search(rf"Engine deserialized in {_NUMBER} sec", text) or re.search(rf"Engine loaded in {_NUMBER} sec", text)
    run = NativeRun(
        "trtexec", trtexec_version(text), runs, found["mean"], found["min"], found["max"], p50=found["median"],
        p90=found.get("percentile(90%)"), p99=found.get("percentile(99%)"),
        load_ms=1e3 * float(load.group(1)) if load else None, times=times,
    )  # fmt: skip
    return _checked(run, text)


def trtexec_version(text: str) -> str | None:
    """Return TensorRT's version as ``trtexec`` prints it in its first line; ``v8401`` is 8.4.1, ``v100200`` 10.2.0."""
    spelled = re.search(r"TensorRT version: ([0-9]{1,3}(?:\.[0-9]{1,3}){1,3})", text)
    if spelled is not None:
        return spelled.group(1)
    found = re.search(r"\[TensorRT v(\d{4,6})\]", text)
    if found is None:
        return None
    number = int(found.group(1))
    # Until 8 one digit and then two for each part, from 10 on two digits for each.
    major, minor, patch = (number // 10_000, number // 100 % 100, number % 100) if number >= 100_000 else (
        number // 1_000, number // 100 % 10, number % 100)  # fmt: skip
    return f"{major}.{minor}.{patch}"


def _exported_times(text: str) -> tuple[float, ...]:
    try:
        rows = json.loads(text)
        # "computeMs" from the start; seconds are nowhere in it.
        times = tuple(float(each["computeMs"]) for each in rows[:_MOST_TIMES])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DeviceError(f"trtexec's exported times are not readable: {last_lines(text[-500:])}") from None
    return times


def _checked(run: NativeRun, text: str) -> NativeRun:
    values = [
        run.mean,
        run.min,
        run.max,
        *run.times,
        *(each for each in (run.std, run.p50, run.p90, run.p99) if each is not None),
    ]
    if run.runs < 1 or run.mean <= 0 or any(not 0 <= each < float("inf") for each in values):
        raise _unreadable(run.tool, text)
    return run


def _unreadable(tool: str, text: str) -> DeviceError:
    return DeviceError(f"{tool} printed no result that edgekd can read: {last_lines(text[-4000:])}")


PARSERS: dict[str, Callable[[str], NativeRun]] = {
    "benchmark_model": parse_benchmark_model, "onnxruntime_perf_test": parse_perf_test, "trtexec": parse_trtexec,
}  # fmt: skip
