"""TFLite files made by hand, and what is read from them."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import ModelError, UsageError
from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.tflite import describe_tflite
from tests.inspect.made_up import TfliteFile

pytest.importorskip("ai_edge_litert")


def _read(path: Path) -> GraphDescription:
    return graph_from_json(describe_tflite(str(path)))


def _dense(folder: Path) -> Path:
    from ai_edge_litert import schema_py_generated as schema

    file = TfliteFile()
    x = file.tensor("x", (1, 4), "int8", scale=[0.5], zero_point=-3)
    w = file.tensor("w", (3, 4), "int8", np.ones((3, 4), np.int8), scale=[0.1, 0.2, 0.3])
    b = file.tensor("b", (3,), "int32", np.ones(3, np.int32), scale=[0.05, 0.1, 0.15])
    y = file.tensor("x", (1, 3), "int8", scale=[0.25])
    file.operator("FULLY_CONNECTED", [x, w, b], [y], schema.FullyConnectedOptionsT())
    return file.write(folder / "m.tflite", [x], [y])


def test_an_integer_layer(tmp_path: Path) -> None:
    graph = _read(_dense(tmp_path))
    assert (graph.inputs, graph.outputs) == (("x",), ("x#3",))
    given, weight, bias = (graph.tensors[name] for name in ("x", "w", "b"))
    assert (given.dtype, given.scale, given.zero_point, given.per_channel, given.bytes) == ("int8", 0.5, -3, False, 4)
    assert (weight.role, weight.per_channel, weight.bytes, bias.role, bias.bytes) == ("weight", True, 12, "weight", 12)
    assert (graph.operators[0].macs, graph.operators[0].weight_bytes) == (12, 24)


def test_costs_of_every_weighted_operator(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    file = TfliteFile()
    x = file.tensor("x", (1, 6, 6, 4))

    def constant(name: str, *shape: int) -> int:
        return file.tensor(name, shape, values=np.ones(shape, np.float32))

    made = [file.tensor(name, shape) for name, shape in {
        "conv": (1, 4, 4, 8), "depthwise": (1, 4, 4, 8), "up": (1, 13, 13, 2), "product": (1, 6, 6, 6),
    }.items()]  # fmt: skip
    size = file.tensor("size", (4,), "int32", np.array([1, 13, 13, 2], np.int32))
    file.operator("CONV_2D", [x, constant("w1", 8, 3, 3, 4), constant("b1", 8)], made[:1])
    file.operator("DEPTHWISE_CONV_2D", [x, constant("w2", 1, 3, 3, 8), constant("b2", 8)], made[1:2])
    file.operator("TRANSPOSE_CONV", [size, constant("w3", 2, 3, 3, 4), x], made[2:3])
    options = schema.BatchMatMulOptionsT()
    options.adjY = True
    file.operator("BATCH_MATMUL", [x, x], made[3:], options)
    graph = _read(file.write(tmp_path / "m.tflite", [x], made))
    assert [each.macs for each in graph.operators] == [16 * 8 * 36, 16 * 8 * 9, 36 * 4 * 9 * 2, 6 * 6 * 6 * 4]


def test_weights_in_half_floats_are_stored_once_and_derived(tmp_path: Path) -> None:
    file = TfliteFile()
    x, y = file.tensor("x", (1, 4)), file.tensor("y", (1, 3))
    w = file.tensor("w", (3, 4), "float16", np.ones((3, 4), np.float16))
    d = file.tensor("d", (3, 4))
    file.operator("DEQUANTIZE", [w], [d])
    file.operator("FULLY_CONNECTED", [x, d, -1], [y])
    graph = _read(file.write(tmp_path / "m.tflite", [x], [y]))
    assert graph.is_folded(graph.operators[0])
    assert graph.operators[1].inputs == ("x", "d", "")
    assert [each.weight_bytes for each in graph.operators] == [0, 24]


def test_every_cut_is_told(tmp_path: Path) -> None:
    path = _dense(tmp_path)
    content = path.read_bytes()
    for length in range(8, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises((UsageError, ModelError)) as error:
            describe_tflite(str(path))
        assert "\n" not in error.value.message


@pytest.mark.parametrize("change", ["input", "output", "buffer", "code"])
def test_numbers_of_what_is_not_there_are_refused(change: str, tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    path = _dense(tmp_path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    if change == "input":
        graph.operators[0].inputs = [0, 99]
    elif change == "output":
        graph.outputs = [-7]
    elif change == "buffer":
        graph.tensors[1].buffer = 1000
    else:
        graph.operators[0].opcodeIndex = 5
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises((ModelError, UsageError), match="broken"):
        describe_tflite(str(path))
