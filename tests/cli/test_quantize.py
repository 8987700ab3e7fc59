"""`edgekd quantize` as its user calls it: a float file from anywhere in fewer bits, compared with itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekd.census import census
from edgekd.cli.quantize import command
from edgekd.errors import EdgekdError, GateMissed, ModelError, UsageError
from edgekd.flavours import ArtifactName
from edgekd.report.report import Report


def _call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, arguments)
    if isinstance(done.exception, EdgekdError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_float_file_becomes_int8_and_agrees(kind: str, finished: Report, tmp_path: Path) -> None:
    name: ArtifactName = "onnx-fp32" if kind == "onnx" else "tflite-fp32"
    file = tmp_path / f"net.{kind}"
    shutil.copy(finished.path(name), file)
    ranges = ["quantize.ranges=mse"] if kind == "tflite" else []
    code, printed = _call(str(file), "--data", "digits", "--json", *ranges)
    found = json.loads(printed)
    assert (code, found["path"], found["artifact"]) == (0, str(tmp_path / f"net.int8.{kind}"), f"{kind}-int8")
    assert found["size_bytes"] == Path(found["path"]).stat().st_size < found["source_size_bytes"] == file.stat().st_size
    assert found["comparison"]["samples"]["agreement"]["value"] >= 0.98
    assert census(found["path"], kind)["int8_weights"] > 0.9
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([file.name, f"net.int8.{kind}"])


@pytest.mark.slow
@pytest.mark.parametrize("disguise", ["uint8", "softmax"])
def test_the_file_is_fed_its_own_way(disguise: str, onnx_models: Path, tmp_path: Path) -> None:
    """Bytes, probabilities: ranges of images fed as edgekd trains would clip what such a file computes."""
    file = str(onnx_models / f"{disguise}.onnx")
    code, printed = _call(file, "--data", "digits", "--out", str(tmp_path), "--json", "quantize.ranges=minmax")
    found = json.loads(printed)
    assert code == 0
    assert found["comparison"]["models"][0]["metric"]["value"] > 0.9
    assert found["comparison"]["difference"]["drop"] <= 1.0


def test_a_fixed_batch_is_refused(onnx_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes 7 samples at a time"):
        _call(str(onnx_models / "fixed7.onnx"), "--data", "digits", "--out", str(tmp_path))


@pytest.mark.slow
def test_what_misses_a_limit_is_rejected_and_shown(finished: Report, tmp_path: Path) -> None:
    with pytest.raises(GateMissed) as missed:
        _call(
            str(finished.path("onnx-fp32")), "--artifact", "onnx-int4-weights", "--out", str(tmp_path), "--min-agreement", "1"
        )
    assert missed.value.exit_code == 4
    assert missed.value.message.startswith("limit missed: top-1 agreement: 0.")
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*.onnx")] == [
        "rejected/student.fp32.int4-weights.onnx"
    ]


def test_what_cannot_be_quantized_is_one_line(finished: Report, tmp_path: Path) -> None:
    float_file = str(finished.path("onnx-fp32"))
    (tmp_path / "net.txt").write_text("no network")
    for arguments, said in (
        ((float_file, "--artifact", "onnx-int9"), "a .onnx file cannot become onnx-int9; did you mean"),
        ((float_file, "--artifact", "tflite-int8"), "a .onnx file cannot become tflite-int8"),
        ((str(finished.path("onnx-int8")),), "is quantized already: "),
        ((str(finished.path("tflite-fp16")),), "has weights of 16 bits"),
        (
            (float_file, "export.license=MIT"),
            "'export.license=MIT' changes nothing here, allowed: data.*, seed, quantize.*, and",
        ),
        ((str(tmp_path / "net.txt"), "--data", "digits"), ""),
    ):
        with pytest.raises(UsageError) as refused:
            _call(*arguments, "--out", str(tmp_path / "out"))
        assert said in refused.value.message and "\n" not in refused.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_key_of_the_recipe_decides_the_samples(finished: Report, tmp_path: Path) -> None:
    """One sample sees less of the range than two hundred."""
    import onnx
    from onnx import numpy_helper

    scales = []
    for count in (1, 200):
        keys = (f"quantize.calibration_samples={count}", "quantize.ranges=minmax")
        out = ("--out", str(tmp_path / str(count)), "--min-agreement", "0", "--max-drop", "100", "-q")
        _call(str(finished.path("onnx-fp32")), *keys, *out)
        model = onnx.load(tmp_path / str(count) / "student.fp32.int8.onnx")
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        scales.append({name: value for name, value in constants.items() if name.endswith("_scale") and value.ndim == 0})
    assert scales[0].keys() == scales[1].keys()
    assert np.mean([float(scales[0][name]) < float(scales[1][name]) for name in scales[0]]) > 0.5
