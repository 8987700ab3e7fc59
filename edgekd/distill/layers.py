"""What a network has inside: stages of maps, blocks of tokens and the last vector, found by one probe batch and hooks.

No tracing: networks trained elsewhere may do anything in Python. A stage ends with the last module before the maps shrink;
a block is one of the equal modules of a transformer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd.distill.taps import INPUT, first_tensor
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.prune.record import PassThrough

PROBE = 2
"""Samples of the probe batch."""
_KINDS: dict[int, Literal["map", "tokens", "vector"]] = {4: "map", 3: "tokens", 2: "vector"}
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_PASSING = (
    nn.Dropout, nn.Dropout2d, nn.Identity, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, PassThrough,
)  # fmt: skip
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True)
class Layer:
    """A place in a network whose values can be compared.

    Attributes:
        name: The module whose output it is; with ``:input`` what goes into the module.
        kind: ``map [n, channels, h, w]``, ``tokens [n, length, width]`` or ``vector [n, width]``.
        shape: Without the batch.
        depth: Share of the layers with weights that ran before it, 0 to 1.
        stem: Whether there is one convolution before it at most.
        signed: Whether the probe left negative values, so that no ReLU came last.
    """

    name: str
    kind: Literal["map", "tokens", "vector"]
    shape: tuple[int, ...]
    depth: float
    stem: bool = False
    signed: bool = True

    @property
    def shown(self) -> str:
        """Name and shape for people: ``stages.1 (32x16x16)``."""
        return f"{self.name} ({'x'.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Structure:
    """A network as the probe saw it.

    Attributes:
        layers: Stages, blocks, the last vector: what is matched, in the order they ran.
        seen: Everything that can be named: outputs and inputs (``:input``) of modules that are maps, tokens or vectors.
        modules: Names of all modules.
        input_size: Height and width of the first map that came in; ``None``: there was none.
        before_activation: For stages that end in a ReLU, the name of what goes into it.
        normalizations: For stages, the last batch norm of as many channels before their end.
    """

    layers: tuple[Layer, ...]
    seen: dict[str, Layer]
    modules: tuple[str, ...]
    input_size: tuple[int, int] | None
    before_activation: dict[str, str]
    normalizations: dict[str, str]

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        """Return the layers of a kind."""
        return tuple(each for each in self.layers if each.kind == kind)


def find_layers(module: nn.Module, spec: ModelSpec) -> tuple[Layer, ...]:
    """Return the stages of maps, the blocks of tokens and the last vector of ``module``, in the order they run.

    Args:
        module: Is run once in evaluation mode, and left as it was.
        spec: What it takes.
    """
    return find_structure(module, spec, lambda inputs: call(module, spec, inputs)).layers


def find_structure(module: nn.Module, spec: ModelSpec, run: Callable[[dict[str, Tensor]], Any]) -> Structure:
    """Run ``module`` once on two made-up samples, and return what it has inside.

    Args:
        module: Whose layers are looked at; it is left in the mode it was in.
        spec: Of the data, whose samples are made up.
        run: Calls ``module`` in the end, perhaps after resizing the samples.
    """
    modes = {each: each.training for each in module.modules()}
    calls: list[_Call] = []
    clock = itertools.count()
    handles = [handle for name, each in module.named_modules() for handle in _watch(name, each, calls, clock)]
    try:
        module.eval()
        with torch.no_grad():
            run(probe_inputs(spec, module))
    finally:
        for handle in handles:
            handle.remove()
        for each, mode in modes.items():
            each.training = mode
    return _structure(module, calls)


def probe_inputs(spec: ModelSpec, module: nn.Module) -> dict[str, Tensor]:
    """Return two made-up samples on the device of ``module``: noise, the first token, a mask without padding."""
    noise = torch.Generator().manual_seed(0)
    device = next((each.device for each in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    inputs = {}
    for each in spec.inputs:
        shape, dtype = (PROBE, *each.shape), getattr(torch, each.dtype)
        if each.meaning == "mask":
            values = torch.ones(shape, dtype=dtype)
        elif dtype.is_floating_point:
            values = torch.randn(shape, generator=noise).clamp(-1, 1).to(dtype)
        else:
            values = torch.zeros(shape, dtype=dtype)
        inputs[each.name] = values.to(device)
    return inputs


@dataclass
class _Call:
    """One run of a module; ``start`` and ``end`` are places in one sequence of events."""

    name: str
    module: nn.Module
    start: int
    given: Tensor | None
    given_shape: tuple[int, ...]
    end: int = -1
    output: Tensor | None = None
    shape: tuple[int, ...] = ()
    signed: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return (self.shape[2], self.shape[3])


def _watch(name: str, module: nn.Module, calls: list[_Call], clock: Iterator[int]) -> list[Any]:
    running: list[_Call] = []

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = first_tensor((*inputs, *named.values()))
        running.append(_Call(name, module, next(clock), given, tuple(given.shape) if given is not None else ()))

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        ended = running.pop()
        ended.end = next(clock)
        found = first_tensor(output)
        if found is not None:
            ended.output, ended.shape = found, tuple(found.shape)
            ended.signed = not found.is_floating_point() or bool((found < 0).any())
        calls.append(ended)

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def _structure(module: nn.Module, calls: list[_Call]) -> Structure:
    weighted = [each for each in calls if _has_weight(each.module)]
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for each in calls:
        shapes.setdefault(each.name, set()).add(each.shape)
    steady = {each.name: each for each in calls if len(shapes[each.name]) == 1 and each.name}  # the last call of each
    blocks = _blocks(module, calls, steady)
    stages = _stages(calls, steady, blocks, weighted)

    def layer(each: _Call) -> Layer:
        before = sum(other.end <= each.end for other in weighted)
        convolutions = sum(other.end <= each.end and _weight(other.module).ndim > 2 for other in weighted)
        depth = round(before / max(len(weighted), 1), 4)
        return Layer(each.name, _KINDS[len(each.shape)], each.shape[1:], depth, convolutions <= 1, each.signed)

    seen = {name: layer(each) for name, each in steady.items() if _is_layer(each.output)}
    for name, each in steady.items():
        if each.given is not None and _is_layer(each.given):
            kind = _KINDS[len(each.given_shape)]
            before = sum(other.end < each.start for other in weighted)
            seen[name + INPUT] = Layer(name + INPUT, kind, each.given_shape[1:], round(before / max(len(weighted), 1), 4))
    found = [seen[each.name] for each in sorted([*stages, *blocks], key=lambda each: each.end)]
    found = [each if each.kind == "map" else replace(each, stem=False) for each in found]
    vector = _last_vector(weighted)
    if vector is not None:
        found.append(Layer(vector.name + INPUT, "vector", (vector.given_shape[1],), seen[vector.name + INPUT].depth))
    given = [each for each in calls if len(each.given_shape) == 4 and not _inside(each.name, blocks)]
    first = min(given, key=lambda each: each.start, default=None)
    return Structure(
        tuple(found), seen, tuple(name for name, _ in module.named_modules() if name),
        (first.given_shape[2], first.given_shape[3]) if first is not None else None,
        _before_activation(stages, calls), _normalizations(stages, calls),
    )  # fmt: skip


def _weight(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else torch.empty(0)


def _has_weight(module: nn.Module) -> bool:
    return _weight(module).ndim >= 2 and not isinstance(module, nn.Embedding)


def _is_layer(value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and value.ndim in _KINDS and len(value) == PROBE


def _blocks(module: nn.Module, calls: list[_Call], steady: dict[str, _Call]) -> list[_Call]:
    """Return the blocks of transformers: equal modules side by side that give tokens of one shape."""
    runs: dict[str, int] = {}
    for each in calls:
        runs[each.name] = runs.get(each.name, 0) + 1
    found: list[_Call] = []
    for name, container in module.named_modules():
        left = {each: member for each, member in container.named_children() if not isinstance(member, PassThrough)}
        members = [f"{name}.{each}" if name else each for each in left]
        if not isinstance(container, _CONTAINERS) or not members or _inside(name, found):
            continue
        equal = len({type(each) for each in left.values()}) == 1
        if not equal or any(runs.get(each) != 1 or each not in steady for each in members):
            continue
        outputs = [steady[each] for each in members]
        tokens = all(_is_layer(each.output) and len(each.shape) == 3 for each in outputs)
        if tokens and _is_rich(outputs[0].module) and len({each.shape for each in outputs}) == 1:
            found += outputs
    return found


def _inside(name: str, calls: list[_Call]) -> bool:
    return any(name == each.name or name.startswith(each.name + ".") for each in calls)


def _stages(calls: list[_Call], steady: dict[str, _Call], blocks: list[_Call], weighted: list[_Call]) -> list[_Call]:
    """Return the last module at each size of the maps, from large to small."""
    if not weighted:
        return []
    begun = weighted[0].end  # what comes before the first weights is a front end
    first = next((each.given_shape for each in sorted(calls, key=lambda each: each.start) if len(each.given_shape) == 4), None)
    if first is None:
        return []
    # Dense layers on maps have channels last, and so has what works on their outputs.
    dense = [each.output for each in calls if isinstance(each.module, nn.Linear) and len(each.shape) == 4]
    maps = [
        each for each in calls
        if each.end >= begun and steady.get(each.name) is each and _is_layer(each.output) and len(each.shape) == 4
        and not isinstance(each.module, (*_PASSING, *_CHANNELS_LAST)) and not _inside(each.name, blocks)
        and not any(each.given is other or each.output is other for other in dense)
        and each.size[0] <= first[2] + 2 and each.size[1] <= first[3] + 2
    ]  # fmt: skip
    path: list[_Call] = []
    for each in reversed(maps):  # maps that grow again, as in squeeze-and-excite, are no part of the main path
        if not path or each.size[0] * each.size[1] >= path[-1].size[0] * path[-1].size[1]:
            path.append(each)
    path = _without_pooled(list(reversed(path)))
    groups: list[list[_Call]] = []
    for each in path:
        if not groups or groups[-1][-1].size != each.size:
            groups.append([])
        groups[-1].append(each)
    chosen: list[_Call] = []
    for index, group in enumerate(groups):
        shrinks = groups[index + 1][0] if index + 1 < len(groups) else None
        last = _last_of(group, shrinks, calls, chosen)
        if last is not None:
            chosen.append(last)
    return chosen


def _without_pooled(path: list[_Call]) -> list[_Call]:
    """Drop maps of one pixel that come from a pooling of all pixels, not from a convolution."""
    single = next((each for each in path if each.size == (1, 1)), None)
    if single is None or (_has_weight(single.module) and len(single.given_shape) == 4 and single.given_shape[2:] != (1, 1)):
        return path
    return [each for each in path if each.size != (1, 1)]


def _last_of(group: list[_Call], shrinks: _Call | None, calls: list[_Call], chosen: list[_Call]) -> _Call | None:
    """Return the outermost last module of one size: none that holds an earlier stage, and none inside a block that shrinks."""
    free = [each for each in group if not any(other.name.startswith(each.name + ".") for other in chosen)]
    if shrinks is not None:
        around = [
            each for each in calls
            if each.start <= shrinks.start and each.end >= shrinks.end
            and each.given_shape[2:] == group[-1].size and each.shape[2:] == shrinks.size
        ]  # fmt: skip
        for block in sorted(around, key=lambda each: each.start):
            before = [each for each in free if each.end <= block.start]
            if before and not isinstance(block.module, _CONTAINERS) and not _lists_blocks(block, around, free):
                return before[-1]
    return free[-1] if free else None


def _lists_blocks(outer: _Call, around: list[_Call], free: list[_Call]) -> bool:
    """Whether a module is a list of blocks that shrinks in a later one, so that earlier ones end stages."""
    inner = [each.name.rpartition(".")[0] for each in around if each.start > outer.start]
    earlier = [each for each in free if each.start > outer.start and each.name.rpartition(".")[0] in inner]
    return any(_is_rich(each.module) and each.name.rpartition(".")[2].isdigit() for each in earlier)


def _is_rich(module: nn.Module) -> bool:
    return sum(_has_weight(each) for each in module.modules()) > 1


def _last_vector(weighted: list[_Call]) -> _Call | None:
    """Return the classifier whose input is a vector: a dense layer, or a convolution of one pixel."""
    if not weighted:
        return None
    last, shape = weighted[-1], weighted[-1].given_shape
    dense = isinstance(last.module, nn.Linear) and len(shape) == 2
    pixel = isinstance(last.module, nn.Conv2d) and len(shape) == 4 and shape[2:] == (1, 1)
    return last if (dense or pixel) and _is_layer(last.given) else None


def _before_activation(stages: list[_Call], calls: list[_Call]) -> dict[str, str]:
    found = {}
    for stage in stages:
        ends = [each for each in calls if isinstance(each.module, _RECTIFIERS) and each.end <= stage.end]
        if ends and ends[-1].output is stage.output:
            found[stage.name] = ends[-1].name + INPUT
    return found


def _normalizations(stages: list[_Call], calls: list[_Call]) -> dict[str, str]:
    found = {}
    for stage in stages:
        for each in calls:
            if isinstance(each.module, nn.BatchNorm2d) and each.end <= stage.end and each.shape[1] == stage.shape[1]:
                found[stage.name] = each.name
    return found
