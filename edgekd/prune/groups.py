"""Which channels of a network can be cut together: found on its dependency graph, and proven one group at a time.

torch-pruning follows channels through a network and says what must be cut together. Where it is wrong, or where a cut would
change what the network takes or gives, the group is left out: each one is tried on a network with random weights, and must
give exactly what the whole network gives when nothing reads the channels that are cut.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import EdgekdError, ModelError
from edgekd.models.builders import build_module
from edgekd.models.spec import call, example_inputs
from edgekd.models.tensors import ModelSpec
from edgekd.prune.record import CUTTABLE, Attributes, Kept, Side, channels_of, cut_modules
from edgekd.prune.walks import walk

_HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads")
"""What modules call their number of attention heads, and below, the size of all of them."""
_HEAD_WIDTHS = ("all_head_size", "dim", "embed_dim")
_TRACING = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError)
"""What following a network can raise: torch-pruning walks autograd's own objects, and the network computes on zeros."""
_NO_GRAPH = (
    "its outputs must follow from its weights by operators of PyTorch that have gradients; or leave its graph as it is and set "
    "weights to zero, which needs none: prune.sparsity=0.8 or 2:4 instead of prune.target, `edgekd prune --sparsity`"
)
_TOLERANCE = 1e-6
"""Of the outputs of a cut network, as a share of what the cut changes; the trial is in float64."""


@dataclass(frozen=True)
class Part:
    """What a cut does to one module.

    Attributes:
        module: Its name.
        side: ``out`` or ``in``.
        channels: Its channels that belong to the group.
        roots: For each of them, the channel of the group.
        of: All channels of the module on that side; other groups may be among them.
    """

    module: str
    side: Side
    channels: tuple[int, ...]
    roots: tuple[int, ...]
    of: int


@dataclass(frozen=True)
class Heads:
    """A module that counts the heads of a group.

    Attributes:
        module: Its name.
        count: Its attribute with the number of heads.
        width: Its attribute with the number of channels of all heads, if it has one.
    """

    module: str
    count: str
    width: str | None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be cut together, in every module that makes or reads them.

    Attributes:
        name: Of the first module that makes them.
        width: Number of channels.
        unit: How many neighbouring channels go together: 1, or the size of an attention head.
        parts: What is cut where.
        heads: Who counts the heads, if they are heads.
        found: The group of torch-pruning.
    """

    name: str
    width: int
    unit: int
    parts: tuple[Part, ...]
    heads: Heads | None = None
    found: Any = field(default=None, compare=False, repr=False)

    @property
    def units(self) -> int:
        """How many units there are: channels or heads."""
        return self.width // self.unit

    def readers(self) -> tuple[Part, ...]:
        """Return the parts that read the channels."""
        return tuple(each for each in self.parts if each.side == "in")


@dataclass(frozen=True)
class Found:
    """What can be cut.

    Attributes:
        groups: In order of execution.
        refused: For each module with channels that must stay, why.
    """

    groups: tuple[ChannelGroup, ...]
    refused: dict[str, str]


def find_groups(model: nn.Module, spec: ModelSpec) -> Found:
    """Return what can be cut in ``model``, each group proven by a trial.

    Raises:
        ModelError: Its graph cannot be traced, or nothing can be cut.
    """
    candidates, refused = _traced(model, spec)
    groups = _proven([_as_heads(each, model) or each for each in candidates], Trial(spec), refused)
    if not groups:
        first, why = next(iter(refused.items()), ("it", "there is no convolution or dense layer"))
        raise ModelError(
            f"{spec.reference} has no channels that can be cut: {first}: {why}", "choose a smaller width or model instead"
        )
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return Found(tuple(sorted(groups, key=lambda each: order[each.name])), refused)


def kept_channels(groups: Iterable[ChannelGroup], units: Mapping[str, list[int]]) -> tuple[Kept, Attributes]:
    """Return what modules keep, and their numbers of heads, where of group ``g`` the ``units[g.name]`` stay."""
    removed: dict[tuple[str, Side], set[int]] = {}
    widths: dict[tuple[str, Side], int] = {}
    attributes: Attributes = {}
    for group in groups:
        stay = set(units.get(group.name, range(group.units)))
        if len(stay) == group.units:
            continue
        for part in group.parts:
            gone = {channel for channel, root in zip(part.channels, part.roots, strict=True) if root // group.unit not in stay}
            removed.setdefault((part.module, part.side), set()).update(gone)
            widths[part.module, part.side] = part.of
        if group.heads is not None:
            numbers = {group.heads.count: len(stay)}
            if group.heads.width is not None:
                numbers[group.heads.width] = len(stay) * group.unit
            attributes[group.heads.module] = numbers
    kept: Kept = {}
    for (module, side), gone in removed.items():
        kept.setdefault(module, {})[side] = sorted(set(range(widths[module, side])) - gone)
    return kept, attributes


def _traced(model: nn.Module, spec: ModelSpec) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Return the groups of torch-pruning's dependency graph, not yet tried, and what is out of the question."""
    import torch_pruning as tp

    inputs = tuple(example_inputs(spec, batch=2).values())
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model.eval(), inputs, verbose=False)
            found, circles = walk(graph)
    except _TRACING as error:
        raise ModelError(
            f"{spec.reference} cannot be traced for pruning, at {_where(model, spec)}: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0][:200]}", _NO_GRAPH,
        ) from None  # fmt: skip
    if not found and not circles:
        raise ModelError(
            f"{spec.reference} cannot be traced for pruning, at {_where(model, spec)}: its outputs have no gradient", _NO_GRAPH
        )
    names = {module: name for name, module in model.named_modules()}
    groups, refused = [], {names[each]: "following its channels goes round in circles" for each in circles}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and module not in graph.module2node:
            refused[name] = "its outputs cannot be followed: nothing that reads them passes a gradient back"
    for each in found:
        group, name, reason = _group(each, graph, names)
        if group is None:
            refused[name] = reason
        else:
            groups.append(group)
    return groups, refused


def _group(found: Any, graph: Any, names: Mapping[nn.Module, str]) -> tuple[ChannelGroup | None, str, str]:
    """Return a group, or the name of what it starts from and why it cannot be one."""
    parts: dict[tuple[str, Side], Part] = {}
    root = names[found[0].dep.target.module]
    for item in found:
        module, handler = item.dep.target.module, item.dep.handler
        if not isinstance(module, nn.Module) or module not in names:
            if isinstance(module, nn.Parameter):
                return None, root, "its channels meet a parameter that belongs to no layer"
            continue
        name = names[module]
        if not isinstance(module, CUTTABLE):
            if next(module.parameters(recurse=False), None) is None:
                continue
            return None, root, f"its channels go through {name}, a {type(module).__name__}"
        if any(each is None for each in item.root_idxs):
            return None, root, f"which of its channels {name} takes is not known"
        grouped = getattr(module, "groups", 1)
        if grouped not in (1, getattr(module, "out_channels", 1)):
            return None, root, f"{name} has {grouped} groups of channels"
        both = grouped > 1 or isinstance(module, nn.modules.batchnorm._BatchNorm | nn.PReLU)
        side = "out" if both or graph.is_out_channel_pruning_fn(handler) else "in"
        parts[name, side] = Part(name, side, tuple(item.idxs), tuple(item.root_idxs), channels_of(module, side))
    makers = [each.module for each in parts.values() if each.side == "out"]
    width = len(found[0].idxs)
    if not any(each.side == "in" for each in parts.values()):
        return None, root, "its channels are outputs of the network"
    order = {name: index for index, name in enumerate(names.values())}
    modules = {name: module for module, name in names.items()}
    first = min((each for each in makers if isinstance(modules[each], nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)),
                key=lambda each: order[each])  # fmt: skip
    return ChannelGroup(first, width, 1, tuple(parts.values()), None, found), first, ""


def _where(model: nn.Module, spec: ModelSpec) -> str:
    """Return the first module with weights whose output has no gradient, or the last one that was entered."""
    entered = ["its start"]
    lost: list[str] = []

    def entering(name: str) -> Any:
        return lambda *_: entered.append(name)

    def leaving(name: str) -> Any:
        def look(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.grad_fn is None and next(module.parameters(), None) is not None:
                lost.append(name)

        return look

    handles = []
    for name, module in model.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(entering(name)), module.register_forward_hook(leaving(name))]
    try:
        with torch.enable_grad():
            call(model, spec, example_inputs(spec, batch=2))
    except Exception:  # what is asked for is where it fails, not how
        return entered[-1]
    finally:
        for each in handles:
            each.remove()
    return lost[0] if lost else entered[-1]


def _proven(groups: list[ChannelGroup], trial: Trial, refused: dict[str, str]) -> list[ChannelGroup]:
    """Return those of ``groups`` whose cuts are right, found by halving; the others go into ``refused``."""
    if not groups:
        return []
    good, reason = trial.holds(groups)
    if good:
        return groups
    if len(groups) > 1:
        half = len(groups) // 2
        return _proven(groups[:half], trial, refused) + _proven(groups[half:], trial, refused)
    if groups[0].heads is not None:
        return _proven([replace(groups[0], unit=1, heads=None)], trial, refused)
    refused[groups[0].name] = reason
    return []


def _as_heads(group: ChannelGroup, model: nn.Module) -> ChannelGroup | None:
    """Return the group in units of attention heads, if the module around it counts some."""
    parent = group.name.rpartition(".")[0]
    while True:
        owner = model.get_submodule(parent)
        for count in _HEADS:
            heads = getattr(owner, count, None)
            if type(heads) is int and 1 <= heads <= group.width and group.width % heads == 0:
                width = next((each for each in _HEAD_WIDTHS if getattr(owner, each, None) == group.width), None)
                counted = Heads(parent, count, width)
                return ChannelGroup(group.name, group.width, group.width // heads, group.parts, counted, group.found)
        if not parent or isinstance(owner, nn.ModuleList):
            return None
        parent = parent.rpartition(".")[0]


class Trial:
    """A network of one architecture with random weights, in float64, on which cuts are tried.

    Args:
        spec: How to build it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = build_module(spec).double()
            if spec.pruning is not None:
                from edgekd.prune.record import cut

                cut(self.network, spec.pruning)
            self.inputs = random_inputs(spec)
            _lively(self.network, spec, self.inputs)
        with torch.no_grad():
            self.whole = call(self.network, spec, self.inputs)

    def holds(self, groups: list[ChannelGroup]) -> tuple[bool, str]:
        """Return whether the network without half of all units computes the same as when nothing reads them, or why not."""
        stays = {}
        for group in groups:
            if group.units < 2:
                return False, "it has a single channel or head"
            order = list(range(group.units))
            random.Random(0).shuffle(order)
            stays[group.name] = sorted(order[: (group.units + 1) // 2])
        kept, attributes = kept_channels(groups, stays)
        pruned, masked = copy.deepcopy(self.network), copy.deepcopy(self.network)
        try:
            with torch.no_grad():
                for group in groups:
                    mask(masked, group, [each for each in range(group.units) if each not in stays[group.name]])
                cut_modules(pruned, kept, attributes)
                without, unread = call(pruned, self.spec, self.inputs), call(masked, self.spec, self.inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, EdgekdError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            return False, f"the network breaks when its channels are cut: {first[:120]}"
        for name, expected in unread.items():
            if without[name].shape != expected.shape:
                return False, "its channels are outputs of the network"
            change = (expected - self.whole[name]).abs().max().item()
            if (without[name] - expected).abs().max().item() > _TOLERANCE * change:
                return False, "the rest of the network depends on how many channels there are, or mixes them up"
        return True, ""


def mask(network: nn.Module, group: ChannelGroup, units: Iterable[int]) -> None:
    """Make nothing read the ``units`` of a group: the weights that meet them become zero."""
    gone = set(units)
    with torch.no_grad():
        for part in group.readers():
            channels = [c for c, root in zip(part.channels, part.roots, strict=True) if root // group.unit in gone]
            weight = network.get_submodule(part.module).weight
            assert isinstance(weight, Tensor)
            weight[:, channels] = 0


def random_inputs(spec: ModelSpec, batch: int = 4) -> dict[str, Tensor]:
    """Return random numbers, tokens and so on for every input of ``spec``, floats as float64."""
    made = {}
    for each in spec.inputs:
        shape = (batch, *each.shape)
        if each.meaning == "tokens":
            made[each.name] = torch.randint(0, each.vocabulary or 2, shape)
        elif each.meaning == "mask":
            lengths = torch.arange(1, batch + 1)[:, None] * each.shape[0] // batch
            made[each.name] = (torch.arange(each.shape[0]) < lengths.clamp_min(1)).to(getattr(torch, each.dtype))
        else:
            made[each.name] = torch.randn(shape, dtype=torch.float64)
    return made


def _lively(network: nn.Module, spec: ModelSpec, inputs: dict[str, Tensor]) -> None:
    """Give batch norms statistics and factors unlike 0 and 1, so that no channel is without effect."""
    network.eval()
    norms = [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.train()
        with torch.no_grad():
            for value in (norm.weight, norm.bias):
                if value is not None:
                    value.uniform_(0.5, 1.5)
    with torch.no_grad():
        for module in network.modules():
            bias = getattr(module, "bias", None)
            if isinstance(module, CUTTABLE) and module not in norms and isinstance(bias, Tensor):
                bias.normal_(std=0.1)
        call(network, spec, inputs)
    network.eval()
