"""Which promises can be judged at all."""

import subprocess
import sys

import pytest

from edgekd.errors import UsageError
from edgekd.gates import check_gates_possible
from edgekd.recipe_distill import TEACHERLESS
from edgekd.recipe_file import recipe_from_mapping


@pytest.mark.parametrize("scheme", TEACHERLESS)
def test_nobody_falls_behind_a_teacher_that_is_not_there(scheme: str) -> None:
    recipe = recipe_from_mapping({"distill": {"scheme": scheme}, "gates": {"max_teacher_drop": 2.0}})
    with pytest.raises(
        UsageError, match=rf"gates.max_teacher_drop is set, but distill.scheme={scheme} has no teacher"
    ) as error:
        check_gates_possible(recipe)
    assert "gates.max_teacher_drop=null" in str(error.value.hint)
    check_gates_possible(recipe_from_mapping(recipe.model_dump(mode="json"), ["gates.max_teacher_drop=null"]))


def test_with_a_teacher_every_gate_is_possible() -> None:
    check_gates_possible(recipe_from_mapping({"gates": {"max_teacher_drop": 2.0, "max_size_kib": 10.0}}))


def test_it_needs_no_torch() -> None:
    code = "import sys, edgekd.gates; assert not {'torch', 'tensorflow', 'onnxruntime'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
