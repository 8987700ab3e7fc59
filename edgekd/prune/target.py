"""What a pruned network may cost: ``macs=0.5x``, ``params=200k``, ``bytes=1M``, ``latency=0.5x@pi4``, ``ratio=0.5``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgekd.errors import UsageError
from edgekd.names import did_you_mean

What = Literal["macs", "params", "bytes", "latency", "ratio"]
WHATS: tuple[What, ...] = get_args(What)
_AMOUNT = re.compile(r"^([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(x|ms|[kKMG]i?B?)?$")
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_EXAMPLES = "macs=0.5x, params=200k, bytes=1M, latency=0.5x@pi4, latency=12ms@pi4 or ratio=0.5"


@dataclass(frozen=True)
class PruningTarget:
    """What pruning is for.

    Attributes:
        what: What is counted; ``ratio``: the share of channels that every layer loses.
        amount: How much is left of it, or the ratio; milliseconds for latency.
        relative: Whether ``amount`` is a share of what the whole network costs.
        device: Id of a profile, for latency.
    """

    what: What
    amount: float
    relative: bool
    device: str | None = None

    def limit(self, whole: float) -> float:
        """Return the most that may be left where the whole network costs ``whole``."""
        return self.amount * whole if self.relative else self.amount

    def competes(self, scope: str) -> bool:
        """Whether layers compete for the budget under ``scope``, instead of losing the same share each."""
        return scope == "global" and self.what != "ratio"

    def __str__(self) -> str:
        shown = f"{self.amount:.15g}" + ("x" if self.relative else "ms" if self.what == "latency" else "")
        return f"{self.what}={shown}" + (f"@{self.device}" if self.device else "")


def parse_target(text: str) -> PruningTarget:
    """Return the target in ``text``.

    Raises:
        UsageError: It is none; the message says what is allowed.
    """
    what, equals, rest = text.partition("=")
    if not equals or what not in WHATS:
        raise UsageError(f"'{text}' is no target{did_you_mean(what, WHATS)}", f"give {_EXAMPLES}")
    amount, at, device = rest.partition("@")
    if bool(at and device) != (what == "latency"):
        told = "names no device" if what == "latency" else "names a device, but only latency has one"
        raise UsageError(f"'{text}' {told}", "give for example latency=0.5x@pi4, see `edgekd devices list`")
    known = next(each for each in WHATS if each == what)
    value, relative = parse_amount(known, amount)
    return PruningTarget(known, value, relative, device or None)


def parse_amount(what: What, amount: str) -> tuple[float, bool]:
    """Return how much is left of ``what``, or the ratio, and whether it is a share.

    Raises:
        UsageError: It is no such amount.
    """
    text = f"{what}={amount}"
    match = _AMOUNT.match(amount.strip())
    if match is None:
        raise UsageError(f"'{amount}' in '{text}' is no amount", f"give {_EXAMPLES}")
    value, unit = float(match[1]), match[2] or ""
    relative = unit == "x"
    if what == "ratio":
        if unit or not 0 < value < 1:
            raise UsageError(f"ratio={amount} leaves no channels or cuts none", "give a number above 0 and below 1")
    elif relative:
        if not 0 < value < 1:
            raise UsageError(f"{what}={amount} is no smaller network", "give a share above 0 and below 1, for example 0.5x")
    elif what == "latency":
        if unit != "ms":
            raise UsageError(f"'{amount}' in '{text}' is no time", "give a share like 0.5x, or milliseconds like 12ms")
    elif unit == "ms":
        raise UsageError(f"{what} is not counted in ms", f"give {_EXAMPLES}")
    else:
        value *= _UNITS[unit.removesuffix("B")]
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"'{amount}' in '{text}' must be above 0", f"give {_EXAMPLES}")
    return value, relative
