"""`edgekd prune --sparsity` as its user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from edgekd.cli.prune import command
from edgekd.errors import EdgekdError, ModelError, UsageError
from edgekd.models.spec import build, save_weights
from edgekd.prune.sparsity import check_pattern
from tests.models.zoo_specs import spec_for

_SHAPE = ("--shape", "1,8,8", "--classes", "10")


def _call(*arguments: str) -> str:
    done = CliRunner().invoke(command, [*arguments, "--no-measure"])
    if isinstance(done.exception, EdgekdError):
        raise done.exception
    assert done.exit_code == 0, done.exception
    return done.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    torch.manual_seed(0)
    save_weights(build(spec_for("resnet8", classes=10, size=8, channels=1)), file)
    return file


def test_a_pattern_without_a_cut(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out).mkdir()
    (out / "prune.json").write_text("of an earlier cut")
    arguments = ("zoo:resnet8", "--weights", str(weights), "--data", "digits", "--sparsity", "2:4", "--out", str(out))
    found = json.loads(_call(*arguments, "--json"))
    assert found == json.loads((out / "report.json").read_text())
    assert sorted(each.name for each in out.iterdir()) == ["pruned.safetensors", "report.json"]  # no record of other weights
    dense, sparse, zeros = load_file(weights), load_file(out / "pruned.safetensors"), found["zeros"]
    assert zeros["asked"] == "2:4" and zeros["share"] == 0.5
    assert zeros["left_dense"] == {"conv": "its 1 inputs are no whole number of groups of 4"}
    assert {f"{each['layer']}.weight" for each in zeros["layers"]} == {
        name for name, each in sparse.items() if each.ndim > 1 and (each == 0).any()
    }
    for each in zeros["layers"]:
        weight = sparse[f"{each['layer']}.weight"]
        assert check_pattern(weight, (2, 4)) == (each["zeros"], 0) and each["zeros"] * 2 == each["weights"] == weight.size
    assert all(np.array_equal(np.where(each == 0, 0, dense[name]), each) for name, each in sparse.items())
    stored = zeros["deflated_bytes"]
    assert stored["after"] < 0.65 * stored["before"] and zeros["size_bytes"] == (out / "pruned.safetensors").stat().st_size
    assert set(found["validation_top1"]) == {"before", "after"} and found["record"] is None
    for_people = _call(*arguments)
    assert "2:4: 50.0%" in for_people and "no faster" in for_people and "conv " in for_people and "stays dense" in for_people


def test_after_a_cut_and_on_what_was_cut(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    _call("zoo:resnet8", "--weights", str(weights), *_SHAPE, "--to", "macs=0.5x", "--sparsity", "0.75", "--per-layer",
          "--out", str(out), "-q")  # fmt: skip
    found = json.loads((out / "report.json").read_text())
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert all(abs(each["zeros"] - 0.75 * each["weights"]) <= 0.5 for each in found["zeros"]["layers"])
    assert set(found["zeros"]["left_dense"].values()) == {"the first layer", "the output layer"}
    # What was cut keeps its record, and gets the zeros of a pattern on top.
    again = tmp_path / "again"
    _call("zoo:resnet8", f"student.pruning={out / 'prune.json'}", "--weights", str(out / "pruned.safetensors"), *_SHAPE,
          "--sparsity", "2:4", "--sparse-layers", "pointwise", "--out", str(again), "-q")  # fmt: skip
    assert (again / "prune.json").read_text() == (out / "prune.json").read_text()
    zeros = json.loads((again / "report.json").read_text())["zeros"]
    assert [each["layer"] for each in zeros["layers"]] == ["stages.1.project", "stages.2.project", "classifier"]
    before, after = load_tensors(out / "pruned.safetensors"), load_tensors(again / "pruned.safetensors")
    assert all(bool((after[name][each == 0] == 0).all()) for name, each in before.items())


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((), UsageError, "nothing is to be cut or set to zero"),
    (("--sparsity", "1.2"), UsageError, "'1.2' is no sparsity"),
    (("--sparsity", "5:4"), UsageError, "5:4 has no zeros"),
    (("--sparsity", "0:4"), UsageError, "0:4 leaves no weight"),
    (("--sparsity", "many"), UsageError, "'many' is no sparsity"),
    (("--to", "macs=0.5x", "--sparsity", "many"), UsageError, "'many' is no sparsity"),
    (("--sparsity", "2:4", "--criterion", "taylor"), UsageError, "are for cuts"),
    (("--sparsity", "2:4", "--on", "pi4"), UsageError, "are for cuts"),
    (("--sparsity", "2:7"), ModelError, "no layer of zoo:resnet8 can have the zeros of sparsity 2:7"),
])  # fmt: skip
def test_mistakes(arguments: tuple[str, ...], error: type[EdgekdError], message: str, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        _call("zoo:resnet8", "--weights", str(weights), *_SHAPE, *arguments, "--out", str(tmp_path / "out"))
    assert type(caught.value) is error and "\n" not in caught.value.message and caught.value.hint
    assert not (tmp_path / "out").exists()
