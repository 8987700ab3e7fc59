"""Multiply-accumulates of the operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from edgekd.inspect import macs
from edgekd.inspect.graph import Shape, TensorDescription, product

_MS = "com.microsoft."


def node_macs(node: Any, kind: str, tensors: dict[str, TensorDescription]) -> int | None:
    """Return the multiply-accumulates of a node; ``None``: unknown, as those of graphs inside it.

    Args:
        node: A ``NodeProto``.
        kind: Its operator, behind the domain where that is not the standard one.
        tensors: By name.
    """
    if any(each.HasField("g") for each in node.attribute):
        return None
    count = _MACS.get(kind)
    return 0 if count is None else count(_Node(node, tensors))


class _Node:
    """A node, asked for shapes and attributes."""

    def __init__(self, node: Any, tensors: dict[str, TensorDescription]) -> None:
        self._node, self._tensors = node, tensors

    def given(self, place: int) -> Shape | None:
        names = self._node.input
        return self._tensors[names[place]].shape if place < len(names) and names[place] else None

    def has(self, place: int) -> bool:
        return place < len(self._node.input) and bool(self._node.input[place])

    @property
    def inputs(self) -> Iterator[Shape | None]:
        return (self.given(place) for place in range(len(self._node.input)))

    @property
    def out(self) -> Shape | None:
        return self._tensors[self._node.output[0]].shape if self._node.output and self._node.output[0] else None

    def attribute(self, name: str, default: Any) -> Any:
        from onnx import helper

        for each in self._node.attribute:
            if each.name == name:
                return helper.get_attribute_value(each)
        return default


def _recurrent(node: _Node) -> int | None:
    given = node.given(0)
    steps = product(*given[:2]) if given is not None else None
    return macs.recurrent(steps, [node.given(1), node.given(2)])


def _attention(node: _Node) -> int | None:
    heads = (node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0))
    past = node.given(4) if node.has(4) else ()
    return macs.attention(node.given(0), node.given(1), node.given(2), past, heads)


def _unknown(node: _Node) -> None:
    return None


def _convolution(weight: int) -> Callable[[_Node], int | None]:
    return lambda node: macs.convolution(node.out, node.given(weight))


def _matmul(node: _Node) -> int | None:
    return macs.matmul(node.out, node.given(0), bool(node.attribute("transA", 0)))


def _einsum(node: _Node) -> int | None:
    return macs.einsum(node.attribute("equation", b"").decode(errors="replace"), list(node.inputs))


_MACS: dict[str, Callable[[_Node], int | None]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv", f"{_MS}FusedConv", f"{_MS}NhwcConv"), _convolution(1)),
    "QLinearConv": _convolution(3), f"{_MS}QLinearConv": _convolution(3),
    "ConvTranspose": lambda node: macs.transposed_convolution(node.given(0), node.given(1)),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", f"{_MS}QGemm", f"{_MS}FusedMatMul"), _matmul),
    **dict.fromkeys((f"{_MS}DynamicQuantizeMatMul", f"{_MS}MatMulIntegerToFloat", f"{_MS}MatMulNBits"), _matmul),
    "Einsum": _einsum, "Attention": _attention, "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent,
    **dict.fromkeys((f"{_MS}Attention", f"{_MS}MultiHeadAttention", f"{_MS}GroupQueryAttention", f"{_MS}QAttention"), _unknown),
    **dict.fromkeys((f"{_MS}MoE", f"{_MS}QMoE", f"{_MS}DynamicQuantizeLSTM", f"{_MS}FusedGemm"), _unknown),
}  # fmt: skip
"""How many multiply-accumulates an operator takes, by its kind."""
