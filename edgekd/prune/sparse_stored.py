"""What zeros do to a file of weights: as large as before, and smaller once it is compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from edgekd.models.tensors import ModelSpec
from edgekd.prune.select import Scope
from edgekd.prune.sparse_reader import deflated_size
from edgekd.prune.sparse_stage import Zeroed, zero_model
from edgekd.prune.sparsity import SparseLayers, Sparsity


@dataclass(frozen=True)
class StoredZeros:
    """Weights that were set to zero, and what that saves.

    Attributes:
        zeroed: Which.
        size_bytes: Of all weights as safetensors; zeros do not change it.
        deflated: What deflate makes of them at level 9, before and after.
    """

    zeroed: Zeroed
    size_bytes: int
    deflated: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        before, after = self.deflated
        stored = {"size_bytes": self.size_bytes, "deflated_bytes": {"before": before, "after": after}}
        return {**self.zeroed.to_json(), **stored}

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        told, (before, after) = self.zeroed.to_json(), self.deflated
        return [
            f"  sparsity {told['asked']}: {told['share']:.1%} of the weights of {len(told['layers'])} layers are zero, "
            f"{told['share_of_all']:.1%} of all",
            f"  stored {self.size_bytes:>13,} bytes, deflated {before:,} -> {after:,}   {after / before:.2f}x",
            "  stored smaller, no faster on CPUs; see the report of `edgekd compress` for runtimes that have kernels for zeros",
            *(f"    {each['layer']:<40} {each['zeros']:>9,} of {each['weights']:,} zero" for each in told["layers"]),
            *(f"    {name:<40} stays dense: {why}" for name, why in told["left_dense"].items()),
        ]


def store_zeros(
    model: nn.Module, spec: ModelSpec, sparsity: Sparsity, which: SparseLayers, scope: Scope
) -> StoredZeros:  # fmt: skip
    """Set weights of ``model`` to zero, in place, and return what that saves, see :func:`.sparse_stage.zero_model`."""
    dense = _serialized(model)
    zeroed = zero_model(model, spec, sparsity, which, scope)
    return StoredZeros(zeroed, len(dense), (deflated_size(dense), deflated_size(_serialized(model))))


def _serialized(model: nn.Module) -> bytes:
    from safetensors.torch import save

    content: bytes = save({name: each.detach().contiguous() for name, each in model.state_dict().items()})
    return content
