"""The file that goes to a device: what it needs, and what it reads from systems that are not here."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benchmark import device_runner
from tests.benchmark.models import onnx_model, tflite_model

SOURCE = Path(device_runner.__file__)
ALLOWED = {"numpy"}  # runtimes are imported by their names in RUNTIMES


def test_it_is_python_3_9_and_needs_nothing_but_numpy_and_a_runtime() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == ALLOWED
    assert set(device_runner.RUNTIMES) == {"onnx", "tflite"}
    modules = [name for each in device_runner.RUNTIMES.values() for name, _ in each]
    assert modules == ["onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow"]
    tops = {each.name.partition(".")[0] for node in tree.body if isinstance(node, ast.Import) for each in node.names}
    assert not tops & ALLOWED  # `describe` must answer where they are missing


def test_nothing_newer_than_python_3_9_is_used() -> None:
    """Names and calls that ``feature_version`` does not see."""
    tree = ast.parse(SOURCE.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match)
        if isinstance(node, ast.Call):
            assert not (getattr(node.func, "id", "") == "zip" and any(each.arg == "strict" for each in node.keywords))
            isinstance_of = getattr(node.func, "id", "") == "isinstance"
            assert not (isinstance_of and isinstance(node.args[1], ast.BinOp)), "int | float is Python 3.10"
            assert getattr(node.func, "attr", "") not in {"file_digest", "bit_count", "pairwise"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make ``proc`` and ``sys`` of another machine, and its tools."""
    monkeypatch.setattr(device_runner, "ROOT", tmp_path)

    def build(files: dict[str, str], tools: dict[str, str] | None = None) -> None:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        told = tools or {}
        monkeypatch.setattr(device_runner, "tool", lambda *command: told.get(" ".join(command)))

    return build


CPU = "sys/devices/system/cpu"
PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0", "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "proc/meminfo": "MemTotal:        3884352 kB\nMemAvailable:    3400000 kB\nHugePages_Total:       0\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand\n", f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1800000\n", f"{CPU}/cpu10/cpufreq/scaling_cur_freq": "600000\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n", "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "not available\n",
}  # fmt: skip
PI_TOOLS = {"vcgencmd get_throttled": "throttled=0x50005", "vcgencmd measure_temp": "temp=48.3'C"}


def test_a_raspberry_pi_tells_its_clocks_heat_and_flags(system: Callable[..., None]) -> None:
    system(PI, PI_TOOLS)
    found = device_runner.environment()
    json.dumps(found, allow_nan=False)
    assert found["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert found["soc"] == "raspberrypi,4-model-b brcm,bcm2711"
    assert found["cpu"] == "CPU implementer 0x41 CPU part 0xd08"
    assert (found["memory_bytes"], found["memory_available_bytes"]) == (3884352 * 1024, 3400000 * 1024)
    assert found["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert found["cpus"]["cpu0"]["scaling_governor"] == "ondemand"
    assert list(found["cpus"]) == ["cpu0", "cpu10"]
    assert found["frequencies"] == {"cpu0": 1_800_000, "cpu10": 600_000}
    assert found["temperatures"] == {"thermal_zone0 cpu-thermal": 48.312, "vcgencmd": 48.3}
    assert found["throttled"] == 0x50005
    assert found["energy"] == "not measurable"


def test_an_empty_system_is_no_error(system: Callable[..., None]) -> None:
    system({})
    found = device_runner.environment()
    json.dumps(found, allow_nan=False)
    assert (found["model"], found["memory_bytes"], found["throttled"], found["temperatures"]) == (None, None, None, {})
    assert device_runner.power_w() is None


def test_the_power_of_a_jetson_is_that_of_the_whole_board(system: Callable[..., None]) -> None:
    chip = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    system({
        f"{chip}/in1_label": "VDD_IN\n", f"{chip}/in1_input": "5000\n", f"{chip}/curr1_input": "1400\n",
        f"{chip}/in2_label": "VDD_CPU_GPU_CV\n", f"{chip}/in2_input": "5000\n", f"{chip}/curr2_input": "600\n",
    })  # fmt: skip
    assert device_runner.power_w() == pytest.approx({"VDD_IN": 7.0})


def test_rails_of_an_older_jetson_are_added_where_none_is_the_board(system: Callable[..., None]) -> None:
    chip = "sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0"
    system({
        f"{chip}/rail_name_0": "GPU\n", f"{chip}/in_power0_input": "1500\n",
        f"{chip}/rail_name_1": "CPU\n", f"{chip}/in_power1_input": "2500\n",
    })  # fmt: skip
    assert device_runner.power_w() == {"GPU": 1.5, "CPU": 2.5}


@pytest.mark.parametrize(("status", "watts"), [("Discharging", {"battery": 1.6}), ("Charging", None)])
def test_a_phone_tells_its_power_unless_it_is_charged(system: Callable[..., None], status: str, watts: Any) -> None:
    battery = "sys/class/power_supply/battery"
    system({f"{battery}/current_now": "-400000\n", f"{battery}/voltage_now": "4000000\n", f"{battery}/status": f"{status}\n"})
    assert device_runner.power_w() == (None if watts is None else pytest.approx(watts))


def test_random_inputs_are_the_same_each_time_and_of_the_dtype() -> None:
    inputs = [(0, "image", [None, 3, 4], "float32"), (1, "pixels", [2, 5], "uint8"), (2, "tokens", ["batch", 6], "int64"),
              (3, "scalar", [], "float16"), (4, "flag", [1], "bool")]  # fmt: skip
    first, again = device_runner.random_inputs(inputs), device_runner.random_inputs(inputs)
    assert [(each.shape, each.dtype.name) for each in first.values()] == [
        ((1, 3, 4), "float32"), ((2, 5), "uint8"), ((1, 6), "int64"), ((), "float16"), ((1,), "bool"),
    ]  # fmt: skip
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert set(first[2].ravel()) <= {0, 1}
    assert np.isfinite(first[0]).all()


def test_an_open_size_that_is_not_the_batch_is_named() -> None:
    with pytest.raises(ValueError, match="'text' has open sizes"):
        device_runner.random_inputs([(0, "text", ["batch", "length"], "int64")])


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_runs_as_its_runtime_runs_it(tmp_path: Path, kind: str) -> None:
    if kind == "tflite":
        pytest.importorskip("ai_edge_litert")
    path = onnx_model(tmp_path / "m.onnx") if kind == "onnx" else tflite_model(tmp_path / "m.tflite")
    inputs, put, run, outputs = device_runner.open_model(str(path), kind, 1)
    assert [(name, shape, dtype) for _, name, shape, dtype in inputs] == [("x", [1, 16], "float32")]
    given = np.arange(16, dtype=np.float32)[None]
    put({0: given})
    run()
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    expected = given @ weights if kind == "onnx" else given.sum() + np.arange(8, dtype=np.float32)[None]
    np.testing.assert_allclose(outputs()[0], expected, rtol=1e-4)


def _ask(folder: Path, request: dict[str, Any], *options: str) -> tuple[int, list[dict[str, Any]]]:
    (folder / "request.json").write_text(json.dumps({"give_up_s": 60, **request}))
    command = [sys.executable, *options, str(SOURCE), "request.json"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_python_without_packages_says_what_is_missing(tmp_path: Path) -> None:
    """``-S`` and ``-E`` leave nothing but the standard library."""
    code, events = _ask(tmp_path, {"command": "describe"}, "-I", "-S")
    assert (code, [each["event"] for each in events]) == (0, ["environment", "done"])
    assert (events[0]["runtimes"], events[0]["numpy"]) == ({}, None)
    path = onnx_model(tmp_path / "m.onnx")
    file = {"path": str(path), "kind": "onnx", "sha256": "0" * 64}
    code, events = _ask(tmp_path, {"command": "measure", "files": [file]}, "-I", "-S")
    assert code == 3
    assert [each["what"] for each in events] == ["runtime", "checksum"]


def test_it_ends_itself_when_its_time_is_over(tmp_path: Path) -> None:
    """Whatever becomes of the connection."""
    import hashlib

    path = onnx_model(tmp_path / "m.onnx")
    file = {"path": str(path), "kind": "onnx", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "inputs": None}
    request = {
        "command": "measure", "give_up_s": 3, "files": [file], "block": 0, "threads": 1, "runs": 1, "seconds": 600.0, "most_s": 600.0,
        "warmup_runs": 1, "warmup_s": 0.0, "turn_s": 0.1, "canary_s": 0.01, "idle_s": 0.01, "together": True, "state_s": 1.0,
        "log": "events.jsonl",
    }  # fmt: skip
    code, events = _ask(tmp_path, request)
    assert code == -14  # SIGALRM
    assert all(each["event"] != "done" for each in events)
    logged = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert logged == events  # to the last line, of which a machine under load may have written none yet
