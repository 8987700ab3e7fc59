"""A given range is the one in the file, and a layer that is kept computes in float."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.onnx_tensorrt import quantize_onnx_tensorrt
from edgekd.quantize.range_file import read_ranges
from edgekd.quantize.tflite import quantize_tflite, tensor_names
from edgekd.runtimes import open_artifact
from tests.quantize.conftest import Exported
from tests.quantize.files import onnx_scales, scale_of, tflite_outputs, tflite_scales


def _file(folder: Path, ranges: dict[str, tuple[float, float]]) -> str:
    path = folder / "ranges.json"
    path.write_text(json.dumps(ranges))
    return str(path)


def test_an_onnx_file_has_the_given_ranges_and_true_ones_elsewhere(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    ranges = {"add_80": (-3.0, 5.0), "relu": (0.5, 2.0), "getitem_12": (-1.0, 7.5)}
    quantize_onnx(exported.path("onnx"), exported.calibration, str(out), _file(tmp_path, ranges))
    found = onnx_scales(out)
    assert found["add_80"] == pytest.approx(scale_of(-3, 5))
    assert found["relu"] == pytest.approx(scale_of(0, 2))  # widened to 0
    assert found["getitem_12"] == pytest.approx(scale_of(-1, 7.5))
    assert found["max_pool2d"] == found["relu"]  # a pooling gives the steps it takes
    images = exported.images
    assert found["image"] == pytest.approx(scale_of(images.min(), images.max()))


def test_a_range_of_a_relu_does_not_let_negative_values_through(exported: Exported, tmp_path: Path) -> None:
    """The quantizer drops the ReLU: its range alone makes it one."""
    out = tmp_path / "int8.onnx"
    quantize_onnx(exported.path("onnx"), exported.calibration, str(out), _file(tmp_path, {"relu_3": (-2.0, 4.0)}))
    assert onnx_scales(out)["relu_3"] == pytest.approx(scale_of(0, 4))
    assert sum(node.op_type == "Relu" for node in onnx.load(out).graph.node) == 0


def test_tensorrt_gets_given_ranges_made_symmetric(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    ranges = {"max_pool2d": (0.0, 4.0), "cat": (-1.0, 3.0)}
    quantize_onnx_tensorrt(exported.path("onnx"), exported.calibration, str(out), _file(tmp_path, ranges))
    assert onnx_scales(out)["cat"] == pytest.approx((3 / 127, 0))


def test_a_tflite_file_has_the_given_ranges_and_true_ones_elsewhere(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "int8.tflite"
    names = tflite_outputs(Path(exported.path("tflite")))
    (pooled,), (joined,), (mean,) = names["MAX_POOL_2D"], names["CONCATENATION"], names["MEAN"]
    stem = names["DEPTHWISE_CONV_2D"][0]  # one channel in: the first convolution is one of these
    ranges = {stem: (0.0, 2.0), pooled: (0.0, 9.0), joined: (0.0, 6.0), mean: (-2.0, 3.0)}
    quantize_tflite(exported.path("tflite"), exported.calibration, str(out), ranges=_file(tmp_path, ranges))
    found = tflite_scales(out)
    assert found[mean] == pytest.approx(scale_of(-2, 3, least=-128))
    assert found[stem] == found[pooled] == pytest.approx(scale_of(0, 2, least=-128))
    (left, right) = names["CONV_2D"][:2]
    assert found[left] == found[right] == found[joined] == pytest.approx(scale_of(0, 6, least=-128))
    images = exported.images
    quantized = tflite_outputs(out)
    assert set(quantized) == set(names)  # no operator came in between
    assert found["serving_default_image"] == pytest.approx(scale_of(images.min(), images.max(), least=-128))


def test_where_every_range_is_given_the_samples_do_not_matter(exported: Exported, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", image=exported.images[:3] * 5)
    for kind, quantize in (("onnx", quantize_onnx), ("tflite", quantize_tflite)):
        names = (
            {name for node in onnx.load(exported.path("onnx")).graph.node for name in node.output} | {"image"}
            if kind == "onnx" else tensor_names(Path(exported.path("tflite")).read_bytes())
        )  # fmt: skip
        given = _file(tmp_path, dict.fromkeys(names, (-4.0, 4.0)))
        files: list[Path] = []
        for samples in (exported.calibration, str(tmp_path / "other.npz")):
            files.append(tmp_path / f"{len(files)}.{kind}")
            quantize(exported.path(kind), samples, str(files[-1]), ranges=given)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_node_that_is_kept_computes_in_float_on_float_weights(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    quantize_onnx(exported.path("onnx"), exported.calibration, str(out), keep=["node_Conv_83", "node_linear"])
    graph = onnx.load(out).graph
    weights = {each.name: each.data_type for each in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    for name, weight in (("node_Conv_83", "depthwise.0.weight"), ("node_linear", "classifier.weight")):
        assert nodes[name].input[1] == weight
        assert weights[weight] == TensorProto.FLOAT
    assert weights["project.0.weight_quantized"] == TensorProto.INT8
    assert "logits" not in onnx_scales(out)


def test_a_tflite_layer_that_is_kept_computes_in_float_on_float_weights(exported: Exported, tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    out = tmp_path / "int8.tflite"
    depthwise = tflite_outputs(Path(exported.path("tflite")))["DEPTHWISE_CONV_2D"][1]
    quantize_tflite(exported.path("tflite"), exported.calibration, str(out), keep=[depthwise])
    graph = schema.ModelT.InitFromPackedBuf(out.read_bytes(), 0).subgraphs[0]
    kinds = {}
    for operator in graph.operators:
        kinds[graph.tensors[operator.outputs[0]].name.decode()] = [graph.tensors[each].type for each in operator.inputs]
    assert set(kinds.pop(depthwise)) == {schema.TensorType.FLOAT32}
    convolutions = [types for types in kinds.values() if len(types) == 3]
    assert convolutions
    assert all(types == [schema.TensorType.INT8, schema.TensorType.INT8, schema.TensorType.INT32] for types in convolutions)


@pytest.mark.parametrize(("kind", "quantize"), [("onnx", quantize_onnx), ("tflite", quantize_tflite)])
def test_names_that_the_file_does_not_have_are_refused(kind: str, quantize: object, exported: Exported, tmp_path: Path) -> None:
    arguments = (exported.path(kind), exported.calibration, str(tmp_path / "out"))
    with pytest.raises(ExportError, match="has no tensor 'nothing'"):
        quantize(*arguments, ranges=_file(tmp_path, {"nothing": (0.0, 1.0)}))  # type: ignore[operator]
    with pytest.raises(ExportError, match="has no layer 'nothing'"):
        quantize(*arguments, keep=["nothing"])  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", ([2.0, 1.0], [0.0, float("inf")], [1.0]))
def test_what_is_no_range_is_refused(pair: list[float], tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(json.dumps({"x": pair}))
    with pytest.raises(ExportError, match="the range of 'x' is"):
        read_ranges(tmp_path / "ranges.json")


def test_a_layer_is_found_after_folding_merged_it_into_another(tmp_path: Path) -> None:
    """A convolution and the batch norm after it become one."""
    generator = np.random.default_rng(0)
    constants = {"w": generator.normal(size=(6, 2, 3, 3)), "v": generator.normal(size=(4, 6, 1, 1))}
    constants |= {name: generator.uniform(0.5, 2, 6) for name in ("scale", "shift", "mean", "variance")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv"),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "variance"], ["n"], "norm"),
        helper.make_node("Sigmoid", ["n"], ["s"], "sigmoid"), helper.make_node("Conv", ["s", "v"], ["y"], "last"),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 2, 5, 5])], [value("y", TensorProto.FLOAT, ["n", 4, 3, 3])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "fp32.onnx")
    x = generator.normal(size=(20, 2, 5, 5)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=x)
    arguments = (str(tmp_path / "fp32.onnx"), str(tmp_path / "calibration.npz"), str(tmp_path / "int8.onnx"))
    for keep in (["conv"], ["norm"]):
        quantize_onnx(*arguments, keep=keep)
        graph = onnx.load(tmp_path / "int8.onnx").graph
        weights = {each.name: each.data_type for each in graph.initializer}
        assert [weights.get(node.input[1]) for node in graph.node if node.op_type == "Conv"] == [TensorProto.FLOAT, None]
        assert weights["v_quantized"] == TensorProto.INT8
    quantize_onnx(*arguments, ranges=_file(tmp_path, {"h": (-1.0, 1.0), "s": (0.0, 1.5)}))  # h is gone
    assert onnx_scales(tmp_path / "int8.onnx")["s"] == pytest.approx(scale_of(0, 1.5))
    assert open_artifact(str(tmp_path / "int8.onnx"), "onnx")[0]({"x": x})["y"].shape == (20, 4, 3, 3)
