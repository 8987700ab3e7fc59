"""How well predictions are on this machine, once it is calibrated: ten networks of the zoo that the calibration never saw.

    python benchmarks/host_prediction.py [--out host_prediction.json]

Calibration models and zoo networks, in float32 and int8, for ONNX Runtime and LiteRT, on one thread, are measured in the same
blocks; then the coefficients are fitted to the former alone, and ``edgekd devices predict`` predicts the latter from the files.
Takes some minutes, the first time some more, to make the files. What else runs on the machine is in the figures: the load
average and how well blocks agree are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from edgekd.benchmark.on_device import benchmark_files
from edgekd.benchmark.transports.open import open_transport
from edgekd.devices.calibrate import SHORT, keep, undisturbed
from edgekd.devices.calibration_models import calibration_files
from edgekd.devices.file_latency import predict_file
from edgekd.devices.profiles import load_profile, user_file
from edgekd.models.tensors import ModelSpec, classifier, image_input
from edgekd.progress import Silent
from edgekd.safe.files import write_json


@dataclass(frozen=True)
class ZooNetwork:
    """A network of the zoo, with random weights.

    Attributes:
        reference: Its name.
        size: Height and width of its input, which has 3 channels.
        arguments: Of the network.
    """

    reference: str
    size: int
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How its files are called."""
        return "-".join([self.reference, *map(str, self.arguments.values()), str(self.size)])

    @property
    def spec(self) -> ModelSpec:
        """How it is built."""
        image = image_input((self.size, self.size, 3), (0.5,) * 3, (0.25,) * 3)
        return classifier(f"zoo:{self.reference}", (image,), tuple(map(str, range(10))), self.arguments)


UNSEEN = (
    ZooNetwork("resnet8", 32), ZooNetwork("resnet20", 32), ZooNetwork("resnet56", 32), ZooNetwork("digits_teacher", 32),
    ZooNetwork("resnet18", 96, {"width": 0.5}), ZooNetwork("mobilenet_v1", 128, {"width": 0.5}), ZooNetwork("mobilenet_v2", 96),
    ZooNetwork("mobilenet_v3_small", 128), ZooNetwork("mobilenet_v3_large", 96), ZooNetwork("efficientnet_lite0", 128),
)  # fmt: skip


class _Progress(Silent):
    def stage_advanced(self, done: int, total: int, note: str) -> None:
        print(f"  {done + 1} of {total}: {note}", flush=True)


def main() -> None:
    """Measure, fit, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="File of all figures, as JSON.")
    parser.add_argument("--samples", type=Path, help="Folder that gets every sample.")
    arguments = parser.parse_args()
    host = load_profile("host")
    known = calibration_files(("onnx", "tflite"), listener=_Progress())
    unseen = calibration_files(("onnx", "tflite"), UNSEEN, listener=_Progress())
    before = os.getloadavg()
    result = benchmark_files(
        [each.path for each in (*known, *unseen)], host, open_transport("local", host), threads=[1], protocol=SHORT,
        runner="python", out=arguments.samples, listener=_Progress(),
    )  # fmt: skip
    measured = {each.path: undisturbed(each) for each in result.measurements}
    median = {each.path: each.summary.p50 for each in result.measurements}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder  # the user's own calibration stays as it is
        calibration = keep(result, known, host, user_file(host.id))
        for each in unseen:
            prediction = predict_file(each.path, host, threads=1).prediction
            assert prediction is not None
            milliseconds, spread = measured[each.path]
            rows.append({
                "model": each.model, "runtime": host.runtimes[each.format], "precision": each.precision, "ms": milliseconds,
                "spread": spread, "p50_ms": median[each.path], "predicted_ms": prediction.p50_ms,
                "low_ms": prediction.low_ms, "high_ms": prediction.high_ms,
                "error": prediction.p50_ms / milliseconds - 1,
            })  # fmt: skip
    load = [*before[:1], *os.getloadavg()[:1]]
    print(f"\n{calibration.device}; {len(known)} calibration files; load average {load[0]:.1f} before, {load[1]:.1f} after")
    for key in calibration.keys:
        print(key.text())
    for row in rows:
        print(f"{row['runtime']:<12} {row['precision']} {row['model']:<24} {row['ms']:8.3f} ms, "
              f"predicted {row['predicted_ms']:8.3f} ({row['low_ms']:.3f} to {row['high_ms']:.3f}), {row['error']:+.1%}; "
              f"blocks within {row['spread']:.1%}")  # fmt: skip
    summary: list[dict[str, Any]] = []
    for runtime in sorted(set(host.runtimes.values())):
        for precision in ("fp32", "int8"):
            summary.append(_summary(f"{runtime} {precision}", [
                row for row in rows if (row["runtime"], row["precision"]) == (runtime, precision)
            ]))  # fmt: skip
    summary.append(_summary("all", rows))
    ratio = summary[-1]["p50_over_ms"]
    print(f"measured: the 10th percentile of the best block; the median of all blocks is {ratio:.2f} times that")
    for row in summary:
        print(f"{row['what']:<18} n {row['count']:>2}  mean error {row['mean_error']:6.1%}  "
              f"median {row['median_error']:6.1%}  within 10 % {row['within_10']:4.0%}, 20 % {row['within_20']:4.0%}  "
              f"rank correlation {row['rank']:.3f}  in the interval {row['coverage']:4.0%}")  # fmt: skip
    if arguments.out is not None:
        write_json(arguments.out, {"calibration": calibration.to_json(), "load": load, "rows": rows, "summary": summary})
        print(json.dumps({"written": str(arguments.out)}))


def _summary(what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = np.abs([row["error"] for row in rows])
    rank = spearmanr([row["ms"] for row in rows], [row["predicted_ms"] for row in rows]).statistic
    return {
        "what": what, "count": len(rows), "mean_error": float(errors.mean()), "median_error": float(np.median(errors)),
        "within_10": float((errors <= 0.1).mean()), "within_20": float((errors <= 0.2).mean()), "rank": float(rank),
        "p50_over_ms": float(np.median([row["p50_ms"] / row["ms"] for row in rows])),
        "coverage": float(np.mean([row["low_ms"] <= row["ms"] <= row["high_ms"] for row in rows])),
    }  # fmt: skip


if __name__ == "__main__":
    main()
