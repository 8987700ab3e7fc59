"""Loading of any source, and what a refusal must look like."""

import re
from pathlib import Path
from typing import Any

import pytest

from edgekd.data.cache import Preview
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.data.sources import source_module
from edgekd.errors import DataError
from edgekd.progress import Silent
from edgekd.recipe import Data, Recipe
from edgekd.workspace import open_workspace


def load(source: str, out: Path, seed: int = 0, **options: Any) -> Dataset:
    """Return what ``data.source=source`` is, read into the run folder ``out``."""
    data = Data.model_validate({"source": source, **options})
    with open_workspace(out, Silent()) as workspace:
        return load_data(Recipe(seed=seed, data=data), workspace)


def preview(source: str, **options: Any) -> Preview:
    """Return what ``edgekd plan`` shows of a source."""
    data = Data.model_validate({"source": source, **options})
    return source_module(data).preview(data)


def refusal(source: str, out: Path, **options: Any) -> str:
    """Return the one line that refuses a source; it must end with exit code 2, give a hint, and leave no half a cache."""
    with pytest.raises(DataError) as caught:
        load(source, out, **options)
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in error.message
    assert error.hint
    finished = (out / "stages" / "journal.jsonl").is_file()  # read whole, and refused by what follows
    left = [path.name for path in out.rglob("*") if path.is_file() and path.parent.name.startswith("data-")]
    assert finished or not left, left
    return re.sub(r"\s+", " ", error.message)


def parts_of(data: Dataset) -> dict[str, list[str]]:
    """Return the names of the samples of each split."""
    splits = {"train": data.splits.train, "validation": data.splits.validation, "test": data.splits.test}
    ids = data.ids
    return {name: [ids[index] for index in indices] for name, indices in splits.items()}
