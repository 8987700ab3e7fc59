"""How many weights of a network are zero: ``0.8``, the share of them, or ``2:4``, two left of four neighbours.

Free of torch: recipes read it. A file with zeros is as large as one without, until it is compressed, and computes as long,
but where a runtime has kernels for a pattern: :data:`edgekd.report.sparsity.SPEED` says which have.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SparseLayers = Literal["all", "pointwise"]
SPARSE_LAYERS: tuple[SparseLayers, ...] = get_args(SparseLayers)
_PATTERN = re.compile(r"^\s*([0-9]{1,4})\s*:\s*([0-9]{1,4})\s*$")
_MOST = 64
_EXAMPLES = "a share of weights above 0 and below 1, for example 0.8, or N:M, N left of M neighbours, for example 2:4"


@dataclass(frozen=True)
class Sparsity:
    """How many weights are zero.

    Attributes:
        share: Of the weights of the layers that have zeros, above 0 and below 1.
        pattern: ``(N, M)``: in every group of M neighbours along the input axis, at most N are not zero; ``None``: zeros may
            be anywhere.
    """

    share: float
    pattern: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.share:.15g}" if self.pattern is None else f"{self.pattern[0]}:{self.pattern[1]}"


def parse_sparsity(value: str | float) -> Sparsity:
    """Return the sparsity that a recipe or a command line asks for.

    Raises:
        UsageError: It is none; the message says what is allowed.
    """
    text = str(value)[:60]
    match = _PATTERN.match(text)
    if match is not None:
        left, of = int(match[1]), int(match[2])
        if not 1 <= left < of <= _MOST:
            told = "leaves no weight" if left == 0 else f"has groups of more than {_MOST}" if of > _MOST else "has no zeros"
            raise UsageError(f"sparsity {text} {told}", f"give {_EXAMPLES}")
        return Sparsity(1 - left / of, (left, of))
    try:
        share = math.nan if isinstance(value, bool) else float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise UsageError(f"'{text}' is no sparsity", f"give {_EXAMPLES}")
    return Sparsity(share)


def part_at(step: int, steps: int) -> float:
    """Return which part of all zeros there are after ``step`` of ``steps``: ``1 - (1 - step/steps)^3``.

    The schedule of Zhu and Gupta (2017): many at first, while there are many to spare, and few at the end. The last gives 1.
    """
    return 1 - (1 - step / steps) ** 3


def check_pattern(weight: Any, pattern: tuple[int, int] | None) -> tuple[int, int]:
    """Return how many values of a weight are zero, and how many of its groups break the pattern.

    Args:
        weight: ``[outputs, inputs, ...]``, an array or a tensor.
        pattern: See :class:`Sparsity`; groups follow one another along the inputs. ``None``: no group breaks it.

    Raises:
        ValueError: The inputs are no whole number of groups.
    """
    import numpy as np

    kept: NDArray[np.bool_] = np.asarray(weight) != 0
    zeros = int(kept.size - np.count_nonzero(kept))
    if pattern is None:
        return zeros, 0
    left, of = pattern
    outputs, inputs = kept.shape[:2]
    if inputs % of:
        raise ValueError(f"{inputs} inputs are no whole number of groups of {of}")
    groups = kept.reshape(outputs, inputs // of, of, -1).sum(2)
    return zeros, int((groups > left).sum())
