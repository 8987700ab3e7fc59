"""Files on targets: predicted, measured over a real transport, checked, and judged."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.benchmark.on_device import Protocol
from edgekd.benchmark.target_stage import OnTarget, _gates, benchmark_targets, with_targets
from edgekd.benchmark.transports.emulated import default_root
from edgekd.devices.file_latency import predict_file
from edgekd.devices.profiles import load_profile
from edgekd.devices.targets import target_files
from edgekd.errors import DeviceError, UsageError
from edgekd.flavours import ArtifactName
from edgekd.progress import Silent
from edgekd.recipe import Recipe
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.model_card import model_card
from edgekd.report.page import report_page
from edgekd.report.report import Report
from edgekd.report.rows import target_rows
from edgekd.verify import Gate, Verified
from edgekd.workspace import StageResult, open_workspace

ARM = default_root()
Found = tuple[tuple[OnTarget, ...], list[Gate]]


def recipe(*targets: object, artifacts: tuple[str, ...] = ("onnx-int8", "tflite-int8")) -> Recipe:
    return recipe_from_mapping({"targets": list(targets), "export": {"artifacts": list(artifacts)}})


def run(asked: Recipe, finished: Report, folder: Path, gates: tuple[Gate, ...] = ()) -> Found:
    names: tuple[ArtifactName, ...] = asked.export.artifacts
    verified: dict[ArtifactName, Verified] = {each.name: each.verified for each in finished.artifacts if each.name in names}
    golden = {name: StageResult(finished.folder / "golden" / Path(finished.path(name)).name, {}, {}, 0.0) for name in verified}
    with open_workspace(folder, Silent()) as workspace:
        return benchmark_targets(asked, verified, list(gates), golden, workspace)


def test_predicted_is_called_so_and_is_what_the_predictor_says(finished: Report, tmp_path: Path) -> None:
    (found,), gates = run(recipe("pi4"), finished, tmp_path)
    assert (found.chosen, found.via, gates) == ("tflite-int8", None, [])
    assert found.latency.keys() == {"onnx-int8", "tflite-int8"}
    for name, latency in found.latency.items():
        expected = predict_file(finished.path(name), load_profile("pi4"), threads=4).prediction
        assert expected is not None
        assert (latency["kind"], latency["runs"], latency["threads"]) == ("predicted", 0, 4)
        assert latency["p50_ms"] == pytest.approx(expected.p50_ms)
        assert latency["low_ms"] <= latency["p50_ms"] <= latency["high_ms"]
        assert latency["basis"] == expected.basis
    merged = with_targets({name: {"host:1": {}} for name in found.latency}, (found,))
    assert {place for each in merged.values() for place in each} == {"host:1", "pi4:4"}
    json.dumps(found.to_json())


def test_tensorrt_is_not_predicted_and_a_limit_on_it_cannot_be_judged(finished: Report, tmp_path: Path) -> None:
    (found,), _ = run(recipe("jetson_orin_nano", artifacts=("onnx-fp32",)), finished, tmp_path)
    assert found.latency == {}
    assert "tensorrt runs on an accelerator" in found.without["onnx-fp32"]
    limited = recipe({"device": "jetson_orin_nano", "max_latency_ms": 5}, artifacts=("onnx-fp32",))
    with pytest.raises(UsageError, match="max_latency_ms of jetson_orin_nano cannot be judged"):
        run(limited, finished, tmp_path)


def test_limits_are_for_the_file_that_is_shipped(finished: Report, tmp_path: Path) -> None:
    size = finished.path("tflite-int8").stat().st_size / 1024
    limits = {"device": "pi4", "max_latency_ms": 1e-6, "max_size_kib": size, "max_memory_mib": 1e-3}
    _, gates = run(recipe(limits), finished, tmp_path)
    judged = {gate.name: (gate.passed, gate.value) for gate in gates}
    assert judged["tflite-int8 median latency in ms, predicted, on pi4"][0] is False
    passed, found = judged["tflite-int8 size in KiB on pi4"]
    assert passed
    assert found == pytest.approx(size)
    passed, memory = judged["tflite-int8 peak memory in MiB on pi4"]
    assert not passed
    assert memory > size / 1024, "activations come on top of the file"


def test_a_file_that_missed_a_gate_is_not_shipped(finished: Report, tmp_path: Path) -> None:
    missed = Gate("tflite-int8 top-1 agreement", "tflite-int8", 0.98, 0.5, False)
    (found,), _ = run(recipe("pi4"), finished, tmp_path, (missed,))
    assert found.chosen == "onnx-int8"


def test_measured_over_a_transport_with_golden_vectors(
    finished: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgekd.benchmark.on_device as on_device

    real = on_device.benchmark_files
    short = Protocol(runs=5, seconds=0.05, blocks=2, warmup_runs=1, warmup_s=0.0, canary_s=0.05, idle_s=0.1)
    monkeypatch.setattr(on_device, "benchmark_files", lambda *given, **more: real(*given, **more, protocol=short))
    here = {"device": "pi5", "via": "local", "threads": 1, "python": sys.executable, "max_latency_ms": 1e5}
    (found,), gates = run(recipe(here), finished, tmp_path)
    assert {each["kind"] for each in found.latency.values()} == {"measured"}
    assert all(each["runs"] >= 10 and each["verdict"] in {"stable", "noisy", "throttled"} for each in found.latency.values())
    assert found.checked == {name: {"vectors": 20, "differ": 0, "identical": 20} for name in ("onnx-int8", "tflite-int8")}, (
        "the same machine and runtime give the same bits"
    )
    assert [gate.name for gate in gates] == [
        "tflite-int8 golden vectors that differ on pi5", "onnx-int8 golden vectors that differ on pi5",
        "tflite-int8 median latency in ms, measured, on pi5",
    ]  # fmt: skip
    assert all(gate.passed for gate in gates)


def test_outputs_that_differ_on_the_device_miss_a_gate() -> None:
    (target,) = target_files(recipe({"device": "pi5", "via": "emulated"}))
    checked: dict[ArtifactName, dict[str, int]] = {"onnx-int8": {"vectors": 20, "differ": 3, "identical": 17}}
    found = OnTarget("pi5", "Raspberry Pi 5", "pi5:4", "emulated", None, {}, {}, {}, checked)
    (gate,) = _gates(target, found, {})
    assert gate == Gate("onnx-int8 golden vectors that differ on emulated arm64 for pi5", "onnx-int8", 0.0, 3.0, False)


def test_a_device_out_of_reach_ends_the_run_and_says_how_to_go_on(finished: Report, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"target pi4: .*127\.0\.0\.1") as error:
        run(recipe({"device": "pi4", "via": "ssh://nobody@127.0.0.1:9"}), finished, tmp_path)
    assert "leave out `via` to have latency predicted" in str(error.value.hint)


@pytest.mark.slow
@pytest.mark.skipif(not ARM.is_dir(), reason="no emulated device: python tools/make_arm64_device.py")
def test_emulated_is_checked_and_predicted(finished: Report, tmp_path: Path) -> None:
    (found,), gates = run(recipe({"device": "pi5", "via": "emulated"}), finished, tmp_path)
    assert {each["kind"] for each in found.latency.values()} == {"predicted"}
    assert all(check["vectors"] == 20 and check["differ"] == 0 for check in found.checked.values())
    assert len(gates) == 2 and all(gate.passed for gate in gates)


def test_every_surface_of_a_report_has_the_targets(finished: Report, tmp_path: Path) -> None:
    found, _ = run(recipe("pi4", "jetson_orin_nano", artifacts=("onnx-fp32", "tflite-int8")), finished, tmp_path)
    report = replace(finished, targets=found)
    rows = target_rows(report)
    assert [row.cells[1] for row in rows] == ["student.fp32.onnx", "student.int8.tflite", "student.fp32.onnx"]
    assert [row.cells[-1] for row in rows] == ["", "ship this", "ship this"]
    card, page = model_card(report), report_page(report, report.to_json()["environment"])
    for row in rows:
        assert "| " + " | ".join(row.cells) + " |" in card
        assert all(cell in page for cell in row.cells)
