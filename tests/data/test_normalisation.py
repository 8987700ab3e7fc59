"""Samples as a student that was trained elsewhere wants them: checked on the values that it gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.data.normalisation import as_the_student_takes
from edgekd.errors import UsageError
from edgekd.models.tensors import TensorSpec
from edgekd.progress import Silent
from edgekd.recipe import Normalisation
from edgekd.recipe_file import recipe_from_mapping
from edgekd.workspace import open_workspace
from tests.models.disguises import digits

FEATURES = TensorSpec("features", "float32", (2,), "NC", "features", None, (1.0, 2.0), (3.0, 4.0))
TOKENS = TensorSpec("input_ids", "int32", (8,), "NC", "tokens")


def _load(out: Path, **preprocess: Any) -> Dataset:
    with open_workspace(out, Silent()) as workspace:
        return load_data(recipe_from_mapping({"student": {"preprocess": preprocess}}), workspace)


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ({"value_range": [0, 255]}, lambda x: x * 255),
        ({"value_range": [-1, 1]}, lambda x: x * 2 - 1),
        ({"mean": [0.5], "std": [0.25]}, lambda x: (x - 0.5) / 0.25),
        ({"value_range": [0, 255], "mean": [127.5], "std": [10]}, lambda x: (x * 255 - 127.5) / 10),
    ],
)
def test_images_are_what_the_recipe_says(tmp_path: Path, preprocess: dict[str, Any], expected: Any) -> None:
    data = _load(tmp_path / "run", **preprocess)
    images = digits()[0]
    found = data.batch(np.arange(50))["image"]
    np.testing.assert_allclose(found, expected(images[:50].astype(np.float64)), rtol=0, atol=2e-5 * np.abs(found).max())


def test_other_normalisation_is_other_data_and_none_is_as_before(tmp_path: Path) -> None:
    plain, other, third = (
        _load(tmp_path / name, **given)
        for name, given in (("a", {}), ("b", {"value_range": [0, 255]}), ("c", {"value_range": [0, 254]}))
    )
    assert len({plain.digest, other.digest, third.digest}) == 3
    assert plain.inputs[0].std is not None
    assert abs(float(plain.batch(plain.splits.train)["image"].std()) - 1) < 1e-3


def test_features_have_a_value_for_each_column() -> None:
    (found,) = as_the_student_takes(Normalisation(mean=(5.0, 6.0), std=(7.0, 8.0)), (FEATURES,), "csv:a.csv")
    assert (found.mean, found.std) == ((5.0, 6.0), (7.0, 8.0))
    (found,) = as_the_student_takes(Normalisation(mean=(5.0,), std=(7.0,)), (FEATURES,), "csv:a.csv")
    assert (found.mean, found.std) == ((5.0, 5.0), (7.0, 7.0))
    assert as_the_student_takes(Normalisation(), (FEATURES,), "csv:a.csv") == (FEATURES,)


@pytest.mark.parametrize(
    ("given", "spec", "said"),
    [
        ({"mean": (1.0, 2.0, 3.0), "std": (1.0, 2.0, 3.0)}, FEATURES, "mean has 3 values, the data has 2 channels"),
        ({"value_range": (0.0, 255.0)}, FEATURES, "value_range is for images"),
        ({"mean": (1.0,), "std": (1.0,)}, TOKENS, "is for images and features, csv:a.csv has tokens"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(given: dict[str, Any], spec: TensorSpec, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        as_the_student_takes(Normalisation(**given), (spec,), "csv:a.csv")
    assert error.value.exit_code == 2
    assert "\n" not in error.value.message
    assert error.value.hint
