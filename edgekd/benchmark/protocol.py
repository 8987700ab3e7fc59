"""How latency is measured: one sample at a time, after warm-up, in a process that does nothing else."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.runtimes import open_artifact


def measure(path: str, kind: str, sample: str, warmup: int, runs: int, threads: int) -> list[float]:
    """Return the time of each of ``runs`` inferences in milliseconds. Runs in a child process.

    Args:
        path: The artifact.
        kind: ``onnx`` or ``tflite``.
        sample: ``.npz`` file of every input by name, with a batch of 1, as the file takes it.
        warmup: Inferences before the clock starts.
        runs: Timed inferences.
        threads: Threads of the runtime.
    """
    run, _, _ = open_artifact(path, kind, threads)
    with np.load(sample, allow_pickle=False) as archive:
        arrays = dict(archive)
    for _ in range(warmup):
        run(arrays)
    times = []
    for _ in range(runs):
        started = time.perf_counter_ns()
        run(arrays)
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def summarise(times_ms: NDArray[np.float64]) -> dict[str, Any]:
    """Return median and 90th percentile, with the 95 % interval of the median in ``low_ms`` and ``high_ms``.

    The interval is by order statistics (Conover, 1999), which assumes no distribution.
    """
    ordered = np.sort(times_ms)
    count = len(ordered)
    spread = 1.96 * math.sqrt(count) / 2
    low = ordered[max(0, math.floor(count / 2 - spread) - 1)]
    high = ordered[min(count - 1, math.ceil(count / 2 + spread))]
    return {
        "p50_ms": float(np.percentile(ordered, 50)), "p90_ms": float(np.percentile(ordered, 90)),
        "low_ms": float(low), "high_ms": float(high), "runs": count,
    }  # fmt: skip
