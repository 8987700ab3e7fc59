"""Tokens as maps, so that what compares maps compares transformers too."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import Tensor

from edgekd.distill.layers import Layer
from edgekd.errors import ModelError

Shape: TypeAlias = tuple[int, int, int]
_EXTRA = (0, 1, 2)
"""Tokens before those of the patches: none, a class token, and one of distillation."""


def map_shape(layer: Layer, beside: Layer) -> Shape:
    """Return channels, height and width of a layer as a map, see :func:`as_map`.

    Raises:
        ModelError: Its tokens are no square grid, and the other layer is a map.
    """
    if layer.kind == "map":
        return (layer.shape[0], layer.shape[1], layer.shape[2])
    if layer.kind == "vector":
        return (layer.shape[0], 1, 1)
    length, width = layer.shape
    if beside.kind != "map":
        return (width, length, 1)
    side = math.isqrt(length - _extra(layer, beside))
    return (width, side, side)


def as_map(values: Tensor, layer: Layer, beside: Layer) -> Tensor:
    """Return a layer's values as maps ``[n, channels, h, w]``.

    Tokens beside a map lose the class token and become a square grid; beside tokens or a vector they are a map one wide.
    A vector is a map of one pixel.
    """
    if layer.kind == "map":
        return values
    if layer.kind == "vector":
        return values[:, :, None, None]
    if beside.kind == "map":
        values = values[:, _extra(layer, beside) :]
    _, height, width = map_shape(layer, beside)
    return values.transpose(1, 2).reshape(len(values), -1, height, width)


def _extra(layer: Layer, beside: Layer) -> int:
    for extra in _EXTRA:
        if math.isqrt(max(layer.shape[0] - extra, 0)) ** 2 == layer.shape[0] - extra > 1:
            return extra
    raise ModelError(
        f"{layer.name} has {layer.shape[0]} tokens, with or without a class token no square grid, so it does not compare with"
        f" the map of {beside.name}",
        "pair layers of one kind, or take a loss on outputs",
    )
