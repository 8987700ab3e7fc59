"""Which ways of teaching help: one student, one teacher, every method for as many epochs.

Claims: the best method gains over the same student trained alone. Methods that do not help are in the table too.

Run it on images in class folders, ``IMAGES/{train,test}/CLASS/``, as CIFAR-10 unpacks::

    python benchmarks/distillation_quality.py IMAGES --out runs/quality

It trains a ResNet-20 (or takes ``--teacher-weights``), then a ResNet-8 by every method and seed. Each line of the table is one
run of ``edgekd.compress`` and its control: the same student with the same first weights, images and epochs, without a
teacher. ``--every 3`` trains the students on every third image of a class, in a third of the time.
Intervals of single accuracies are Wilson's, those of gains are paired, both of 95 %, over the 10,000 test images;
they do not hold what another seed would change, which the seeds show. With a folder IMAGES/validation all seeds have the same
splits and share the kept outputs of the teacher. Hours on two cores; killed, it continues. Seeds may run side by side, each in
a command of its own; the command for all of them then makes one table of what they left.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import edgekd
from edgekd.progress import Silent
from edgekd.report.report import Report

METHODS: dict[str, dict[str, Any]] = {
    "kd, T 4, 0.1/0.9": {"alpha": 0.1, "beta": 0.9, "temperature": 4},
    "kd auto": {},
    "dkd": {"losses": ["dkd"]},
    "dist": {"losses": ["dist"]},
    "rkd + kd": {"losses": ["kd", "rkd"]},
    "reviewkd + kd": {"losses": ["kd", "reviewkd_hcl"]},
    "dml": {"scheme": "online"},
    "pskd": {"scheme": "temporal"},
}


class Clock(Silent):
    """Remembers how long the stages took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        """Remember."""
        self.seconds[name] = seconds


def thinned(images: Path, every: int, out: Path) -> Path:
    """Copy the image folder to ``out``, of its training part every ``every``-th image of each class; return ``out``."""
    for folder in images.glob("*/*"):
        step = every if folder.parent.name == "train" else 1
        (out / folder.relative_to(images)).mkdir(parents=True, exist_ok=True)
        for each in sorted(folder.iterdir())[::step]:
            shutil.copyfile(each, out / each.relative_to(images))
    return out


def recipe(options: argparse.Namespace, seed: int, distill: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of one line."""
    training = {
        "batch_size": options.batch_size, "optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 5e-4,
        "precision": options.precision, "compile": options.compile,
    }  # fmt: skip
    teacher: dict[str, Any] = {"model": "zoo:resnet20", "train": {"epochs": options.teacher_epochs, **training}}
    if options.teacher_weights:
        teacher["weights"] = str(options.teacher_weights.absolute())
    has_validation = (options.images / "validation").is_dir()
    kept = options.out / ("soft-targets" if has_validation else f"soft-targets-{seed}")
    return {
        "name": "quality", "seed": seed, "threads": options.threads,
        "data": {"source": f"folder:{options.images.absolute()}", "validation": 0.1,
                 "augment": {"crop_padding": 4, "flip": True}},
        "teacher": teacher,
        "student": {"model": "zoo:resnet8"},
        "distill": {"control": True, "train": {"epochs": options.epochs, **training},
                    "soft_targets": {"folder": str(kept.absolute())}, **distill},
        "export": {"artifacts": ["onnx-fp32"]}, "benchmark": {"runs": 10, "warmup": 0},
    }  # fmt: skip


def main() -> None:
    """Run every method and seed, print the table and leave it in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder with train/ and test/, a folder per class in each")
    parser.add_argument("--every", type=int, default=1, help="train on every so many-th image of a class")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--epochs", type=int, default=20, help="of every student")
    parser.add_argument("--teacher-epochs", type=int, default=24)
    parser.add_argument("--teacher-weights", type=Path, help="a ResNet-20's, instead of training it")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--compile", action="store_true", help="train by torch.compile")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", help="names of methods")
    options = parser.parse_args()
    if options.every > 1:
        copied = options.out / f"images-every-{options.every}"
        if not copied.is_dir():
            thinned(options.images, options.every, copied.with_name(f"{copied.name}.part")).replace(copied)
        options.images = copied
    chosen = {name: each for name, each in METHODS.items() if not options.only or name in options.only}
    lines = []
    for seed in options.seeds:
        for name, distill in chosen.items():
            clock, started = Clock(), time.monotonic()
            report = edgekd.compress(recipe(options, seed, distill), options.out / f"seed-{seed}", listener=clock)
            lines.append(line(name, seed, report, clock.seconds))
            print(f"{shown(lines[-1])}   ({time.monotonic() - started:.0f} s in all)", flush=True)
            write(lines, options)


def line(name: str, seed: int, report: Report, seconds: dict[str, float]) -> dict[str, Any]:
    """Return what one run found."""
    assert report.control is not None
    metric, control = report.student.metric, report.control
    return {
        "method": name, "seed": seed, "top1": metric.value, "ci95": metric.ci95, "alone": control.metric.value,
        "gain": control.gain, "gain_ci95": control.ci95, "seconds": seconds["distill"], "seconds_alone": seconds["control"],
        "teacher": report.teacher.metric.value if report.teacher else None, "facts": report.student.facts,
    }  # fmt: skip


def shown(found: dict[str, Any]) -> str:
    """Return one line of the table."""
    low, high = (100 * each for each in found["ci95"])
    terms = ", ".join(
        f"{term['name']} weight {term['weight']:g}" + (f" T {term['temperature']:g}" if term["temperature"] else "")
        for term in found["facts"]["terms"]
    )
    gain = f"{found['gain']:+.2f} ({found['gain_ci95'][0]:+.2f} to {found['gain_ci95'][1]:+.2f})"
    return (
        f"{found['method']:<18} seed {found['seed']}  {100 * found['top1']:.2f} % ({low:.1f}-{high:.1f})  gain {gain}  "
        f"{found['seconds']:.0f} s  {terms}"
    )


def write(lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Leave all lines as JSON, and a table in Markdown: a row per method, over the seeds."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "quality.json").write_text(json.dumps(lines, indent=2))
    rows = ["| method | top-1, each seed | gain over alone, points (95 %) | seconds |", "|---|---|---|---|"]
    alone = {each["seed"]: (each["alone"], each["seconds_alone"]) for each in lines}
    rows.append(
        f"| no distillation | {', '.join(f'{100 * value:.2f} %' for value, _ in alone.values())} | | "
        f"{sum(each for _, each in alone.values()) / len(alone):.0f} |"
    )
    for name in dict.fromkeys(each["method"] for each in lines):
        own = [each for each in lines if each["method"] == name]
        gains = ", ".join(f"{e['gain']:+.2f} ({e['gain_ci95'][0]:+.2f} to {e['gain_ci95'][1]:+.2f})" for e in own)
        values = ", ".join(f"{100 * each['top1']:.2f} %" for each in own)
        rows.append(f"| {name} | {values} | {gains} | {sum(each['seconds'] for each in own) / len(own):.0f} |")
    (options.out / "quality.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
