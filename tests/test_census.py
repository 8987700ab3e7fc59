"""The census against files whose insides are known."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.census import census
from edgekd.report.report import Report


def _qdq_file(path: Path, float_weights: int) -> None:
    """One int8 matrix product of 4x4 weights behind DequantizeLinear, and a float one of 4 x ``float_weights``."""
    scale, zero = numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.array(0, np.int8), "z")
    int8 = numpy_helper.from_array(np.ones((4, 4), np.int8), "w8")
    real = numpy_helper.from_array(np.ones((4, float_weights), np.float32), "w32")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["h"]),
        helper.make_node("MatMul", ["h", "w32"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", float_weights])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [scale, zero, int8, real])
    onnx.save(helper.make_model(graph), path)


def test_onnx_shares_are_those_of_the_bytes(tmp_path: Path) -> None:
    _qdq_file(tmp_path / "m.onnx", 3)
    found = census(str(tmp_path / "m.onnx"), "onnx")
    assert found["int8_weights"] == pytest.approx(16 / (16 + 4 * 3 * 4))
    assert found["int8_ops"] == 0.5


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32", "tflite-fp16", "onnx-int8", "tflite-int8"])
def test_artifacts_of_a_run(finished: Report, name: str) -> None:
    kind, _, precision = name.partition("-")
    found = census(str(finished.path(name)), kind)  # type: ignore[arg-type]
    shares = {f"{each}_weights": float(each == precision) for each in ("int8", "int4", "fp16", "fp32")}
    assert found == {**shares, "int8_ops": float(precision == "int8")}
