"""Which precision and memory layout this machine trains a network fastest in: tried out, not believed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekd.data.dataset import Dataset
from edgekd.distill.trainer import tensors
from edgekd.models.spec import build, call, cost
from edgekd.models.tensors import ModelSpec
from edgekd.recipe import Training
from edgekd.workspace import Workspace

_WORTH_MACS = 1e13
"""Multiply-accumulates of a training under which trying out does not pay: about a minute on two cores."""
_SECONDS = 10.0
_STEPS = 3
_CLEARLY = 1.1
"""How much faster than float32 something must be, so that luck does not decide."""


@dataclass(frozen=True)
class Way:
    """One way to train: a precision and a layout."""

    precision: str
    layout: str


def settled(training: Training, spec: ModelSpec, data: Dataset, threads: int, workspace: Workspace) -> Training:
    """Return ``training`` with ``auto`` precision and layout replaced by the fastest of those allowed.

    Short trainings, and networks that take no images, get float32 and channels-last without a trial; a bfloat16 that is
    asked for is kept. The choice is journaled, so a resumed run keeps it.
    """
    ways = [
        Way(precision, layout)
        for precision in (("fp32", "bf16") if training.precision == "auto" else (training.precision,))
        for layout in (("channels_last", "contiguous") if training.layout == "auto" else (training.layout,))
    ]
    samples = len(data.splits.train) * training.epochs
    chosen = ways[0]
    if len(ways) > 1:
        model = build(spec)
        macs = cost(model, spec).macs or 0
        if 3 * macs * samples >= _WORTH_MACS:
            chosen = _tried(ways, training, spec, data, threads, workspace)
    return training.model_copy(update={"precision": chosen.precision, "layout": chosen.layout})


def _tried(ways: list[Way], training: Training, spec: ModelSpec, data: Dataset, threads: int, workspace: Workspace) -> Way:
    def work(_folder: Path) -> dict[str, Any]:
        torch.set_num_threads(threads)
        seconds = [_seconds_per_step(way, training, spec, data, _SECONDS / len(ways)) for way in ways]
        best = min(range(len(ways)), key=seconds.__getitem__)
        if seconds[best] * _CLEARLY > seconds[0]:
            best = 0
        return {"way": [ways[best].precision, ways[best].layout], "speedup": seconds[0] / seconds[best]}

    inputs = {
        "model": spec.to_json(), "batch": training.batch_size, "threads": threads, "data": data.digest,
        "ways": [[way.precision, way.layout] for way in ways],
    }  # fmt: skip
    what = f"{spec.reference}: which precision and layout this machine trains it fastest in"
    found = workspace.stage("probe", what, inputs, work, _describe).result
    return Way(*found["way"])


def _describe(result: dict[str, Any]) -> str:
    precision, layout = result["way"]
    return f"{precision}, {layout.replace('_', ' ')}: {result['speedup']:.1f} times as fast as fp32, channels last"


def _seconds_per_step(way: Way, training: Training, spec: ModelSpec, data: Dataset, seconds: float) -> float:
    """Return the shortest of some steps forward and back, after one that warms up; at most about ``seconds`` in all."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(spec).train().to(device)
    if way.layout == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    indices = data.splits.train[: training.batch_size]
    inputs = tensors(data.batch(indices), way.layout, device)
    target = torch.from_numpy(data.labels[indices]).to(device)
    times: list[float] = []
    begun = time.monotonic()
    while len(times) < _STEPS + 1 and (len(times) < 2 or time.monotonic() - begun < seconds):
        started = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=way.precision == "bf16"):
            logits = call(model, spec, inputs)[spec.outputs[0].name]
        torch.nn.functional.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize()
        model.zero_grad(set_to_none=True)
        times.append(time.monotonic() - started)
    return min(times[1:])
