"""Networks of the zoo: what a file costs against what PyTorch counts, in both formats and every precision.

Batch norms are folded into convolutions in the files: there a convolution has a bias, and its norm is gone.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.inspect.delegates import judge
from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.integer import fuse
from edgekd.inspect.memory import peak_memory
from edgekd.inspect.onnx import describe_onnx
from edgekd.inspect.tflite import describe_tflite
from edgekd.models.spec import build, cost, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.quantize.onnx import quantize_onnx, quantize_onnx_dynamic
from edgekd.quantize.tflite import cast_tflite_fp16, quantize_tflite, quantize_tflite_dynamic
from tests.models.zoo_specs import random_inputs, spec_for

FILES = ["fp32.onnx", "int8.onnx", "dynamic.onnx", "fp32.tflite", "fp16.tflite", "int8.tflite", "dynamic.tflite"]
NETWORKS = [
    "mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet8", "mobilenet_v3_small", "tiny_transformer"))
]  # fmt: skip


def _network(name: str) -> tuple[nn.Module, ModelSpec]:
    """Return a network whose every weight is another number: converters store equal ones once."""
    spec = spec_for(name, 10, {"layers": 1, "hidden": 32} if name == "tiny_transformer" else {}, 16)
    torch.manual_seed(0)
    model = build(spec)
    with torch.no_grad():
        for each in (*model.parameters(), *model.buffers()):
            if each.is_floating_point():
                each.add_(torch.rand_like(each), alpha=0.1)
    return model.eval(), spec


def _stored_parameters(model: nn.Module) -> int:
    """Return the parameters that a file keeps."""
    norms = {id(each) for module in model.modules() if isinstance(module, nn.BatchNorm2d) for each in module.parameters()}
    kept = sum(each.numel() for each in model.parameters() if id(each) not in norms)
    folded = sum(each.out_channels for each in model.modules() if isinstance(each, nn.Conv2d) and each.bias is None)
    unused = sum(each.weight.numel() for name, each in model.named_modules() if name.endswith("token_type_embeddings"))
    return int(kept + (folded if norms else 0) - unused)  # of one sentence's texts: added to the positions


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a network's files: made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = _make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def _make(name: str, folder: Path) -> Path:
    model, spec = _network(name)
    save_weights(model, folder / "weights")
    np.savez(
        folder / "calibration.npz",
        allow_pickle=False,
        **{each: value.numpy() for each, value in random_inputs(spec, 4).items()},
    )
    paths = {each: str(folder / each) for each in (*FILES, "weights", "calibration.npz")}
    export_onnx(spec.to_json(), paths["weights"], paths["fp32.onnx"])
    quantize_onnx(paths["fp32.onnx"], paths["calibration.npz"], paths["int8.onnx"])
    quantize_onnx_dynamic(paths["fp32.onnx"], paths["dynamic.onnx"])
    export_tflite(spec.to_json(), paths["weights"], paths["fp32.tflite"])
    quantize_tflite(paths["fp32.tflite"], paths["calibration.npz"], paths["int8.tflite"])
    quantize_tflite_dynamic(paths["fp32.tflite"], paths["dynamic.tflite"])
    cast_tflite_fp16(paths["fp32.tflite"], paths["fp16.tflite"])
    return folder


def _read(path: Path) -> GraphDescription:
    return graph_from_json(describe_onnx(str(path)) if path.suffix == ".onnx" else describe_tflite(str(path)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_file_costs_what_pytorch_counts(name: str, files: Callable[[str], Path]) -> None:
    model, spec = _network(name)
    expected = cost(model, spec)
    parameters = _stored_parameters(model)
    for file in FILES:
        graph = _read(files(name) / file)
        stored = {each.storage: each for each in graph.tensors.values() if each.role == "weight"}
        assert sum(each.macs or 0 for each in graph.operators) == expected.macs, file
        assert all(each.macs is not None for each in graph.operators), file
        assert sum(each.elements or 0 for each in stored.values()) == parameters, file
        if "fp32" in file:
            assert sum(each.bytes or 0 for each in stored.values()) == 4 * parameters, file
        # One network, one largest pair of maps: a batch of 1 needs at least what goes in, and no size is unknown.
        assert peak_memory(fuse(graph)).unknown == 0, file
    if not any(isinstance(each, nn.BatchNorm2d) for each in model.modules()) and name != "tiny_transformer":
        assert parameters == expected.params


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("file", [each for each in FILES if each.endswith("tflite")])
def test_xnnpack_cuts_the_graph_as_foretold(name: str, file: str, files: Callable[[str], Path]) -> None:
    """Against the delegate in LiteRT: one operator DELEGATE for each of its partitions."""
    from ai_edge_litert.interpreter import Interpreter

    path = files(name) / file
    interpreter = Interpreter(str(path), num_threads=1)
    if (name, file) == ("mobilenet_v3_small", "int8.tflite"):
        pytest.skip("random weights give it scales that XNNPACK refuses to prepare")
    interpreter.allocate_tensors()
    delegates = sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
    verdict = next(each for each in judge(_read(path)) if each.runtime.id == "xnnpack")
    assert verdict.delegated_partitions == delegates
