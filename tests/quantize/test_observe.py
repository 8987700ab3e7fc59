"""What observers see of a file is what its layers give in PyTorch, and they stop when more samples change nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgekd.quantize.histogram import load_histograms
from edgekd.quantize.observe import observe_onnx, observe_tflite
from tests.quantize.conftest import Exported
from tests.quantize.files import tflite_outputs


def _seen(exported: Exported, part: str) -> np.ndarray:
    """What a submodule gives on the calibration images, by a hook."""
    caught: list[Tensor] = []
    module: nn.Module = exported.model.get_submodule(part)
    handle = module.register_forward_hook(lambda _module, _inputs, output: caught.append(output.detach()))
    with torch.no_grad():
        exported.model(torch.from_numpy(exported.images))
    handle.remove()
    return caught[0].numpy()


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_observed_values_are_those_of_pytorch(kind: str, exported: Exported, tmp_path: Path) -> None:
    observe = observe_onnx if kind == "onnx" else observe_tflite
    facts = observe(exported.path(kind), exported.calibration, str(tmp_path / "seen.npz"), until_settled=False)
    found = load_histograms(tmp_path / "seen.npz")
    outputs = tflite_outputs(Path(exported.path("tflite")))
    depthwise = "relu_3" if kind == "onnx" else outputs["DEPTHWISE_CONV_2D"][1]
    image = "image" if kind == "onnx" else "serving_default_image"
    for name, expected in (
        (depthwise, _seen(exported, "depthwise")), (image, exported.images),
        (facts["outputs"][0], _seen(exported, "classifier")),
    ):  # fmt: skip
        histogram = found[name]
        assert (histogram.low, histogram.high) == pytest.approx((expected.min(), expected.max()), abs=1e-4)
        assert histogram.counts.sum() + histogram.zeros == expected.size
        counts, _ = np.histogram(expected[expected != 0], histogram.edges)
        # Rounding may move a value over the border of a bin.
        assert np.abs(np.cumsum(counts) - np.cumsum(histogram.counts)).max() <= 0.001 * expected.size + 5
    assert facts["samples"] == 100
    assert 0 <= facts["change"] < 1


def _identity(folder: Path) -> str:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["n", 3])], [value("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "neg.onnx")
    return str(folder / "neg.onnx")


def test_samples_are_enough_when_two_hundred_more_change_little(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (3_000, 3)).astype(np.float32)
    samples[350] = 9  # between the first and the second question
    np.savez(tmp_path / "calibration.npz", x=samples)
    arguments = (_identity(tmp_path), str(tmp_path / "calibration.npz"), str(tmp_path / "seen.npz"))
    facts = observe_onnx(*arguments, until_settled=True)
    assert facts["samples"] == 600
    assert facts["settled"]
    assert facts["change"] < 0.01
    assert load_histograms(tmp_path / "seen.npz")["y"].low == -9
    assert observe_onnx(*arguments, until_settled=False)["samples"] == 3_000


def test_samples_that_never_suffice_are_all_used_and_it_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "calibration.npz", x=np.arange(1, 1_501, dtype=np.float32).reshape(500, 3))
    facts = observe_onnx(_identity(tmp_path), str(tmp_path / "calibration.npz"), str(tmp_path / "seen.npz"), True)
    assert (facts["samples"], facts["settled"]) == (500, False)
    assert facts["change"] == pytest.approx(100 / 500)  # since the 400th
