"""How a cut network is trained again depends on what the cut has left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.distill.teacher import VALIDATION_LOGITS
from edgekd.errors import RecipeError
from edgekd.prune.recovery import BOLD, GENTLE, lost_most, recovery_of
from edgekd.recipe_file import recipe_from_mapping
from tests.models.zoo_specs import spec_for

LABELS = np.arange(10).repeat(10)


def model(folder: Path, right: int) -> Any:
    """A trained network whose outputs are right on so many of 100 validation samples."""
    folder.mkdir()
    said = np.where(np.arange(100) < right, LABELS, (LABELS + 1) % 10)
    np.save(folder / VALIDATION_LOGITS, np.eye(10, dtype=np.float32)[said])
    return SimpleNamespace(weights=folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("before", "left", "lost"), [(90, 51, False), (90, 49, True), (90, 90, False), (90, 10, True), (10, 10, False)]
)
def test_half_of_the_accuracy_over_chance_is_most(before: int, left: int, lost: bool, tmp_path: Path) -> None:
    data: Any = SimpleNamespace(
        classes=tuple(map(str, range(10))), labels=LABELS, splits=SimpleNamespace(validation=np.arange(100))
    )
    assert lost_most(data, model(tmp_path / "before", before), model(tmp_path / "left", left)) == lost


def test_the_rate() -> None:
    convolutions, transformer = spec_for("resnet8"), spec_for("tiny_transformer")
    asked = recipe_from_mapping({"prune": {"epochs": 3}})
    assert recovery_of(asked, convolutions, True).learning_rate == BOLD > GENTLE
    assert recovery_of(asked, convolutions, False).learning_rate == GENTLE
    assert recovery_of(asked, transformer, True).learning_rate == GENTLE
    told = recovery_of(recipe_from_mapping({"prune": {"learning_rate": 2e-2}}), convolutions, True)
    assert told.learning_rate == 2e-2
    assert recovery_of(asked, convolutions, True).epochs == 3
    for wrong in (0, -1e-3, 11, "fast", True, None):
        with pytest.raises(RecipeError, match="neither auto nor a number"):
            recipe_from_mapping({"prune": {"learning_rate": wrong}})
