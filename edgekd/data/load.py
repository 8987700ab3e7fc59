"""From the recipe's data section to a :class:`~edgekd.data.dataset.Dataset`: read once, then split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.bad_samples import NOUNS, skipped_message
from edgekd.data.cache import IDS, LABELS, PARTS
from edgekd.data.classes import check_class_names
from edgekd.data.dataset import Dataset, Raw
from edgekd.data.normalisation import as_the_student_takes
from edgekd.data.rows import open_rows
from edgekd.data.sources import source_module
from edgekd.data.splits import Splits, split
from edgekd.data.statistics import feature_statistics, image_statistics
from edgekd.data.tokens import TOKENIZER, VOCABULARY, tokenize
from edgekd.errors import DataError
from edgekd.models.tensors import TensorSpec, image_input
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
        workspace.listener.warned(skipped_message(stage.result["skipped"], stage.result["kind"]))
    return _open(stage, recipe, workspace)


def _describe(result: dict[str, Any]) -> str:
    count, *shape = result["shape"]
    size = f" of {'x'.join(map(str, shape))}" if shape else ""
    return f"{count:,} {NOUNS[result['kind']]}{size} in {len(result['classes'])} classes"


def _open(stage: StageResult, recipe: Recipe, workspace: Workspace) -> Dataset:
    found, options = stage.result, recipe.data
    labels = np.load(stage.path(LABELS), allow_pickle=False)
    classes = tuple(found["classes"])
    check_class_names(classes, options.source)
    parts = np.load(stage.path(PARTS), allow_pickle=False)
    splits = split(labels, classes, options.validation, options.test, recipe.seed, parts)
    raw, measured, files, made = _INPUTS[found["kind"]](stage, recipe, splits, workspace)
    inputs = as_the_student_takes(recipe.student.preprocess, measured, options.source)
    described = [sorted(stage.files.items()), classes, splits.digest(), made]
    if inputs != measured:
        described.append([(each.mean, each.std) for each in inputs])
    return Dataset(
        kind=found["kind"], raw=raw, inputs=inputs, labels=labels, ids_file=stage.path(IDS), classes=classes, splits=splits,
        digest=hashlib.sha256(json.dumps(described).encode()).hexdigest(), skipped=tuple(found["skipped"]), files=files,
    )  # fmt: skip


_Inputs = tuple[dict[str, Raw], tuple[TensorSpec, ...], dict[str, Path], dict[str, str]]
"""Raw values, what a network takes, files for the app, and what else the data depends on."""


def _images(stage: StageResult, recipe: Recipe, splits: Splits, workspace: Workspace) -> _Inputs:
    raw = _raw(stage, "image", stage.result["full_scale"], recipe)
    size = recipe.data.image_size
    if size is not None and raw.array.shape[1] != size:
        raise DataError(
            f"data.image_size is {size}, but {recipe.data.source} has images of {raw.array.shape[1]} pixels",
            "leave data.image_size out for this source",
        )
    mean, std = image_statistics(raw.array, splits.train, stage.result["full_scale"])
    height, width, channels = raw.array.shape[1:]
    return {"image": raw}, (image_input((height, width, channels), mean, std),), {}, {}


def _texts(stage: StageResult, recipe: Recipe, splits: Splits, workspace: Workspace) -> _Inputs:
    made = tokenize(recipe, stage, splits, workspace)
    raw = {name: _raw(made, name, None, recipe) for name in ("input_ids", "attention_mask")}
    length = (recipe.data.max_tokens,)
    tokens = TensorSpec("input_ids", "int32", length, "NC", "tokens", vocabulary=made.result["vocabulary"])
    mask = TensorSpec("attention_mask", "int32", length, "NC", "mask")
    return raw, (tokens, mask), {name: made.path(name) for name in (TOKENIZER, VOCABULARY)}, made.files


def _sounds(stage: StageResult, recipe: Recipe, splits: Splits, workspace: Workspace) -> _Inputs:
    raw = _raw(stage, "waveform", stage.result["full_scale"], recipe)
    spec = TensorSpec(
        "waveform", "float32", raw.array.shape[1:], "NC", "waveform", (-1.0, 1.0), sample_rate=stage.result["sample_rate"]
    )
    return {"waveform": raw}, (spec,), {}, {}


def _features(stage: StageResult, recipe: Recipe, splits: Splits, workspace: Workspace) -> _Inputs:
    raw = _raw(stage, "features", None, recipe)
    mean, std = feature_statistics(raw.array, splits.train)
    return (
        {"features": raw},
        (TensorSpec("features", "float32", raw.array.shape[1:], "NC", "features", None, mean, std),),
        {},
        {},
    )


def _raw(stage: StageResult, name: str, full_scale: float | None, recipe: Recipe) -> Raw:
    path = stage.path(f"{name}.npy")
    return Raw(path, open_rows(path, recipe.data.memory_mib), full_scale)


_INPUTS: dict[str, Callable[[StageResult, Recipe, Splits, Workspace], _Inputs]] = {
    "image": _images, "text": _texts, "waveform": _sounds, "features": _features,
}  # fmt: skip
