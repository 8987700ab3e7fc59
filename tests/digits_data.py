"""A small real data set for tests: scikit-learn's digits through the real loader."""

from pathlib import Path

from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.progress import Silent
from edgekd.recipe import Recipe
from edgekd.workspace import open_workspace


def digits_data(folder: Path, recipe: Recipe | None = None) -> Dataset:
    """Return the digits, cached in ``folder``."""
    with open_workspace(folder, Silent()) as workspace:
        return load_data(recipe or Recipe(), workspace)
