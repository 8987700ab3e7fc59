"""The configuration of a transformers network after a cut: true wherever its fields can say what is left.

No table tells which field sets which sizes. Networks without weights are built from the configuration as it is and with a field
changed by one: the sizes that follow are its own. A field gets a new value where all sizes that follow it ask for the same one;
where they do not, or no field sets a size, it stays as it was, and transformers alone cannot build the network.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.prune.record import PassThrough

if TYPE_CHECKING:
    from edgekd.prune.groups import ChannelGroup, Found

_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "d_ff")
"""What configurations call the width of feed-forward layers, and below, the number of heads, their size, and of layers."""
_HEADS = ("num_attention_heads", "encoder_attention_heads", "num_heads")
_HEAD_SIZES = ("head_dim", "attention_head_size", "d_kv")
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers")
_BUILDING = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError)
"""What a class of transformers raises for a configuration that it does not take."""
_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Field:
    """A field of a configuration that sets sizes.

    Attributes:
        names: As the configuration calls it; of heads that share keys also what must equal it.
        value: It has.
        fixed: Fields that must be set beside it so that it sets anything: the size of a head.
        slopes: For each weight and axis whose size follows it, by how much for one.
    """

    names: tuple[str, ...]
    value: int
    fixed: Mapping[str, int]
    slopes: Mapping[tuple[str, int], int]

    def set_to(self, value: int) -> dict[str, int]:
        """Return the fields that give it a value."""
        return {**self.fixed, **dict.fromkeys(self.names, value)}

    def asked(self, base: _Shapes, sizes: _Shapes) -> set[float]:
        """Return the values that sizes ask for where those of ``base`` are what it sets now."""
        return {
            self.value + (sizes[key][axis] - base[key][axis]) / slope
            for (key, axis), slope in self.slopes.items() if key in sizes
        }  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a configuration can say of a network.

    Attributes:
        fields: New values of fields.
        reasons: Why transformers alone cannot build it; empty: it can.
    """

    fields: dict[str, Any]
    reasons: tuple[str, ...]


def settle_configurations(model: nn.Module) -> None:
    """Make the configurations of all transformers networks in ``model`` say what they are, as far as their fields go.

    A number of layers that the network reads as it runs stays: it also counts those that a pass-through stands for.
    """
    for network in transformers_networks(model):
        for name, value in told(network).fields.items():
            if not (name in _LAYERS or name == "layer_types") or not _reads(network, name):
                setattr(network.config, name, value)


def transformers_networks(model: nn.Module) -> list[Any]:
    """Return the networks of transformers in ``model``, each with all that is in it. Imports nothing."""
    return [network for _, network in _named_networks(model)]


def _named_networks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:
        return
    outer: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, library.PreTrainedModel) and not any(f"{name}.".startswith(each) for each in outer):
            outer.append(f"{name}." if name else "")
            yield outer[-1], module


def told(network: Any) -> Told:
    """Return what the configuration of a network must say to be true, and what it cannot say.

    Args:
        network: A ``PreTrainedModel``, cut or whole.
    """
    fields = _layers(network)
    base, sizes = _shapes(network, fields), renumbered(network)
    if base is None:
        return Told({}, ("its class cannot be built from its configuration",))
    if base == sizes:
        return Told(fields, ())
    reasons = []
    explained = set[tuple[str, int]]()
    for field in _fields(network, fields, base):
        asked = field.asked(base, sizes)
        value = round(next(iter(asked), field.value))
        if asked == {float(value)}:
            fields.update(field.set_to(value) if value != field.value else {})
        else:
            explained |= set(field.slopes)
            listed = ", ".join(f"{each:g}" for each in sorted(asked, reverse=True))
            reasons.append(f"layers have {field.names[0]} {listed}")
    rebuilt = _shapes(network, fields)
    if rebuilt is None:  # each value alone is fine, not all together
        return Told({}, ("its class cannot be built with what is left",))
    return Told(fields, (*reasons, *_other_reasons(network, configured(network, fields), rebuilt, sizes, explained)))


def renumbered(network: nn.Module) -> _Shapes:
    """Return the shapes of all that a network stores, by the names that they have without layers that are gone."""
    names = new_names(network)
    return {names[key]: tuple(value.shape) for key, value in network.state_dict().items()}


def new_names(network: nn.Module) -> dict[str, str]:
    """Return for each stored value the name that it has where layers that are gone are not counted."""
    names = {key: key for key in network.state_dict()}
    lists = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.ModuleList)]
    for name, each in reversed(lists):  # inner ones first: their names begin with those of the outer ones
        left = [index for index, member in enumerate(each) if not isinstance(member, PassThrough)]
        for key, old in names.items():
            if len(left) < len(each) and key.startswith(f"{name}."):
                index, dot, rest = old[len(name) + 1 :].partition(".")
                names[key] = f"{name}.{left.index(int(index))}{dot}{rest}"
    return names


def sayable(model: nn.Module, found: Found, reference: str) -> Found:
    """Return those groups of channels whose width a field of the configuration sets; the others stay whole.

    Args:
        model: The network that the groups are of.
        found: What can be cut.
        reference: Of the network, for messages.

    Raises:
        ModelError: There is none.
    """
    own: list[set[tuple[str, int]]] = []
    for prefix, network in _named_networks(model):
        fields = _layers(network)
        base = _shapes(network, fields)
        back = {new: f"{prefix}{old}" for old, new in new_names(network).items()}
        for field in [] if base is None else _fields(network, fields, base):
            own.append({(back[key], axis) for key, axis in field.slopes if key in back})
    able = tuple(each for each in found.groups if any(_places(each) <= places for places in own))
    if not able:
        raise ModelError(
            f"the configuration of {reference} has no field for a width that can be cut",
            "leave --for-transformers out: edgekd rebuilds what is left from its record",
        )
    kept = {each.name: "the configuration has no field for its width" for each in found.groups if each not in able}
    return replace(found, groups=able, refused={**found.refused, **kept})


def _places(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(f"{part.module}.weight", 0 if part.side == "out" else 1) for part in group.parts}


def _layers(network: Any) -> dict[str, Any]:
    """Return the number of layers that are left, and their types, where layers are gone."""
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    cut = [each for each in lists if any(isinstance(member, PassThrough) for member in each)]
    counts = {sum(not isinstance(member, PassThrough) for member in each) for each in cut}
    name = next((each for each in _LAYERS if type(getattr(network.config, each, None)) is int), None)
    if len(counts) != 1 or name is None:
        return {}
    fields: dict[str, Any] = {name: counts.pop()}
    types = getattr(network.config, "layer_types", None)
    if isinstance(types, list) and len(types) == len(cut[0]):
        fields["layer_types"] = [
            kind for kind, member in zip(types, cut[0], strict=True) if not isinstance(member, PassThrough)
        ]  # fmt: skip
    base = _shapes(network, fields)
    return fields if base is not None and set(base) == set(renumbered(network)) else {}


def _fields(network: Any, fields: Mapping[str, Any], base: _Shapes) -> list[Field]:
    """Return the fields that set sizes of a network whose ``fields`` are set and whose shapes then are ``base``."""
    config, found = network.config, list[Field]()
    tried: list[tuple[tuple[str, ...], dict[str, int]]] = [((name,), {}) for name in _WIDTHS]
    for count in _HEADS:
        heads, hidden = getattr(config, count, None), getattr(config, "hidden_size", None)
        if type(heads) is int and type(hidden) is int:
            names = tuple(each for each in (count, "num_key_value_heads") if getattr(config, each, None) == heads)
            for size in _HEAD_SIZES:
                known = getattr(config, size, None)
                tried.append((names, {size: known if type(known) is int else hidden // heads}))
    for names, fixed in tried:
        value = getattr(config, names[0], None)
        if type(value) is not int or (fixed and _shapes(network, {**fields, **fixed}) != base):
            continue
        wider = _shapes(network, {**fields, **fixed, **dict.fromkeys(names, value + 1)})
        if wider is None or set(wider) != set(base):
            continue
        slopes = {
            (key, axis): size - base[key][axis]
            for key, shape in wider.items() if len(shape) == len(base[key])
            for axis, size in enumerate(shape) if size != base[key][axis]
        }  # fmt: skip
        known = {place for each in found for place in each.slopes}
        # A field may have two names; and a number of heads that does not divide the hidden size gives odd sizes.
        if slopes and not known & set(slopes) and set(slopes.values()) == {next(iter(fixed.values()), 1)}:
            found.append(Field(names, value, fixed, slopes))
    return found


def _shapes(network: Any, fields: Mapping[str, Any]) -> _Shapes | None:
    """Return the shapes of a network like ``network`` with ``fields`` set, or ``None`` where its class refuses them."""
    from transformers.initialization import no_init_weights

    try:
        config = configured(network, fields)
        with torch.device("meta"), no_init_weights():
            built = type(network)(config)
    except _BUILDING:
        return None
    return {key: tuple(value.shape) for key, value in built.state_dict().items()}


def configured(network: Any, fields: Mapping[str, Any]) -> Any:
    """Return a copy of the configuration of a network with ``fields`` set."""
    config = copy.deepcopy(network.config)
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def _reads(network: nn.Module, name: str) -> bool:
    """Whether a network looks at a field of its configuration each time it runs."""
    codes = (getattr(inspect.unwrap(type(each).forward), "__code__", None) for each in network.modules())
    return any(code is not None and name in code.co_names for code in codes)


def _other_reasons(
    network: Any, config: Any, rebuilt: _Shapes, sizes: _Shapes, explained: set[tuple[str, int]]
) -> list[str]:  # fmt: skip
    """Return why a configuration cannot say what is left, beside fields of which layers ask for several values."""
    reasons = []
    if gone := sorted(set(rebuilt) - set(sizes)):
        reasons.append(f"{gone[0].rpartition('.')[0]} is gone")
    heads = {
        getattr(each, name) for each in network.modules() for name in ("num_attention_heads", "num_heads", "n_heads", "heads")
        if each is not network and type(getattr(each, name, None)) is int
    }  # fmt: skip
    told_heads = {value for value in (getattr(config, each, None) for each in _HEADS) if type(value) is int}
    unlike = [
        key for key, shape in sizes.items()
        if key in rebuilt and any(size != now and (key, axis) not in explained
                                  for axis, (size, now) in enumerate(zip(shape, rebuilt[key], strict=True)))
    ]  # fmt: skip
    if unlike and told_heads and heads - told_heads:
        listed = ", ".join(map(str, sorted(heads, reverse=True)))
        reasons.append(f"attention has {listed} heads, and their size has no field")
    elif unlike:
        shown = "x".join(map(str, sizes[unlike[0]]))
        more = f", nor for {len(unlike) - 1} more" if len(unlike) > 1 else ""
        reasons.append(f"there is no field for {unlike[0]} of {shown}{more}")
    return reasons
