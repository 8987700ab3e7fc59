"""Latency before and after cuts: who is timed, and what is said of it. No figure is judged: this host may be busy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper
from safetensors.torch import load_file

from edgekd.benchmark.statistics import Comparison, Summary, Verdict
from edgekd.errors import DeviceError, ExportError
from edgekd.progress import Silent
from edgekd.prune.measured import Timed, latency_said, ratio_said, time_networks, time_pair, verdict_of
from edgekd.safe.files import write_bytes
from tests.prune.networks import QUICK, halved

FASTER = Timed("onnx-fp32", 1.0, 0.55, 0.55, 0.54, 0.56, 900, ())


@pytest.mark.parametrize(("timed", "verdict"), [
    (FASTER, ""), (replace(FASTER, ratio=0.98, low=0.9, high=1.05), "no difference beyond noise"),
    (replace(FASTER, ratio=1.08, low=1.05, high=1.11), "slower here than before the cuts, although it computes less"),
    (replace(FASTER, ratio=1.0, low=1.0, high=1.0), "no difference beyond noise"),
])  # fmt: skip
def test_words(timed: Timed, verdict: str) -> None:
    plain = timed.to_json()
    assert verdict_of(plain) == verdict and ratio_said(FASTER.to_json()) == "0.55x (0.54-0.56)"
    assert latency_said([plain]).startswith(f"latency on this host {timed.ratio:.2f}x") and verdict in latency_said([plain])
    two = latency_said([plain, {**FASTER.to_json(), "file": "tflite-fp32"}])
    assert "as onnx-fp32" in two and two.endswith("and 0.55x (0.54-0.56) as tflite-fp32")
    assert latency_said([]) == ""


def _measurement(p50: float, low: float, high: float, *reasons: str) -> Any:
    summary = Summary(90, p50, p50, 0.1, 0.1, 0.1, p50, p50, p50, p50, low, high)
    return SimpleNamespace(summary=summary, verdict=Verdict("noisy" if reasons else "stable", reasons))


def test_what_a_measurement_says(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (_measurement(2.0, 1.8, 2.2), _measurement(1.0, 0.9, 1.2, "it scatters", "it scatters"))
    result = SimpleNamespace(failed=(), measurements=both, comparisons=(Comparison("a", "b", 0.51, 0.4, 0.6, 3, 30),))
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "edgekd.prune.measured.benchmark_files", lambda files, *_, **given: asked.update(given, files=files) or result
    )
    files = Path("a.onnx"), Path("b.onnx")
    assert time_pair("onnx-fp32", *files) == Timed("onnx-fp32", 2.0, 1.0, 0.51, 0.4, 0.6, 90, ("it scatters",))
    assert asked["files"] == list(files) and asked["threads"] == (1,)
    # Too large to be in memory together: no turns to compare, so the intervals of both bound the ratio.
    result.comparisons = ()
    alone = time_pair("onnx-fp32", *files)
    assert (alone.ratio, alone.low, alone.high) == (0.5, 0.9 / 2.2, 1.2 / 1.8)
    result.failed = (("b.onnx", 1, "no memory"),)
    with pytest.raises(DeviceError, match=r"b\.onnx, before or after the cuts, does not run here: no memory"):
        time_pair("onnx-fp32", *files)


def test_two_networks_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are no exports: that takes half a minute, and whole runs do it."""
    given: list[Any] = []

    def export(function: str, arguments: dict[str, Any], log: Path) -> None:
        given.append((function, arguments["spec"], load_file(arguments["weights"])))
        one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
        two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [one], [two])
        network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        write_bytes(Path(arguments["out"]), network.SerializeToString())

    monkeypatch.setattr("edgekd.prune.measured.IN_TURNS", QUICK)
    monkeypatch.setattr("edgekd.prune.measured.run_in_child", export)
    model, spec, made = halved("shallow_cnn")
    timed = time_networks((model, spec), (made.model, made.spec), Silent())
    assert isinstance(timed, Timed) and timed.file == "onnx-fp32" and timed.runs >= 2
    assert 0 < timed.low <= timed.ratio <= timed.high and timed.before > 0 < timed.after
    assert [each[:2] for each in given] == [("edgekd.export.onnx:export_onnx", each.to_json()) for each in (spec, made.spec)]
    assert [{name: tuple(each.shape) for name, each in weights.items()} for _, _, weights in given] == [
        {name: tuple(each.shape) for name, each in network.state_dict().items()} for network in (model, made.model)
    ]


def test_a_network_that_cannot_be_exported_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ExportError("no such operator")

    monkeypatch.setattr("edgekd.prune.measured.run_in_child", refuse)
    model, spec, made = halved("shallow_cnn")
    assert time_networks((model, spec), (made.model, made.spec), Silent()) == "no such operator"
