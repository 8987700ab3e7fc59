"""Queries, keys and values of a transformer's block, found by what their dense layers are called."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError

_NAMES = (
    ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"), ("to_q", "to_k", "to_v"), ("q", "k", "v"),
)  # fmt: skip
_TOGETHER = ("qkv", "Wqkv", "qkv_proj", "query_key_value")
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "heads", "n_head")
_MASKED = -10_000.0
"""Score of padding: losses take what is below -100 for masked."""


@dataclass(frozen=True)
class AttentionParts:
    """Where a block computes its attention.

    Attributes:
        names: Modules whose outputs are queries, keys and values ``[n, length, width]``; one if it gives all three.
        widths: Of each of the three.
        heads: Attention heads; ``None``: not known.
    """

    names: tuple[str, ...]
    widths: tuple[int, int, int]
    heads: int | None

    def split(self, seen: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values from what was seen."""
        if len(self.names) == 1:
            q, k, v = seen[self.names[0]].chunk(3, dim=-1)
        else:
            q, k, v = (seen[name] for name in self.names)
        return q, k, v

    def scores(self, seen: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """Return ``q k^T / sqrt(width of a head)`` ``[n, heads, length, length]`` in float32, -10,000 for padding keys.

        Args:
            seen: Outputs by name.
            mask: ``[n, length]``, 0: padding; ``None``: there is none.
        """
        q, k, _ = self.split(seen)
        assert self.heads is not None
        q, k = (each.float().reshape(*each.shape[:2], self.heads, -1).transpose(1, 2) for each in (q, k))
        with torch.autocast(q.device.type, enabled=False):
            scores: Tensor = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        return scores if mask is None else scores.masked_fill(mask[:, None, None, :] == 0, _MASKED)


def attention_parts(network: nn.Module, block: str, role: str) -> AttentionParts:
    """Find queries, keys and values in a block; the first attention in it, if there are several.

    Args:
        network: Holds the block.
        block: Its name.
        role: ``student`` or ``teacher``, for messages.

    Raises:
        ModelError: There are none.
    """
    dense = {name: each for name, each in network.get_submodule(block).named_modules() if isinstance(each, nn.Linear)}
    for triple in _NAMES:
        for name in dense:
            parent, _, last = name.rpartition(".")
            paths = tuple(f"{parent}.{each}" if parent else each for each in triple)
            if last == triple[0] and all(each in dense for each in paths):
                q, k, v = (dense[each].out_features for each in paths)
                return AttentionParts(tuple(f"{block}.{each}" for each in paths), (q, k, v), _heads(network, block, parent, q))
    for name, each in dense.items():
        parent, _, last = name.rpartition(".")
        if last in _TOGETHER and each.out_features == 3 * each.in_features:
            width = each.in_features
            heads = _heads(network, block, parent, width)
            return AttentionParts((f"{block}.{name}",), (width, width, width), heads)
    raise ModelError(
        f"no queries, keys and values in {block} of the {role}: looked for dense layers called "
        + ", ".join("/".join(each) for each in _NAMES) + f", {', '.join(_TOGETHER)}",
        "take tinybert_hidden, which compares what blocks give, or a loss on outputs",
    )  # fmt: skip


def _heads(network: nn.Module, block: str, parent: str, width: int) -> int | None:
    path = f"{block}.{parent}" if parent else block
    while path:
        module = network.get_submodule(path)
        for holder in (module, getattr(module, "config", None)):
            for name in _HEADS:
                value = getattr(holder, name, None)
                if isinstance(value, int) and value > 0 and width % value == 0:
                    return value
        path = path.rpartition(".")[0]
    return None
