"""What feeds a logarithm stays in float, with int8 constants."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.census import census
from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import build, call, save_weights
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier
from edgekd.quantize.logarithms import nodes_feeding_logarithms, store_constants_in_int8
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.tflite import quantize_tflite
from edgekd.runtimes import open_artifact, real_values


def _model(weights: np.ndarray) -> onnx.ModelProto:
    """``y = relu(log((x W)^2) V)``, and ``z = relu(x W V)``, which no logarithm follows."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Mul", ["h", "h"], ["power"], "square"),
        helper.make_node("Log", ["power"], ["log"]),
        helper.make_node("MatMul", ["log", "v"], ["m"], "second"),
        helper.make_node("Relu", ["m"], ["y"], "relu"),
        helper.make_node("MatMul", ["h", "v"], ["n"], "other"),
        helper.make_node("Relu", ["n"], ["z"], "other relu"),
    ]
    size = len(weights)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name in ("y", "z")]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[::-1].copy(), "v")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_only_what_leads_to_a_logarithm_is_found() -> None:
    model = _model(np.eye(4, dtype=np.float32))
    assert nodes_feeding_logarithms(model) == ["first", "square", "node_2"]
    assert model.graph.node[2].name == "node_2"


def test_constants_become_int8_and_outputs_stay(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    model = _model(weights)
    onnx.save(model, tmp_path / "a.onnx")
    store_constants_in_int8(model, nodes_feeding_logarithms(model))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "b.onnx")
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    assert kinds["w_int8"] == TensorProto.INT8
    assert "w" not in kinds
    assert kinds["v"] == TensorProto.FLOAT
    x = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
    first, second = (open_artifact(str(tmp_path / name), "onnx")[0]({"x": x})["z"] for name in ("a.onnx", "b.onnx"))
    scale = np.abs(weights).max(1, keepdims=True) / 127
    expected = np.maximum(x @ (np.round(weights / scale) * scale) @ weights[::-1], 0)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(first - second).max() < 0.05 * np.ptp(first)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, torch.nn.Module, Path, np.ndarray]:
    """A keyword network with sensible batch norms, exported, and sounds of very unlike loudness."""
    folder = tmp_path_factory.mktemp("sound")
    waveform = TensorSpec("waveform", "float32", (4_000,), "NC", "waveform", (-1.0, 1.0), sample_rate=8_000)
    spec = classifier("zoo:ds_cnn", (waveform,), ("a", "b", "c"), {"width": 0.5})
    loudness = np.logspace(-3, -0.5, 64)[:, None]
    sounds = np.random.default_rng(0).normal(size=(64, 4_000)) * loudness
    sounds = np.clip(sounds + loudness * np.sin(np.arange(4_000) * np.linspace(0.1, 2, 64)[:, None]), -1, 1).astype(np.float32)
    torch.manual_seed(0)
    model = build(spec).train()
    for _ in range(20):
        model(torch.from_numpy(sounds))
    model.eval()
    save_weights(model, folder / "w.safetensors")
    export_onnx(spec.to_json(), str(folder / "w.safetensors"), str(folder / "fp32.onnx"))
    export_tflite(spec.to_json(), str(folder / "w.safetensors"), str(folder / "fp32.tflite"))
    np.savez(folder / "calibration.npz", waveform=sounds)
    return spec, model, folder, sounds


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "quantize"), [("onnx", quantize_onnx), ("tflite", quantize_tflite)])
def test_a_front_end_survives_int8(
    sound: tuple[ModelSpec, torch.nn.Module, Path, np.ndarray], kind: str, quantize: object
) -> None:
    spec, model, folder, sounds = sound
    out = folder / f"int8.{kind}"
    quantize(str(folder / f"fp32.{kind}"), str(folder / "calibration.npz"), str(out))  # type: ignore[operator]
    assert census(str(out), kind)["int8_weights"] > 0.95
    run, inputs, outputs = open_artifact(str(out), kind)
    assert inputs[0]["dtype"] == "float32"
    with torch.no_grad():
        expected = call(model, spec, {"waveform": torch.from_numpy(sounds)})["logits"].numpy()
    found = real_values(run({"waveform": sounds})["logits"], outputs[0])
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.995
    assert np.abs(expected - found).max() < 0.15 * np.ptp(expected)
