"""A student of the teacher's own kind: which layers it keeps, and where it starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.errors import UsageError
from edgekd.models.derive import derive_student, inherit
from edgekd.models.transformer import tiny_transformer
from edgekd.recipe import TeacherMember


def _member(model: str, **arguments: Any) -> TeacherMember:
    return TeacherMember(model=model, arguments=arguments)


def test_a_transformer_keeps_every_second_layer() -> None:
    reference, arguments, kept = derive_student(_member("zoo:tiny_transformer", layers=6, hidden=64), {})
    assert (reference, arguments, kept) == ("zoo:tiny_transformer", {"layers": 3, "hidden": 64}, (0, 2, 4))


def test_the_recipe_may_ask_for_another_number_of_layers() -> None:
    assert derive_student(_member("zoo:tiny_transformer", layers=12), {"layers": 4})[2] == (0, 3, 6, 9)
    for wrong in (0, 13, "4", 2.5):
        with pytest.raises(UsageError, match="the teacher has 12 layers"):
            derive_student(_member("zoo:tiny_transformer", layers=12), {"layers": wrong})


def test_other_networks_of_the_zoo_are_halved_in_width() -> None:
    assert derive_student(_member("zoo:resnet20"), {}) == ("zoo:resnet20", {"width": 0.5}, None)
    assert derive_student(_member("zoo:resnet20", width=0.5), {})[1] == {"width": 0.25}
    assert derive_student(_member("zoo:resnet20"), {"width": 0.75})[1] == {"width": 0.75}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("torchvision:resnet18", "zoo:resnet18"), ("timm:mobilenetv3_small_100", "zoo:mobilenet_v3_small"),
        ("timm:efficientnet_lite0", "zoo:efficientnet_lite0"),
    ],
)  # fmt: skip
def test_architectures_that_the_zoo_knows_become_narrow_ones_of_it(reference: str, expected: str) -> None:
    assert derive_student(_member(reference), {}) == (expected, {"width": 0.5}, None)


@pytest.mark.parametrize(("key", "model_type"), [("num_hidden_layers", "bert"), ("n_layers", "distilbert")])
def test_transformers_folders_tell_their_layers(tmp_path: Path, key: str, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, key: 6}))
    assert derive_student(_member(f"hf:{tmp_path}"), {}) == (f"hf:{tmp_path}", {key: 3}, (0, 2, 4))


@pytest.mark.parametrize("kind", ["onnx", "keras", "tflite", "pt2"])
def test_a_black_box_shows_no_layers(kind: str) -> None:
    with pytest.raises(UsageError, match="shows its outputs alone, no layers"):
        derive_student(_member(f"{kind}:model"), {})


def test_what_cannot_be_made_smaller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not known"):
        derive_student(_member("python:net.py:make"), {})
    with pytest.raises(UsageError, match="fewer than two"):
        derive_student(_member("zoo:tiny_transformer", layers=1), {})
    with pytest.raises(UsageError, match="no number"):
        derive_student(_member("zoo:resnet20", width="wide"), {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read the configuration"):
        derive_student(_member(f"hf:{tmp_path}"), {})


def test_every_layer_starts_from_the_right_one_of_the_teacher() -> None:
    torch.manual_seed(0)
    teacher, student = tiny_transformer(50, 3, layers=4, hidden=16), tiny_transformer(50, 3, layers=2, hidden=16)
    taken = inherit(student, teacher.state_dict(), (0, 2))
    assert taken == len(student.state_dict())
    theirs, own = teacher.state_dict(), student.state_dict()
    for name, value in own.items():
        source = name.replace("layer.1.", "layer.2.")
        assert torch.equal(value, theirs[source])


def test_a_student_that_starts_from_all_layers_is_the_teacher() -> None:
    teacher, student = tiny_transformer(50, 3, layers=2, hidden=16).eval(), tiny_transformer(50, 3, layers=2, hidden=16).eval()
    inherit(student, teacher.state_dict(), (0, 1))
    tokens, mask = torch.randint(0, 50, (4, 7)), torch.ones(4, 7, dtype=torch.int64)
    assert torch.equal(student(tokens, mask), teacher(tokens, mask))


def test_tensors_of_another_shape_stay_fresh() -> None:
    teacher, student = tiny_transformer(50, 3, hidden=16), tiny_transformer(50, 5, hidden=16)
    before = student.state_dict()["classifier.weight"].clone()
    assert inherit(student, teacher.state_dict(), (0, 1)) == len(student.state_dict()) - 2
    assert torch.equal(student.state_dict()["classifier.weight"], before)
