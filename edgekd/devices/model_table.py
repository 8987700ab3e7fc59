"""The published models: what each computes and moves, as ``tools/published_models.py`` counted it."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.features import FEATURES
from edgekd.devices.fitting import Group, design
from edgekd.devices.latency_table import Key, Latency, family_of

PATH = Path(__file__).parent / "published_models.csv"
FEWEST_MODELS = 2
"""A key with fewer models is not fitted: nothing could be held out."""
_STEADY = 0.3
"""A measurement whose logarithm spreads this much counts half."""

Model = tuple[str, str]
"""Name, and height x width."""


@cache
def published_models() -> dict[Model, NDArray[np.float64]]:
    """Return the features of every published model that could be rebuilt."""
    with PATH.open(newline="") as file:
        return {
            (row["model"], row["input"]): np.array([float(row[name]) for name in FEATURES]) for row in csv.DictReader(file)
        }  # fmt: skip


def model_at(name: str, size: str) -> NDArray[np.float64] | None:
    """Return the features of a model; ``None``: it was not rebuilt."""
    return published_models().get((name, size))


def groups_of(latencies: Iterable[Latency], fewest_models: int = FEWEST_MODELS) -> list[Group]:
    """Return what can be fitted: measurements of models that are known, on CPUs and GPUs, by key.

    Args:
        latencies: Rows of a table.
        fewest_models: Keys with fewer models are left out.
    """
    rows: dict[Key, list[Latency]] = defaultdict(list)
    for each in latencies:
        if each.key.processor != "npu" and model_at(each.model, each.input) is not None:
            rows[each.key].append(each)
    return [_group(key, rows[key]) for key in sorted(rows) if len({row.model for row in rows[key]}) >= fewest_models]


def _group(key: Key, rows: list[Latency]) -> Group:
    family = family_of(key)
    known = published_models()
    return Group(
        key, family, tuple(row.model for row in rows),
        design(np.stack([known[row.model, row.input] for row in rows]), family.runtime),
        np.array([log(row.ms) for row in rows]), np.array([1 / (1 + (row.spread / _STEADY) ** 2) for row in rows]),
    )  # fmt: skip
