"""From the recipe's data section to a :class:`~edgekd.data.dataset.Dataset`: read once, then split."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from edgekd.data.cache import IDS, LABELS, PARTS
from edgekd.data.dataset import Dataset, Raw
from edgekd.data.folder import skipped_message
from edgekd.data.sources import source_module
from edgekd.data.splits import split
from edgekd.data.statistics import image_statistics
from edgekd.errors import DataError
from edgekd.models.tensors import image_input
from edgekd.recipe import Recipe
from edgekd.workspace import StageResult, Workspace


def load_data(recipe: Recipe, workspace: Workspace) -> Dataset:
    """Read the recipe's data source into the workspace once, and split it.

    Raises:
        DataError: The source is missing, broken, has one class only, or is too small to split.
    """
    options = recipe.data
    source = source_module(options)
    stage = workspace.stage(
        "data",
        f"read {options.source}",
        {"kind": options.source.partition(":")[0], **source.fingerprint(options)},
        lambda cache: source.write_cache(cache, options, workspace.listener.stage_advanced),
        _describe,
    )
    if stage.result["skipped"]:
        workspace.listener.warned(skipped_message(stage.result["skipped"]))
    return _open(stage, recipe)


def _describe(result: dict[str, Any]) -> str:
    count, *shape = result["shape"]
    return f"{count:,} images of {'x'.join(map(str, shape))} in {len(result['classes'])} classes"


def _open(stage: StageResult, recipe: Recipe) -> Dataset:
    found, options = stage.result, recipe.data
    labels = np.load(stage.path(LABELS), allow_pickle=False)
    classes = tuple(found["classes"])
    splits = split(
        labels, classes, options.validation, options.test, recipe.seed, np.load(stage.path(PARTS), allow_pickle=False)
    )
    path = stage.path("image.npy")
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if options.image_size is not None and images.shape[1] != options.image_size:
        raise DataError(
            f"data.image_size is {options.image_size}, but {options.source} has images of {images.shape[1]} pixels",
            "leave data.image_size out for this source",
        )
    mean, std = image_statistics(images, splits.train, found["full_scale"])
    inputs = (image_input(images.shape[1:], mean, std),)
    digest = hashlib.sha256(json.dumps([sorted(stage.files.items()), classes, splits.digest()]).encode()).hexdigest()
    return Dataset(
        kind="image", raw={"image": Raw(path, images, found["full_scale"])}, inputs=inputs, labels=labels,
        ids_file=stage.path(IDS), classes=classes, splits=splits, digest=digest, skipped=tuple(found["skipped"]),
    )  # fmt: skip
