"""The recipe: everything a run does, as one typed, frozen value.

Every field has a type, bounds, a default and a description; ``edgekd init`` writes them out,
and :mod:`edgekd.recipe_file` reads them from YAML with the line of every mistake.
Sections follow the order of the pipeline.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekd.data.sources import SOURCES
from edgekd.flavours import ARTIFACT_NAMES, DEFAULT_ARTIFACTS, ArtifactName
from edgekd.models.references import KINDS, kind_of
from edgekd.recipe_distill import Distill, Training
from edgekd.recipe_prune import Prune
from edgekd.recipe_section import (
    Arguments,
    CalibrationSamples,
    DataSource,
    KeptLayers,
    ModelReference,
    Section,
    StudentReference,
)
from edgekd.recipe_target import Target, Targets

__all__ = [
    "Augment", "Benchmark", "Data", "Distill", "Export", "ExportTflite", "Gates", "Normalisation", "Preprocess",
    "Prune", "QuantizationAware", "Quantize", "Recipe", "Section", "Student", "Target", "Teacher", "TeacherMember", "Training",
]  # fmt: skip


class Augment(Section):
    """Random changes to training images, a pure function of (seed, epoch, image index)."""

    crop_padding: int = Field(0, ge=0, le=64, description="pixels of padding before a random crop back to size; 0: no crop")
    flip: bool = Field(False, description="mirror half of the images left to right")


class Data(Section):
    """Where samples and labels come from, and how they are split."""

    source: DataSource = Field("digits", description=" | ".join(each.grammar for each in SOURCES.values()))
    image_size: int | None = Field(
        None, ge=4, le=1024, description="pixels a side, images are resized to it; null: the size they all have"
    )
    input_column: str | None = Field(
        None, min_length=1, max_length=200, description="column or array of the samples; null: found by name and type"
    )
    label_column: str | None = Field(
        None, min_length=1, max_length=200, description="column or array of the labels; null: found by name and type"
    )
    max_tokens: int = Field(64, ge=4, le=4096, description="tokens of a text; longer ones are cut, shorter ones padded")
    tokenizer: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="tokenizer.json or its folder; null: that of an hf: teacher or else student, or one is trained",
    )
    vocabulary: int = Field(8_000, ge=100, le=1_000_000, description="tokens of a tokenizer that is trained, at most")
    sample_rate: int | None = Field(
        None, ge=1_000, le=192_000, description="of sounds, in Hz, they are resampled to it; null: the rate they all have"
    )
    seconds: float = Field(1.0, gt=0, le=60, description="length of a sound; longer ones are cut, shorter ones padded")
    validation: float = Field(0.2, gt=0, lt=0.9, description="share of training samples held out, where none are given")
    test: float = Field(0.2, gt=0, lt=0.9, description="share held out for the final figures, where no test split is given")
    skip_bad: bool = Field(False, description="leave out samples that cannot be decoded instead of stopping")
    memory_mib: int = Field(
        1024, ge=1, le=1 << 20,
        description="samples are kept in memory up to this many MiB, beyond it they are read from the disk batch by batch",
    )  # fmt: skip
    augment: Augment = Field(default_factory=Augment, description="random changes to training images")


class Normalisation(Section):
    """How numbers are brought to what a network that was trained elsewhere takes."""

    value_range: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="what black and white are before mean and std, for example [0, 255]; null: a teacher's is found by trying, "
        "a student's is [0, 1]",
    )
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="subtracted, per channel; null: as value_range, or of a student the training split's"
    )
    std: Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="divided by, per channel; null: the same"
    )

    @model_validator(mode="after")
    def _whole(self) -> Normalisation:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both or none")
        if any(each <= 0 for each in self.std or ()):
            raise ValueError("std must be above 0")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range must rise, for example [0, 255]")
        return self

    @property
    def is_set(self) -> bool:
        """Whether anything is said."""
        return self.value_range is not None or self.mean is not None


class Preprocess(Normalisation):
    """What a teacher that was trained elsewhere takes and gives, where it cannot be found out."""

    layout: Literal["auto", "NCHW", "NHWC"] = Field("auto", description="order of image dimensions: auto | NCHW | NHWC")
    output: str | None = Field(None, min_length=1, max_length=500, description="name of the output; null: the only one")
    outputs: Literal["auto", "logits", "probabilities"] = Field("auto", description="auto | logits | probabilities")


class TeacherMember(Section):
    """One network that teaches."""

    model: ModelReference = Field("zoo:digits_teacher", description="see `edgekd models`")
    arguments: Arguments = Field(default_factory=dict, description="passed to what builds the model, for example {width: 0.5}")
    weights: str | None = Field(
        None, min_length=1, max_length=4096, description="file of trained weights: .safetensors, or .pt holding tensors only"
    )
    labels: str | None = Field(
        None, min_length=1, max_length=4096,
        description="file with one class name per line, in the order of the model's outputs; null: the order of the data",
    )  # fmt: skip
    trained: bool | None = Field(
        None, description="true: teaches as it is; false: trained here first; null: as it is, if weights come with it"
    )
    preprocess: Preprocess = Field(default_factory=Preprocess, description="what it takes and gives, where not found out")
    weight: float = Field(1.0, gt=0, le=1000, description="its share in an ensemble, relative to the others")

    @property
    def is_trained(self) -> bool:
        """Whether the model teaches as it is, instead of being trained here first."""
        if self.trained is not None:
            return self.trained
        return self.weights is not None or KINDS[kind_of(self.model)].brings_weights

    @model_validator(mode="after")
    def _trainable(self) -> TeacherMember:
        if not self.is_trained and not KINDS[kind_of(self.model)].student:
            raise ValueError(f"trained is false, but {self.model} cannot be trained; leave trained out")
        return self


class Teacher(TeacherMember):
    """The large network that is imitated, or an ensemble of several."""

    ensemble: tuple[TeacherMember, ...] = Field((), description="more teachers; together with the one above they teach as one")
    combine: Literal["mean_logits", "mean_probabilities", "entropy"] = Field(
        "mean_logits", description="how an ensemble agrees: mean_logits | mean_probabilities | entropy (the surer count more)"
    )
    check: bool = Field(True, description="stop if it is no better than chance or a linear model; false: go on all the same")
    train: Training = Field(default_factory=Training, description="how it is trained, where it is")

    @property
    def members(self) -> tuple[TeacherMember, ...]:
        """All teachers: this one first."""
        return (self, *self.ensemble)


class Student(Section):
    """The small network that is shipped."""

    model: StudentReference = Field(
        "zoo:shallow_cnn", description="see `edgekd models`; from-teacher: a smaller one of the same kind"
    )
    arguments: Arguments = Field(default_factory=dict, description="passed to what builds the model, for example {width: 0.5}")
    weights: str | None = Field(
        None, min_length=1, max_length=4096, description="file of weights to start from: .safetensors, or .pt of tensors only"
    )
    pruning: str | None = Field(
        None, min_length=1, max_length=4096, description="record of cuts that `edgekd prune` wrote, prune.json; null: not cut"
    )
    preprocess: Normalisation = Field(
        default_factory=Normalisation,
        description="how samples are normalised, for a network trained elsewhere; null: as the training split's own",
    )


class QuantizationAware(Section):
    """Fine-tuning of the student under the rounding that the static int8 files do, taught as before."""

    epochs: int = Field(
        0, ge=0, le=10_000, description="passes over the training samples with the rounding of the int8 files; 0: none"
    )
    learning_rate: float = Field(
        3e-4, gt=0, le=10, description="of AdamW, falling to 0 by a cosine; all else is as in distill.train, in fp32"
    )


class Quantize(Section):
    """Int8 quantization, after training or with some of it."""

    activations: Literal["auto", "static", "dynamic"] = Field(
        "auto",
        description="static: ranges from training samples, integers all through; dynamic: ranges of each sample as it runs, "
        "for transformers, whose ranges are too wide to fix; auto: dynamic for text, else static",
    )
    calibration_samples: CalibrationSamples = Field(
        "auto",
        description="training samples that set static ranges, evenly from every class; auto: until 200 more change them by "
        "less than 1 %, 2,048 at most",
    )
    ranges: Literal["auto", "minmax", "percentile", "mse", "entropy"] = Field(
        "auto",
        description="static ranges cover: minmax: all that was seen; percentile: 99.99 % of it; mse: what makes squared errors "
        "least; entropy: what loses the least information; auto: the best of the four on the validation split",
    )
    weights: Literal["auto", "as-trained", "corrected", "equalized", "rounded"] = Field(
        "auto",
        description="of files with static ranges; corrected: biases take back what rounding shifts; equalized: channels are "
        "scaled alike; rounded: rounding is learned; auto: one after the other until max_drop holds",
    )
    max_drop: float = Field(
        0.5, ge=0, le=100,
        description="points of validation accuracy a file with static ranges may lose to PyTorch before more is tried",
    )  # fmt: skip
    keep: KeptLayers = Field(
        "auto",
        description="layers of files with static ranges that compute in floating point, by their names in the float32 files; "
        "auto: none while max_drop holds, else the fewest and cheapest that make it hold",
    )
    qat: QuantizationAware = Field(
        default_factory=QuantizationAware, description="quantization-aware training: the student learns to live with int8"
    )


class ExportTflite(Section):
    """How TFLite files come about."""

    converter: Literal["litert", "tensorflow"] = Field(
        "litert", description="litert: from PyTorch, by LiteRT Torch; tensorflow: TensorFlow's own, for students of Keras"
    )


class Export(Section):
    """Which files are made."""

    artifacts: Annotated[tuple[ArtifactName, ...], Field(min_length=1)] = Field(
        DEFAULT_ARTIFACTS, description="any of " + ", ".join(ARTIFACT_NAMES)
    )
    tflite: ExportTflite = Field(default_factory=ExportTflite, description="how TFLite files come about")
    license: str | None = Field(
        None, min_length=1, max_length=200, description="license of the model, told in the files' metadata; null: not told"
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
    qat_agreement: float = Field(
        0.995, ge=0, le=1, description="the same with the simulation of quantize.qat in place of PyTorch, where there was one"
    )
    int8_max_drop: float = Field(1.0, ge=0, le=100, description="points of test accuracy an int8 artifact may lose to PyTorch")
    int8_weight_share: float = Field(0.9, ge=0, le=1, description="share of weight bytes that must be int8 in an int8 file")
    int8_sqnr_db: float = Field(
        6.0, ge=-200, le=200, description="signal to quantization noise of the worst output (class) of an int8 file, in dB"
    )
    int8_gain_error: float = Field(
        0.05, ge=0, le=10, description="by how much an int8 file may scale its outputs; a wrong scale leaves top-1 as it was"
    )
    int8_max_offset: float = Field(
        0.02,
        ge=0,
        le=10,
        description="what an int8 file may add to all its outputs alike, as a share of their range; a wrong zero point does",
    )
    float_weight_share: float = Field(
        0.8, ge=0, le=1, description="share of weight bytes in the precision that an fp32 or fp16 file is named after"
    )
    max_class_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="points of test accuracy any class may lose to the teacher, or without one to PyTorch; null: no limit",
    )
    max_teacher_drop: float | None = Field(
        None, ge=0, le=100, description="points of test accuracy any artifact may lose to the teacher; null: no limit"
    )
    max_size_kib: float | None = Field(None, gt=0, le=1e12, description="largest artifact in KiB; null: no limit")


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
    distill: Distill = Field(default_factory=Distill, description="how the student is taught")
    prune: Prune = Field(default_factory=Prune, description="cutting the student to a budget; off by default")
    quantize: Quantize = Field(default_factory=Quantize, description="int8 quantization")
    export: Export = Field(default_factory=Export, description="which files are made")
    gates: Gates = Field(default_factory=Gates, description="promises every artifact must keep, or exit code 4")
    benchmark: Benchmark = Field(default_factory=Benchmark, description="how latency on this host is measured")
    targets: Targets = Field(
        (),
        description="devices that files are for (`edgekd devices list`): a list of names, or of {device: pi4, via: ssh://pi@pi4}",
    )
