"""A run with quantization-aware training: its int8 files compute what PyTorch simulated, with the ranges it learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

import edgekd
from edgekd.errors import UsageError
from edgekd.flavours import ArtifactName
from edgekd.planning import plan
from edgekd.report.report import Report
from tests.quantize.files import onnx_scales, tflite_scales

OVERRIDES = [
    "threads=1", "teacher.model=zoo:shallow_cnn", "teacher.check=false", "teacher.train.epochs=8", "distill.train.epochs=8",
    "quantize.qat.epochs=2",
    "export.artifacts=[onnx-fp32, onnx-int8, tflite-int8]", "benchmark.runs=10", "benchmark.warmup=0",
    "gates.int8_max_drop=3",  # 8 epochs leave a network that 4 of 359 images may fall either way in, by the processor
]  # fmt: skip
WEIGHTS = ("features.0.0.weight", "features.1.0.weight", "features.2.0.weight", "classifier.weight")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return edgekd.compress("digits", tmp_path_factory.mktemp("qat") / "out", OVERRIDES)


@pytest.mark.slow
def test_files_agree_with_the_simulation(report: Report) -> None:
    simulation = report.student.simulation
    assert simulation is not None
    expected = np.load(simulation.test_logits)
    low, high = list(json.loads(simulation.ranges.read_text()).values())[-1]
    step = (high - low) / 255
    for each in report.artifacts:
        if each.name == "onnx-fp32":
            assert each.verified.simulated is None
            assert each.verified.parity.relative_error < 1e-4
            continue
        assert each.verified.logits is not None
        logits = np.load(each.verified.logits)
        assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.995
        # To the step: a number on the edge between two steps may fall to either side.
        assert np.abs(logits - expected).max() <= 1.01 * step
        assert (np.abs(logits - expected) < step / 2).mean() > 0.9
    assert [gate.value for gate in report.gates if "simulation" in gate.name] == [
        each.verified.simulated.agreement for each in report.artifacts if each.verified.simulated is not None
    ]
    assert report.ok


@pytest.mark.slow
def test_every_range_in_the_files_was_learned(report: Report) -> None:
    simulation = report.student.simulation
    assert simulation is not None
    learned = json.loads(simulation.ranges.read_text())
    known = {((high - low) / 255, round(-low * 255 / (high - low))) for low, high in learned.values()}
    used = set()
    for name, least, scales in (("onnx-int8", 0, onnx_scales), ("tflite-int8", -128, tflite_scales)):
        artifact: ArtifactName = name  # type: ignore[assignment]
        for tensor, (scale, zero) in scales(report.path(artifact)).items():
            nearest = min(known, key=lambda pair, scale=scale: abs(pair[0] - scale))  # type: ignore[misc]
            assert scale == pytest.approx(nearest[0], rel=1e-5), tensor
            assert zero - least == nearest[1], tensor
            used.add(nearest)
    assert used == known


def _integers(path: Path) -> list[NDArray[Any]]:
    """Return every int8 weight of a file, outputs first, in order of size."""
    if path.suffix == ".onnx":
        found = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    else:
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        found = []
        for tensor in model.subgraphs[0].tensors:
            content = model.buffers[tensor.buffer].data
            if tensor.type == schema.TensorType.INT8 and content is not None:
                weight = np.asarray(content, np.uint8).view(np.int8).reshape(tensor.shape)
                found.append(weight.transpose(0, 3, 1, 2) if weight.ndim == 4 else weight)
    return sorted((each for each in found if each.dtype == np.int8 and each.ndim > 1), key=lambda each: each.size)


@pytest.mark.slow
def test_both_files_hold_the_integers_that_were_trained(report: Report) -> None:
    weights = load_file(report.student.weights)
    expected = []
    for name in WEIGHTS:
        flat = weights[name].reshape(len(weights[name]), -1).astype(np.float64)
        integers = 127 * flat / np.abs(flat).max(1, keepdims=True)
        assert np.abs(integers - np.rint(integers)).max() < 1e-3  # they lie on the steps already
        expected.append(np.rint(integers).reshape(weights[name].shape))
    for name in ("onnx-int8", "tflite-int8"):
        found = _integers(report.folder / "artifacts" / f"student.int8.{name.partition('-')[0]}")
        for own, other in zip(sorted(expected, key=lambda each: each.size), found, strict=True):
            np.testing.assert_array_equal(own, other.reshape(own.shape))  # a depthwise one has its axes elsewhere


@pytest.mark.slow
def test_the_report_tells_what_the_training_did(report: Report) -> None:
    told = json.loads((report.folder / "report.json").read_text())
    training = told["quantization_aware_training"]
    assert training["training"]["epochs"] == len(training["history"]) == 2
    assert [each["name"] for each in training["training"]["terms"]] == ["kd"]
    assert told["distillation"]["epochs"] == 8
    assert told["artifacts"][1]["simulated_parity"]["agreement"] >= 0.995
    assert "learned under the rounding of its int8 files: 2 epochs" in (report.folder / "MODEL_CARD.md").read_text()
    assert "quantization-aware training" in report.html.read_text()


def test_the_plan_tells_of_it() -> None:
    planned = plan("digits", OVERRIDES)
    names = [each.name for each in planned.stages]
    assert names.index("qat") == names.index("export") - 1
    what = {each.name: each.what for each in planned.stages}
    assert "2 epochs, batch 64, CE + kd" in what["qat"]
    assert "ranges learned in training" in what["try-tflite-int8"]
    assert "qat" not in [each.name for each in plan("digits").stages]


@pytest.mark.parametrize(("override", "message"), [
    ("quantize.activations=dynamic", "quantize.activations is dynamic"),
    ("export.artifacts=[onnx-fp32, tflite-int16x8]", "names no such file"),
])  # fmt: skip
def test_training_for_files_that_are_not_made_is_refused(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan("digits", ["quantize.qat.epochs=1", override])
