"""The whole pipeline on real data: what it leaves, that it is true, and that running again is free."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_digits

import edgekd
from edgekd.errors import UsageError
from edgekd.flavours import DEFAULT_ARTIFACTS
from edgekd.recipe_file import load_recipe
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file
from tests.conftest import QUICK

FILES = ["student.fp32.onnx", "student.int8.onnx", "student.fp32.tflite", "student.fp16.tflite", "student.int8.tflite"]


def _report(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((report.folder / "report.json").read_text())
    return content


def test_every_file_is_there_and_every_gate_passed(finished: Report) -> None:
    assert finished.ok
    assert [each.name for each in finished.artifacts] == list(DEFAULT_ARTIFACTS)
    for name in [*FILES, "labels.txt"]:
        assert (finished.folder / "artifacts" / name).is_file()
    assert (finished.folder / "artifacts" / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    assert not (finished.folder / "rejected").exists()
    assert finished.teacher is not None
    assert (finished.teacher.cost.params or 0) >= 20 * (finished.student.cost.params or 0) > 0


def test_manifest_lists_every_file_with_its_hash(finished: Report) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    found = {
        str(path.relative_to(finished.folder)): sha256_file(path)
        for path in finished.folder.rglob("*")
        if path.is_file() and "stages" not in path.parts and path.name != "manifest.json"
    }
    assert {each["path"]: each["sha256"] for each in manifest["files"]} == found


def test_written_recipe_makes_the_same_recipe(finished: Report) -> None:
    assert load_recipe(finished.folder / "recipe.yaml") == finished.recipe


def test_report_has_the_fields_of_schema_1(finished: Report) -> None:
    report = _report(finished)
    assert {"schema", "status", "task", "seed", "teacher", "student", "artifacts", "gates", "environment"} <= report.keys()
    assert (report["schema"], report["status"], report["task"]) == (1, "ok", "classification")
    for network in (report["teacher"], report["student"]):
        assert {"name", "params", "macs", "size_bytes", "metric"} <= network.keys()
    assert {"method", "compression_ratio"} <= report["student"].keys()
    for each in report["artifacts"]:
        assert {"path", "format", "precision", "size_bytes", "sha256", "inputs", "outputs", "metric"} <= each.keys()
        assert {"max_abs_error", "agreement", "n"} <= each["parity"].keys()
        assert {"int8_weights", "int4_weights", "fp16_weights", "fp32_weights", "int8_ops"} == each["dtypes"].keys()
        assert sha256_file(finished.folder / each["path"]) == each["sha256"]
        assert (finished.folder / each["path"]).stat().st_size == each["size_bytes"]
        low, high = each["metric"]["ci95"]
        assert 0 <= low <= each["metric"]["value"] <= high <= 1
        assert {"host:1", "host:all"} == each["latency"].keys()
        for latency in each["latency"].values():
            assert latency["kind"] == "measured"
            assert 0 < latency["low_ms"] <= latency["p50_ms"] <= latency["high_ms"]
            assert latency["p50_ms"] <= latency["p90_ms"]
            assert latency["runs"] == 20
    for gate in report["gates"]:
        assert {"name", "limit", "value", "passed"} <= gate.keys()


def _stranger_accuracy(report: Report, artifact: dict[str, Any]) -> float:
    """Accuracy by nothing but report.json's description, splits.json and the original data set."""
    digits = load_digits()
    test = [int(name.removeprefix("digits:")) for name in json.loads((report.folder / "splits.json").read_text())["test"]]
    (given,), (taken,) = artifact["inputs"], artifact["outputs"]
    low, high = given["value_range"]
    images = digits.images[test][..., None] / 16.0 * (high - low) + low
    images = (images - given["mean"]) / given["std"]
    if given["layout"] == "NCHW":
        images = images.transpose(0, 3, 1, 2)
    if given["scale"] is not None:
        info = np.iinfo(given["dtype"])
        images = np.clip(np.round(images / given["scale"] + given["zero_point"]), info.min, info.max)
    images = images.astype(given["dtype"])
    path = str(report.folder / artifact["path"])
    if artifact["format"] == "onnx":
        session = onnxruntime.InferenceSession(path)
        (outputs,) = session.run([taken["name"]], {given["name"]: images})
    else:
        interpreter = Interpreter(path)
        runner = interpreter.get_signature_runner()
        outputs = np.concatenate([runner(**{given["name"]: image[None]})[taken["name"]] for image in images])
    labels = [int(taken["labels"][index]) for index in outputs.argmax(1)]
    return float(np.mean(labels == digits.target[test]))


@pytest.mark.parametrize("file", FILES)
def test_a_stranger_gets_the_reported_accuracy(finished: Report, file: str) -> None:
    artifact = next(each for each in _report(finished)["artifacts"] if each["path"].endswith(file))
    assert _stranger_accuracy(finished, artifact) == pytest.approx(artifact["metric"]["value"], abs=1e-12)


@pytest.mark.parametrize("file", ["student.fp32.onnx", "student.int8.onnx"])
def test_onnx_is_self_contained_with_dynamic_batch_and_no_local_paths(finished: Report, tmp_path: Path, file: str) -> None:
    alone = tmp_path / file
    shutil.copy(finished.folder / "artifacts" / file, alone)
    content = alone.read_bytes()
    for trace in (rb"/tmp", rb"/home", rb"\.py\b", rb"site-packages", re.escape(str(finished.folder)).encode()):
        assert not re.search(trace, content)
    model = onnx.load(alone, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    session = onnxruntime.InferenceSession(str(alone))
    for batch in (1, 3, 17):
        assert session.run(None, {"image": np.zeros((batch, 1, 8, 8), np.float32)})[0].shape == (batch, 10)


@pytest.mark.parametrize("file", [name for name in FILES if name.endswith("tflite")])
def test_tflite_takes_nhwc(finished: Report, file: str) -> None:
    (details,) = Interpreter(str(finished.folder / "artifacts" / file)).get_input_details()
    assert details["shape"].tolist() == [1, 8, 8, 1]
    assert (details["dtype"] == np.int8) == (file == "student.int8.tflite")


def test_running_again_does_nothing_and_a_change_redoes_what_depends_on_it(finished: Report, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished.folder, out)
    before = {each.name: each.verified.artifact.sha256 for each in finished.artifacts}

    again = edgekd.compress("digits", out, QUICK)
    assert again.redone == ()
    assert {each.name: each.verified.artifact.sha256 for each in again.artifacts} == before

    fewer = edgekd.compress("digits", out, [*QUICK, "quantize.calibration_samples=100"])
    stages = ("try-", "", "metadata-", "verify-", "golden-", "benchmark-")
    changed = {f"{stage}{name}" for name in ("onnx-int8", "tflite-int8") for stage in stages}
    changed |= {"observe-onnx", "observe-tflite"}
    assert set(fewer.redone) <= changed
    assert {"onnx-int8", "tflite-int8"} <= set(fewer.redone)

    timed = edgekd.compress("digits", out, [*QUICK, "benchmark.runs=10"])
    assert set(timed.redone) == {f"benchmark-{name}" for name in DEFAULT_ARTIFACTS}

    gated = edgekd.compress("digits", out, [*QUICK, "gates.max_size_kib=14", "export.artifacts=[onnx-int8, tflite-fp32]"])
    assert gated.redone == ()
    assert not gated.ok
    assert (out / "rejected" / "student.fp32.tflite").is_file()
    assert sorted(path.name for path in (out / "artifacts").iterdir()) == ["labels.txt", "student.int8.onnx"]
    missed = [gate for gate in gated.gates if not gate.passed]
    assert [(gate.artifact, gate.limit) for gate in missed] == [("tflite-fp32", 14.0)]
    assert json.loads((out / "report.json").read_text())["status"] == "gate-missed"


def test_a_harmed_artifact_is_made_again(finished: Report, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished.folder, out)
    for stage in ("onnx-int8", "metadata-onnx-int8"):
        (victim,) = out.glob(f"stages/{stage}-*/student.int8.onnx")
        expected = victim.read_bytes()
        victim.write_bytes(expected[:-1] + b"?")
        assert edgekd.compress("digits", out, QUICK).redone == (stage,)
        assert victim.read_bytes() == expected
    assert (out / "artifacts" / "student.int8.onnx").read_bytes() == expected


def test_report_page_is_self_contained_and_escapes_what_users_wrote(finished: Report, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished.folder, out)
    report = edgekd.compress("digits", out, [*QUICK, "name=<script>alert(1)</script>"])
    page = report.html.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 2
    assert not any(trace in page for trace in ("src=", "@import", "<link", "url(http"))
    for name in FILES:
        assert name in page


def test_the_api_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'digist'"):
        edgekd.compress("digist", tmp_path)


def test_another_folder_gives_the_same_bytes(finished: Report, tmp_path: Path) -> None:
    again = edgekd.compress("digits", tmp_path / "elsewhere", QUICK)
    assert {each.name: each.verified.artifact.sha256 for each in again.artifacts} == {
        each.name: each.verified.artifact.sha256 for each in finished.artifacts
    }
    golden = [str(path.relative_to(finished.folder)) for path in sorted(finished.folder.glob("golden/*/*"))]
    assert len(golden) == 4 * len(FILES)
    for name in golden:
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
