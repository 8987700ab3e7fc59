"""Every flavour of fewer bits, made from one trained network, is in its own runtime what its name says."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.datasets import load_digits

from edgekd.census import census
from edgekd.flavours import ARTIFACT_NAMES, FLAVOURS, ArtifactName, format_of, precision_of, sources
from edgekd.report.report import Report
from edgekd.runtimes import feed, open_artifact, real_values
from edgekd.safe.child import run_in_child

MADE = tuple(name for name in ARTIFACT_NAMES if FLAVOURS[name].source is not None)
REPEATED = tuple({(FLAVOURS[name].function, FLAVOURS[name].activations): name for name in MADE}.values())
"""One of each kind."""
LEAST_AGREEMENT = {"fp32": 1.0, "fp16": 0.995, "int8": 0.97, "int16x8": 0.99, "int4": 0.8}


class Digits:
    """Raw digits, and the description of the float32 ONNX file's input."""

    def __init__(self, report: Report) -> None:
        self.raw = load_digits().images.astype(np.float32)[..., np.newaxis]
        (self.described,) = next(each.verified.inputs for each in report.artifacts if each.name == "onnx-fp32")

    def fed(self, found: dict[str, Any], name: str) -> NDArray[Any]:
        layout = "NHWC" if format_of(name) == "tflite" else "NCHW"
        return feed(self.raw[-300:], 16, {**self.described, **found, "layout": layout})


@pytest.fixture(scope="module")
def digits(finished: Report) -> Digits:
    return Digits(finished)


@pytest.fixture(scope="module")
def folder(finished: Report, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All flavours from the float32 files of one run, those of ``REPEATED`` twice."""
    made = tmp_path_factory.mktemp("flavours")
    np.savez(made / "calibration.npz", image=feed(digits.raw[:100], 16, digits.described))
    paths: dict[str, Path] = {name: finished.path(name) for name in ("onnx-fp32", "tflite-fp32")}
    for again in ("", "-again"):
        for name in sources(MADE):
            if (source := FLAVOURS[name].source) is not None and (not again or name in REPEATED):
                function = FLAVOURS[name].function
                assert function is not None
                paths[name + again] = made / f"{name}{again}.{format_of(name)}"
                arguments = {"model": str(paths[source]), "out": str(paths[name + again]), **FLAVOURS[name].arguments}
                if FLAVOURS[name].activations in {"static", "auto"}:
                    arguments["calibration"] = str(made / "calibration.npz")
                run_in_child(function, arguments, log=made / "log")
    return made


def _file(folder: Path, name: str) -> str:
    return str(folder / f"{name}.{format_of(name)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_flavour_agrees_with_float32_in_its_runtime(
    name: ArtifactName, folder: Path, finished: Report, digits: Digits
) -> None:
    reference, inputs, outputs = open_artifact(str(finished.path("onnx-fp32")), "onnx")
    expected = reference({"image": digits.fed(inputs[0], "onnx-fp32")})[outputs[0]["name"]].argmax(1)
    run, inputs, outputs = open_artifact(_file(folder, name), format_of(name))
    found = real_values(run({"image": digits.fed(inputs[0], name)})[outputs[0]["name"]], outputs[0]).argmax(1)
    assert (found == expected).mean() >= LEAST_AGREEMENT[precision_of(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_bytes_repeat(name: ArtifactName, folder: Path) -> None:
    assert Path(_file(folder, name)).read_bytes() == Path(_file(folder, f"{name}-again")).read_bytes()


@pytest.mark.slow
def test_weights_are_stored_and_operators_computed_as_the_name_says(folder: Path) -> None:
    found = {name: census(_file(folder, name), format_of(name)) for name in MADE}
    for name, share in found.items():
        weights = {"fp16": "fp16_weights", "int8": "int8_weights", "int16x8": "int8_weights", "int4": "int4_weights"}
        if name != "ort-fp32":
            assert share[weights[precision_of(name)]] > 0.8, name
    floats = ("onnx-fp16", "onnx-int8-weights", "onnx-int4-weights", "ort-fp32", "tflite-fp16", "tflite-int8-weights",
              "tflite-int4-weights")  # fmt: skip
    assert {name for name, share in found.items() if share["int8_ops"] == 0} == set(floats)
    assert all(found[name]["int8_ops"] == 1 for name in ("onnx-int8", "tflite-int8", "tflite-int8-float-io", "tflite-int16x8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tflite-int8", "int8"), ("tflite-int8-float-io", "float32"), ("tflite-int16x8", "int16"), ("onnx-fp16", "float32"),
     ("onnx-int8", "float32")],
)  # fmt: skip
def test_inputs_and_outputs_have_the_type_that_is_promised(name: ArtifactName, dtype: str, folder: Path) -> None:
    _, inputs, outputs = open_artifact(_file(folder, name), format_of(name))
    assert [each["dtype"] for each in (*inputs, *outputs)] == [dtype, dtype]


@pytest.mark.slow
def test_tensorrt_gets_symmetric_ranges_and_float_biases(folder: Path) -> None:
    graph = onnx.load(_file(folder, "onnx-int8-tensorrt")).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert quantizers
    for node in quantizers:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    assert all(constants[node.input[0]].dtype == np.int8 for node in quantizers if node.input[0] in constants)
    assert all(constants[node.input[2]].dtype == np.float32 for node in graph.node if node.op_type == "Conv")
    asymmetric = onnx.load(_file(folder, "onnx-int8")).graph
    assert any(numpy_helper.to_array(each).any() for each in asymmetric.initializer if each.name.endswith("_zero_point"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("onnx-int8-weights", 127), ("onnx-int4-weights", 7)])
def test_stored_weights_are_those_of_the_float_file_to_half_a_step(
    name: ArtifactName, steps: int, folder: Path, finished: Report
) -> None:
    """Against the weights ONNX Runtime computes with: an identity through the dequantized tensor of each layer."""
    model = onnx.load(_file(folder, name))
    dequantized = [
        each for each in sorted({i for node in model.graph.node for i in node.input}) if each.endswith("_dequantized")
    ]
    assert dequantized
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(each) for each in dequantized)
    onnx.save(model, folder / "shown.onnx")
    run, _, _ = open_artifact(str(folder / "shown.onnx"), "onnx")
    seen = run({"image": np.zeros((1, 1, 8, 8), np.float32)})
    folded = _folded(finished.path("onnx-fp32"), folder)
    for each in dequantized:
        expected = folded[each.removesuffix("_dequantized")]
        assert seen[each].shape == expected.shape
        error = np.abs(seen[each] - expected).max()
        assert 0 < error <= np.abs(expected).max() / steps / 2 * 1.001


def _folded(path: Path, folder: Path) -> dict[str, NDArray[Any]]:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(path, folder / "folded.onnx", skip_symbolic_shape=True)
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(folder / "folded.onnx").graph.initializer}


@pytest.mark.slow
def test_the_list_beside_an_ort_file_names_its_operators(folder: Path) -> None:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    lines = (folder / "ort-int8.required_operators.config").read_text().splitlines()
    listed = {operator for line in lines for operator in line.split(";")[2].split(",")}
    graph = InferenceSession.GetRootAsInferenceSession((folder / "ort-int8.ort").read_bytes(), 0).Model().Graph()
    assert {graph.Nodes(index).OpType().decode() for index in range(graph.NodesLength())} == listed
