"""Measurements on this machine as a device of its own, and on devices that die, hang, lie or lack something."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benchmark import device_session
from edgekd.benchmark.device_session import install_hint, read_events
from edgekd.benchmark.measurements import DeviceBenchmark
from edgekd.benchmark.on_device import Protocol, benchmark_files
from edgekd.benchmark.transports import Finished
from edgekd.benchmark.transports.local import LocalTransport
from edgekd.devices.profiles import load_profile
from edgekd.errors import DeviceError, Interrupted, ModelError, UsageError
from tests.benchmark.devices_in_tests import OddDevice
from tests.benchmark.models import QUICK, onnx_model, tflite_model

HOST = load_profile("host")


@pytest.fixture
def left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that a measurement leaves nothing of its own behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def measure(files: list[Path], transport: Any = None, **more: Any) -> DeviceBenchmark:
    return benchmark_files(files, HOST, transport or LocalTransport(), **{"threads": (1,), "protocol": QUICK, **more})


@pytest.mark.usefixtures("left_behind")
def test_files_of_both_runtimes_are_measured_in_turn_and_everything_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    files = [onnx_model(tmp_path / "a.onnx", 64), tflite_model(tmp_path / "b.tflite")]
    found = measure(files, protocol=replace(QUICK, runs=30_000, blocks=2), out=tmp_path / "out")
    assert [(each.name, each.kind, each.threads) for each in found.measurements] == [
        ("a.onnx", "onnx", 1),
        ("b.tflite", "tflite", 1),
    ]
    assert not found.failed
    for each in found.measurements:
        assert each.summary.runs >= QUICK.runs * 2
        assert each.summary.p50 is not None and each.summary.low is not None and each.summary.p90 is not None
        assert 0 < each.summary.min <= each.summary.p50 <= each.summary.p90 <= each.summary.max
        assert each.load_ms and each.first_ms and each.peak_bytes and each.peak_bytes > each.size_bytes
        assert each.energy_mj is None
    assert found.environment["runtimes"]["onnxruntime"]
    assert len(found.canary) == 4
    (comparison,) = found.comparisons
    assert (comparison.first, comparison.second, comparison.blocks) == ("a.onnx", "b.tflite", 2)
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == json.loads(json.dumps(found.to_json()))
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    samples = [each for each in lines if each["event"] == "samples" and each["file"] == 0]
    kept = sorted(ms for each in samples for ms in each["ms"])
    assert kept == sorted(ms for turn in found.measurements[0].turns for ms in turn.ms)
    order = [each["file"] for each in lines if each["event"] == "samples" and each["block"] == 0][:4]
    assert order == [0, 1, 0, 1]  # A/B/A/B
    assert [each["file"] for each in lines if each["event"] == "samples" and each["block"] == 1][:4] == [1, 0, 1, 0]
    assert (tmp_path / "out" / "benchmark.svg").read_text().startswith("<svg")


def test_a_sustained_run_is_one_long_block_per_file(tmp_path: Path) -> None:
    files = [onnx_model(tmp_path / "a.onnx"), onnx_model(tmp_path / "b.onnx", 32)]
    found = measure(files, protocol=replace(QUICK, sustained_s=0.3, blocks=3), out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    samples = [each for each in lines if each["event"] == "samples"]
    assert [each["file"] for each in samples] == sorted(each["file"] for each in samples)  # one after the other
    assert {each["block"] for each in samples} == {0}
    for index in range(2):
        assert sum(each["busy_ms"] for each in samples if each["file"] == index) >= 300
    assert found.measurements[0].summary.runs > 0


def test_under_a_real_load_the_measurement_completes(tmp_path: Path) -> None:
    """What it is called depends on the scheduler; that a load is noisy is shown on samples whose truth is known."""
    stop = multiprocessing.Event()
    busy = [multiprocessing.Process(target=_burn, args=(stop,), daemon=True) for _ in range(os.cpu_count() or 1)]
    for each in busy:
        each.start()
    try:
        found = measure([onnx_model(tmp_path / "a.onnx")])
    finally:
        stop.set()
        for each in busy:
            each.join()
    assert found.measurements[0].verdict.word in {"stable", "noisy", "throttled"}


def _burn(stop: Any) -> None:
    while not stop.is_set():
        sum(range(1000))


def test_golden_inputs_are_what_is_run(tmp_path: Path) -> None:
    """An open size other than the batch needs them."""
    from onnx import helper

    from tests.inspect.onnx_files import write

    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", "length"]}, {"y": ["n", "length"]}, {}
    )
    with pytest.raises(DeviceError, match="open sizes"):
        measure([path])
    folder = _golden_folder(tmp_path / "golden", path, {"x": np.ones((3, 5), np.float32)}, {"y": np.ones((3, 5), np.float32)})
    found = measure([path], golden=folder)
    assert found.measurements[0].summary.runs >= QUICK.runs


def _golden_folder(folder: Path, model: Path, inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
    from hashlib import sha256

    folder.mkdir()

    def written(arrays: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for index, (name, values) in enumerate(arrays.items()):
            (folder / f"{name}.bin").write_bytes(values.tobytes())
            rows.append({"name": name, "index": index, "file": f"{name}.bin", "shape": list(values.shape), "dtype": values.dtype.name,
                         "sha256": sha256(values.tobytes()).hexdigest(), "tolerance": [0.1] * len(values)})  # fmt: skip
        return rows

    count = len(next(iter(inputs.values())))
    content = {
        "schema": 1, "artifact": {"sha256": sha256(model.read_bytes()).hexdigest()}, "rule": "within 0.1",
        "runtime": {"name": "onnxruntime", "version": "1", "machine": "x86_64"},
        "samples": [{"id": str(row)} for row in range(count)], "inputs": written(inputs), "outputs": written(outputs),
    }  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(content))
    return folder


def test_a_file_its_runtime_refuses_is_told_beside_those_that_ran(tmp_path: Path) -> None:
    from onnx import helper

    from tests.inspect.onnx_files import write

    good = onnx_model(tmp_path / "good.onnx")
    bad = write(tmp_path / "bad.onnx", [helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]}, {})
    found = measure([good, bad])
    assert [each.name for each in found.measurements] == ["good.onnx"]
    ((name, threads, why),) = found.failed
    assert (name, threads) == ("bad.onnx", 1)
    assert "NoSuchOperator" in why
    assert not found.stable
    with pytest.raises(DeviceError, match=r"bad\.onnx does not run there"):
        measure([bad])


def test_a_broken_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="no ONNX file"):
        measure([broken])
    broken.rename(tmp_path / "m.tflite")
    with pytest.raises(ModelError, match="no TFLite file"):
        measure([tmp_path / "m.tflite"])
    with pytest.raises(UsageError, match=r"ends in '\.txt'"):
        (tmp_path / "m.txt").write_text("x")
        measure([tmp_path / "m.txt"])
    with pytest.raises(UsageError, match="cannot read"):
        measure([tmp_path / "missing.onnx"])


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    import onnx

    path = onnx_model(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    with pytest.raises(ModelError, match="keeps weights in other files"):
        measure([path])


def _at(command: str, act: Callable[[OddDevice], Finished | None], block: int = 0) -> OddDevice:
    """Return a device that acts at the ``block``-th request of a command."""
    seen = 0

    def meddle(device: OddDevice, arguments: list[str]) -> Finished | None:
        nonlocal seen
        if "request.json" not in arguments or device.command_of_request() != command:
            return None
        seen += 1
        return act(device) if seen == block + 1 else None

    return OddDevice(meddle)


@pytest.mark.usefixtures("left_behind")
def test_a_device_that_dies_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    def die(device: OddDevice) -> Finished:
        raise DeviceError("odd: the connection was lost", "plug it in again")

    with pytest.raises(
        DeviceError, match=r"the connection was lost; the [\d,]+ samples so far are in .*samples.jsonl"
    ) as caught:
        measure(
            [onnx_model(tmp_path / "a.onnx")],
            _at("measure", die, block=1),
            protocol=replace(QUICK, blocks=2),
            out=tmp_path / "out",
        )
    assert caught.value.exit_code == 5
    assert caught.value.hint == "plug it in again"
    kept = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    turns = [(each["block"], each["turn"]) for each in kept if each["event"] == "samples"]
    assert turns == [(0, turn) for turn in range(len(turns))]
    assert not (tmp_path / "out" / "benchmark.json").exists()


@pytest.mark.usefixtures("left_behind")
def test_a_stop_signal_keeps_the_whole_blocks(tmp_path: Path) -> None:
    def interrupt(device: OddDevice) -> Finished:
        raise Interrupted("stopped; what is done so far is saved")

    with pytest.raises(Interrupted):
        measure(
            [onnx_model(tmp_path / "a.onnx")],
            _at("measure", interrupt, block=1),
            protocol=replace(QUICK, blocks=2),
            out=tmp_path / "out",
        )
    kept = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert any(each["event"] == "samples" for each in kept)


@pytest.mark.usefixtures("left_behind")
def test_a_device_that_hangs_is_given_up_in_time_and_its_samples_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of the block that hangs are in a file on the device, and are still got from there."""

    def hang(device: OddDevice) -> Finished:
        path = Path(device.folder, "request.json")
        request = json.loads(path.read_text())
        path.write_text(json.dumps({**request, "seconds": 600.0, "most_s": 600.0, "give_up_s": 600}))
        return LocalTransport.run(device, ["python3", "device_runner.py", "request.json"], timeout_s=4)

    with pytest.raises(DeviceError, match=r"took longer than 4 s.* samples so far are in"):
        measure([onnx_model(tmp_path / "a.onnx")], _at("measure", hang), out=tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert any(each["event"] == "samples" for each in kept)


@pytest.mark.parametrize(
    "answer",
    [
        b"Segmentation fault\n", b"", b"\xff\xfe\x00", b"{" * 100_000, b'{"event": "done"', b'{"event": 1}\n', b"[]\n",
        b'{"event": "samples", "ms": []}\n', b'{"event": "state"}\nKilled\n', b'{"a": NaN, "event": "x"}\n',
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["describe", "measure"])
def test_an_answer_that_is_not_json_is_one_clear_line(tmp_path: Path, answer: bytes, command: str) -> None:
    device = _at(command, lambda _: Finished(0, answer, b"last words\n"))
    with pytest.raises(DeviceError) as caught:
        measure([onnx_model(tmp_path / "a.onnx")], device)
    assert "\n" not in caught.value.message
    assert "last words" in caught.value.message


@pytest.mark.parametrize(
    "event",
    [
        {"event": "samples", "file": 7, "turn": 0, "block": 0, "t_s": 0, "ms": [1.0], "runs": 1, "max_ms": 1.0},
        {"event": "samples", "file": 0, "turn": 0, "block": 0, "t_s": 0, "ms": ["fast"], "runs": 1, "max_ms": 1.0},
        {"event": "samples", "file": 0, "turn": 0, "block": 0, "t_s": 0, "ms": [-1], "runs": 1, "max_ms": 1.0},
        {"event": "samples", "file": 0, "block": 0, "ms": [1.0]},
        {"event": "canary", "block": 0, "ms": []},
    ],
)
def test_numbers_that_cannot_be_are_one_clear_line(tmp_path: Path, event: dict[str, Any]) -> None:
    answer = json.dumps(event).encode() + b'\n{"event": "done"}\n'
    with pytest.raises(DeviceError, match="not what it should be"):
        measure([onnx_model(tmp_path / "a.onnx")], _at("measure", lambda _: Finished(0, answer, b"")))


def test_a_greeting_before_the_answer_is_no_harm(tmp_path: Path) -> None:
    def greet(device: OddDevice) -> Finished:
        ended = LocalTransport.run(device, ["python3", "device_runner.py", "request.json"], timeout_s=60)
        return Finished(ended.code, b"Welcome to Raspberry Pi OS {\n\n" + ended.stdout, ended.stderr)

    assert measure([onnx_model(tmp_path / "a.onnx")], _at("measure", greet)).measurements


def test_a_file_that_arrives_damaged_is_noticed(tmp_path: Path) -> None:
    def damage(device: OddDevice) -> None:
        Path(device.folder, "model0.onnx").write_bytes(b"other")

    with pytest.raises(DeviceError, match="is not what was sent"):
        measure([onnx_model(tmp_path / "a.onnx")], _at("measure", damage))


def test_a_model_larger_than_the_memory_is_refused_in_one_line(tmp_path: Path) -> None:
    answer = b'{"event": "environment", "memory_bytes": 1000, "runtimes": {}}\n{"event": "done"}\n'
    with pytest.raises(DeviceError, match=r"does not fit into the 0 MiB of memory of odd") as caught:
        measure([onnx_model(tmp_path / "a.onnx")], _at("describe", lambda _: Finished(0, answer, b"")))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("target", "kinds", "expected"),
    [
        ("host", ["onnx"], "python3 -m pip install numpy onnxruntime"),
        ("pi4", ["tflite"], "~/edgekd-venv/bin/pip install numpy ai-edge-litert"),
        ("jetson_orin_nano", ["onnx", "tflite"], "pip install numpy onnxruntime ai-edge-litert"),
        ("pixel6", ["tflite"], "adb push benchmark_model /data/local/tmp/"),
        ("iphone12", ["tflite"], "Xcode"),
    ],
)
def test_what_is_missing_is_told_with_the_line_that_installs_it(target: str, kinds: list[str], expected: str) -> None:
    assert expected in install_hint(load_profile(target), kinds)


def test_a_runtime_that_is_missing_is_told(tmp_path: Path) -> None:
    answer = b'{"event": "problem", "what": "runtime", "found": null, "kinds": ["onnx"]}\n'
    with pytest.raises(DeviceError, match="no ONNX Runtime for python3") as caught:
        benchmark_files([onnx_model(tmp_path / "a.onnx")], load_profile("pi4"), _at("measure", lambda _: Finished(3, answer, b"")),
                        threads=(1,), protocol=QUICK)  # fmt: skip
    assert "pip install numpy onnxruntime" in (caught.value.hint or "")


def test_a_python_that_is_missing_or_too_old_is_told(tmp_path: Path) -> None:
    file = onnx_model(tmp_path / "a.onnx")
    with pytest.raises(DeviceError, match="cannot run 'no-such-python'") as caught:
        measure([file], python="no-such-python")
    assert caught.value.exit_code == 5
    missing = _at("describe", lambda _: Finished(127, b"", b"sh: python3: not found\n"))
    with pytest.raises(DeviceError, match="python3: not found") as caught:
        measure([file], missing)
    assert "pip install" in (caught.value.hint or "")
    old = b'{"event": "problem", "what": "python", "found": "3.8.10", "kinds": []}\n'
    ancient = Finished(1, b"", b'  File "device_runner.py", line 104\nSyntaxError: invalid syntax\n')
    with pytest.raises(DeviceError, match=r"its Python is older than 3\.8; the runner needs 3\.9"):
        measure([file], _at("describe", lambda _: ancient))
    with pytest.raises(DeviceError, match=r"its Python is 3\.8\.10"):
        measure([file], _at("describe", lambda _: Finished(3, old, b"")))


def test_an_emulated_device_has_no_latency(tmp_path: Path) -> None:
    device = OddDevice(lambda *_: None)
    device.name = "emulated"
    with pytest.raises(UsageError, match="no latency"):
        measure([onnx_model(tmp_path / "a.onnx")], device)
    assert not device.commands


def test_a_home_folder_may_be_meant_by_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = OddDevice(lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DeviceError):
        measure([onnx_model(tmp_path / "a.onnx")], device, python="~/venv/bin/python3")
    assert [f"{tmp_path}/venv/bin/python3", "device_runner.py", "request.json"] in device.commands


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"blocks": 0}, {"turn_s": float("nan")}, {"most_s": -1.0}])
def test_an_impossible_protocol_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        Protocol(**wrong)


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_have_events_or_none(output: bytes) -> None:
    events, noise = read_events(output)
    assert all(isinstance(each["event"], str) for each in events)
    assert all(isinstance(each, str) for each in noise)


def test_the_last_lines_hold_nothing_a_terminal_acts_on() -> None:
    said = device_session.last_lines("one\n\x1b[31mtwo\x07\n" + "x" * 10_000)
    assert said.isprintable()
    assert "\n" not in said
    assert len(said) < 1500
