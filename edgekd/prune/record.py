"""The record of cuts: which blocks are gone and which channels of which modules are kept, as JSON, and how a fresh network is
cut by it.

A pruned network is its spec with this record and a file of weights: nothing is unpickled, and the cuts are the same bit for
bit wherever they are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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
Blocks = dict[str, int]
"""Modules that are gone, in the order they went, with how many members the tuple has that each returned; 0: a tensor."""


class PassThrough(nn.Module):
    """Stands where a block was: gives what it is given first.

    Args:
        members: Of the tuple that the block returned; those after the first are ``None`` now. 0: it returned a tensor.
    """

    def __init__(self, members: int = 0) -> None:
        super().__init__()
        self.members = members

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return the first argument as it is, or in a tuple."""
        first = given[0] if given else next(iter(named.values()))
        return (first, *[None] * (self.members - 1)) if self.members else first


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 of what a record's indices mean something for: classes of modules, names and shapes of values."""
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    values = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(json.dumps([modules, values]).encode()).hexdigest()


def make_record(
    reference: str, model: nn.Module, kept: Kept, attributes: Attributes, blocks: Mapping[str, int] | None = None
) -> dict[str, Any]:  # fmt: skip
    """Return the record of cutting ``model``, which is not cut yet.

    Args:
        reference: Of the model, for messages.
        model: The network before any cut.
        kept: Channels that stay.
        attributes: Numbers of heads and the like, after the cut.
        blocks: What goes as a whole, before any channel.
    """
    gone = blocks or {}
    modules = {
        name: {side: {"kept": channels, "of": channels_of(model.get_submodule(name), side)} for side, channels in sides.items()}
        for name, sides in kept.items()
    }
    return {
        "schema": SCHEMA, "reference": reference, "architecture": architecture_digest(model), "blocks": list(gone),
        "tuples": {name: members for name, members in gone.items() if members}, "modules": modules, "attributes": attributes,
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
    gone = [*first.get("blocks", []), *second.get("blocks", [])]
    return {
        **first, "blocks": gone, "tuples": {**first.get("tuples", {}), **second.get("tuples", {})},
        "modules": _outside(gone, modules), "attributes": _outside(gone, numbers),
    }  # fmt: skip


def _outside(gone: Iterable[str], modules: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``modules`` that are not in a block that is gone: blocks go first, and take their channels along."""
    inside = tuple(f"{each}." for each in gone)
    return {name: each for name, each in modules.items() if not f"{name}.".startswith(inside)}


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
    cut_blocks(model, {name: record.get("tuples", {}).get(name, 0) for name in record.get("blocks", ())})
    cut_modules(model, {
        name: {side: each["kept"] for side, each in sides.items()} for name, sides in record["modules"].items()
    }, record["attributes"])  # fmt: skip
    from edgekd.prune.transformers_config import settle_configurations  # which knows of pass-throughs

    settle_configurations(model)


def cut_blocks(model: nn.Module, blocks: Mapping[str, int]) -> None:
    """Put a :class:`PassThrough` in the place of ``blocks``: their weights and buffers are gone, all other names stay."""
    for name, members in blocks.items():
        if isinstance(_module(model, name), PassThrough):
            raise UsageError(f"the pruning record is broken: {name} is gone already")
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, PassThrough(members))


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
    if not _good_blocks(record.get("blocks", []), record.get("tuples", {})):
        raise UsageError("the pruning record is broken: blocks must be names of modules, each once")
    good = good and all(_good_sides(each) for each in modules.values())
    good = good and all(
        isinstance(each, Mapping)
        and all(name.isidentifier() and type(value) is int and value > 0 for name, value in each.items())
        for each in attributes.values()
    )
    if not good:
        raise UsageError("the pruning record is broken: modules must hold rising indices, attributes whole numbers")


def _good_blocks(blocks: Any, tuples: Any) -> bool:
    if not isinstance(blocks, list) or not all(isinstance(each, str) and each for each in blocks):
        return False
    if len(set(blocks)) < len(blocks) or not isinstance(tuples, Mapping) or not set(tuples) <= set(blocks):
        return False
    return all(type(members) is int and members > 0 for members in tuples.values())


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
