"""Which weights become zero: those of least magnitude, anywhere or so many of every few neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.spec import call, example_inputs
from edgekd.models.tensors import ModelSpec
from edgekd.prune.select import Scope
from edgekd.prune.sparsity import SparseLayers, Sparsity

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Masks = dict[str, Tensor]
"""For each layer, which of its weights are zero: bool, shaped as they are."""


@dataclass(frozen=True)
class Eligible:
    """Layers that get zeros, in order of execution, and for each other convolution or linear layer why it stays dense."""

    layers: tuple[str, ...]
    dense: dict[str, str]


def eligible_layers(model: nn.Module, spec: ModelSpec, sparsity: Sparsity, which: SparseLayers) -> Eligible:
    """Return which layers of a network get zeros. Nothing is traced: the network runs once.

    Depthwise convolutions stay dense, and with zeros anywhere the first layer, as in the sparse MobileNets of Zhu and Gupta
    (2017): they have few weights, and every one counts. So does, here, the output layer. A pattern is for kernels that gain by
    every layer that has it, so there only the shape decides.

    Args:
        model: The network.
        spec: How it is called.
        sparsity: How many zeros there will be.
        which: ``all``: convolutions and linear layers; ``pointwise``: 1x1 convolutions and linear layers.

    Raises:
        ModelError: No layer gets any.
    """
    order = _in_order(model, spec)
    layers, dense = [], {}
    for name, module in order.items():
        reason = _why_dense(name, module, list(order), sparsity, which)
        if reason is None:
            layers.append(name)
        else:
            dense[name] = reason
    if not layers:
        first, why = next(iter(dense.items()), ("it", "there is no convolution or linear layer"))
        raise ModelError(
            f"no layer of {spec.reference} can have the zeros of sparsity {sparsity}: {first}: {why}",
            "try prune.sparse_layers=all, another N:M, or cut channels with prune.target",
        )
    return Eligible(tuple(layers), dense)


def _in_order(model: nn.Module, spec: ModelSpec) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers that run, each weight once, in order of execution."""
    found: dict[str, nn.Module] = {}
    seen = set[int]()

    def watch(name: str) -> Any:
        def look(module: nn.Module, _inputs: Any) -> None:
            if id(module.weight) not in seen:
                seen.add(id(module.weight))
                found[name] = module

        return look

    handles = [
        each.register_forward_pre_hook(watch(name)) for name, each in model.named_modules() if isinstance(each, _WEIGHTED)
    ]
    try:
        with torch.no_grad():
            call(model.eval(), spec, example_inputs(spec))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _why_dense(name: str, module: nn.Module, order: list[str], sparsity: Sparsity, which: SparseLayers) -> str | None:
    groups = int(getattr(module, "groups", 1))
    kernel = tuple(getattr(module, "kernel_size", (1,)))
    inputs = weight_of(module).shape[1]
    if groups > 1:
        return "a depthwise convolution, which has few weights" if inputs == 1 else f"a convolution in {groups} groups"
    if which == "pointwise" and any(each != 1 for each in kernel):
        return "no 1x1 convolution"
    if sparsity.pattern is not None:
        of = sparsity.pattern[1]
        return f"its {inputs} inputs are no whole number of groups of {of}" if inputs % of else None
    if name == order[0]:
        return "the first layer"
    return "the output layer" if name == order[-1] else None


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a layer, ``[outputs, inputs, ...]``, without a gradient."""
    assert isinstance(module.weight, Tensor)
    return module.weight.detach()


def zero_masks(weights: Mapping[str, Tensor], sparsity: Sparsity, scope: Scope = "global", part: float = 1.0) -> Masks:
    """Return which weights become zero: always those of least magnitude, so those that are zero already before any others.

    Args:
        weights: Of each layer, ``[outputs, inputs, ...]``.
        sparsity: How many zeros there are in the end. With a pattern ``(N, M)``, the M - N smallest of each group.
        scope: ``global``: the smallest of all layers; ``layer``: every layer has the same share.
        part: Of those zeros how many there are now, above 0 and up to 1: the smallest of them.

    Returns:
        Masks with exactly ``round(part * share * count)`` zeros, over all layers or in each.
    """
    sizes = {name: each.detach().abs() for name, each in weights.items()}
    if sparsity.pattern is None:
        chosen = {name: torch.ones_like(each, dtype=torch.bool) for name, each in sizes.items()}
    else:
        chosen = {name: _smallest_of_groups(each, *sparsity.pattern) for name, each in sizes.items()}
        if part >= 1:
            return chosen
    share = part * (sparsity.share if sparsity.pattern is None else 1.0)
    if scope == "layer":
        return {name: _smallest({name: sizes[name]}, {name: chosen[name]}, share)[name] for name in sizes}
    return _smallest(sizes, chosen, share)


def _smallest_of_groups(sizes: Tensor, left: int, of: int) -> Tensor:
    """Return a mask of the ``of - left`` smallest of every ``of`` neighbours along the inputs."""
    outputs, inputs = sizes.shape[:2]
    groups = sizes.reshape(outputs, inputs // of, of, -1)
    order = torch.argsort(groups, dim=2, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[:, :, : of - left], True)
    return mask.reshape(sizes.shape)


def _smallest(sizes: Mapping[str, Tensor], chosen: Mapping[str, Tensor], share: float) -> Masks:
    """Return masks of the smallest ``share`` of the values that are ``chosen``, over all layers."""
    among = torch.cat([chosen[name].flatten() for name in sizes]).nonzero().flatten()
    flat = torch.cat([each.flatten() for each in sizes.values()])
    order = among[torch.argsort(flat[among], stable=True)[: round(share * len(among))]]
    mask = torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, order, True)
    parts = torch.split(mask, [each.numel() for each in sizes.values()])
    return {name: part.reshape(each.shape) for (name, each), part in zip(sizes.items(), parts, strict=True)}


def set_zeros(model: nn.Module, masks: Masks) -> None:
    """Set the weights of ``model`` that ``masks`` name to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight_of(model.get_submodule(name)).masked_fill_(mask, 0)


def keep_zeros(network: nn.Module, layers: tuple[str, ...]) -> nn.Module:
    """Let the weights of ``layers`` that are zero stay zero while ``network`` is trained; return it.

    Their gradients are zero, so a fresh optimizer has no momentum for them and weight decay nothing to shrink: they stay
    exactly zero, and so does any average of them. Nothing is stored: the zeros of the weights that a training starts from are
    the mask, so a resumed training finds the same. ``network`` may also be a graph that has the parameters by their names.
    """
    for layer in layers:
        weight = network.get_parameter(f"{layer}.weight")
        weight.register_hook(_holding(weight.detach() == 0))  # type: ignore[no-untyped-call]
    return network


def _holding(zero: Tensor) -> Any:
    masks = {zero.device: zero}

    def hold(gradient: Tensor) -> Tensor:
        if gradient.device not in masks:
            masks[gradient.device] = zero.to(gradient.device)
        return gradient.masked_fill(masks[gradient.device], 0)

    return hold
