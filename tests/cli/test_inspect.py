"""``edgekd inspect``: what a terminal of 80 columns shows, and one JSON object."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from edgekd.cli.inspect import command
from edgekd.errors import UsageError
from edgekd.inspect.delegates import runtimes
from edgekd.inspect.inspection import inspect_file, to_json
from tests.inspect.onnx_files import qdq


def _show(*arguments: str) -> str:
    shown = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.output


def test_everything_is_told_in_80_columns(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    shown = _show(str(path))
    assert max(map(len, shown.splitlines()[1:])) <= 80
    for expected in (
        "n x 4", "MACs", "parameters", "20 B", "int8 100.0%", "integers by 3 of 3 operators", "DequantizeLinear 3", "MatMul 1",
        "to integers 3, to floats 4, 2 left", "0 transposes", "TensorRT (Jetson)", "a zero point is not 0",
        "fix: use the symmetric int8 flavour", "no integer kernels, so in float between two conversions: Relu x1",
        "inputs have open dimensions", "opset",
    ):  # fmt: skip
        assert expected in " ".join(shown.split()) or expected in shown, expected
    for each in runtimes():
        assert (each.name in shown) == (each.format == "onnx")
    assert "Softmax" not in shown.partition("Largest layers")[2].partition("Runtimes")[0]
    assert "Softmax" in _show(str(path), "--layers").partition("Layers")[2].partition("Runtimes")[0]


def test_several_files_follow_one_another(tmp_path: Path) -> None:
    first, second = qdq(tmp_path / "a.onnx"), qdq(tmp_path / "b.onnx", 0)
    content = json.loads(_show(str(first), str(second), "--json"))
    assert content == {"files": [json.loads(json.dumps(to_json(inspect_file(each)))) for each in (first, second)]}
    with pytest.raises(UsageError, match="No such file"):
        CliRunner().invoke(command, [str(first), str(tmp_path / "no.onnx"), "--json"], catch_exceptions=False)


def test_names_in_a_file_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    model = onnx.load(path)
    hostile = "\x1b[2J[bold]x\u202e"
    model.graph.input[0].name = hostile
    model.graph.node[1].input[0] = hostile
    model.graph.node[3].name = hostile
    model.graph.node[3].op_type = "Magic\x07"
    model.producer_name = hostile
    onnx.save(model, path)
    shown = _show(str(path), "--layers")
    assert not any(each in shown for each in "\x1b\x07\u202e")
    assert "?[2J[bold]x?" in shown
    assert "Magic?" in shown


def test_a_target_has_its_own_runtimes_alone(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    (found,) = json.loads(_show(str(path), "--target", "jetson", "--json"))["files"]
    assert [each["id"] for each in found["runtimes"]] == ["tensorrt"]
    shown = _show(str(path), "--target", "raspberry-pi")
    assert "ONNX Runtime Mobile" in shown
    assert "TensorRT (Jetson)" not in shown
    with pytest.raises(UsageError, match="did you mean 'ios'"):
        _show(str(path), "--target", "io")
