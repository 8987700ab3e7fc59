"""The table of XNNPACK against the one in LiteRT: files of one operator, and whether the delegate takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.inspect.delegates import judge, runtimes
from edgekd.inspect.graph import graph_from_json
from edgekd.inspect.tflite import describe_tflite
from tests.inspect.made_up import TfliteFile

pytest.importorskip("ai_edge_litert")

UNARY = [
    "ABS",
    "CEIL",
    "COS",
    "ELU",
    "EXP",
    "FLOOR",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOG",
    "LOGISTIC",
    "NEG",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "RELU_N1_TO_1",
    "ROUND",
    "RSQRT",
    "SIGN",
    "SIN",
    "SQRT",
    "SQUARE",
    "TANH",
    "SOFTMAX",
    "L2_NORMALIZATION",
    "LOG_SOFTMAX",
    "ZEROS_LIKE",
]
BINARY = [
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAXIMUM",
    "MINIMUM",
    "SQUARED_DIFFERENCE",
    "POW",
    "FLOOR_DIV",
    "FLOOR_MOD",
    "EQUAL",
    "GREATER",
    "LESS",
    "GREATER_EQUAL",
    "LESS_EQUAL",
    "NOT_EQUAL",
    "BATCH_MATMUL",
    "CONCATENATION",
]
COMPARISONS = {"EQUAL", "GREATER", "LESS", "GREATER_EQUAL", "LESS_EQUAL", "NOT_EQUAL"}
SCALES = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0), "L2_NORMALIZATION": (1 / 128, 0)}


def _options(kind: str) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    names = {"SOFTMAX": "Softmax", "LEAKY_RELU": "LeakyRelu", "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div",
             "BATCH_MATMUL": "BatchMatMul", "CONCATENATION": "Concatenation", "GELU": "Gelu", "TRANSPOSE": "Transpose",
             "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "MEAN": "Reducer", "SUM": "Reducer",
             "REDUCE_PROD": "Reducer", "SQUEEZE": "Squeeze", "PACK": "Pack"}  # fmt: skip
    if kind not in names:
        return None
    options = getattr(schema, f"{names[kind]}OptionsT")()
    values = {"beta": 1.0, "alpha": 0.5, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "keepDims": True,
              "valuesCount": 1, "squeezeDims": [0]}  # fmt: skip
    for name, value in values.items():
        if hasattr(options, name):
            setattr(options, name, value)
    if kind == "CONCATENATION":
        options.axis = 3
    return options


def _one_operator(path: Path, kind: str, dtype: str) -> Path:
    """Write a file of one operator on 4x4 maps of 4 channels."""
    file = TfliteFile()
    quantized: dict[str, Any] = {"scale": [0.1]} if dtype == "int8" else {}
    made = dict(quantized)
    if quantized and kind in SCALES:
        made = {"scale": [SCALES[kind][0]], "zero_point": SCALES[kind][1]}
    inputs = [file.tensor(f"x{index}", (1, 4, 4, 4), dtype, **quantized) for index in range(2 if kind in BINARY else 1)]
    constant, out = SHAPED.get(kind, (None, (1, 4, 4, 8) if kind == "CONCATENATION" else (1, 4, 4, 4)))
    given = list(inputs)
    if constant is not None:
        given.append(file.tensor("c", constant.shape, "int32", constant))
    output = file.tensor("y", out, "bool" if kind in COMPARISONS else dtype, **({} if kind in COMPARISONS else made))
    file.operator(kind, given, [output], _options(kind))
    return file.write(path, inputs, [output])


SHAPED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "TRANSPOSE": (np.array([0, 3, 1, 2], np.int32), (1, 4, 4, 4)), "MEAN": (np.array([1, 2], np.int32), (1, 1, 1, 4)),
    "SUM": (np.array([1, 2], np.int32), (1, 1, 1, 4)), "REDUCE_PROD": (np.array([1, 2], np.int32), (1, 1, 1, 4)),
    "PAD": (np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32), (1, 6, 4, 4)), "TILE": (np.array([2, 1, 1, 1], np.int32), (2, 4, 4, 4)),
    "AVERAGE_POOL_2D": (None, (1, 2, 2, 4)), "MAX_POOL_2D": (None, (1, 2, 2, 4)), "SQUEEZE": (None, (4, 4, 4)),
    "EXPAND_DIMS": (np.array([0], np.int32), (1, 1, 4, 4, 4)), "PACK": (None, (1, 1, 4, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_operators_the_delegate_takes_are_those_of_the_table(dtype: str, tmp_path: Path) -> None:
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    version = getattr(ai_edge_litert, "__version__", None) or _installed("ai-edge-litert")
    if f"ai-edge-litert {version}" not in next(each for each in runtimes() if each.id == "xnnpack").version:
        pytest.skip(f"ai-edge-litert {version} is not what the table describes")
    measured, judged = {}, {}
    for kind in (*UNARY, *BINARY, *SHAPED):
        path = _one_operator(tmp_path / f"{kind}.tflite", kind, dtype)
        interpreter = Interpreter(str(path), num_threads=1)
        try:
            interpreter.allocate_tensors()
        except RuntimeError:
            continue  # no kernel of LiteRT computes this in this dtype, so no file has it
        measured[kind] = any(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
        verdict = next(each for each in judge(graph_from_json(describe_tflite(str(path)))) if each.runtime.id == "xnnpack")
        judged[kind] = verdict.delegated == 1
    assert judged == measured
    assert len(measured) > 30
    assert any(measured.values())
    assert not all(measured.values())


def _installed(package: str) -> str:
    from importlib.metadata import version

    return version(package)


@pytest.mark.parametrize(
    "scales", [(1.0, 2**-10 * 1.01, 1.0), (1.0, 2**-10 * 0.99, 1.0), (254.0, 1.0, 1.0), (258.0, 1.0, 1.0), (2**-9, 2**-8, 1.0)]
)
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_scales_too_far_apart(kind: str, scales: tuple[float, ...], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    file = TfliteFile()
    x, w, y = (file.tensor(name, (1, 8), "int8", scale=[scale]) for name, scale in zip("xwy", scales, strict=True))
    file.operator(kind, [x, w], [y], _options(kind))
    path = file.write(tmp_path / "m.tflite", [x, w], [y])
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    taken = any(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
    found = next(each for each in judge(graph_from_json(describe_tflite(str(path)))) if each.runtime.id == "xnnpack")
    assert (found.delegated == 1) == taken
    assert [each.reason for each in found.refusals] == ([] if taken else ["scale"])
