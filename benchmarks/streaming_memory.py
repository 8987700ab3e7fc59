"""Claim: resident memory stays flat when the data grows tenfold.

Makes N and 10 N noise images of 32x32 pixels in three colours, in an .npz file or an image folder. A fresh process each loads
them with data.memory_mib=16, so that both sizes are beyond it, and takes every training batch of one epoch once, in random
order. Beside it the plain way: everything in one array. Prints the peak resident memory (ru_maxrss) of each process.

    python benchmarks/streaming_memory.py                      # about a minute
    python benchmarks/streaming_memory.py --source folder      # a folder of .png files; several minutes, most to make them
    python benchmarks/streaming_memory.py --train              # with one epoch of zoo:shallow_cnn, by edgekd's trainer
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, CLASSES, SIDE, MEMORY_MIB = 64, 10, 32, 16
WAYS = {"edgekd": "edgekd, streaming", "plain": "all in one array"}


def main() -> None:
    """Run every process, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="N; the larger data has ten times as many")
    parser.add_argument("--source", choices=["npz", "folder"], default="npz")
    parser.add_argument("--train", action="store_true", help="train one epoch instead of only taking its batches")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return
    sizes = (options.images, 10 * options.images)
    peaks: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder, f"images-{size}" + (".npz" if options.source == "npz" else ""))
            # In a process of its own: on Linux a child's peak begins with its parent's.
            child(options, "make", path, size)
            for way in WAYS:
                started = time.monotonic()
                peaks[way, size] = child(options, way, path, size)
                print(f"  {WAYS[way]}, {size:,} images: {time.monotonic() - started:.1f} s", file=sys.stderr)
    print(f"peak resident memory, {options.source} of {SIDE}x{SIDE}x3 images, {'one epoch' if options.train else 'one pass'}:")
    print(f"{'':20}{sizes[0]:>12,}{sizes[1]:>12,}{'ratio':>8}")
    for way, name in WAYS.items():
        small, large = peaks[way, sizes[0]], peaks[way, sizes[1]]
        print(f"{name:20}{small:>8.0f} MiB{large:>8.0f} MiB{large / small:>7.2f}x")


def child(options: argparse.Namespace, way: str, path: Path, size: int) -> float:
    """Run one way in a fresh process; return its peak resident memory in MiB."""
    command = [sys.executable, __file__, "--child", way, str(path), "--images", str(size), "--source", options.source]
    command += ["--train"] if options.train else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout or 0)


def run_child(options: argparse.Namespace) -> None:
    """Do what the parent asked for, and print the peak in MiB."""
    way, path = options.child[0], Path(options.child[1])
    {"make": make, "edgekd": load_with_edgekd, "plain": load_plainly}[way](path, options)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def make(path: Path, options: argparse.Namespace) -> None:
    """Write the images."""
    import numpy as np

    generator = np.random.default_rng(0)
    labels = np.arange(options.images) % CLASSES
    if options.source == "npz":
        images = generator.integers(0, 256, (options.images, SIDE, SIDE, 3), np.uint8)
        np.savez(path, x=images, y=labels)
        return
    from PIL import Image

    for name in range(CLASSES):
        (path / str(name)).mkdir(parents=True)
    for index, label in enumerate(labels):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(path / str(label) / f"{index:07}.png", compress_level=1)


def load_with_edgekd(path: Path, options: argparse.Namespace) -> None:
    """Read the source into a run folder, and take the batches of one epoch."""
    from edgekd.data.batches import batches
    from edgekd.data.load import load_data
    from edgekd.progress import Silent
    from edgekd.recipe import Augment, Data, Recipe, Training
    from edgekd.workspace import open_workspace

    if options.train:
        import torch

        # What torch takes is in both sizes' figures, and not what is measured.
        torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=path.parent) as out, open_workspace(Path(out), Silent()) as workspace:
        data = load_data(Recipe(data=Data(source=f"{options.source}:{path}", memory_mib=MEMORY_MIB)), workspace)
        if not options.train:
            for indices in batches(data.splits.train, BATCH, 0, 0):
                data.batch(indices)
            return
        from edgekd.distill.lesson import Lesson, Student
        from edgekd.distill.processes import join_processes
        from edgekd.distill.trainer import Augmentations, train
        from edgekd.models.spec import build
        from edgekd.models.tensors import classifier

        spec = classifier("zoo:shallow_cnn", data.inputs, data.classes)
        lesson = Lesson({"student": Student(build(spec), spec)})
        training = Training(epochs=1, batch_size=BATCH, precision="fp32", layout="channels_last")
        train(lesson, data, training, Augmentations(Augment(), 0), 0, Path(out), Silent(), join_processes())


def load_plainly(path: Path, options: argparse.Namespace) -> None:
    """Hold everything in one array, and take the same number of batches of it."""
    import numpy as np

    if options.source == "npz":
        with np.load(path) as archive:
            images = archive["x"]
    else:
        from PIL import Image

        files = sorted(path.glob("*/*.png"))
        images = np.stack([np.asarray(Image.open(file)) for file in files])
    order = np.random.default_rng(0).permutation(len(images))
    if options.train:
        import torch

        torch.set_num_threads(2)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(CLASSES)
        )
        model(torch.zeros(1, 3, SIDE, SIDE))
        optimizer = torch.optim.AdamW(model.parameters())
    for start in range(0, len(order), BATCH):
        batch = images[order[start : start + BATCH]].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        if options.train:
            target = torch.from_numpy(order[start : start + BATCH] % CLASSES)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(torch.from_numpy(batch)), target).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
