"""What quantization-aware training leaves beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.tasks.classification import Metric

RANGES = "ranges.json"
SIMULATED_LOGITS = "simulated_test_logits.npy"


@dataclass(frozen=True)
class Simulation:
    """How the int8 files compute, as PyTorch simulated it at the end of quantization-aware training.

    Attributes:
        ranges: JSON file of the range of every rounded value, ``[low, high]`` by the name of its node in the graph.
        digest: SHA-256 of the simulated outputs and the ranges.
        test_logits: ``float32 [n, classes]`` file of the simulated outputs on the test split.
        metric: Of these.
        before: Of the student before this training, in floating point on the test split.
        history: Loss and simulated validation accuracy per epoch.
        facts: How it was trained, as of every training.
    """

    ranges: Path
    digest: str
    test_logits: Path
    metric: Metric
    before: Metric
    history: tuple[dict[str, float], ...]
    facts: dict[str, Any]
