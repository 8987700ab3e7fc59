"""Whole inspections, of good files and of all kinds of bad ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekd.errors import EdgekdError, ModelError, ResourceError, UsageError
from edgekd.inspect import inspection
from edgekd.inspect.inspection import Layout, inspect_file, layout, to_json
from tests.inspect.graphs import graph, operator
from tests.inspect.onnx_files import qdq, write
from tests.safe.hostile import mutants


def test_an_int8_file(tmp_path: Path) -> None:
    found = inspect_file(qdq(tmp_path / "m.onnx"))
    assert (found.parameters, found.weight_bytes, found.macs, found.unknown_macs) == (20, 20, 20, ())
    assert found.census == {"weight_bytes": {"int8": 20}, "integer_operators": 3, "float_operators": 0}
    assert found.layout == Layout(0, (), 3, 4)
    assert dict(found.operators) == {"QuantizeLinear": 3, "DequantizeLinear": 3, "MatMul": 1, "Relu": 1, "Softmax": 1}
    assert dict(found.folded) == {"DequantizeLinear": 1}
    assert found.size_bytes == (tmp_path / "m.onnx").stat().st_size


def test_json_is_plain_and_complete(tmp_path: Path) -> None:
    content = json.loads(json.dumps(to_json(inspect_file(qdq(tmp_path / "m.onnx"))), allow_nan=False))
    assert content["inputs"] == [
        {"name": "x", "shape": ["n", 4], "shape_of_batch_1": [1, 4], "dtype": "float32", "scale": None, "zero_point": None}
    ]
    assert content["layout"] == {"transposes": 0, "border_transposes": [], "quantize": 3, "dequantize": 4}
    assert content["layers"][1] == {
        "name": "h", "kind": "MatMul", "macs": 20, "weight_bytes": 20, "output_shape": [1, 5], "dtype": "int8",
    }  # fmt: skip
    assert {each["id"] for each in content["runtimes"]} == {"ort-mobile", "nnapi-onnx", "coreml-onnx", "tensorrt"}
    documented = to_json.__doc__ or ""
    assert all(key in documented for key in content)


def test_transposes_at_the_borders_are_told_from_others() -> None:
    operators = [
        operator("QUANTIZE", "image", "q"), operator("TRANSPOSE", "q", "t"), operator("TRANSPOSE", "t", "inner"),
        operator("TRANSPOSE", "inner", "last"), operator("CAST", "last", "y"),
    ]  # fmt: skip
    assert layout(graph([], operators, "image", "y")) == Layout(3, ("t", "last"), 1, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.onnx", None, "cannot read .*no.onnx: No such file"), ("m.onnx", b"", "is empty"), ("m.tflite", b"", "is empty"),
        ("m.pt", b"x", r"ends in '.pt', allowed: .onnx, .tflite"), ("m.onx", b"x", "did you mean '.onnx'"), ("m", b"x", "ends in ''"),
        ("a" * 300 + ".onnx", None, "cannot read"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_exit_2(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        inspect_file(tmp_path / name)
    assert "\n" not in error.value.message


def test_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        inspect_file(tmp_path)
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(UsageError):
        inspect_file(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
def test_other_files_are_no_models(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"hello world, this is no model")
    with pytest.raises(ModelError, match=r"is no (ONNX|TFLite)"):
        inspect_file(tmp_path / name)


def test_external_data_elsewhere_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import external_data_helper

    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["n", 64]},
        {"y": ["n", 64]},
        {"w": np.ones((64, 64), np.float32)},
    )
    model = onnx.load(path)
    external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'/etc/passwd', outside its folder"):
        inspect_file(path)


def _kept_logs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Path]:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return list(folder.glob("edgekd-inspect-*"))


def test_too_large_a_file_ends_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MEMORY_BYTES", 8 << 30)
    with (tmp_path / "m.tflite").open("wb") as file:
        file.write(b"\x1c\0\0\0TFL3")
        file.truncate(9 << 30)  # a file with a hole: it takes no space
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(9 << 30)
    with pytest.raises((ResourceError, UsageError)):
        inspect_file(tmp_path / "m.tflite")
    with pytest.raises(ModelError, match="2 GiB"):
        inspect_file(tmp_path / "m.onnx")


def test_a_reader_that_hangs_or_fails_leaves_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_TIMEOUT_S", 0.05)
    _kept_logs(monkeypatch, tmp_path)
    with pytest.raises(ResourceError, match="cannot be read in 8 GiB of memory") as error:
        inspect_file(qdq(tmp_path / "m.onnx"))
    assert str(_kept_logs(monkeypatch, tmp_path)[0]) in str(error.value.hint)


def test_a_good_inspection_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kept_logs(monkeypatch, tmp_path)
    inspect_file(qdq(tmp_path / "m.onnx"))
    assert _kept_logs(monkeypatch, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_truncated_files_are_one_line(kind: str, tmp_path: Path, onnx_models: Path) -> None:
    """At 20 places, drawn at random."""
    path = tmp_path / f"m.{kind}"
    content = (onnx_models / "nchw.onnx").read_bytes() if kind == "onnx" else _tflite(tmp_path).read_bytes()
    draw = np.random.default_rng(0)
    for length in draw.integers(1, len(content), 20):
        path.write_bytes(content[:length])
        with pytest.raises(EdgekdError) as error:
            inspect_file(path)
        assert error.value.exit_code in {2, 3}
        assert "\n" not in error.value.message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_broken_files_are_read_or_one_line(
    kind: str, tmp_path: Path, onnx_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is read in a process of its own; a crash of a library there is an error message here."""
    _kept_logs(monkeypatch, tmp_path)
    path = tmp_path / f"m.{kind}"
    content = (onnx_models / "nchw.onnx").read_bytes() if kind == "onnx" else _tflite(tmp_path).read_bytes()
    outcomes = set()
    for broken in mutants(content, 12, seed=3):
        path.write_bytes(broken)
        try:
            json.dumps(to_json(inspect_file(path)))
            outcomes.add(0)
        except EdgekdError as error:
            assert error.exit_code in {2, 3, 6}, error
            assert "\n" not in error.message
            outcomes.add(error.exit_code)
    assert outcomes & {2, 3}


def _tflite(folder: Path) -> Path:
    from tests.inspect.made_up import TfliteFile

    file = TfliteFile()
    x, y = file.tensor("x", (1, 16)), file.tensor("y", (1, 64))
    w = file.tensor("w", (64, 16), values=np.ones((64, 16), np.float32))
    b = file.tensor("b", (64,), values=np.ones(64, np.float32))
    file.operator("FULLY_CONNECTED", [x, w, b], [y])
    return file.write(folder / "good.tflite", [x], [y])
