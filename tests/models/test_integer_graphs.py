"""What the zoo becomes: files of both formats that say what PyTorch says, and int8 files that compute on integers alone.

Networks are narrow and trained for seconds, so that ranges and answers mean something.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgekd.census import census
from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.catalog import ZOO
from edgekd.models.spec import build, call, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.tflite import quantize_tflite
from edgekd.runtimes import open_artifact, real_values
from tests.models.zoo_specs import random_inputs, spec_for

pytestmark = pytest.mark.slow

Array = NDArray[np.float32]
EXPORT: dict[str, Callable[..., Any]] = {"onnx": export_onnx, "tflite": export_tflite}
QUANTIZE: dict[str, Callable[..., Any]] = {"onnx": quantize_onnx, "tflite": quantize_tflite}
IMAGE_NETWORKS = [name for name, entry in ZOO.items() if entry.inputs == "image"]
SMALL_IMAGE_NETWORKS = {"shallow_cnn": 1.0, "digits_teacher": 0.5, "resnet8": 1.0, "resnet20": 0.5, "resnet56": 0.5}
"""And their widths; they see images of 16 pixels. Others are 0.35 wide, the narrowest of their papers, and see 32."""
CALIBRATION, JUDGED = 100, 200


@dataclass(frozen=True)
class Trained:
    """A network, what it was judged on, and what it said there."""

    spec: ModelSpec
    folder: Path
    inputs: dict[str, Tensor]
    logits: Array


def _digits(size: int) -> tuple[Tensor, Tensor]:
    """Handwritten digits as normalised RGB images of ``size`` pixels, and what they are: 0 to 3, soon told apart."""
    data = load_digits(n_class=4)
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(pixels, (size, size), mode="bilinear").expand(-1, 3, -1, -1)
    return (images - 0.3) / 0.35, torch.tensor(data.target)


def _train(model: nn.Module, spec: ModelSpec, inputs: dict[str, Tensor], labels: Tensor) -> None:
    """Learn for a few steps."""
    steps = 40
    optimizer = torch.optim.AdamW(model.train().parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        chosen = torch.randint(0, len(labels), (32,))
        batch = {name: value[chosen] for name, value in inputs.items()}
        loss = nn.functional.cross_entropy(call(model, spec, batch)["logits"], labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _settle(model: nn.Module, spec: ModelSpec, inputs: dict[str, Tensor]) -> None:
    """Give batch norms the statistics of ``inputs`` instead of a lagging average."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for part in range(4):
            call(model, spec, {name: value[part::4] for name, value in inputs.items()})
    model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Return a network of the zoo by name: trained once, exported once."""
    made: dict[str, Trained] = {}

    def get(name: str) -> Trained:
        if name not in made:
            made[name] = _make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def _make(name: str, folder: Path) -> Trained:
    size = 16 if name in SMALL_IMAGE_NETWORKS else 32
    arguments = {"width": SMALL_IMAGE_NETWORKS.get(name, 0.35)} if name in IMAGE_NETWORKS else {}
    spec = spec_for(name, 4, arguments, size)
    torch.manual_seed(0)
    model = build(spec)
    if name in IMAGE_NETWORKS:
        images, labels = _digits(size)
        inputs = {"image": images}
        _train(model, spec, {"image": images[JUDGED:]}, labels[JUDGED:])
    else:
        inputs = random_inputs(spec, JUDGED)
        with torch.no_grad():  # weights that tell random samples apart
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    _settle(model, spec, inputs)
    judged = {each: value[:JUDGED].contiguous() for each, value in inputs.items()}
    with torch.no_grad():
        logits = call(model, spec, judged)["logits"].numpy()
    save_weights(model, folder / "weights")
    np.savez(folder / "calibration.npz", allow_pickle=False, **{n: v[:CALIBRATION].numpy() for n, v in inputs.items()})
    return Trained(spec, folder, judged, logits)


def _exported(network: Trained, kind: str) -> Path:
    path = network.folder / f"fp32.{kind}"
    if not path.exists():
        EXPORT[kind](network.spec.to_json(), str(network.folder / "weights"), str(path))
    return path


def _quantized(network: Trained, kind: str) -> Path:
    path = network.folder / f"int8.{kind}"
    if not path.exists():
        source, samples = _exported(network, kind), network.folder / "calibration.npz"
        QUANTIZE[kind](str(source), str(samples), str(path))
    return path


def _run(path: Path, kind: str, network: Trained) -> Array:
    run, described, found = open_artifact(str(path), kind, 1)
    fed = {}
    for each in described:
        value = network.inputs[each["name"]].numpy()
        value = np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if kind == "tflite" and value.ndim == 4 else value
        if each["scale"] is not None:
            value = np.clip(np.round(value / each["scale"] + each["zero_point"]), -128, 127).astype(np.int8)
        fed[each["name"]] = value
    logits: Array = real_values(run(fed)["logits"], found[0])
    return logits


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_both_formats_say_what_pytorch_says(trained: Callable[[str], Trained], kind: str, name: str) -> None:
    network = trained(name)
    found = _run(_exported(network, kind), kind, network)
    assert float(network.logits.std(0).min()) > 0.05 * float(network.logits.std())  # the network tells samples apart
    np.testing.assert_allclose(found, network.logits, atol=1e-5 * float(np.ptp(network.logits)), rtol=0)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_int8_files_are_integers_from_end_to_end(trained: Callable[[str], Trained], kind: str, name: str) -> None:
    network = trained(name)
    path = _quantized(network, kind)
    inside = census(str(path), kind)
    assert (inside["int8_weights"], inside["int8_ops"]) == (1.0, 1.0)
    found = _run(path, kind, network)
    assert float(np.corrcoef(found.ravel(), network.logits.ravel())[0, 1]) > 0.9
    assert float((found.argmax(1) == network.logits.argmax(1)).mean()) > 0.85


def test_onnx_runtime_computes_on_integers_but_for_means_over_pixels(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    """What ONNX Runtime makes of a QDQ file: it has no integer kernel for ReduceMean, and runs that one in float."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    for name, squeezed in (("mobilenet_v3_small", 9), ("efficientnet_lite0", 0), ("mobilenet_v2", 0)):
        path = _quantized(trained(name), "onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
        means = operators.pop("ReduceMean", 0) + operators.pop("QLinearGlobalAveragePool", 0)
        assert means == squeezed + 1
        assert operators.pop("QuantizeLinear") <= means + 1
        assert operators.pop("DequantizeLinear") <= means + 1
        assert set(operators) <= {"QLinearConv", "QLinearAdd", "QLinearMul", "QGemm"}


def test_hard_swish_is_one_operator_of_tflite_and_nothing_exotic_in_onnx(trained: Callable[[str], Trained]) -> None:
    """ONNX Runtime's quantizer leaves HardSwish, HardSigmoid and Div in float."""
    import onnx

    network = trained("mobilenet_v3_small")
    operators = Counter(node.op_type for node in onnx.load(_exported(network, "onnx")).graph.node)
    assert not {"HardSwish", "HardSigmoid", "Div", "Sigmoid"} & set(operators)
    # The stem, 2 in each of 8 blocks, the last convolution and the dense layer.
    assert _operators_of_tflite(_quantized(network, "tflite"))["HARD_SWISH"] == 1 + 2 * 8 + 1 + 1


def _operators_of_tflite(path: Path) -> Counter[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators)
