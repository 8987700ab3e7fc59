"""How fast the trainer is, beside the loop a user would write: images per second, alternating in one run.

Claims: against a plain PyTorch distillation loop (float32, default memory layout, teacher in the loop) our trainer is several
times as fast with a live teacher, faster again with kept soft targets, and then about as fast as without any teacher.

Run it on images in class folders, ``IMAGES/{train,test}/CLASS/``, as CIFAR-10 unpacks::

    python benchmarks/training_speed.py IMAGES --teacher-weights resnet20.safetensors --out runs/speed

Every round trains two short epochs each way, of which the second counts (the first compiles, with ``--compile``), on the same
images with the same augmentation, batch size and threads; every way has a process of its own, which waits while others run.
The order turns from round to round, medians count, ratios are taken within a round. ``--accuracy EPOCHS`` trains a whole
student by the plain loop and by ours, with the same loss (T 4, 0.1/0.9), and compares them on the test split. What is gained
depends on the processor: bfloat16 pays where it has instructions for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgekd.data.batches import augment, batches
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.allocator import reused_memory
from edgekd.distill.control import paired_difference
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.schemes.offline import prepare_offline
from edgekd.distill.stages import prepare_teacher
from edgekd.distill.teacher import Teacher, voices
from edgekd.distill.trainer import Augmentations, predict, train
from edgekd.distill.training_stage import Prepared, set_threads
from edgekd.models.spec import build
from edgekd.models.tensors import classifier
from edgekd.progress import Silent
from edgekd.recipe import Augment, Recipe, Training
from edgekd.recipe_file import recipe_from_mapping
from edgekd.workspace import Workspace, open_workspace

AUGMENT = Augment(crop_padding=4, flip=True)
RATE, BATCH = 4e-3, 128
KEYS = 8
WAYS = {"plain loop": "plain", "live teacher": "live", "kept targets": "stored", "no teacher": "alone"}


class Bench:
    """A data set, a teacher, and the ways to train a student on them."""

    def __init__(self, recipe: Recipe, data: Dataset, teacher: Teacher, workspace: Workspace) -> None:
        self.recipe, self.data, self.teacher, self.workspace = recipe, data, teacher, workspace
        self.spec = classifier("zoo:resnet8", data.inputs, data.classes)
        self.steps: list[float] = []

    def student(self) -> nn.Module:
        """Return a fresh student, always the same."""
        torch.manual_seed(0)
        return build(self.spec)

    def watch(self, module: nn.Module) -> None:
        """Remember when each step of a training begins: when ``module`` is called."""
        self.steps = []
        module.register_forward_pre_hook(lambda *_: self.steps.append(time.perf_counter()))

    def plain(self, data: Dataset, epochs: int) -> nn.Module:
        """Train by the loop a user would write."""
        model = self.student()
        self.watch(model)
        with voices(self.teacher, data.inputs, self.workspace) as (voice,):
            teacher = voice.module
            assert teacher is not None
            teacher.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
            steps = epochs * (len(data.splits.train) // BATCH)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
            for epoch in range(epochs):
                model.train()
                for indices in batches(data.splits.train, BATCH, 0, epoch):
                    images = torch.from_numpy(augment(data.batch(indices)["image"], indices, AUGMENT, 0, epoch))
                    target = torch.from_numpy(data.labels[indices])
                    logits = model(images)
                    with torch.no_grad():
                        taught = teacher(images)
                    soft = functional.kl_div(
                        (logits / 4).log_softmax(1), (taught / 4).log_softmax(1), reduction="batchmean", log_target=True
                    )
                    loss = 0.1 * functional.cross_entropy(logits, target) + 0.9 * 16 * soft
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return model.eval()

    def ours(self, data: Dataset, epochs: int, way: str, options: argparse.Namespace) -> nn.Module:
        """Train by edgekd: ``live``, ``stored`` or ``alone``."""
        model = self.student()
        student = Student(model, self.spec)
        training = Training(
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=RATE,
            precision=options.precision,
            layout="channels_last",  # type: ignore[arg-type]
            compile=options.compile,
        )
        with ExitStack() as stack, reused_memory(), tempfile.TemporaryDirectory() as folder:
            prepared = self.prepared(stack, student, training, way)
            self.watch(prepared.lesson)
            seed = 0 if prepared.seed is None else prepared.seed
            augmentations = Augmentations(AUGMENT, seed, prepared.keys)
            train(prepared.lesson, data, training, augmentations, 0, Path(folder), Silent(), join_processes())
        return model

    def prepared(self, stack: ExitStack, student: Student, training: Training, way: str) -> Prepared:
        """Return the lesson of ``ours``."""
        if way == "alone":
            return Prepared(Lesson({"student": student}))
        keys = min(KEYS, training.epochs) if way == "stored" else None
        folder = self.workspace.folder / "soft-targets"
        return prepare_offline(stack, self.teacher, student, self.recipe, self.data, training, keys, folder, self.workspace)


def main() -> None:
    """Alternate the ways, print images per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder with train/ and test/, a folder per class in each")
    parser.add_argument("--teacher-weights", type=Path, required=True, help="a ResNet-20's")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="bf16", help="of ours; the plain loop is fp32")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=6400, help="images of a round, a multiple of 128")
    parser.add_argument("--accuracy", type=int, default=0, metavar="EPOCHS", help="compare whole trainings too")
    parser.add_argument("--accuracy-samples", type=int, help="training images of that comparison; default: all")
    options = parser.parse_args()
    with ExitStack() as stack:
        bench = opened(stack, options.out / "prepared", options)
        found: dict[str, Any] = {"threads": options.threads, "precision": options.precision, "compile": options.compile}
        found["speed"] = speed(options)
        if options.accuracy:
            found["accuracy"] = accuracy(bench, options)
    (options.out / "speed.json").write_text(json.dumps(found, indent=2))


def opened(stack: ExitStack, folder: Path, options: argparse.Namespace) -> Bench:
    """Return the data and the teacher, prepared in ``folder`` or found there."""
    set_threads(options.threads)
    recipe = recipe_from_mapping({
        "threads": options.threads, "data": {"source": f"folder:{options.images.absolute()}", "validation": 0.1,
                                             "augment": AUGMENT.model_dump()},
        "teacher": {"model": "zoo:resnet20", "weights": str(options.teacher_weights.absolute())},
        "distill": {"alpha": 0.1, "beta": 0.9, "temperature": 4, "train": {"precision": options.precision}},
    })  # fmt: skip
    workspace = stack.enter_context(open_workspace(folder, Silent()))
    data = load_data(recipe, workspace)
    teacher = prepare_teacher(recipe, data, options.threads, False, workspace)
    assert teacher is not None
    return Bench(recipe, data, teacher, workspace)


def work(way: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Train two short epochs by ``way`` each time it is asked to; answer with the seconds of the second."""
    with ExitStack() as stack:
        bench = opened(stack, options.out / way, options)
        splits = bench.data.splits
        few = replace(splits, train=splits.train[: options.samples], validation=splits.validation[:10])
        short = replace(bench.data, splits=few)
        while pipe.recv():
            if way == "plain":
                bench.plain(short, 2)
            else:
                bench.ours(short, 2, way, options)
            pipe.send(time.perf_counter() - bench.steps[len(bench.steps) // 2])


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return images per second of each way, and ratios to the plain loop and to training alone."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for name, way in WAYS.items():
        if not (options.out / way).exists():
            shutil.copytree(options.out / "prepared", options.out / way, ignore=shutil.ignore_patterns("lock", "holder.json"))
        pipes[name], other = context.Pipe()
        context.Process(target=work, args=(way, options, other), daemon=True).start()
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(options.rounds + 1):
        order = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
        for name in order:
            pipes[name].send(True)
            seconds = pipes[name].recv()
            if number:  # the first round fills the store, which is done once and not what is measured
                rates[name].append(options.samples / seconds)
    for pipe in pipes.values():
        pipe.send(False)
    result: dict[str, Any] = {name: statistics.median(each) for name, each in rates.items()}
    for name, base in (("live teacher", "plain loop"), ("kept targets", "plain loop"), ("kept targets", "no teacher")):
        ratios = [own / other for own, other in zip(rates[name], rates[base], strict=True)]
        result[f"{name} / {base}"] = [min(ratios), statistics.median(ratios), max(ratios)]
    for name, each in result.items():
        shown = f"{each:,.0f} images/s" if isinstance(each, float) else f"{each[1]:.2f} ({each[0]:.2f} to {each[2]:.2f})"
        print(f"{name:<28} {shown}", flush=True)
    return result


def accuracy(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Return top-1 accuracies of whole trainings, and the paired difference to the plain loop's."""
    splits = bench.data.splits
    data = replace(bench.data, splits=replace(splits, train=splits.train[: options.accuracy_samples]))
    labels = data.labels[data.splits.test]
    models = {
        "plain loop": bench.plain(data, options.accuracy),
        "live teacher": bench.ours(data, options.accuracy, "live", options),
        "kept targets": bench.ours(data, options.accuracy, "stored", options),
    }
    right = {name: predict(each, bench.spec, data, data.splits.test).argmax(1) == labels for name, each in models.items()}
    result: dict[str, Any] = {}
    for name, each in right.items():
        gain, interval, _ = paired_difference(each, right["plain loop"])
        result[name] = {"top1": float(np.mean(each)), "difference": gain, "ci95": interval}
        print(f"{name:<28} {np.mean(each):.2%}, {gain:+.2f} points ({interval[0]:+.2f} to {interval[1]:+.2f})", flush=True)
    return result


if __name__ == "__main__":
    main()
