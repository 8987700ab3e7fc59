"""The layers that a plan names are those that a run compares, found without weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from edgekd.data.cache import Preview
from edgekd.distill.layer_terms import layer_term
from edgekd.distill.planned_layers import planned_inputs, planned_layers
from edgekd.errors import ModelError, UsageError
from edgekd.models.spec import build, call
from edgekd.models.tensors import classifier
from edgekd.recipe_file import recipe_from_mapping

IMAGES = Preview("image", tuple("abcd"), (9,) * 4, {}, (), (32, 32, 3))
GREY = Preview("image", tuple("abcd"), (9,) * 4, {}, (), (8, 8, 1))
TEXTS = Preview("text", tuple("ab"), (9, 9), {}, (), (12,))
SOUNDS = Preview("waveform", tuple("abc"), (9,) * 3, {}, (), (16_000,), 16_000)
ROWS = Preview("features", tuple("ab"), (9, 9), {}, (), (6,))


def _lines(preview: Preview, recipe: Mapping[str, Any]) -> list[list[str]]:
    whole = recipe_from_mapping(recipe)
    return planned_layers(whole, whole.distill.losses, preview)


@pytest.mark.parametrize(
    ("preview", "teacher", "student", "losses"),
    [
        (IMAGES, {"model": "zoo:resnet20"}, {"model": "zoo:resnet8"}, ["at", "fitnet", "rkd", "reviewkd_hcl"]),
        (TEXTS, {"model": "zoo:tiny_transformer", "arguments": {"layers": 4}}, {"model": "zoo:tiny_transformer"},
         ["minilmv2", "tinybert_att", "tinybert_hidden"]),
        (SOUNDS, {"model": "zoo:ds_cnn", "arguments": {"width": 2.0}}, {"model": "zoo:ds_cnn"}, ["at", "fitnet", "rkd"]),
        (ROWS, {"model": "zoo:mlp"}, {"model": "zoo:mlp"}, ["rkd"]),
    ],
)  # fmt: skip
def test_each_loss_is_told_with_the_layers_that_training_compares(
    preview: Preview, teacher: dict[str, Any], student: dict[str, Any], losses: list[str]
) -> None:
    recipe = recipe_from_mapping({"teacher": teacher, "student": student, "distill": {"losses": losses}})
    (lines,) = planned_layers(recipe, recipe.distill.losses, preview)
    inputs = planned_inputs(recipe, preview)
    own, other = (
        classifier(each["model"], inputs, preview.classes, each.get("arguments")) for each in (student, teacher)
    )  # fmt: skip
    torch.manual_seed(7)
    learner, taught = build(own), build(other)
    compared = [
        (term.name, *pair)
        for loss in recipe.distill.losses
        for term in [layer_term(loss, learner, own, taught, lambda given: call(taught, other, given))]
        for pair in term.pairs
    ]
    told = []
    for line in lines[1:]:
        name, _, rest = line.partition(": ")
        mine, _, theirs = rest.partition(" <- ")
        told.append((name, mine.partition(" (")[0], theirs.partition(" (")[0]))
    assert lines[0] == "student <- teacher"
    assert told == compared
    assert {name for name, _, _ in told} == set(losses)


def test_every_training_from_inner_layers_is_told() -> None:
    chain = {
        "teacher": {"model": "zoo:resnet20"}, "student": {"model": "zoo:shallow_cnn"},
        "distill": {"losses": ["at"], "assistants": [{"model": "zoo:resnet8"}, {"arguments": {"width": 2.0}}]},
    }  # fmt: skip
    heads = [lines[0] for lines in _lines(IMAGES, chain)]
    assert heads == ["assistant-1 <- teacher", "assistant-2 <- assistant-1", "student <- assistant-2"]
    again = {"student": {"model": "zoo:resnet8"}, "distill": {"losses": ["fitnet"], "scheme": "born-again"}}
    (lines,) = _lines(IMAGES, again)
    assert lines[0] == "a generation <- the one before"
    assert lines[1] == "fitnet: stages.1 (32x16x16) <- stages.1 (32x16x16), conv 1x1"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of a vision transformer, and no weights."""
    folder = tmp_path_factory.mktemp("vit")
    transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, num_labels=4
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_teacher_on_disk_needs_no_weights_and_is_fed_its_own_size(vit: Path) -> None:
    recipe = {"teacher": {"model": f"hf:{vit}"}, "student": {"model": "zoo:shallow_cnn"}, "distill": {"losses": ["rkd", "at"]}}
    ((_, rkd, at),) = _lines(GREY, recipe)  # 8x8 and grey; the transformer takes 16x16 and colour: 4 patches and a class
    assert rkd == "rkd: classifier:input (24) <- model.classifier:input (24)"
    assert at == "at: features.2 (24x4x4) <- model.vit.layers.1 (5x24), student pooled to 2x2"
    halved = {"teacher": {"model": f"hf:{vit}"}, "student": {"model": "from-teacher"}, "distill": {"losses": ["minilmv2"]}}
    colour = Preview("image", tuple("abcd"), (9,) * 4, {}, (), (16, 16, 3))
    ((_, line),) = _lines(colour, halved)
    assert line.startswith("minilmv2: model.vit.layers.0 (5x24) <- model.vit.layers.2 (5x24)")


def test_configurations_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    recipe = {"teacher": {"model": f"hf:{tmp_path}"}, "student": {"model": "zoo:shallow_cnn"}, "distill": {"losses": ["at"]}}
    with pytest.raises(ModelError, match="cannot load hf:") as error:
        _lines(GREY, recipe)
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"student": "stages.2", "teacher": "stagse.2"}, r"fitnet: the teacher has no module 'stagse.2'; did you mean 'stages.2'\?"),
        ({"student": "clasifier", "teacher": "stages.2"}, r"the student has no module 'clasifier'; did you mean 'classifier"),
    ],
)  # fmt: skip
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(pair: dict[str, str], message: str) -> None:
    recipe = {
        "teacher": {"model": "zoo:resnet20"}, "student": {"model": "zoo:resnet8"},
        "distill": {"losses": [{"name": "fitnet", "layers": [pair]}]},
    }  # fmt: skip
    with pytest.raises(UsageError, match=message) as error:
        _lines(IMAGES, recipe)
    assert error.value.exit_code == 2
    assert "layers found in the" in str(error.value.hint)


def test_code_of_ones_own_is_named_prints_to_stderr_and_no_random_number_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nprint('imported')\n"
        "def net(classes, channels):\n    print('built')\n"
        "    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    recipe = {
        "teacher": {"model": "zoo:resnet20"}, "student": {"model": "python:own.py:net"}, "distill": {"losses": ["rkd"]},
    }  # fmt: skip
    ((head, line),) = _lines(IMAGES, recipe)
    assert head == "student <- teacher; the code of own.py ran to build them"
    assert line == "rkd: 6:input (8) <- classifier:input (64)"
    assert torch.equal(torch.get_rng_state(), before)
    out, err = capsys.readouterr()
    assert out == ""
    assert "built" in err
