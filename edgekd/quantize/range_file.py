"""Ranges of activations as a file: ``{tensor of the float32 file: [low, high]}``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgekd.errors import ExportError
from edgekd.safe.files import write_json

Ranges = dict[str, tuple[float, float]]
"""The least and the largest value that int8 steps cover, by tensor. 0 is among them: padding and ReLU give exactly 0."""


def read_ranges(path: str | Path) -> Ranges:
    """Return what :func:`write_ranges` wrote, widened to contain 0.

    Raises:
        ExportError: A range is not two finite numbers, of which the second is not below the first.
    """
    found: Ranges = {}
    for name, pair in json.loads(Path(path).read_text()).items():
        if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] > pair[1]:
            raise ExportError(f"{path}: the range of '{name}' is {pair}", "a range is [low, high] in finite numbers")
        found[name] = (min(float(pair[0]), 0.0), max(float(pair[1]), 0.0))
    return found


def write_ranges(ranges: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Write ``{tensor: [low, high]}`` as JSON."""
    write_json(path, {name: [float(low), float(high)] for name, (low, high) in ranges.items()})


def check_known(path: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that a file does not have; ``what`` says of what: ``tensor`` or ``layer``.

    Raises:
        ExportError: Names the first.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ExportError(f"{path} has no {what} '{unknown[0]}'", "`edgekd inspect` shows what a file holds")
