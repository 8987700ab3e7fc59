"""`edgekd prune` as its user calls it, and what takes its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edgekd.cli.prune import command
from edgekd.data.load import load_data
from edgekd.distill.schemes.none import take_student
from edgekd.distill.stages import student_spec
from edgekd.errors import EdgekdError, ModelError, UsageError
from edgekd.models.spec import build, save_weights
from edgekd.pipeline import compress
from edgekd.planning import plan
from edgekd.progress import Silent
from edgekd.prune.stages import prune_student
from edgekd.recipe_file import recipe_from_mapping
from edgekd.workspace import open_workspace
from tests.models.zoo_specs import spec_for
from tests.prune.networks import QUICK


def _call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, [*arguments, "--no-measure"])
    if isinstance(done.exception, EdgekdError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    torch.manual_seed(0)
    save_weights(build(spec_for("resnet8", classes=10, size=8, channels=1)), file)
    return file


def test_with_data(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed = _call(
        "zoo:resnet8", "--weights", str(weights), "--data", "digits", "--to", "macs=0.5x", "--criterion", "taylor", "--on", "pi4",
        "--out", str(out), "--json",
    )  # fmt: skip
    found = json.loads(printed)
    assert code == 0 and found == json.loads((out / "report.json").read_text())
    assert sorted(each.name for each in out.iterdir()) == ["prune.json", "pruned.safetensors", "report.json", "sensitivity.svg"]
    assert (out / "sensitivity.svg").read_text().count("stages.0.conv1") >= 1 and found["host_latency"] is None
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    latency = found["predicted_latency"]
    assert latency["device"] == "pi4" and latency["after"]["p50_ms"] < latency["before"]["p50_ms"]
    assert [each["layer"] for each in found["sensitivity"]["layers"]] == [each["layer"] for each in found["layers"]]
    assert all(len(each["losses"]) == len(found["sensitivity"]["ratios"]) for each in found["sensitivity"]["layers"])
    assert found["kept_whole"] == {"classifier": "its channels are outputs of the network"}
    assert set(found["loss"]) == set(found["validation_top1"]) == {"before", "after"}
    # What was cut is a student of recipes, and can be cut further.
    planned = plan(recipe_from_mapping({
        "student": {"model": "zoo:resnet8", "weights": str(out / "pruned.safetensors"), "pruning": str(out / "prune.json")},
        "distill": {"scheme": "none"}, "export": {"artifacts": ["onnx-fp32"]},
    }))  # fmt: skip
    assert any("narrower by" in each.what for each in planned.stages)
    _call(
        "zoo:resnet8", f"student.pruning={out / 'prune.json'}", "--weights", str(out / "pruned.safetensors"),
        "--shape", "1,8,8", "--classes", "10", "--to", "macs=0.8x", "--multiple", "4", "--out", str(tmp_path / "again"), "-q",
    )  # fmt: skip
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["before"] == found["after"] and again["after"]["macs"] <= 0.8 * again["before"]["macs"]


def test_layers_that_must_not_be_cut_stay_whole(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.prune.sensitivity.Curves.sensitive", lambda self: {"conv": "it hurts"})
    for budget, whole in (("macs=0.7x", True), ("macs=0.15x", False), ("ratio=0.5", False)):
        _, printed = _call(
            "zoo:resnet8", "--weights", str(weights), "--data", "digits", "--to", budget, "--out", str(tmp_path), "--json"
        )
        found = json.loads(printed)
        assert ("conv" not in {each["layer"] for each in found["layers"]}) is whole
        assert (found["kept_whole"].get("conv") == "it hurts") is whole
        assert found["after"]["macs"] < 0.71 * found["before"]["macs"]


def test_for_people(weights: Path, tmp_path: Path) -> None:
    _, printed = _call("zoo:resnet8", "--weights", str(weights), "--shape", "1,8,8", "--classes", "10", "--to", "latency=0.8x@pi4",
                       "--out", str(tmp_path))  # fmt: skip
    assert "predicted on pi4" in printed and "channels" in printed and str(tmp_path / "prune.json") in printed
    assert "classifier" in printed and "stays whole" in printed


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (("--to", "macs=0.5x"), UsageError, "what the network takes and gives is not known"),
    (("--to", "macs=half", "--shape", "1,8,8", "--classes", "10"), UsageError, "is no amount"),
    (("--to", "macs=0.5x", "--shape", "8x8", "--classes", "10"), UsageError, "is not a list of sizes"),
    (("--to", "macs=0.5x", "--shape", "1,8,8", "--classes", "10", "--criterion", "best"), UsageError, "no criterion 'best'"),
    (("--to", "macs=0.5x", "--shape", "1,8,8", "--classes", "10", "--criterion", "taylor"), UsageError, "looks at samples"),
    (("--to", "latency=0.5x@nowhere", "--shape", "1,8,8", "--classes", "10"), UsageError, "no device profile"),
    (("--to", "latency=0.5x@jetson_nano", "--shape", "1,8,8", "--classes", "10"), UsageError, "is not predicted"),
    (("--to", "macs=0.01x", "--shape", "1,8,8", "--classes", "10"), ModelError, "below what can be reached"),
    (("--to", "macs=0.5x", "--shape", "3,8,8", "--classes", "10"), ModelError, "does not fit"),
    (("distill.alpha=1", "--to", "macs=0.5x", "--shape", "1,8,8", "--classes", "10"), UsageError, "changes nothing here"),
])  # fmt: skip
def test_mistakes(arguments: tuple[str, ...], error: type[EdgekdError], message: str, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        _call("zoo:resnet8", "--weights", str(weights), *arguments, "--out", str(tmp_path / "out"))
    assert type(caught.value) is error and "\n" not in caught.value.message
    assert not (tmp_path / "out" / "prune.json").exists()


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="comes without weights"):
        _call("zoo:resnet8", "--shape", "1,8,8", "--classes", "10", "--to", "macs=0.5x", "--out", str(tmp_path))


def test_the_plan_tells_of_it() -> None:
    stages = {each.name: each.what for each in plan("digits", ["prune.target=macs=0.5x", "prune.steps=2"]).stages}
    assert "macs=0.5x" in stages["prune"] and "2 steps" in stages["prune"] and "10 epochs" in stages["recover"]
    assert "prune" not in {each.name for each in plan("digits").stages}


def test_a_step_that_the_one_before_took_already_cuts_nothing(weights: Path, tmp_path: Path) -> None:
    prune = {"target": "macs=0.9x", "criterion": "magnitude", "steps": 2, "epochs": 0, "multiple": 32}
    recipe = recipe_from_mapping(
        {"student": {"model": "zoo:resnet8", "weights": str(weights)}, "distill": {"scheme": "none"}, "prune": prune}
    )
    with open_workspace(tmp_path / "run", Silent()) as workspace:
        data = load_data(recipe, workspace)
        student = take_student(recipe, student_spec(recipe, data)[0], data, 1, workspace)
        left = prune_student(recipe, data, student, None, 1, workspace)
    assert left.pruning is not None
    first, second = (each["macs"] for each in left.pruning.cuts)
    assert first[1] <= 0.9 * first[0] and first[1] == second[0] == second[1]


@pytest.mark.slow
def test_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [
        "student.model=zoo:resnet8", "prune.target=macs=0.5x", "prune.steps=2", "prune.epochs=3", "distill.train.epochs=6",
        "teacher.train.epochs=4", "export.artifacts=[onnx-fp32]", "distill.control=false", "threads=1",
        "targets=[pi4]",
    ]  # fmt: skip
    monkeypatch.setattr("edgekd.prune.measured.IN_TURNS", QUICK)
    report = compress("digits", tmp_path / "run", overrides)
    pruning = report.to_json()["pruning"]
    first, last = pruning["cuts"]
    assert last["macs"][1] <= 0.5 * first["macs"][0] < first["macs"][1]
    assert report.student.cost.macs == last["macs"][1]
    assert all(each["learning_rate"] in {1e-3, 4e-3} for each in pruning["training"])
    # It learned again what the cuts took.
    assert report.student.metric.value > last["top1"] and report.student.metric.value > pruning["before"]["value"] - 0.05
    assert "cut to macs=0.5x" in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "cut to macs=0.5x" in page and "Layers: what was cut where" in page and "stages.1.conv1" in page
    (timed,) = pruning["latency"]["host"]
    assert timed["file"] == "onnx-fp32" and 0 < timed["low"] <= timed["ratio"] <= timed["high"]
    assert [each["device"] for each in pruning["latency"]["predicted"]] == ["pi4"]
    assert len(pruning["sensitivity"]["layers"]) == 6 and pruning["sensitivity"]["samples"] == 256
