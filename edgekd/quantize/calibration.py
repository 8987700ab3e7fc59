"""Where the ranges of an int8 model's activations come from, and which training samples set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def activation_ranges(wanted: str, kind: str) -> str:
    """Return ``static`` or ``dynamic``: fixed from training samples, or found for each sample as it runs.

    Args:
        wanted: ``static``, ``dynamic`` or ``auto``, as the recipe has it.
        kind: Of the data. Text means a transformer: its attention masks, GELUs and layer norms have ranges that no
            256 fixed steps cover (measured in docs/decisions/0004).
    """
    if wanted != "auto":
        return wanted
    return "dynamic" if kind == "text" else "static"


def calibration_order(train: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all of ``train`` in an order whose every beginning is taken in turn from every class.

    Args:
        train: Indices of the training split; validation and test samples never calibrate.
        labels: Class index of every sample of the data set.
        seed: Decides which comes first.
    """
    shuffled = np.random.default_rng([seed, len(train)]).permutation(train)
    rank = np.empty(len(shuffled), np.int64)
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = np.arange(len(members))
    return shuffled[np.argsort(rank, kind="stable")]


def calibration_said(calibration: Mapping[str, Any]) -> str:
    """Return on what samples ranges were set, for example ``400 training samples, 40 of every class``."""
    least, most = calibration["per_class"]
    said = f"{calibration['samples']:,} training samples, {least if least == most else f'{least} to {most}'} of every class"
    if calibration["change"] is not None:
        said += f"; the last of them changed ranges by {calibration['change']:.1%}"
        said += "" if calibration["settled"] else ", which is not settled"
    copies = calibration["copies_left_out"]
    return said + (f"; {copies} left out that validation or test hold as well" if copies else "")
