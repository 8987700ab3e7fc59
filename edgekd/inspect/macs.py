"""Multiply-accumulates of single operators, from the shapes of what they read and write.

Counted are convolutions, matrix products, attention and recurrent layers, one for each weight that meets a value, padding
included, as FLOP counters of training frameworks do. Elementwise operators count as none. A size that is unknown makes
the answer unknown, never zero.
"""

from __future__ import annotations

from edgekd.inspect.graph import Shape, elements, product


def dimension(shape: Shape | None, axis: int) -> int | None:
    """Return one size of a shape; ``None``: unknown, or there is no such axis."""
    return None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]


def convolution(out: Shape | None, weight: Shape | None, output_axis: int = 0) -> int | None:
    """Return the cost of a convolution, grouped or not: each output value meets all weights of its output channel.

    Args:
        out: What it writes.
        weight: Its filters; their size per group of inputs, as every format stores them.
        output_axis: Axis of ``weight`` that counts output channels.
    """
    return product(elements(out), _without(weight, output_axis))


def transposed_convolution(given: Shape | None, weight: Shape | None, input_axis: int = 0) -> int | None:
    """Return the cost of a transposed convolution: each input value meets all weights of its input channel.

    Args:
        given: What it reads.
        weight: Its filters.
        input_axis: Axis of ``weight`` that counts input channels.
    """
    return product(elements(given), _without(weight, input_axis))


def matmul(out: Shape | None, left: Shape | None, transposed: bool = False) -> int | None:
    """Return the cost of a matrix product, batched or not: each output value sums over the axis both inputs share."""
    axis = -2 if transposed else -1
    return product(elements(out), dimension(left, axis))


def einsum(equation: str, shapes: list[Shape | None]) -> int | None:
    """Return the cost of an Einstein sum of two operands, the product of all its sizes; 0 of one operand.

    ``None`` for three and more, whose cost depends on the order, and where an ellipsis stands for axes.
    """
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2:
        return 0
    if len(terms) > 2 or "." in equation or len(terms) != len(shapes):
        return None
    sizes: dict[str, int | None] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if shape is None or len(term) != len(shape):
            return None
        sizes |= {letter: size for letter, size in zip(term, shape, strict=True) if size != 1 or letter not in sizes}
    return product(*sizes.values())


def attention(
    queries: Shape | None, keys: Shape | None, values: Shape | None, past: Shape | None, heads: tuple[int, int]
) -> int | None:
    """Return the cost of scaled dot-product attention, both of its matrix products.

    Args:
        queries, keys, values: ``[batch, heads, length, size]``, or ``[batch, length, heads * size]``.
        past: Cached keys, ``[batch, heads, length, size]``, that are attended to as well; ``()``: none.
        heads: Number of heads of queries, and of keys and values, for shapes of three dimensions.
    """
    if queries is None or keys is None or values is None or past is None:
        return None
    if len(queries) == 3:
        count: int | None = heads[0]
        size = _divided(dimension(queries, 2), heads[0])
        value_size = _divided(dimension(values, 2), heads[1])
    else:
        count, size, value_size = dimension(queries, 1), dimension(queries, -1), dimension(values, -1)
    length, cached = dimension(keys, -2), dimension(past, -2) if past else 0
    if length is None or cached is None or size is None or value_size is None:
        return None
    return product(dimension(queries, 0), count, dimension(queries, -2), length + cached, size + value_size)


def recurrent(steps: int | None, weights: list[Shape | None]) -> int | None:
    """Return the cost of a recurrent layer: all of its matrices meet one vector in each of ``steps`` steps."""
    total = 0
    for shape in weights:
        count = elements(shape)
        if count is None:
            return None
        total += count
    return product(steps, total)


def _without(shape: Shape | None, axis: int) -> int | None:
    if shape is None or not shape:
        return None
    axis %= len(shape)
    return elements(shape[:axis] + shape[axis + 1 :])


def _divided(size: int | None, parts: int) -> int | None:
    return None if size is None or parts < 1 else size // parts
