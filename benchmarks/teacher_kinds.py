"""Teachers of every kind teach the same student: one table from one run each.

Claims: a teacher may be a PyTorch module, a transformers directory, an exported program, an ONNX, Keras or TFLite file, or an
ensemble of two frameworks, and the student learns from each of them what it learns from the module itself.

Run it on images in class folders, ``IMAGES/{train,test}/CLASS/``, as CIFAR-10 unpacks::

    python benchmarks/teacher_kinds.py IMAGES --out runs/teacher-kinds

It trains a ResNet-20 in PyTorch, a small ResNet of transformers and a small CNN in Keras, saves them as a colleague would,
each with the preprocessing its framework is used to, and distills a ResNet-8 from each of them with the same seed, images
and epochs. Everything but the paths is left to be found out. About 25 minutes on two cores; killed, it continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgekd
from edgekd.report.report import Report

TEACHER_EPOCHS, STUDENT_EPOCHS = 12, 8
TRAINING = {"batch_size": 128, "learning_rate": 4e-3, "precision": "bf16"}
MODULE = '''"""A colleague's network: the architecture alone, weights come from a file."""

from edgekd.models.resnet import resnet20


def make(channels: int, classes: int):
    return resnet20(channels, classes)
'''


def main() -> None:
    """Train three teachers, save them in every form, distill from each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder with train/ and test/, a folder per class in each")
    parser.add_argument("--out", type=Path, default=Path("runs/teacher-kinds"))
    parser.add_argument("--per-class", type=int, default=1000, help="training images of each class that are used")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bench = Bench(options.out.absolute(), options.seed)
    bench.link(options.images.absolute(), options.per_class)
    rows = bench.rows()
    write_table(rows, options.out)


class Bench:
    """The folder of the benchmark: teachers in ``teachers/``, runs in ``runs/``."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.data, self.teachers = out / "images", out / "teachers"
        self.teachers.mkdir(parents=True, exist_ok=True)

    def link(self, images: Path, per_class: int) -> None:
        """Give the first ``per_class`` training images of each class, and all test images, as links."""
        for part, count in (("train", per_class), ("test", None)):
            for folder in sorted(each for each in (images / part).iterdir() if each.is_dir()):
                (self.data / part / folder.name).mkdir(parents=True, exist_ok=True)
                for file in sorted(folder.iterdir())[:count]:
                    link = self.data / part / folder.name / file.name
                    if not link.exists():
                        link.symlink_to(file)

    def rows(self) -> list[tuple[str, Report]]:
        """Return a report for every kind of teacher, and first for the student alone."""
        here = {"model": "zoo:resnet20", "train": {"epochs": TEACHER_EPOCHS, **TRAINING}}
        alone = self.run("alone", here, {"alpha": 1.0, "beta": 0.0}, "zoo")
        trained = self.run("trained here", here, folder="zoo")  # the same folder: the teacher is trained once
        weights = trained.teacher.members[0].weights
        spec = trained.teacher.members[0].spec
        assert weights is not None and spec is not None
        kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "torch: your module, .pt": lambda: self.torch_module(spec, weights),
            "torch: pt2": lambda: self.program(spec, weights),
            "onnx: uint8 NHWC, softmax": lambda: self.onnx(spec, weights),
            "transformers directory": self.transformers,
            "keras: .keras, softmax": self.keras,
            "tflite: int8, softmax": self.tflite,
        }
        rows = [("(none: student alone)", alone), ("zoo, trained in the run", trained)]
        rows += [(name, self.run(name, make())) for name, make in kinds.items()]
        both = self.torch_module(spec, weights) | {"ensemble": [self.keras()], "combine": "mean_probabilities"}
        return [*rows, ("ensemble: torch + keras", self.run("ensemble", both))]

    def run(self, name: str, teacher: dict[str, Any], distill: dict[str, Any] | None = None, folder: str = "") -> Report:
        """Distill a ResNet-8 from ``teacher``."""
        recipe = {
            "name": name, "seed": self.seed,
            "data": {"source": f"folder:{self.data}", "validation": 0.1, "augment": {"crop_padding": 4, "flip": True}},
            "teacher": teacher,
            "student": {"model": "zoo:resnet8"},
            "distill": {"alpha": 0.1, "beta": 0.9, "temperature": 4, **(distill or {}),
                        "train": {"epochs": STUDENT_EPOCHS, **TRAINING}},
            "export": {"artifacts": ["onnx-int8"]},
            "benchmark": {"runs": 10},
        }  # fmt: skip
        print(f"{name} ...", flush=True)
        folder = folder or "".join(each if each.isalnum() else "-" for each in name)
        report = edgekd.compress(recipe, self.out / "runs" / folder)
        for stage in read_journal(report):
            if stage["result"].get("notes"):
                print(f"    {stage['stage']}: {'; '.join(stage['result'].get('notes', []))}")
        print(f"    student {report.student.metric.value:.2%}", flush=True)
        return report

    def torch_module(self, spec: Any, weights: Path) -> dict[str, Any]:
        """Save the weights as a state dict, and the architecture as a file of code."""
        import torch

        from edgekd.models.spec import load

        code, state = self.teachers / "colleague.py", self.teachers / "resnet20.pt"
        code.write_text(MODULE)
        torch.save(load(spec, weights).state_dict(), state)
        # A module takes what the student takes: the training data's own normalisation.
        return {"model": f"python:{code}:make", "weights": str(state)}

    def program(self, spec: Any, weights: Path) -> dict[str, Any]:
        """Save the network with ``torch.export``."""
        import torch

        from edgekd.models.spec import example_inputs, load

        path = self.teachers / "resnet20.pt2"
        example = tuple(example_inputs(spec, batch=2).values())
        shapes = tuple({0: torch.export.Dim("batch")} for _ in example)
        torch.export.save(torch.export.export(load(spec, weights), example, dynamic_shapes=shapes), path)
        return {"model": f"pt2:{path}"}

    def onnx(self, spec: Any, weights: Path) -> dict[str, Any]:
        """Save the network as deployed ones often are: pixels as bytes in NHWC in, probabilities out."""
        import torch

        from edgekd.models.spec import load

        inner, (image,) = load(spec, weights), spec.inputs
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (image.mean, image.std))

        class Deployed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                scaled = pixels.permute(0, 3, 1, 2).float() / 255
                probabilities: torch.Tensor = self.inner((scaled - mean) / std).softmax(1)
                return probabilities

        path = self.teachers / "resnet20.onnx"
        pixels = torch.zeros((2, *image.shape[1:], image.shape[0]), dtype=torch.uint8)
        torch.onnx.export(
            Deployed().eval(), (pixels,), path, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["pixels"], output_names=["probabilities"],
        )  # fmt: skip
        return {"model": f"onnx:{path}"}

    def transformers(self) -> dict[str, Any]:
        """Train a small ResNet of transformers, and save it as ``save_pretrained`` does, labels and preprocessing with it."""
        from safetensors.torch import load_file
        from transformers import BitImageProcessor, ResNetConfig, ResNetForImageClassification

        classes = sorted(each.name for each in (self.data / "train").iterdir())
        fresh, folder = self.teachers / "resnet-hf-fresh", self.teachers / "resnet-hf"
        config = ResNetConfig(
            embedding_size=16, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type="basic", num_labels=len(classes),
            id2label=dict(enumerate(classes)), label2id={name: index for index, name in enumerate(classes)},
        )  # fmt: skip
        model = ResNetForImageClassification(config)
        model.save_pretrained(fresh)
        trained = self.run(
            "transformers, trained in the run",
            {"model": f"hf:{fresh}", "trained": False, "train": {"epochs": TEACHER_EPOCHS, **TRAINING}},
        )
        member = trained.teacher.members[0]
        assert member.weights is not None and member.spec is not None
        model.load_state_dict({name.removeprefix("model."): value for name, value in load_file(member.weights).items()})
        model.save_pretrained(folder)
        image = member.spec.inputs[0]
        size = {"height": image.shape[1], "width": image.shape[2]}
        BitImageProcessor(
            do_resize=False, do_center_crop=False, size=size, image_mean=list(image.mean or ()), image_std=list(image.std or ())
        ).save_pretrained(folder)
        return {"model": f"hf:{folder}"}

    def keras(self) -> dict[str, Any]:
        """Train a small CNN in Keras: pixels from 0 to 255 in NHWC in, probabilities out."""
        path = self.teachers / "cnn.keras"
        if not path.is_file():
            self._train_keras(path)
        return {"model": f"keras:{path}"}

    def _train_keras(self, path: Path) -> None:
        import keras
        from keras import layers

        keras.utils.set_random_seed(self.seed)
        images, labels = self.pixels("train")

        def block(x: Any, width: int) -> Any:
            for _ in range(2):
                x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
                x = layers.ReLU()(layers.BatchNormalization()(x))
            return layers.MaxPooling2D()(x)

        given = keras.Input(images.shape[1:])
        x = layers.Rescaling(1 / 127.5, offset=-1)(given)
        x = block(block(block(layers.RandomFlip("horizontal")(x), 32), 64), 128)
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(given, layers.Dense(int(labels.max()) + 1, activation="softmax")(x))
        model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(images.astype(np.float32), labels, batch_size=128, epochs=TEACHER_EPOCHS, verbose=2)
        model.save(path)

    def tflite(self) -> dict[str, Any]:
        """Convert the Keras network to TFLite in full int8."""
        import keras
        import tensorflow as tf

        path = self.teachers / "cnn.int8.tflite"
        images, _ = self.pixels("train")
        some = np.random.default_rng(0).permutation(len(images))[:256]
        converter = tf.lite.TFLiteConverter.from_keras_model(keras.saving.load_model(self.teachers / "cnn.keras"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([images[i : i + 1].astype(np.float32)] for i in some)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())
        return {"model": f"tflite:{path}"}

    def pixels(self, part: str) -> tuple[Any, Any]:
        """Return the images of a split as bytes, NHWC, and their classes. The validation images are left out."""
        from PIL import Image

        named = json.loads((self.out / "runs" / "zoo" / "splits.json").read_text())[part]
        classes = sorted(each.name for each in (self.data / "train").iterdir())
        images = np.stack([np.asarray(Image.open(self.data / name).convert("RGB")) for name in named])
        return images, np.array([classes.index(Path(name).parent.name) for name in named])


def read_journal(report: Report) -> list[dict[str, Any]]:
    """Return the finished stages of a run."""
    lines = (report.folder / "stages" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def write_table(rows: list[tuple[str, Report]], out: Path) -> None:
    """Print the table as Markdown, and write it beside the runs."""
    alone = rows[0][1].student.metric
    lines = ["| teacher | its top-1 | student distilled | student alone |", "|---|---|---|---|"]
    for name, report in rows:
        taught = name != rows[0][0]
        teacher = percent(report.teacher.metric) if taught else ""
        student = percent(report.student.metric) if taught else ""
        lines.append(f"| {name} | {teacher} | {student} | {percent(alone)} |")
    print("\n".join(lines))
    (out / "table.md").write_text("\n".join(lines) + "\n")


def percent(metric: Any) -> str:
    """Return a metric with its 95 % interval."""
    low, high = (100 * bound for bound in metric.ci95)
    return f"{100 * metric.value:.2f} % ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    main()
