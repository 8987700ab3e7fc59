"""Temperature and weights that choose themselves, beside a grid of those set by hand.

Claim: ``auto`` is within the noise of the best of the grid, on two data sets, without having seen it.

The embedded digits take minutes, spoken ones longer (``SOUNDS/{train,test}/CLASS/*.wav``, as the Free Spoken Digit Dataset
unpacks), images in class folders hours (``IMAGES/{train,test}/CLASS/``, as CIFAR-10 unpacks)::

    python benchmarks/automatic_settings.py --out runs/automatic --seeds 0 1 2 3 4
    python benchmarks/automatic_settings.py --sounds SOUNDS --seeds 0 1 2
    python benchmarks/automatic_settings.py --images IMAGES --teacher-weights resnet20.safetensors --seeds 0

The grid is temperature 1, 2, 4, 8 by four shares of the teacher: ``alpha = 1 - share, beta = share``.
Every seed has its own split, teacher, first weights and order. Accuracies are of the test split, over the seeds as mean and
standard error; the last column is the paired difference to ``auto`` over all test samples of all seeds, with its 95 % bounds.
That the best of 16 looks better than it is belongs to looking at 16. Killed, it continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgekd
from edgekd.distill.control import paired_difference

GRID: dict[str, dict[str, Any]] = {
    f"T {temperature}, {1 - share:g}/{share:g}": {"alpha": round(1 - share, 3), "beta": share, "temperature": temperature}
    for temperature in (1, 2, 4, 8)
    for share in (0.3, 0.6, 0.9, 1.0)
}


def recipe(options: argparse.Namespace, seed: int, distill: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of one training."""
    small = {"export": {"artifacts": ["onnx-fp32"]}, "benchmark": {"runs": 10, "warmup": 0}, "seed": seed}
    if options.sounds is not None:
        return {
            "name": "automatic", "threads": options.threads,
            "data": {"source": f"audio-folder:{options.sounds.absolute()}", "validation": 0.1},
            "teacher": {"model": "zoo:ds_cnn", "train": {"epochs": 10, "batch_size": 64, "learning_rate": 5e-3}},
            "student": {"model": "zoo:ds_cnn", "arguments": {"width": 0.25}},
            "distill": {"train": {"epochs": options.epochs or 6, "batch_size": 64, "learning_rate": 5e-3}, **distill},
            **small,
        }  # fmt: skip
    if options.images is None:
        return {
            "name": "automatic", "threads": options.threads,
            "data": {"source": "digits", "augment": {"crop_padding": 1}},
            "teacher": {"model": "zoo:digits_teacher", "train": {"epochs": 40, "batch_size": 64}},
            "student": {"model": "zoo:shallow_cnn"},
            "distill": {"train": {"epochs": options.epochs or 60, "batch_size": 64, "learning_rate": 5e-3}, **distill},
            **small,
        }  # fmt: skip
    training = {"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 5e-4, "precision": "bf16"}
    teacher: dict[str, Any] = {"model": "zoo:resnet20", "train": {"epochs": 24, **training}}
    if options.teacher_weights:
        teacher["weights"] = str(options.teacher_weights.absolute())
    return {
        "name": "automatic", "threads": options.threads, "teacher": teacher, "student": {"model": "zoo:resnet8"},
        "data": {"source": f"folder:{options.images.absolute()}", "validation": 0.1,
                 "augment": {"crop_padding": 4, "flip": True}},
        "distill": {"train": {"epochs": options.epochs or 15, **training}, **distill}, **small,
    }  # fmt: skip


def main() -> None:
    """Train by ``auto`` and every setting of the grid, for every seed; print the table and leave it in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with train/ and test/, a folder per class in each; else digits")
    parser.add_argument("--sounds", type=Path, help="folder with train/ and test/ of WAV files, a folder per class in each")
    parser.add_argument("--teacher-weights", type=Path, help="a ResNet-20's, instead of training it")
    parser.add_argument("--out", type=Path, default=Path("runs/automatic"))
    parser.add_argument("--epochs", type=int, help="of every student")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="of the grid, beside auto: 'T 4, 0.1/0.9'")
    options = parser.parse_args()
    settings = {"auto": {}, **{name: each for name, each in GRID.items() if not options.only or name in options.only}}
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in settings}
    chosen = []
    options.out = options.out / ("sounds" if options.sounds else "images" if options.images else "digits")
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        for name, distill in settings.items():
            report = edgekd.compress(recipe(options, seed, distill), out)
            right[name].append(_right(report, out))
            if name == "auto":
                chosen.append({"seed": seed, "alpha": report.student.facts["alpha"], "terms": report.student.facts["terms"]})
            print(f"seed {seed}  {name:<14} {report.student.metric.value:.2%}", flush=True)
    write_table(right, chosen, options)


def _right(report: edgekd.Report, out: Path) -> NDArray[np.bool_]:
    """Return which test samples the student has right."""
    from edgekd.data.load import load_data
    from edgekd.progress import Silent
    from edgekd.workspace import open_workspace

    with open_workspace(out, Silent()) as workspace:
        data = load_data(report.recipe, workspace)
    found: NDArray[np.bool_] = np.load(report.student.test_logits).argmax(1) == data.labels[data.splits.test]
    return found


def write_table(right: dict[str, list[NDArray[np.bool_]]], chosen: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table, best first, and leave it with what was chosen in ``automatic.json`` and ``automatic.md``."""
    rows = []
    for name, seeds in right.items():
        values = [100 * float(each.mean()) for each in seeds]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        difference, interval, _ = paired_difference(np.concatenate(seeds), np.concatenate(right["auto"]))
        rows.append({"setting": name, "top1": statistics.mean(values), "standard_error": error, "difference": difference,
                     "ci95": interval})  # fmt: skip
    rows.sort(key=lambda each: -each["top1"])
    lines = ["| setting | top-1 | to auto, points (95 %) |", "|---|---|---|"]
    for each in rows:
        error = f" ± {each['standard_error']:.2f}" if each["standard_error"] == each["standard_error"] else ""
        low, high = each["ci95"]
        difference = "" if each["setting"] == "auto" else f"{each['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        lines.append(f"| {each['setting']} | {each['top1']:.2f} %{error} | {difference} |")
    print("\n".join(lines))
    (options.out / "automatic.md").write_text("\n".join(lines) + "\n")
    (options.out / "automatic.json").write_text(json.dumps({"rows": rows, "chosen": chosen}, indent=2, allow_nan=True))


if __name__ == "__main__":
    main()
