"""The record of cuts: which channels of which modules are kept, as JSON, and how a fresh network is cut by it.

A pruned network is its spec with this record and a file of weights: nothing is unpickled, and the cuts are the same bit for
bit wherever they are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.errors import UsageError
from edgekd.models.tensors import ModelSpec

SCHEMA = 1
Side = str
"""``out`` or ``in``."""
Kept = dict[str, dict[Side, list[int]]]
"""For each module that is cut, the channels that it keeps, by side, rising."""
Attributes = dict[str, dict[str, int]]
"""For each module that counts heads or widths itself, those numbers after the cut."""


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 of what a record's indices mean something for: classes of modules, names and shapes of values."""
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    values = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(json.dumps([modules, values]).encode()).hexdigest()


def make_record(reference: str, model: nn.Module, kept: Kept, attributes: Attributes) -> dict[str, Any]:
    """Return the record of cutting ``model``, which is not cut yet.

    Args:
        reference: Of the model, for messages.
        model: The network before any cut.
        kept: Channels that stay.
        attributes: Numbers of heads and the like, after the cut.
    """
    modules = {
        name: {side: {"kept": channels, "of": channels_of(model.get_submodule(name), side)} for side, channels in sides.items()}
        for name, sides in kept.items()
    }
    return {
        "schema": SCHEMA, "reference": reference, "architecture": architecture_digest(model), "modules": modules,
        "attributes": attributes,
    }  # fmt: skip


def compose(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of making the cuts of ``first`` and then, in what is left, those of ``second``."""
    modules = {name: dict(sides) for name, sides in first["modules"].items()}
    for name, sides in second["modules"].items():
        for side, then in sides.items():
            before = modules.setdefault(name, {}).get(side)
            if before is None:
                modules[name][side] = then
            else:
                modules[name][side] = {"kept": [before["kept"][index] for index in then["kept"]], "of": before["of"]}
    numbers = {name: dict(each) for name, each in first["attributes"].items()}
    for name, each in second["attributes"].items():
        numbers.setdefault(name, {}).update(each)
    return {**first, "modules": modules, "attributes": numbers}


def cut(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Cut ``model`` in place, as ``record`` says.

    Raises:
        UsageError: The record is for another architecture, or broken.
    """
    _check(record)
    found = architecture_digest(model)
    if record["architecture"] != found:
        raise UsageError(
            f"the pruning record is for another architecture: {record['reference']} of digest {record['architecture'][:12]}, "
            f"the network has {found[:12]}",
            "use it with the model, arguments and data (image size, classes) that were pruned",
        )
    cut_modules(model, {
        name: {side: each["kept"] for side, each in sides.items()} for name, sides in record["modules"].items()
    }, record["attributes"])  # fmt: skip


def cut_modules(model: nn.Module, kept: Kept, attributes: Attributes) -> None:
    """Leave only the channels ``kept`` in the modules of ``model``, and set the numbers that follow from it."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    for name, sides in kept.items():
        module = _module(model, name)
        for side, channels in sides.items():
            width = channels_of(module, side)
            pruner = PrunerBox[ops.module2type(module)]
            if not channels or channels[-1] >= width or channels[0] < 0:
                raise UsageError(f"the pruning record is broken: {name} has {width} channels, not those it keeps")
            removed = sorted(set(range(width)) - set(channels))
            if removed:
                (pruner.prune_out_channels if side == "out" else pruner.prune_in_channels)(module, removed)
    for name, numbers in attributes.items():
        owner = _module(model, name)
        for attribute, value in numbers.items():
            if type(getattr(owner, attribute, None)) is not int:
                raise UsageError(f"the pruning record is broken: {name} has no number {attribute}")
            setattr(owner, attribute, value)


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a file.

    Raises:
        UsageError: It is missing or no record.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the pruning record {path}: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise UsageError(f"{path} is no pruning record: {error}", "`edgekd prune` writes one, prune.json") from None
    # The report of `edgekd prune` lies around its record.
    record = content.get("record", content) if isinstance(content, dict) else content
    try:
        _check(record)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", "`edgekd prune` writes one, prune.json") from None
    assert isinstance(record, dict)
    return record


def with_record(spec: ModelSpec, record: Mapping[str, Any]) -> ModelSpec:
    """Return ``spec`` of the network cut by ``record``."""
    return replace(spec, pruning=dict(record))


def _check(record: Any) -> None:
    """Raise if ``record`` has not the form that :func:`make_record` gives it."""
    if not isinstance(record, Mapping) or not {"schema", "architecture", "modules", "attributes", "reference"} <= set(record):
        raise UsageError("this is no pruning record")
    if record["schema"] != SCHEMA:
        raise UsageError(f"the pruning record is of schema {record['schema']!r}, this edgekd reads {SCHEMA}")
    modules, attributes = record["modules"], record["attributes"]
    good = isinstance(modules, Mapping) and isinstance(attributes, Mapping) and isinstance(record["architecture"], str)
    good = good and all(_good_sides(each) for each in modules.values())
    good = good and all(
        isinstance(each, Mapping)
        and all(name.isidentifier() and type(value) is int and value > 0 for name, value in each.items())
        for each in attributes.values()
    )
    if not good:
        raise UsageError("the pruning record is broken: modules must hold rising indices, attributes whole numbers")


def _good_sides(sides: Any) -> bool:
    if not isinstance(sides, Mapping) or not set(sides) <= {"out", "in"}:
        return False
    for each in sides.values():
        kept = each.get("kept") if isinstance(each, Mapping) else None
        if not isinstance(kept, list) or not kept or not all(type(index) is int and index >= 0 for index in kept):
            return False
        if any(after <= before for before, after in pairwise(kept)):
            return False
    return True


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise UsageError(f"the pruning record is broken: the network has no module {name}") from None


def channels_of(module: nn.Module, side: Side) -> int:
    """Return how many channels a module makes or reads.

    Raises:
        UsageError: It is none of :data:`CUTTABLE`.
    """
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    pruner = PrunerBox.get(ops.module2type(module))
    if pruner is None or not isinstance(module, CUTTABLE):
        raise UsageError(f"the pruning record is broken: a {type(module).__name__} cannot be cut")
    return int(pruner.get_out_channels(module) if side == "out" else pruner.get_in_channels(module))


CUTTABLE = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU,
)  # fmt: skip
"""Classes of modules that cuts go through."""
