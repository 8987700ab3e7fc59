"""A student that was trained elsewhere: pixels of the wrong range are found before any file is made of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.schemes.none import take_student
from edgekd.distill.stages import student_spec
from edgekd.errors import ModelError
from edgekd.progress import Silent
from edgekd.recipe_file import recipe_from_mapping
from edgekd.workspace import open_workspace
from tests.models.disguises import digits

NETWORK = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture
def network(tmp_path: Path) -> tuple[str, str]:
    """A linear classifier of pixels from 0 to 255, solved for: its module and its weights."""
    (tmp_path / "net.py").write_text(NETWORK)
    images, labels = digits()
    rows = np.c_[255 * images.reshape(-1, 64).astype(np.float64), np.ones(len(images))]
    solved = np.linalg.lstsq(rows, 10.0 * np.eye(10)[labels], rcond=1e-6)[0].T.astype(np.float32)
    weights = {"1.weight": torch.from_numpy(solved[:, :64].copy()), "1.bias": torch.from_numpy(solved[:, 64].copy())}
    save_file(weights, tmp_path / "net.safetensors")
    return f"python:{tmp_path / 'net.py'}:make", str(tmp_path / "net.safetensors")


def _take(network: tuple[str, str], out: Path, **preprocess: list[float]) -> float:
    model, weights = network
    student = {"model": model, "weights": weights, "preprocess": preprocess}
    recipe = recipe_from_mapping({"student": student, "distill": {"scheme": "none"}})
    with open_workspace(out, Silent()) as workspace:
        data = load_data(recipe, workspace)
        return take_student(recipe, student_spec(recipe, data)[0], data, 1, workspace).metric.value


def test_pixels_of_the_wrong_range_are_one_line(network: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"black and white are 0 and 255, \d+\.\d% as normalised") as error:
        _take(network, tmp_path / "out")
    assert error.value.exit_code == 3
    assert "\n" not in error.value.message
    assert "student.preprocess.value_range=[0,255]" in str(error.value.hint)


def test_what_the_recipe_says_is_taken(network: tuple[str, str], tmp_path: Path) -> None:
    assert _take(network, tmp_path / "right", value_range=[0, 255]) > 0.9
    # Said to be so, it is: the report will tell how bad it is.
    assert _take(network, tmp_path / "wrong", value_range=[-1, 1]) < 0.9


def test_pixels_are_tried_on_every_class(network: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of class folders are in order of classes: their beginning is one class, which broken pixels may look like."""
    model, weights = network
    student = {"model": model, "weights": weights}
    recipe = recipe_from_mapping({"student": student, "distill": {"scheme": "none"}})
    asked: list[list[int]] = []

    def one_class(network: object, spec: object, data: Dataset, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(data.labels[indices].tolist())
        return np.tile(np.eye(10, dtype=np.float32)[0], (len(indices), 1))

    monkeypatch.setattr("edgekd.distill.schemes.none.predict", one_class)
    monkeypatch.setattr("edgekd.distill.schemes.none._MOST_ASKED", 30)
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        data = load_data(recipe, workspace)
        held_out = data.splits.validation
        in_order = replace(data.splits, validation=held_out[np.argsort(data.labels[held_out], kind="stable")])
        take_student(recipe, student_spec(recipe, data)[0], replace(data, splits=in_order), 1, workspace)
    assert sorted(asked[0]) == sorted([*range(10)] * 3)
