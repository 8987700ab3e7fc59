"""Native tools as programs of this machine that print what the real ones print, and note how they were called."""

import json
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.benchmark.model_facts import model_facts
from edgekd.benchmark.native import Load, find_tool, judge_native, summarise_native, trtexec_build_arguments
from edgekd.benchmark.native_parsers import NativeRun
from edgekd.benchmark.on_device import benchmark_files
from edgekd.benchmark.transports import Finished
from edgekd.benchmark.transports.local import LocalTransport
from edgekd.devices.profiles import load_profile
from edgekd.errors import DeviceError, UsageError
from tests.benchmark.devices_in_tests import OddDevice
from tests.benchmark.models import QUICK, onnx_model, tflite_model
from tests.benchmark.test_native_parsers import TRANSCRIPTS
from tests.inspect.onnx_files import qdq

HOST = load_profile("host")
TRTEXEC = """
times = [{"startInMs": 1.0, "computeMs": 2.0 + index / 1000, "latencyMs": 5.0} for index in range(60)]
for each in sys.argv[1:]:
    name, _, value = each.partition("=")
    if name == "--exportTimes":
        pathlib.Path(value).write_text(json.dumps(times))
    elif name == "--saveEngine":
        pathlib.Path(value).write_bytes(b"engine of " + pathlib.Path(sys.argv[1].partition("=")[2]).read_bytes())
    elif name == "--loadEngine" and not pathlib.Path(value).read_bytes().startswith(b"engine of"):
        sys.exit("no engine")
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a tool that prints a transcript; ``calls()`` of it are in ``NAME.calls`` beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def make(name: str, transcript: str, more: str = "", code: int = 0) -> Path:
        path = folder / name
        text = (TRANSCRIPTS / f"{transcript}.txt").read_text()
        path.write_text(
            f"#!{sys.executable}\nimport json, pathlib, sys\n"
            f"with open({str(path) + '.calls'!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n{more}\n"
            f"print({text!r})\nsys.exit({code})\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def calls(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in Path(f"{path}.calls").read_text().splitlines()]


def test_benchmark_model_runs_blocks_of_both_files_in_turn(tool: Callable[..., Path], tmp_path: Path) -> None:
    program = tool("benchmark_model", "benchmark_model_litert_am62")
    files = [tflite_model(tmp_path / "a.tflite"), tflite_model(tmp_path / "b.tflite")]
    found = benchmark_files(files, HOST, LocalTransport(), threads=(2,), protocol=replace(QUICK, runs=50, seconds=5, blocks=2), out=tmp_path / "out",
                            runner="benchmark_model")  # fmt: skip
    graphs = [next(each for each in call if each.startswith("--graph=")) for call in calls(program)]
    assert graphs == ["--graph=model0.tflite", "--graph=model1.tflite", "--graph=model1.tflite", "--graph=model0.tflite"]
    assert {"--num_threads=2", "--num_runs=50", "--min_secs=5", "--warmup_runs=1"} <= set(calls(program)[0])
    first = found.measurements[0]
    assert (found.runner, first.summary.runs, first.summary.p90) == ("benchmark_model", 100, None)
    assert first.summary.p50 == pytest.approx(1239.807)
    assert first.summary.std == pytest.approx(2.565)
    assert (first.first_ms, first.load_ms, first.model_bytes) == (1357.602, 5.579, int(109.832 * 2**20))
    assert not found.comparisons[0].differs
    assert (tmp_path / "out" / "benchmark.svg").is_file()
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["files"][0]["verdict"] == "stable"


def test_perf_test_runs_as_often_as_the_seconds_ask(tool: Callable[..., Path], tmp_path: Path) -> None:
    program = tool("onnxruntime_perf_test", "perf_test_1.15")
    found = benchmark_files([onnx_model(tmp_path / "a.onnx")], HOST, LocalTransport(), threads=(4,), runner="onnxruntime_perf_test",
                            protocol=replace(QUICK, runs=50, seconds=5, blocks=1))  # fmt: skip
    trial, real = calls(program)
    assert trial[trial.index("-r") + 1] == "10"
    assert int(real[real.index("-r") + 1]) == round(5000 / 44.6395)
    assert (real[real.index("-x") + 1], real[-1]) == ("4", "model0.onnx")
    assert found.measurements[0].summary.p99 == pytest.approx(49.022)
    assert found.measurements[0].peak_bytes == 53567488


def test_trtexec_builds_an_engine_once_for_each_file_and_version(tool: Callable[..., Path], tmp_path: Path) -> None:
    program = tool("trtexec", "trtexec_8.6", TRTEXEC)
    file = onnx_model(tmp_path / "a.onnx", batch="n")
    for _ in range(2):
        found = benchmark_files([file], HOST, LocalTransport(), protocol=QUICK, runner="trtexec")
    assert found.runner_version == "8.6.1"
    assert found.measurements[0].summary.runs == 60 * QUICK.blocks
    assert found.measurements[0].summary.p50 == pytest.approx(2.0295)  # of the GPU, not the 5 ms of "latency"
    builds = [call for call in calls(program) if call[0].startswith("--onnx=")]
    (engine,) = (tmp_path / "home/.cache/edgekd/engines").iterdir()
    assert len(builds) == 1
    assert "--shapes=x:1x16" in builds[0]
    assert engine.name == f"{model_facts(file).sha256}-tensorrt-8.6.1.engine"
    other = onnx_model(tmp_path / "b.onnx", 32)
    benchmark_files([other], HOST, LocalTransport(), protocol=QUICK, runner="trtexec")
    assert len([call for call in calls(program) if call[0].startswith("--onnx=")]) == 2


def test_precision_of_an_engine_follows_the_file(tmp_path: Path) -> None:
    facts = model_facts(qdq(tmp_path / "q.onnx"))
    assert (facts.quantized, facts.is_open, facts.inputs[0].shape) == (True, True, (None, 4))
    assert "--int8" in trtexec_build_arguments("trtexec", "m.onnx", "e", facts)
    plain = model_facts(onnx_model(tmp_path / "p.onnx"))
    assert {"--int8", "--fp16"}.isdisjoint(trtexec_build_arguments("trtexec", "m.onnx", "e", plain))


def test_auto_takes_the_tool_of_a_phone_and_the_engine_of_a_jetson(tool: Callable[..., Path], tmp_path: Path) -> None:
    tool("benchmark_model", "benchmark_model_litert_am62")

    def without_python(_: OddDevice, arguments: list[str]) -> Finished | None:
        return (
            Finished(127, b"", b"/system/bin/sh: python3: inaccessible or not found\n") if arguments[0] == "python3" else None
        )

    phone = OddDevice(without_python)
    found = benchmark_files([tflite_model(tmp_path / "a.tflite")], load_profile("pixel6"), phone, threads=(1,), protocol=QUICK)
    assert found.runner == "benchmark_model"
    assert ["sha256sum", "model0.tflite"] in phone.commands
    assert found.environment["machine"]
    with pytest.raises(DeviceError, match="not found") as caught:  # no tool for ONNX there
        benchmark_files(
            [onnx_model(tmp_path / "a.onnx")], load_profile("pixel6"), OddDevice(without_python), threads=(1,), protocol=QUICK
        )
    assert "onnxruntime_perf_test" in (caught.value.hint or "")
    tool("trtexec", "trtexec_8.6", TRTEXEC)
    jetson = load_profile("jetson_orin_nano")
    assert benchmark_files([tmp_path / "a.onnx"], jetson, LocalTransport(), protocol=QUICK).runner == "trtexec"
    both = [tmp_path / "a.onnx", tmp_path / "a.tflite"]
    assert benchmark_files(both, jetson, LocalTransport(), threads=(1,), protocol=QUICK).runner == "python"


def test_wrong_tools_are_one_clear_line(tool: Callable[..., Path], tmp_path: Path) -> None:
    onnx, tflite = onnx_model(tmp_path / "a.onnx"), tflite_model(tmp_path / "a.tflite")

    def run(file: Path, **more: Any) -> None:
        benchmark_files([file], HOST, LocalTransport(), threads=(1,), protocol=QUICK, **more)

    with pytest.raises(UsageError, match=r"trtexec does not run a\.tflite"):
        run(tflite, runner="trtexec")
    with pytest.raises(UsageError, match="no runner 'magic'"):
        run(onnx, runner="magic")
    with pytest.raises(DeviceError, match="no benchmark_model on the device"):
        run(tflite, runner="benchmark_model")
    program = tool("benchmark_model", "perf_test_1.15")
    with pytest.raises(DeviceError, match="no result that edgekd can read"):
        run(tflite, runner="benchmark_model", tool_path=str(program))
    program = tool("onnxruntime_perf_test", "perf_test_1.15", code=3)
    with pytest.raises(DeviceError, match=r"onnxruntime_perf_test failed \(3\)"):
        run(onnx, runner="onnxruntime_perf_test")


def test_a_tool_is_found_where_it_lies(tool: Callable[..., Path]) -> None:
    program = tool("trtexec", "trtexec_8.6")
    with LocalTransport() as device:
        assert find_tool(device, "trtexec") == str(program)
        assert find_tool(device, "benchmark_model") is None


def test_blocks_without_times_are_combined_by_their_size() -> None:
    runs = [
        NativeRun("benchmark_model", None, 50, 10.0, 9.0, 12.0, 1.0, p50=10.0),
        NativeRun("benchmark_model", None, 150, 12.0, 8.0, 20.0, 2.0),
    ]
    found = summarise_native(runs)
    assert (found.runs, found.min, found.max, found.p50) == (200, 8.0, 20.0, None)
    assert found.mean == pytest.approx(11.5)
    assert found.std == pytest.approx((0.25 * (1 + 100) + 0.75 * (4 + 144) - 11.5**2) ** 0.5)
    verdict = judge_native(runs)
    assert verdict.word == "noisy"
    assert len(verdict.reasons) == 2
    assert judge_native(runs[:1] * 3).word == "noisy"  # 10 % in each
    steady = NativeRun("benchmark_model", None, 50, 10.0, 9.9, 10.4, 0.1)
    assert judge_native([steady, replace(steady, mean=10.2)]).word == "stable"


def test_a_load_is_what_the_tool_is_told() -> None:
    from edgekd.benchmark.native import benchmark_model_arguments, perf_test_arguments, trtexec_run_arguments

    load = Load(50, 5.0, 10, 0.5, 150.0, 4)
    assert benchmark_model_arguments("/x/benchmark_model", "m.tflite", load) == [
        "/x/benchmark_model", "--graph=m.tflite", "--num_threads=4", "--num_runs=50", "--min_secs=5", "--warmup_runs=10",
        "--warmup_min_secs=0.5", "--max_secs=150",
    ]  # fmt: skip
    assert perf_test_arguments("/x/p", "m.onnx", 100, 2)[-5:] == ["-x", "2", "-y", "1", "m.onnx"]
    from edgekd.benchmark.model_facts import ModelFacts

    facts = ModelFacts(Path("m.onnx"), "onnx", "0" * 64, 1)
    assert trtexec_run_arguments("/x/t", "/e", facts, load) == [
        "/x/t", "--loadEngine=/e", "--iterations=50", "--duration=5", "--warmUp=500", "--exportTimes=times.json",
    ]  # fmt: skip
