"""The recipe: everything a run does, as one typed, frozen value.

Every field has a type, bounds, a default and a description; ``edgekd init`` writes them out,
and :mod:`edgekd.recipe_file` reads them from YAML with the line of every mistake.
Sections follow the order of the pipeline.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from edgekd.models.catalog import ZOO
from edgekd.names import did_you_mean

ArtifactName = Literal["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8"]
ARTIFACTS: tuple[ArtifactName, ...] = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")


def _check_model(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind, _, name = value.partition(":")
    if kind != "zoo" or not name:
        raise ValueError(f"'{value}' is no model reference, allowed: zoo:NAME" + did_you_mean(value, _ZOO_REFERENCES))
    if name not in ZOO:
        raise ValueError(f"no model '{name}' in the zoo, allowed: {', '.join(ZOO)}" + did_you_mean(name, list(ZOO)))
    return value


def _check_source(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind, colon, path = value.partition(":")
    if (value == "digits") or (kind == "folder" and path):
        return value
    if kind == "folder":
        raise ValueError("'folder:' names no folder, allowed: folder:PATH")
    shown = kind if colon else value
    raise ValueError(f"'{value}' is no data source, allowed: digits, folder:PATH" + did_you_mean(shown, ["digits", "folder"]))


_ZOO_REFERENCES = [f"zoo:{name}" for name in ZOO]
ModelReference = Annotated[str, BeforeValidator(_check_model)]
DataSource = Annotated[str, BeforeValidator(_check_source)]


class Section(BaseModel):
    """What all parts of a recipe share: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Augment(Section):
    """Random changes to training images, a pure function of (seed, epoch, image index)."""

    crop_padding: int = Field(0, ge=0, le=64, description="pixels of padding before a random crop back to size; 0: no crop")
    flip: bool = Field(False, description="mirror half of the images left to right")


class Data(Section):
    """Where images and labels come from, and how they are split."""

    source: DataSource = Field("digits", description="digits | folder:PATH (PATH/CLASS/ or PATH/{train,test}/CLASS/)")
    image_size: int | None = Field(
        None, ge=4, le=1024, description="pixels a side, images are resized to it; null: the size they all have"
    )
    validation: float = Field(0.2, gt=0, lt=0.9, description="share of training images held out to watch training")
    test: float = Field(0.2, gt=0, lt=0.9, description="share held out for the final figures, where no test/ folder exists")
    skip_bad: bool = Field(False, description="leave out images that cannot be decoded instead of stopping")
    augment: Augment = Field(default_factory=Augment, description="random changes to training images")


class Training(Section):
    """One training run: AdamW under a one-cycle learning rate."""

    epochs: int = Field(30, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(64, ge=2, le=65_536, description="images per step")
    learning_rate: float = Field(3e-3, gt=0, le=10, description="peak of the one-cycle schedule")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW weight decay")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="fp32 | bf16 (autocast; faster where the CPU has it)")


class Teacher(Section):
    """The large network that is imitated."""

    model: ModelReference = Field("zoo:digits_teacher", description="zoo:NAME")
    train: Training = Field(default_factory=Training, description="how the teacher is trained")


class Student(Section):
    """The small network that is shipped."""

    model: ModelReference = Field("zoo:shallow_cnn", description="zoo:NAME")


class Distill(Section):
    """Loss of the student: alpha * CE(labels) + beta * T^2 * KL(teacher || student) (Hinton et al., 2015)."""

    alpha: float = Field(0.1, ge=0, le=100, description="weight of cross-entropy with the true labels")
    beta: float = Field(0.9, ge=0, le=100, description="weight of the divergence from the teacher's soft targets")
    temperature: float = Field(
        4.0, ge=0.05, le=100, description="softens teacher and student outputs; higher shows more of the small ones"
    )
    train: Training = Field(default_factory=Training, description="how the student is trained")

    @model_validator(mode="after")
    def _some_loss(self) -> Distill:
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so there is no loss to train on; raise one of them")
        return self


class Quantize(Section):
    """Static int8 quantization after training."""

    calibration_samples: int = Field(
        256, ge=1, le=100_000, description="training images that set the activation ranges, evenly from every class"
    )


class Export(Section):
    """Which files are made."""

    artifacts: Annotated[tuple[ArtifactName, ...], Field(min_length=1)] = Field(
        ARTIFACTS, description="any of " + ", ".join(ARTIFACTS)
    )

    @model_validator(mode="after")
    def _no_repeats(self) -> Export:
        if len(set(self.artifacts)) != len(self.artifacts):
            raise ValueError("artifacts names one file twice; name each once")
        return self


class Gates(Section):
    """Promises every artifact must keep; one that does not is moved to rejected/ and the run exits with 4."""

    fp32_max_error: float = Field(1e-4, gt=0, le=1, description="largest difference to PyTorch, as a share of its output range")
    fp16_max_error: float = Field(1e-2, gt=0, le=1, description="the same for fp16 artifacts")
    fp16_agreement: float = Field(
        0.99, ge=0, le=1, description="share of test images with PyTorch's top-1 class, fp16 artifacts"
    )
    int8_agreement: float = Field(
        0.98, ge=0, le=1, description="share of test images with PyTorch's top-1 class, int8 artifacts"
    )
    int8_max_drop: float = Field(1.0, ge=0, le=100, description="points of test accuracy an int8 artifact may lose to PyTorch")
    int8_weight_share: float = Field(0.9, ge=0, le=1, description="share of weight bytes that must be int8 in an int8 file")
    max_teacher_drop: float | None = Field(
        None, ge=0, le=100, description="points of test accuracy any artifact may lose to the teacher; null: no limit"
    )
    max_size_kib: float | None = Field(None, gt=0, description="largest artifact in KiB; null: no limit")


class Benchmark(Section):
    """How latency on this host is measured."""

    warmup: int = Field(20, ge=0, le=10_000, description="inferences before timing starts")
    runs: int = Field(200, ge=10, le=1_000_000, description="timed inferences of one sample")


class Recipe(Section):
    """What the user asked for, every default filled in."""

    name: str = Field("digits", min_length=1, max_length=100, description="a name for the report")
    task: Literal["classification"] = Field("classification", description="classification")
    seed: int = Field(0, ge=0, lt=2**32, description="decides splits, weights, sample order and augmentation")
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads for training; null: all. Weights repeat bit for bit for one number"
    )
    data: Data = Field(default_factory=Data, description="where images and labels come from")
    teacher: Teacher = Field(default_factory=Teacher, description="the large network that is imitated")
    student: Student = Field(default_factory=Student, description="the small network that is shipped")
    distill: Distill = Field(
        default_factory=Distill, description="loss: alpha * cross-entropy + beta * temperature^2 * KL(teacher || student)"
    )
    quantize: Quantize = Field(default_factory=Quantize, description="static int8 quantization after training")
    export: Export = Field(default_factory=Export, description="which files are made")
    gates: Gates = Field(default_factory=Gates, description="promises every artifact must keep, or exit code 4")
    benchmark: Benchmark = Field(default_factory=Benchmark, description="how latency on this host is measured")
