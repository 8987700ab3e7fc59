"""One side of a comparison: a model reference, how it wants to be fed, and what it answers.

How to feed a model is found out as for teachers that were trained elsewhere; a file in the ``artifacts/`` of a run folder is
fed as that run's ``report.json`` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.census import census
from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import TEST_LOGITS, VALIDATION_LOGITS, Member, open_member, open_trained_elsewhere
from edgekd.distill.trainer import EVALUATION_BATCH, tensors
from edgekd.errors import ModelError, UsageError
from edgekd.models.adapter import Adapter
from edgekd.models.detect import columns_by_name
from edgekd.models.references import check_available, check_reference, kind_of, model_path
from edgekd.recipe import Recipe
from edgekd.recipe_file import load_recipe, recipe_from_mapping
from edgekd.safe.child import run_in_child
from edgekd.workspace import Workspace

_KINDS = {".onnx": "onnx", ".tflite": "tflite", ".keras": "keras", ".h5": "keras", ".pt2": "pt2"}
_FOLDERS = {"artifacts", "rejected"}


@dataclass(frozen=True)
class Asked:
    """A model as the user names it.

    Attributes:
        reference: See :mod:`edgekd.models.references`.
        weights: File of trained weights beside it.
        labels: File of class names beside it.
        overrides: ``key=value`` changes of :class:`~edgekd.recipe.TeacherMember`, for example ``preprocess.layout=NCHW``.
        described: Its entry in the ``report.json`` of the run folder that it lies in, if it does.
        run: That run folder.
    """

    reference: str
    weights: str | None = None
    labels: str | None = None
    overrides: tuple[str, ...] = ()
    described: dict[str, Any] | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Side:
    """One side, opened and run.

    Attributes:
        asked: What the user named.
        member: The model, with how it is fed.
        logits: On the test split, ``[n, classes]``.
        extremes: On the extreme inputs, see :mod:`edgekd.extremes`; may hold NaN.
        probabilities: Whether it gives probabilities, so that its logits are known up to a constant.
        notes: How it is fed and read.
        dtypes: Census, where it is an ONNX or TFLite file.
    """

    asked: Asked
    member: Member
    logits: NDArray[np.float32]
    extremes: NDArray[np.float32]
    probabilities: bool
    notes: tuple[str, ...]
    dtypes: dict[str, float] | None

    @property
    def adapter(self) -> Adapter:
        """How it is fed and read."""
        assert self.member.adapter is not None
        return self.member.adapter


def ask(
    name: str, weights: str | None = None, labels: str | None = None, overrides: Sequence[str] = (), role: str = "model"
) -> Asked:
    """Return the model that a reference or a plain path stands for, after checking that its files exist.

    Raises:
        UsageError: It is no reference, a file is missing, or the run folder around it has a broken report.
    """
    kind = _KINDS.get(Path(name).suffix)
    reference = name if kind is None or name.startswith(f"{kind_of(name)}:") else f"{kind}:{name}"
    try:
        check_reference(reference)
    except ValueError as error:
        raise UsageError(str(error), "a file is named by its path: .onnx or .tflite") from None
    if kind_of(reference) == "store":
        raise UsageError(f"{reference} is kept outputs alone, there is nothing to run", "name the model that gave them")
    check_available(reference, weights, role, labels)
    described, run = (None, None) if kind_of(reference) not in {"onnx", "tflite"} else _from_run(model_path(reference))
    return Asked(reference, weights, labels, tuple(overrides), described, run)


def _from_run(path: Path) -> tuple[dict[str, Any] | None, Path | None]:
    folder = path.absolute().parent
    report = folder.parent / "report.json"
    if folder.name not in _FOLDERS or not report.is_file():
        return None, None
    try:
        entries = {Path(each["path"]).name: each for each in json.loads(report.read_text())["artifacts"]}
        entry = entries.get(path.name)
        if entry is not None:
            entry["inputs"][0]["name"], entry["outputs"][0]["name"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"{report} is no report of a run: {error}", "run the recipe again, or move the file out of the folder"
        ) from None
    return entry, None if entry is None else folder.parent


def recipe_of(first: Asked, second: Asked, data: str | None, overrides: Sequence[str], more: tuple[str, ...] = ()) -> Recipe:
    """Return a recipe whose data both sides are run on.

    Args:
        first, second: The sides. A tokenizer that comes with one of them cuts texts.
        data: Its source; ``None``: the data of the run that one of the sides is from.
        overrides: ``key=value`` changes of ``data``, ``seed`` and the sections in ``more``.
        more: Further sections of a recipe that may be changed.

    Raises:
        UsageError: There is no data, or an override is of something else.
    """
    for each in overrides:
        key = each.partition("=")[0]
        if key.partition(".")[0] not in {"data", "seed", "threads", *more}:
            also = "".join(f"{name}.*, " for name in more)
            raise UsageError(
                f"'{each}' changes nothing here, allowed: data.*, seed, {also}and a.* or b.* of the two models",
                "for example data.image_size=32, or b.preprocess.layout=NCHW",
            )
    runs = [each.run for each in (first, second) if each.run is not None]
    tokenizers = [run / "artifacts" / "tokenizer.json" for run in runs]
    if data is None:
        if not runs:
            raise UsageError("there is no data to compare on", "name it with --data, for example --data folder:photos")
        base: dict[str, Any] = load_recipe(runs[0] / "recipe.yaml").model_dump(mode="json", include={"data", "seed"})
    else:
        base = {"data": {"source": data}}
    if base["data"].get("tokenizer") is None and any(each.is_file() for each in tokenizers):
        base["data"]["tokenizer"] = str(next(each for each in tokenizers if each.is_file()).parent)
    # The tokenizer of a transformer from a hub cuts texts for both.
    with_words = next((each for each in (first, second) if kind_of(each.reference) == "hf"), first)
    return recipe_from_mapping({**base, "teacher": {"model": with_words.reference}}, overrides)


def open_side(
    name: str,
    asked: Asked,
    recipe: Recipe,
    data: Dataset,
    extremes: Dataset,
    count: int,
    allow_code: bool,
    workspace: Workspace,
    like: Side | None = None,
) -> Side:
    """Open a model, find out how it is fed, and run it on the test split and on extreme inputs.

    Args:
        name: ``a`` or ``b``, of the stage and in messages.
        asked: The model.
        recipe: Of the data.
        data: What it is judged on.
        extremes: Extreme inputs for the same model, see :func:`edgekd.extremes.extreme_samples`.
        count: How many those are.
        allow_code: Whether a Keras file may hold code of its own.
        workspace: Keeps its outputs and its log.
        like: What it should equal. How it is fed is found out by its accuracy, which misleads where it is broken; so scaling
            that side's way is tried as well, and kept where that makes the two more alike.

    Raises:
        ModelError: It is broken, does not fit the data, or gives NaN on the test split.
    """
    given: dict[str, Any] = {"model": asked.reference, "trained": True}
    given |= {key: value for key, value in (("weights", asked.weights), ("labels", asked.labels)) if value is not None}
    source = recipe_from_mapping(
        {"data": recipe.model_dump(mode="json")["data"], "teacher": given}, [f"teacher.{each}" for each in asked.overrides]
    ).teacher
    known = _described_adapter(asked, data) if asked.described is not None else None
    member = open_trained_elsewhere(name, source, data, workspace, allow_code, known)
    if like is not None and known is None and not any(each.startswith("preprocess.") for each in asked.overrides):
        member = _fed_alike(name, member, like, data, allow_code, workspace)
    logits = np.load(member.folder / TEST_LOGITS, allow_pickle=False)
    bad = int((~np.isfinite(logits)).any(1).sum())
    if bad:
        raise ModelError(f"{asked.reference} gives NaN or infinity on {bad} of {len(logits)} test samples")
    rows = []
    with ExitStack() as stack:
        _, run = open_member(member, data.inputs, workspace, allow_code, torch.device("cpu"), stack)
        for arrays in extremes.batches(np.arange(count, dtype=np.int64), EVALUATION_BATCH):
            with torch.no_grad():
                rows.append(run(tensors(arrays)).numpy())
    kind, dtypes = kind_of(asked.reference), None
    if kind in {"onnx", "tflite"}:
        arguments = {"path": str(model_path(asked.reference).absolute()), "kind": kind}
        dtypes = run_in_child(f"{census.__module__}:{census.__name__}", arguments, log=workspace.log)
    assert member.adapter is not None
    notes = member.notes if known is None else (f"as {asked.run}/report.json describes it",)
    return Side(asked, member, logits, np.concatenate(rows), member.adapter.probabilities, notes, dtypes)


def _fed_alike(name: str, member: Member, like: Side, data: Dataset, allow_code: bool, workspace: Workspace) -> Member:
    """Return the model fed as it was found out, or scaled as ``like`` is, whichever is closer to that."""
    found, wanted = member.adapter, like.adapter
    assert found is not None
    other = replace(found, value_range=wanted.value_range, mean=wanted.mean, std=wanted.std)
    if found.channels != wanted.channels or other == found:
        return member
    second = open_trained_elsewhere(f"{name}-fed-alike", member.source, data, workspace, allow_code, other)
    first, again, target = (
        np.load(each.folder / VALIDATION_LOGITS, allow_pickle=False).argmax(1) for each in (member, second, like.member)
    )
    if (again == target).mean() <= (first == target).mean():
        return member
    return replace(second, notes=(*member.notes, "but scaled as A is, which makes them more alike"))


def _described_adapter(asked: Asked, data: Dataset) -> Adapter:
    """Return how a file is fed by its entry in ``report.json``.

    Raises:
        ModelError: It takes something else than the data is.
    """
    assert asked.described is not None
    inputs = {each["name"]: each for each in asked.described["inputs"]}
    output = asked.described["outputs"][0]
    first = data.inputs[0]
    if set(inputs) != {each.name for each in data.inputs}:
        wanted = ", ".join(each.name for each in data.inputs)
        raise ModelError(f"{asked.reference} takes {', '.join(inputs)}, the data has {wanted}", "name other data with --data")
    labels = tuple(output["labels"]) if output.get("labels") else None
    columns, single, _ = columns_by_name(asked.reference, labels, data.classes, int(output["shape"][-1]))
    names = {name: name for name in inputs}
    found = inputs[first.name]
    mean, std = (tuple(found[key]) if key in found else None for key in ("mean", "std"))
    if first.meaning != "image":
        return Adapter(names, mean=mean, std=std, output=output["name"], columns=columns, single=single)
    height, width, channels = found["shape"][1:] if found["layout"] == "NHWC" else (*found["shape"][2:], found["shape"][1])
    size = (int(height), int(width))
    low, high = found["value_range"]
    return Adapter(
        names, layout=found["layout"], channels=int(channels), size=None if size == first.shape[1:] else size,
        value_range=(low, high), mean=mean, std=std, output=output["name"], columns=columns, single=single,
    )  # fmt: skip
