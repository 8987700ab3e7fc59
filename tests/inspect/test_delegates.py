"""Verdicts: partitions by hand, and the tables against the packages that they describe."""

from pathlib import Path
from typing import Any

import pytest

from edgekd.inspect.delegates import Runtime, Verdict, judge, partitions, runtimes
from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.integer import fuse
from edgekd.inspect.onnx import describe_onnx
from tests.inspect.graphs import graph, operator, tensor
from tests.inspect.onnx_files import qdq


def _verdict(made: GraphDescription, name: str) -> Verdict:
    return next(each for each in judge(made) if each.runtime.id == name)


def _runtime(name: str) -> Runtime:
    return next(each for each in runtimes() if each.id == name)


def test_a_refused_operator_in_a_chain_cuts_it() -> None:
    operators = [
        operator("RELU", "x", "a"),
        operator("CUSTOM Own", "a", "b"),
        operator("RELU", "b", "c"),
        operator("RELU", "c", "y"),
    ]
    found = _verdict(graph([], operators, "x", "y"), "xnnpack")
    assert (found.operators, found.delegated, found.delegated_partitions, found.fallback_partitions) == (4, 3, 2, 1)
    assert [(each.kind, each.reason, each.names) for each in found.refusals] == [("CUSTOM Own", "unknown", ("b",))]


def test_operators_off_to_a_side_cut_nothing() -> None:
    # x -> a -> b -> y, and x -> s -> t -> y with s refused: it runs first or last of its side, beside a and b.
    operators = [
        operator("R", "x", "a"),
        operator("S", "x", "s"),
        operator("R", "a", "b"),
        operator("R", "s", "t"),
        operator("R", "b t", "y"),
    ]
    assert partitions(operators, [True, False, True, True, True]) == [(True, [0, 2]), (False, [1]), (True, [3, 4])]
    assert partitions(operators, [True] * 5) == [(True, [0, 1, 2, 3, 4])]
    assert partitions(operators, [False, True, False, False, False]) == [(False, [0, 2]), (True, [1]), (False, [3, 4])]
    assert partitions([], []) == []


def test_order_within_a_side_is_that_of_inputs() -> None:
    operators = [operator("S", "x", "s"), operator("R", "s", "a"), operator("S", "x", "t"), operator("R", "a t", "y")]
    assert partitions(operators, [False, True, False, True]) == [(False, [0, 2]), (True, [1, 3])]


def test_dtypes_ranks_and_shapes_are_looked_at() -> None:
    tensors = [
        tensor("i", dtype="int64"),
        tensor("d", dtype="float64"),
        tensor("five", (1, 2, 3, 4, 5)),
        tensor("open", (1, None)),
    ]
    operators = [
        operator("CAST", "x", "i"), operator("ADD", "d d2", "e"), operator("RESHAPE", "x", "five"), operator("RELU", "open", "z"),
    ]  # fmt: skip
    found = _verdict(graph(tensors, operators, "x d d2 open", "i e five z"), "litert-gpu")
    assert {(each.kind, each.reason) for each in found.refusals} == {
        ("CAST", "int64"), ("ADD", "float64"), ("RESHAPE", "rank"), ("RELU", "shape"),
    }  # fmt: skip
    assert all(each.fix for each in found.refusals)
    assert "RESHAPE" not in {each.kind for each in _verdict(graph(tensors, operators, "x", "five"), "xnnpack").refusals}


def test_open_inputs_are_told() -> None:
    open_batch = tensor("x", declared=("batch", 4))
    found = _verdict(graph([open_batch], [operator("RELU", "x", "y")], "x", "y"), "litert-gpu")
    assert any("open dimensions" in note and "fixed batch" in note for note in found.notes)
    assert not _verdict(graph([], [operator("RELU", "x", "y")], "x", "y"), "litert-gpu").notes


def test_integer_weights_under_floats_and_scales_per_channel() -> None:
    weight = tensor("w", (4, 4), "int8", role="weight", scale=0.1, zero_point=0, per_channel=True)
    hybrid = graph([weight], [operator("FULLY_CONNECTED", "x w", "y")], "x", "y")
    assert _verdict(hybrid, "xnnpack").refusals == ()
    assert [each.reason for each in _verdict(hybrid, "coreml-tflite").refusals] == ["hybrid"]
    assert [each.reason for each in _verdict(hybrid, "nnapi-tflite").refusals] == ["per-channel"]


def test_tensorrt_wants_the_symmetric_flavour(tmp_path: Path) -> None:
    def found(zero: int, dtype: str) -> Verdict:
        return _verdict(fuse(graph_from_json(describe_onnx(str(qdq(tmp_path / "m.onnx", zero, dtype))))), "tensorrt")

    assert found(0, "int8").refusals == ()
    assert {each.reason for each in found(3, "int8").refusals} == {"zero-point"}
    assert {each.reason for each in found(3, "uint8").refusals} == {"uint8"}
    for each in (*found(3, "int8").refusals, *found(3, "uint8").refusals):
        assert "symmetric int8 flavour" in each.fix


def test_computed_weights_are_refused_where_they_must_be_stored() -> None:
    made = graph([], [operator("Gemm", "a b", "y")], "a b", "y", "onnx")
    assert [each.reason for each in _verdict(made, "coreml-onnx").refusals] == ["constant"]
    assert _verdict(made, "ort-mobile").refusals == ()


def test_unknown_operators_are_never_taken() -> None:
    for kind in ("onnx", "tflite"):
        made = graph([], [operator("own.Magic", "x", "y")], "x", "y", kind)
        for found in judge(made):
            assert (found.delegated, found.refusals[0].reason) == (0, "unknown")


def test_every_table_names_its_source_and_version() -> None:
    assert len({each.id for each in runtimes()}) == len(runtimes()) == 8
    for each in runtimes():
        assert each.source
        assert each.version
        assert not each.refuses & frozenset[str]().union(*each.takes.values()), each.id


@pytest.mark.parametrize(
    ("name", "file"), [("nnapi-onnx", "nnapi_supported_ops.md"), ("coreml-onnx", "coreml_supported_mlprogram_ops.md")]
)
def test_tables_of_onnx_runtime_are_those_of_its_package(name: str, file: str) -> None:
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "tools" / "mobile_helpers" / file
    if f"onnxruntime {onnxruntime.__version__}" not in _runtime(name).version or not path.is_file():
        pytest.skip(f"the table describes {_runtime(name).version}")
    cells = [line.split("|")[1] for line in path.read_text().splitlines() if line.startswith("|ai.onnx") or "|com." in line]
    theirs = {each.removeprefix("ai.onnx:").removeprefix("ai.onnx.").replace(":", ".").lower() for each in cells}
    assert {each.lower() for each in _runtime(name).known} == theirs


def test_the_table_of_onnx_runtime_mobile_is_its_registry_of_kernels() -> None:
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    table = _runtime("ort-mobile")
    if f"onnxruntime {onnxruntime.__version__}" not in table.version or not hasattr(state, "get_all_opkernel_def"):
        pytest.skip(f"the table describes {table.version}")
    kernels = {each.op_name if each.domain == "" else f"{each.domain}.{each.op_name}" for each in state.get_all_opkernel_def()}
    schemas: Any = onnx.defs.get_all_schemas()
    functions = {each.name for each in schemas if each.has_function or each.has_context_dependent_function}
    assert table.known <= kernels | functions
    assert {"Conv", "QLinearConv", "MatMulInteger", "com.microsoft.QGemm"} <= table.known
