"""Measure with the tools of the runtimes where a device has them: argument lists, engines, and their results as turns."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.benchmark.device_session import home, last_lines
from edgekd.benchmark.model_facts import ModelFacts
from edgekd.benchmark.native_parsers import NativeRun, parse_benchmark_model, parse_perf_test, parse_trtexec, trtexec_version
from edgekd.benchmark.statistics import MOST_CV, Summary, Turn, Verdict, summarise_turns
from edgekd.benchmark.transports import Finished, Transport
from edgekd.errors import DeviceError, UsageError

Tool = Literal["benchmark_model", "onnxruntime_perf_test", "trtexec"]
TOOLS: dict[Tool, tuple[str, ...]] = {
    "benchmark_model": ("tflite",), "onnxruntime_perf_test": ("onnx", "ort"), "trtexec": ("onnx",),
}  # fmt: skip
"""Each tool with the formats that it runs."""
_PLACES: dict[Tool, tuple[str, ...]] = {
    "benchmark_model": ("/data/local/tmp/benchmark_model",),
    "onnxruntime_perf_test": ("/data/local/tmp/onnxruntime_perf_test",),
    "trtexec": ("/usr/src/tensorrt/bin/trtexec",),
}
_LOOK_S = 30.0
_BUILD_S = 3600.0
_LOAD_S = 300.0
_TRIAL_RUNS = 10
_TIMES = "times.json"


@dataclass(frozen=True)
class Load:
    """How much a tool runs in one block.

    Attributes:
        runs, seconds: Both are reached.
        warmup_runs, warmup_s: Before that, both as well where the tool can.
        most_s: It is over after this many seconds, whatever it has reached.
        threads: Of the runtime.
    """

    runs: int
    seconds: float
    warmup_runs: int
    warmup_s: float
    most_s: float
    threads: int


def find_tool(transport: Transport, tool: Tool) -> str | None:
    """Return the path of a tool on the device; ``None``: it is not there."""
    for command in [["which", tool], *(["ls", place] for place in _PLACES[tool])]:
        try:
            ended = transport.run(command, timeout_s=_LOOK_S)
        except DeviceError:
            continue  # a device without `which`
        lines = ended.stdout.decode(errors="replace").split()
        if ended.code == 0 and lines and lines[-1].startswith("/"):
            return lines[-1]
    return None


def measure_block(transport: Transport, tool: Tool, path: str, name: str, facts: ModelFacts, load: Load) -> NativeRun:
    """Run a tool once on a file that was pushed, and return what it measured.

    Args:
        transport: Open.
        tool: Its name.
        path: Its path on the device.
        name: The file on the device.
        facts: What is known of the file.
        load: How much.

    Raises:
        DeviceError: It fails, or prints no result.
    """
    return _MEASURES[tool](transport, path, name, facts, load)


def benchmark_model_arguments(path: str, name: str, load: Load) -> list[str]:
    """Return the command for one block with TFLite's ``benchmark_model``."""
    return [
        path, f"--graph={name}", f"--num_threads={load.threads}", f"--num_runs={load.runs}", f"--min_secs={load.seconds:g}",
        f"--warmup_runs={load.warmup_runs}", f"--warmup_min_secs={load.warmup_s:g}", f"--max_secs={load.most_s:g}",
    ]  # fmt: skip


def perf_test_arguments(path: str, name: str, runs: int, threads: int) -> list[str]:
    """Return the command for ``runs`` inferences with ``onnxruntime_perf_test``, on inputs that it makes itself."""
    return [path, "-I", "-s", "-e", "cpu", "-m", "times", "-r", str(runs), "-x", str(threads), "-y", "1", name]


def trtexec_build_arguments(path: str, name: str, engine: str, facts: ModelFacts) -> list[str]:
    """Return the command that builds an engine."""
    shapes = ",".join(f"{each.name}:{'x'.join(map(str, each.shape_of_batch_1()))}" for each in facts.inputs)
    return [
        path, f"--onnx={name}", f"--saveEngine={engine}", *([f"--shapes={shapes}"] if facts.is_open else []),
        *(["--int8"] if facts.quantized else ["--fp16"] if facts.half else []), "--iterations=1", "--duration=0", "--warmUp=0",
    ]  # fmt: skip


def trtexec_run_arguments(path: str, engine: str, facts: ModelFacts, load: Load) -> list[str]:
    """Return the command for one block with an engine."""
    shapes = ",".join(f"{each.name}:{'x'.join(map(str, each.shape_of_batch_1()))}" for each in facts.inputs)
    return [
        path, f"--loadEngine={engine}", *([f"--shapes={shapes}"] if facts.is_open else []), f"--iterations={load.runs}",
        f"--duration={max(1, round(load.seconds))}", f"--warmUp={round(1e3 * load.warmup_s)}", f"--exportTimes={_TIMES}",
    ]  # fmt: skip


def _benchmark_model(transport: Transport, path: str, name: str, _: ModelFacts, load: Load) -> NativeRun:
    ended = transport.run(benchmark_model_arguments(path, name, load), timeout_s=2 * load.most_s + _LOAD_S)
    return parse_benchmark_model(_output(transport, ended, "benchmark_model"))


def _perf_test(transport: Transport, path: str, name: str, _: ModelFacts, load: Load) -> NativeRun:
    limit = load.most_s + _LOAD_S
    trial = transport.run(perf_test_arguments(path, name, _TRIAL_RUNS, load.threads), timeout_s=limit)
    one_ms = parse_perf_test(_output(transport, trial, "onnxruntime_perf_test")).mean
    wanted = max(load.runs, round(1e3 * load.seconds / one_ms))
    runs = max(1, min(wanted, int(1e3 * load.most_s / one_ms)))
    ended = transport.run(perf_test_arguments(path, name, runs, load.threads), timeout_s=limit)
    return parse_perf_test(_output(transport, ended, "onnxruntime_perf_test"))


def _trtexec(transport: Transport, path: str, name: str, facts: ModelFacts, load: Load) -> NativeRun:
    engine = built_engine(transport, path, name, facts)
    ended = transport.run(trtexec_run_arguments(path, engine, facts, load), timeout_s=load.most_s + _LOAD_S)
    text = _output(transport, ended, "trtexec")
    with tempfile.TemporaryDirectory(prefix="edgekd-times-") as folder:
        file = Path(folder, _TIMES)
        transport.pull(_TIMES, file)
        exported = file.read_text(encoding="utf-8", errors="replace")
    return parse_trtexec(text, exported)


_MEASURES: dict[Tool, Callable[[Transport, str, str, ModelFacts, Load], NativeRun]] = {
    "benchmark_model": _benchmark_model, "onnxruntime_perf_test": _perf_test, "trtexec": _trtexec,
}  # fmt: skip


def built_engine(transport: Transport, path: str, name: str, facts: ModelFacts) -> str:
    """Return the path on the device of the TensorRT engine of a file; it is built once for each file and version.

    Raises:
        DeviceError: ``trtexec`` cannot build it.
    """
    told = transport.run([path, "--help"], timeout_s=_LOOK_S)
    version = trtexec_version((told.stdout + told.stderr).decode(errors="replace")) or "unknown"
    folder = posixpath.join(home(transport), ".cache/edgekd/engines")
    engine = posixpath.join(folder, f"{facts.sha256}-tensorrt-{version}.engine")
    if transport.run(["test", "-s", engine], timeout_s=_LOOK_S).code == 0:
        return engine
    _output(transport, transport.run(["mkdir", "-p", folder], timeout_s=_LOOK_S), "mkdir")
    built = transport.run(trtexec_build_arguments(path, name, "engine.part", facts), timeout_s=_BUILD_S)
    _output(transport, built, "trtexec, building an engine,")
    _output(transport, transport.run(["mv", "engine.part", engine], timeout_s=_LOOK_S), "mv")
    return engine


def _output(transport: Transport, ended: Finished, what: str) -> str:
    """Return all that a command wrote: tools log to either stream, and it differs between their versions."""
    text = (ended.stdout + b"\n" + ended.stderr).decode(errors="replace")
    if ended.code != 0:
        raise DeviceError(f"{transport.name}: {what} failed ({ended.code}): {last_lines(text)}")
    return text


def check_tool(tool: Tool, path: Path, kind: str) -> None:
    """Check that a tool runs files of a format.

    Raises:
        UsageError: It does not.
    """
    if kind not in TOOLS[tool]:
        raise UsageError(f"{tool} does not run {path.name}, only {' and '.join(TOOLS[tool])} files", "choose another --runner")


def summarise_native(runs: Sequence[NativeRun]) -> Summary:
    """Summarise the blocks of one file. Where a tool tells every time they are used; else what it tells of them is combined."""
    if all(each.times for each in runs):
        return summarise_turns(as_turns(runs))
    count = sum(each.runs for each in runs)

    def weighted(values: Sequence[float | None]) -> float | None:
        if any(each is None for each in values):
            return None
        return sum((each or 0.0) * run.runs for each, run in zip(values, runs, strict=True)) / count

    mean = weighted([each.mean for each in runs]) or 0.0
    second = weighted([None if each.std is None else each.std**2 + each.mean**2 for each in runs])
    std = 0.0 if second is None else max(0.0, second - mean**2) ** 0.5
    return Summary(
        count, min(each.min for each in runs), mean, std, std / mean, None, weighted([each.p50 for each in runs]),
        weighted([each.p90 for each in runs]), weighted([each.p99 for each in runs]), max(each.max for each in runs),
        None, None,
    )  # fmt: skip


def as_turns(runs: Sequence[NativeRun]) -> list[Turn]:
    """Return blocks as turns, for comparisons: of a tool that tells no times its median or mean stands for all."""
    return [
        Turn(block, 0, float(block), each.times or (each.p50 if each.p50 is not None else each.mean,), each.runs, each.max)
        for block, each in enumerate(runs)
    ]


def judge_native(runs: Sequence[NativeRun]) -> Verdict:
    """Judge the blocks of one file by how they scatter and disagree: such a tool has no canary."""
    reasons = []
    cv = max((each.std / each.mean for each in runs if each.std is not None), default=0.0)
    if cv > MOST_CV:
        reasons.append(f"the file's times scatter by {cv:.1%}")
    middles = [each.p50 if each.p50 is not None else each.mean for each in runs]
    if max(middles) / min(middles) - 1 > MOST_CV:
        reasons.append(f"the file's blocks disagree by {max(middles) / min(middles) - 1:.1%}")
    return Verdict("noisy" if reasons else "stable", tuple(reasons))


def native_environment(transport: Transport) -> dict[str, Any]:
    """Return what a device without Python tells of itself, in the keys of the runner's ``environment``."""

    def told(*command: str) -> str | None:
        try:
            ended = transport.run(command, timeout_s=_LOOK_S)
        except DeviceError:
            return None
        return ended.stdout.decode(errors="replace").strip() or None if ended.code == 0 else None

    memory = {line.split(":")[0]: line.split()[1] for line in (told("cat", "/proc/meminfo") or "").splitlines()
              if len(line.split()) == 3 and line.split()[1].isdigit()}  # fmt: skip
    return {
        "model": told("getprop", "ro.product.model"), "soc": told("getprop", "ro.soc.model"),
        "build": told("getprop", "ro.build.fingerprint"), "os": told("uname", "-sr"), "machine": told("uname", "-m"),
        "python": None, "runtimes": {}, "cores": None, "energy": "not measurable",
        "memory_bytes": int(memory["MemTotal"]) * 1024 if "MemTotal" in memory else None,
        "memory_available_bytes": int(memory["MemAvailable"]) * 1024 if "MemAvailable" in memory else None,
    }  # fmt: skip
