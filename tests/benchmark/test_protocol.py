"""The measuring protocol: counts and percentiles, never the clock."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd.benchmark import protocol
from edgekd.benchmark.protocol import measure, summarise
from edgekd.report.report import Report
from edgekd.runtimes import open_artifact


def test_summary_is_percentiles_and_an_interval_that_holds_the_median() -> None:
    times = np.random.default_rng(0).lognormal(size=500)
    summary = summarise(times)
    assert summary["p50_ms"] == np.median(times)
    assert summary["p90_ms"] == np.percentile(times, 90)
    assert summary["low_ms"] < summary["p50_ms"] < summary["high_ms"]
    assert summary["runs"] == 500


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    chance = np.random.default_rng(1)
    summaries = [summarise(chance.exponential(size=101)) for _ in range(2000)]
    covered = np.mean([each["low_ms"] <= np.log(2) <= each["high_ms"] for each in summaries])
    assert 0.94 <= covered <= 0.985


def test_every_run_is_timed_after_warm_up(finished: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counting(path: str, kind: str, threads: int | None = None) -> object:
        run, inputs, outputs = open_artifact(path, kind, threads)

        def counted(arrays: dict[str, NDArray[np.float32]]) -> object:
            nonlocal calls
            calls += 1
            return run(arrays)

        return counted, inputs, outputs

    monkeypatch.setattr(protocol, "open_artifact", counting)
    np.savez(tmp_path / "sample.npz", image=np.zeros((1, 1, 8, 8), np.float32))
    times = measure(str(finished.path("onnx-fp32")), "onnx", str(tmp_path / "sample.npz"), 7, 20, 1)
    assert (len(times), calls) == (20, 27)
    assert min(times) > 0
