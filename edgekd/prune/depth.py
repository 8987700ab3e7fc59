"""A network without the blocks that are worth least.

They go one after the other, and what the others are worth is measured again each time: two blocks that do without each other
may not both be spared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.spec import call, cost
from edgekd.models.tensors import ModelSpec
from edgekd.prune.blocks import Block, FoundBlocks, find_blocks, without
from edgekd.prune.costs import DeviceTime, WidthCosts
from edgekd.prune.criteria import Criterion, Samples, loss_of
from edgekd.prune.groups import random_inputs
from edgekd.prune.record import compose, cut_blocks, make_record, with_record

Measure = Literal["loss", "change", "random"]
"""What tells what a block is worth: the rise of the loss without it, its relative change of noise, or chance."""
MEASURES: dict[Measure, str] = {
    "loss": "rise of the loss without it",
    "change": "relative change of what passes through it, on noise, for there is no data",
    "random": "chance, as a control",
}
_NOISE = 32
"""Samples of noise."""


@dataclass(frozen=True)
class BlockWorth:
    """A block, what it is worth, and what goes with it.

    Attributes:
        block: Its name.
        worth: By the :data:`Measure`, where nothing else is gone.
        order: 1 for the block that went first; ``None``: it stays.
        worth_then: What it was worth when it went.
        macs, params: What goes with it.
        predicted_ms: How much less latency is predicted without it, where a device was named.
    """

    block: str
    worth: float
    order: int | None
    worth_then: float | None
    macs: int
    params: int
    predicted_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; what is no number is ``None``."""
        return {
            name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in asdict(self).items()
        }


@dataclass(frozen=True)
class Shallow:
    """A network without some of its blocks.

    Attributes:
        spec: How to rebuild it: of the whole network, with the record of all cuts so far.
        model: The network that is left, with the weights it had.
        measure: What tells what a block is worth.
        blocks: All that could go, in order of execution.
        refused: Of modules that look like these, why they stay.
    """

    spec: ModelSpec
    model: nn.Module
    measure: Measure
    blocks: tuple[BlockWorth, ...]
    refused: dict[str, str]

    @property
    def removed(self) -> tuple[BlockWorth, ...]:
        """What is gone, in the order it went."""
        return tuple(sorted((each for each in self.blocks if each.order is not None), key=lambda each: each.order or 0))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, for reports."""
        return {"measure": self.measure, "blocks": [each.to_json() for each in self.blocks], "kept": self.refused}

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        lines = [f"  {len(self.removed)} of {len(self.blocks)} blocks removed, by {MEASURES[self.measure]}"]
        for each in self.blocks:
            what = "stays" if each.order is None else f"removed, no. {each.order}"
            then = "" if each.worth_then is None or each.order == 1 else f", then {each.worth_then:.3g}"
            time = "" if each.predicted_ms is None else f", {each.predicted_ms:.3g} ms predicted"
            lines.append(
                f"    {each.block:<40} {what:<15} {self.measure} {each.worth:.3g}{then}; saves {each.macs:,} MACs, "
                f"{each.params:,} parameters{time}"
            )
        return lines


def check_blocks(spec: ModelSpec, count: int) -> FoundBlocks:
    """Return the blocks of the network of ``spec`` if ``count`` of them can go.

    Raises:
        ModelError: There are fewer.
    """
    found = find_blocks(spec)
    if count > len(found.blocks):
        many = f"{len(found.blocks)} blocks that can be removed, {count} were asked for"
        none = "no block that can be removed: none gives what it takes plus what its weights make of it"
        why = next((f"; {name} must stay: {reason}" for name, reason in found.refused.items()), "")
        raise ModelError(
            f"{spec.reference} has {many if found.blocks else none}{why}",
            f"ask for at most {len(found.blocks)}" if found.blocks else "leave blocks out, and cut channels instead",
        )
    return found


def remove_blocks(
    model: nn.Module, spec: ModelSpec, count: int, *, criterion: Criterion = "magnitude", samples: Samples | None = None,
    time: DeviceTime | None = None, seed: int = 0,
) -> Shallow:  # fmt: skip
    """Return a copy of ``model`` without the ``count`` blocks that are worth least, found one after the other.

    Args:
        model: The network, with trained weights; it stays whole.
        spec: How to rebuild it.
        count: How many go.
        criterion: ``random``: chance decides; any other: how much the loss on ``samples`` rises.
        samples: Without them, how much a block changes noise that passes through it decides.
        time: What latency is predicted for.
        seed: Of chance.

    Raises:
        ModelError: So many blocks cannot go.
    """
    found = check_blocks(spec, count)
    left = copy.deepcopy(model).eval()
    measure: Measure = "random" if criterion == "random" else "loss" if samples else "change"
    judge = _judge(measure, left, spec, found.blocks, samples, seed)
    saved = _saved(left, spec, found.blocks, time)
    alone = judge(found.blocks)
    stay, gone, worth = list(found.blocks), dict[str, float](), alone
    for _ in range(count):
        least = min(stay, key=lambda each: worth[each.name] if math.isfinite(worth[each.name]) else math.inf)
        gone[least.name] = worth[least.name]
        cut_blocks(left, {least.name: least.members})
        stay.remove(least)
        if len(gone) < count:
            worth = judge(stay)
    members = {each.name: each.members for each in found.blocks}
    record = make_record(spec.reference, model, {}, {}, {name: members[name] for name in gone})
    order = {name: index for index, name in enumerate(gone, 1)}
    rows = tuple(
        BlockWorth(each.name, alone[each.name], order.get(each.name), gone.get(each.name), *saved[each.name])
        for each in found.blocks
    )
    described = with_record(spec, record if spec.pruning is None else compose(spec.pruning, record))
    return Shallow(described, left, measure, rows, found.refused)


def _judge(
    measure: Measure, model: nn.Module, spec: ModelSpec, blocks: tuple[Block, ...], samples: Samples | None, seed: int
) -> Callable[[tuple[Block, ...] | list[Block]], dict[str, float]]:
    """Return what tells what blocks are worth in ``model``, as it is then."""
    if measure == "random":
        drawn = torch.rand(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist()
        chance = {each.name: value for each, value in zip(blocks, drawn, strict=True)}
        return lambda stay: {each.name: chance[each.name] for each in stay}
    if measure == "change":
        noise = _noise(spec, seed)
        return lambda stay: _changes(model, spec, stay, noise)
    assert samples

    def rises(stay: tuple[Block, ...] | list[Block]) -> dict[str, float]:
        whole, found = loss_of(model, spec, samples), {}
        for each in stay:
            with without(model, each) as shallower:
                found[each.name] = loss_of(shallower, spec, samples) - whole
        return found

    return rises


def _saved(
    model: nn.Module, spec: ModelSpec, blocks: tuple[Block, ...], time: DeviceTime | None
) -> dict[str, tuple[int, int, float | None]]:
    """Return the multiply-accumulates, parameters and milliseconds that go with each of ``blocks``."""
    before, before_ms = cost(model, spec), _latency(model, spec, time)
    found = {}
    for each in blocks:
        with without(model, each) as left:
            after, after_ms = cost(left, spec), _latency(left, spec, time)
        assert before.macs is not None and after.macs is not None and before.params is not None and after.params is not None
        saved_ms = None if before_ms is None or after_ms is None else before_ms - after_ms
        found[each.name] = before.macs - after.macs, before.params - after.params, saved_ms
    return found


def _latency(model: nn.Module, spec: ModelSpec, time: DeviceTime | None) -> float | None:
    return None if time is None else WidthCosts(model, spec, ()).latency({}, time).p50_ms


def _noise(spec: ModelSpec, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = random_inputs(spec, _NOISE)
    return {name: each.float() if each.is_floating_point() else each for name, each in drawn.items()}


def _changes(
    model: nn.Module, spec: ModelSpec, blocks: tuple[Block, ...] | list[Block], inputs: dict[str, Tensor]
) -> dict[str, float]:  # fmt: skip
    """Return, for each block, the norm of what it adds to what it takes, as a share of the norm of that."""
    found: dict[str, float] = {}
    taken: dict[str, Tensor] = {}

    def watch(name: str) -> tuple[Any, Any]:
        def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            first = given[0] if given else next(iter(named.values()))
            taken[name] = first.clone()  # it may write into what it takes

        def after(_module: nn.Module, _given: Any, output: Any) -> None:
            first = taken.pop(name)
            returned = output if isinstance(output, Tensor) else output[0]
            found[name] = ((returned - first).norm() / first.norm().clamp_min(1e-12)).item()

        return before, after

    handles = []
    for each in blocks:
        before, after = watch(each.name)
        module = model.get_submodule(each.name)
        handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            call(model.eval(), spec, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
