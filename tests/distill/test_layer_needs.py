"""A black box cannot teach by its layers, and the plan says so without torch."""

import subprocess
import sys

import pytest

from edgekd.distill.layer_needs import check_layer_needs
from edgekd.errors import UsageError
from edgekd.models.references import KINDS
from edgekd.recipe import Distill, Recipe, Teacher
from edgekd.recipe_distill import DistillLoss


def _recipe(model: str, *losses: str, scheme: str = "offline") -> Recipe:
    names = tuple(DistillLoss(name=each) for each in losses)
    return Recipe(teacher=Teacher(model=model), distill=Distill(scheme=scheme, losses=names))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [name for name, each in KINDS.items() if not each.layers])
def test_black_boxes_are_refused(kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_layer_needs(_recipe(f"{kind}:teacher.bin", "kd", "reviewkd_hcl"))
    assert caught.value.message == (
        f"reviewkd_hcl compares inner layers, but teacher {kind}:teacher.bin is a black box: it shows its outputs alone"
    )
    assert caught.value.hint is not None
    assert "kd" in caught.value.hint


def test_others_pass() -> None:
    check_layer_needs(_recipe("onnx:teacher.onnx", "kd", "dist"))
    check_layer_needs(_recipe("zoo:resnet20", "kd", "reviewkd_hcl"))
    check_layer_needs(_recipe("onnx:teacher.onnx", "kd", scheme="ema"))


def test_torch_is_not_imported() -> None:
    code = "import sys, edgekd.distill.layer_needs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
