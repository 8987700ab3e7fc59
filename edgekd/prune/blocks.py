"""Which blocks of a network can go as a whole: residual blocks and layers of transformers, found by trying.

A block gives what it takes, plus what its weights make of it. No list of classes says which modules do: each one that gives
something of the shape that it takes is run with its weights at zero, and must give back what this network gave it. An
activation or norm after the sum does not hide that, for there was one before the block, too. Then the network must run
without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import EdgekdError
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.prune.groups import Trial
from edgekd.prune.record import cut_blocks

_SEQUENCES = (nn.Sequential, nn.ModuleList)
_CONTAINERS = (*_SEQUENCES, nn.ModuleDict)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Norms over one sample: what they gave passes through another one unchanged."""
_TOLERANCE = 1e-3
"""As a share of the largest value: norms of their own make divide by a little more than the deviation."""


@dataclass(frozen=True)
class Block:
    """A block that can go.

    Attributes:
        name: Of its module.
        members: Of the tuple that it returns; 0: it returns a tensor.
    """

    name: str
    members: int


@dataclass(frozen=True)
class FoundBlocks:
    """What can go.

    Attributes:
        blocks: In order of execution; none lies in another.
        refused: Of modules that look like these, why they must stay.
    """

    blocks: tuple[Block, ...]
    refused: dict[str, str]


def find_blocks(spec: ModelSpec) -> FoundBlocks:
    """Return the blocks of the network of ``spec`` that can go, each proven by a trial on random weights.

    Raises:
        EdgekdError: The network cannot be built.
    """
    trial = Trial(spec)
    network = trial.network
    for module in network.modules():
        if isinstance(module, _NORMS):
            module.eps = 1e-12
            for name, value in module.named_parameters(recurse=False):
                nn.init.constant_(value, 0.0 if name == "bias" else 1.0)
    with torch.no_grad():
        runs = _runs(network, spec, {name: each[:2] for name, each in trial.inputs.items()})
        reasons = {name: _reason(network, name, run) for name, run in runs.items()}
        residual = {name for name, reason in reasons.items() if not reason}
        chosen = [name for name in runs if name in residual and not _holds_blocks(network, name, residual)]
        outermost = [name for name in chosen if not any(name.startswith(f"{other}.") for other in chosen)]
        blocks = [Block(name, runs[name].members) for name in outermost]
        alone = {each.name: _stops(trial, each) for each in blocks}
    alike = {type(network.get_submodule(each)) for each in outermost}
    refused = {
        name: reason for name, reason in {**reasons, **alone}.items()
        if reason and (name in alone or type(network.get_submodule(name)) in alike)
        and not any(name.startswith(f"{other}.") for other in outermost)
    }  # fmt: skip
    return FoundBlocks(tuple(each for each in blocks if not alone[each.name]), refused)


@contextmanager
def without(model: nn.Module, block: Block) -> Iterator[nn.Module]:
    """Give ``model`` with a :class:`~edgekd.prune.record.PassThrough` in the place of a block, which is put back afterwards."""
    parent, _, own = block.name.rpartition(".")
    module = model.get_submodule(block.name)
    cut_blocks(model, {block.name: block.members})
    try:
        yield model
    finally:
        setattr(model.get_submodule(parent), own, module)


@dataclass
class _Run:
    """How a module was called first, and whether it gave what it took.

    Attributes:
        given, named: Arguments, as they were before it ran.
        members: Of the tuple that it returned; 0: a tensor; -1: neither, or of another shape than its first argument.
        count: How often it was called.
    """

    given: tuple[Any, ...]
    named: dict[str, Any]
    members: int = -1
    count: int = 0


def _runs(network: nn.Module, spec: ModelSpec, inputs: dict[str, Tensor]) -> dict[str, _Run]:
    """Return how modules of several parts with weights were called, in order of execution."""
    runs: dict[str, _Run] = {}
    handles = []

    def watch(name: str) -> tuple[Any, Any]:
        def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if name not in runs:
                runs[name] = _Run(*_copied(given, named))
            runs[name].count += 1

        def after(_module: nn.Module, given: Any, output: Any) -> None:
            run = runs[name]
            taken, returned = _first(run.given, run.named), output[0] if _is_tuple(output) else output
            if isinstance(taken, Tensor) and isinstance(returned, Tensor) and taken.shape == returned.shape:
                run.members = len(output) if _is_tuple(output) else 0
            else:
                run.given, run.named = (), {}  # not needed, and large

        return before, after

    for name, module in network.named_modules():
        has_weights = any(each.ndim > 1 for each in module.parameters())
        if name and has_weights and next(module.children(), None) is not None and not isinstance(module, _CONTAINERS):
            before, after = watch(name)
            handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        call(network, spec, inputs)
    finally:
        for each in handles:
            each.remove()
    return runs


def _reason(network: nn.Module, name: str, run: _Run) -> str:
    """Return why a module is no residual block, or nothing if it is one."""
    if run.members < 0:
        return "it gives something of another shape than it takes"
    if run.count > 1:
        return f"it runs {run.count} times"
    module = network.get_submodule(name)
    if Counter(id(each) for _, each in network.named_modules(remove_duplicate=False))[id(module)] > 1:
        return "it has several names"
    taken = _first(run.given, run.named)
    assert isinstance(taken, Tensor)
    given, named = _copied(run.given, run.named)
    try:
        output = torch.func.functional_call(module, _silent(module), given, named)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        return f"it breaks when its weights are zero: {_line(error)}"
    returned = output[0] if _is_tuple(output) else output
    largest = taken.abs().max().item() if taken.is_floating_point() else 0.0
    if largest == 0 or not (returned - taken).abs().max().item() <= _TOLERANCE * largest:
        return "without its weights it does not give back what it takes: there is no shortcut, or something is on it"
    return ""


def _silent(module: nn.Module) -> dict[str, Tensor]:
    """Return values for the parameters and buffers of a block with which its branch gives zeros."""
    values: dict[str, Tensor] = {}
    for name, each in module.named_modules():
        own = dict(each.named_parameters(recurse=False))
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            own |= {key: value for key, value in each.named_buffers(recurse=False) if key == "running_mean"}
        elif isinstance(each, _NORMS) or not any(value.ndim > 1 for value in own.values()):
            continue  # gains of norms, slopes of activations
        values |= {f"{name}.{key}" if name else key: torch.zeros_like(value) for key, value in own.items()}
    return values


def _holds_blocks(network: nn.Module, name: str, residual: set[str]) -> bool:
    """Whether a module is a stage: what can go is in it, one after the other."""
    inside = [each for each in residual if each.startswith(f"{name}.")]
    if any(isinstance(network.get_submodule(each.rpartition(".")[0]), _SEQUENCES) for each in inside):
        return True
    outermost = [each for each in inside if not any(each.startswith(f"{other}.") for other in inside)]
    member = isinstance(network.get_submodule(name.rpartition(".")[0]), _SEQUENCES)
    return len(outermost) > 1 and not member


def _stops(trial: Trial, block: Block) -> str:
    """Return why the network does not run without a block, or nothing if it does."""
    with without(trial.network, block) as network:
        try:
            found = call(network, trial.spec, trial.inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError, EdgekdError) as error:
            return f"the network breaks without it: {_line(error)}"
    if any(found[name].shape != each.shape for name, each in trial.whole.items()):
        return "without it the network gives something of another shape"
    if not all(math.isfinite(each.abs().max().item()) for each in found.values()):
        return "without it the network gives no numbers"
    return ""


def _copied(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with copies of tensors: modules may write into what they are given."""

    def copied(each: Any) -> Any:
        return each.clone() if isinstance(each, Tensor) else each

    return tuple(copied(each) for each in given), {name: copied(each) for name, each in named.items()}


def _first(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return what a :class:`~edgekd.prune.record.PassThrough` would give back."""
    return given[0] if given else next(iter(named.values()), None)


def _is_tuple(output: Any) -> bool:
    return isinstance(output, tuple) and len(output) > 0


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
