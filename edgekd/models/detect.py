"""Find out how a teacher trained elsewhere wants to be fed: layout, size, value range, outputs, class order."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import ModelError, UsageError
from edgekd.models.adapter import Adapter, data_logits, teacher_inputs
from edgekd.models.tensors import TensorSpec
from edgekd.names import did_you_mean
from edgekd.recipe import Preprocess
from edgekd.tasks.label_order import find_reordering

Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAMED = 5
_LUCK = 0.05
_STANDARD_ERRORS = 3
_WORST = 1e4  # a loss that is not finite
_SMALLEST = {"float16": 3e-8, "float32": 1e-30}
"""Probabilities below these are zeros to the dtype, or soon."""


@dataclass(frozen=True)
class Described:
    """What a model tells of itself, before anything was run.

    Attributes:
        name: Its reference, for messages.
        inputs: ``name``, ``shape`` without the batch (``None``: any size), ``dtype``, ``scale`` of each.
        outputs: The same.
        layout: What its framework usually has: ``NCHW`` or ``NHWC``.
        labels: Class names of its outputs.
        value_range, mean, std: How it says images are to be scaled and normalised.
        size: Height and width it says images should have.
    """

    name: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    layout: str = "NCHW"
    labels: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = field(default=())


def detect(
    model: Described, options: Preprocess, labels: tuple[str, ...] | None, specs: tuple[TensorSpec, ...],
    classes: tuple[str, ...], run: Run, inputs: dict[str, Tensor], target: Tensor,
) -> Adapter:  # fmt: skip
    """Return how to feed and read a teacher; ``notes`` of it say what was detected.

    What neither the recipe nor the model tells is tried on labelled samples: value ranges and normalisations, the most
    usual first. A later one is taken only where the teacher is clearly better under it, see :func:`_clearly_better`. A teacher
    that suits the samples with its classes in another order is judged in that order, so that it is fed rightly all the same;
    that the order is wrong is for its check to say, :func:`edgekd.distill.teacher_check.check_teacher`.

    Args:
        model: What it tells of itself.
        options: What the recipe tells of it.
        labels: Class names of its outputs, by the recipe; ``None``: what the model tells, or the data's order.
        specs: What the student takes.
        classes: Of the data.
        run: The model.
        inputs: Validation samples as the student takes them.
        target: Their classes.

    Raises:
        ModelError: Its inputs or outputs do not fit the data, and how is not known.
    """
    adapter, notes = fit_inputs(model, options, specs)
    first = run(teacher_inputs(adapter, {name: each[:2] for name, each in inputs.items()}, specs))
    known = labels or model.labels
    widths = {len(classes), len(known or classes)} | ({1} if len(classes) == 2 else set())
    output = _choose_output(model, options, {name: tuple(each.shape[1:]) for name, each in first.items()}, widths)
    width = first[output].reshape(len(first[output]), -1).shape[1]
    columns, single, said = columns_by_name(model.name, known, classes, width)
    adapter = replace(adapter, output=output, columns=columns, single=single)
    candidates = _normalisations(model, options, adapter, specs[0])
    given, reordered = [], []
    for name, candidate in candidates:
        raw = run(teacher_inputs(candidate, inputs, specs))[output]
        read, kind = _read_outputs(candidate, model, options, raw)
        logits = data_logits(read, raw)
        given.append(_tried(name, read, kind, logits, target))
        other = find_reordering(logits.numpy(), target.numpy())
        if other is not None:
            reordered.append(_tried(name, read, kind, logits[:, torch.from_numpy(other.order).argsort()], target))
    best = functools.reduce(lambda one, other: other if _clearly_better(other, one) else one, [*given, *reordered])
    if specs[0].meaning in {"image", "features"}:
        how = "as told" if len(candidates) == 1 else f"best of {len(candidates)} tried"
        notes.append(f"{best.name} ({how})")
    notes += [best.kind, *said]
    return replace(best.adapter, notes=tuple(notes))


@dataclass(frozen=True)
class _Tried:
    """What came of one way to scale inputs: which samples the teacher got right, and its cross-entropy on each."""

    name: str
    adapter: Adapter
    kind: str
    right: Tensor
    losses: Tensor


def _tried(name: str, adapter: Adapter, kind: str, logits: Tensor, target: Tensor) -> _Tried:
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none").nan_to_num(_WORST, _WORST)
    return _Tried(name, adapter, kind, logits.argmax(1) == target, losses.double())


def _clearly_better(challenger: _Tried, best: _Tried) -> bool:
    """Whether a teacher does better with ``challenger`` by more than luck, sample by sample.

    By an exact sign test (p below 0.05) on the samples that one of the two gets right; where that does not decide, by a
    cross-entropy that is lower by three standard errors.
    """
    from scipy.stats import binomtest

    gained, lost = int((challenger.right & ~best.right).sum()), int((best.right & ~challenger.right).sum())
    if gained + lost and binomtest(gained, gained + lost).pvalue < _LUCK:
        return gained > lost
    gap = best.losses - challenger.losses
    error = float(gap.std()) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return float(gap.mean()) > _STANDARD_ERRORS * error


def fit_inputs(model: Described, options: Preprocess, specs: tuple[TensorSpec, ...]) -> tuple[Adapter, list[str]]:
    """Return how to bring samples to the layout, size and channels that a model takes, and what to say of it; scales are open.

    Args:
        model: What it tells of itself.
        options: What the recipe tells of it.
        specs: What the student takes.

    Raises:
        ModelError: It takes something else than the data is.
    """
    first = specs[0]
    if first.meaning == "image":
        return _fit_image(model, options, first)
    if first.meaning == "tokens":
        return _fit_text(model, specs)
    given = f"rows of {first.shape[0]} columns" if first.meaning == "features" else f"sounds of {first.shape[0]} samples"
    if len(model.inputs) != 1:
        names = ", ".join(str(each["name"]) for each in model.inputs)
        raise ModelError(f"{model.name} has {len(model.inputs)} inputs ({names}), the data is {given}")
    shape = model.inputs[0]["shape"]
    if len(shape) != 1 or shape[0] not in {None, first.shape[0]}:
        raise ModelError(f"{model.name} takes {_shown(shape)}, the data is {given}")
    return Adapter({first.name: model.inputs[0]["name"]}), []


def _fit_image(model: Described, options: Preprocess, spec: TensorSpec) -> tuple[Adapter, list[str]]:
    if len(model.inputs) != 1:
        names = ", ".join(str(each["name"]) for each in model.inputs)
        raise ModelError(f"{model.name} has {len(model.inputs)} inputs ({names}), the data is one image")
    found = model.inputs[0]
    shape: list[int | None] = found["shape"]
    fed = {spec.name: str(found["name"])}
    channels, height, width = spec.shape
    notes = [f"{found['dtype']} input" + (" (quantized)" if found.get("scale") is not None else "")]
    if len(shape) != 3:
        if None in shape or len(shape) not in {1, 2} or _product(shape) != channels * height * width:
            raise ModelError(
                f"{model.name} takes {_shown(shape)}, the data is images of {height}x{width}x{channels}",
                "bring the images to its size with data.image_size",
            )
        notes.append(f"images as {_shown(shape)}")
        layout = options.layout if options.layout != "auto" else model.layout
        if channels > 1:
            notes.insert(0, layout)
        return Adapter(fed, layout=layout, channels=channels, shape=tuple(each or 0 for each in shape)), notes
    layout = options.layout if options.layout != "auto" else _layout(shape, model.layout)
    found_channels, found_size = (shape[0], shape[1:]) if layout == "NCHW" else (shape[2], shape[:2])
    if found_channels not in {None, 1, 3}:
        raise ModelError(
            f"{model.name} takes {_shown(shape)}, which is no image of 1 or 3 channels in {layout}",
            "set teacher.preprocess.layout",
        )
    tall, wide = found_size
    size = model.size or ((tall, wide) if tall is not None and wide is not None else None)
    notes.insert(0, layout)
    if size is not None and size != (height, width):
        notes.append(f"images resized from {height}x{width} to {size[0]}x{size[1]}")
    if found_channels not in {None, channels}:
        notes.append("grey repeated to 3 channels" if found_channels == 3 else "colour turned to grey")
    return Adapter(fed, layout=layout, channels=found_channels or channels, size=size), notes


def _layout(shape: list[int | None], usual: str) -> str:
    first, last = shape[0] in {1, 3}, shape[2] in {1, 3}
    return usual if first == last else "NCHW" if first else "NHWC"


def _fit_text(model: Described, specs: tuple[TensorSpec, ...]) -> tuple[Adapter, list[str]]:
    free = [str(each["name"]) for each in model.inputs]
    zeros = [name for name in free if "type" in name.lower() or "segment" in name.lower()]
    masks = [name for name in free if "mask" in name.lower()]
    rest = [name for name in free if name not in {*zeros, *masks}]
    if len(rest) != 1 or len(masks) > 1:
        raise ModelError(
            f"{model.name} has the inputs {', '.join(free)}; expected are token indices, and perhaps a mask and token types"
        )
    length = specs[0].shape[0]
    for each in model.inputs:
        if each["shape"] and each["shape"][0] not in {None, length}:
            raise ModelError(
                f"{model.name} takes {each['shape'][0]} tokens, the data has {length}",
                f"set data.max_tokens={each['shape'][0]}",
            )
    names = {specs[0].name: rest[0]} | ({specs[1].name: masks[0]} if masks else {})
    return Adapter(names, tuple(zeros)), [f"inputs {', '.join(free)}"]


def _choose_output(model: Described, options: Preprocess, shapes: dict[str, tuple[int, ...]], widths: set[int]) -> str:
    listed = ", ".join(f"{name} {_shown(list(shape))}" for name, shape in shapes.items())
    if options.output is not None:
        if options.output not in shapes:
            raise UsageError(f"{model.name} has no output '{options.output}'" + did_you_mean(options.output, list(shapes)),
                             f"its outputs: {listed}")  # fmt: skip
        return options.output
    for fitting in ([name for name, shape in shapes.items() if _product(shape) in widths], list(shapes)):
        if len(fitting) == 1:
            return fitting[0]
    for usual in ("logits", "probs", "probabilities", "output"):
        if usual in shapes:
            return usual
    raise ModelError(f"{model.name} has several outputs: {listed}", "name one with teacher.preprocess.output")


def columns_by_name(
    name: str, labels: tuple[str, ...] | None, classes: tuple[str, ...], width: int
) -> tuple[tuple[int, ...] | None, bool, list[str]]:
    """Return the output of each class, whether one output stands for two classes, and what to say of it.

    Args:
        name: Of the model, for messages.
        labels: Class names of its outputs; ``None``: not known.
        classes: Of the data.
        width: How many outputs it has.

    Raises:
        ModelError, UsageError: Which output is which class is not known.
    """
    single = width == 1 and len(classes) == 2 and len(labels or classes) == 2
    notes = ["one output for two classes"] if single else []
    if single:
        width = 2
    if labels is not None and len(labels) != width:
        raise UsageError(f"{name} has {width} outputs, but {len(labels)} labels are given for it", "give one label per output")
    if labels is None:
        if width != len(classes):
            raise ModelError(
                f"{name} has {width} outputs, the data {len(classes)} classes: which is which is not known",
                "give a file with one class name per line, in the order of its outputs, as teacher.labels",
            )
        return None, single, [*notes, "classes in the data's order (assumed: it names none)"]
    place = {_plain_name(label): index for index, label in enumerate(labels)}
    missing = [each for each in classes if _plain_name(each) not in place]
    if missing:
        generic = all(re.fullmatch(r"label_\d+", label.lower()) for label in labels)
        if generic and width == len(classes):
            return None, single, [*notes, "classes in the data's order (assumed: its labels are LABEL_0, ...)"]
        more = f", and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ModelError(
            f"{name} has no output for {len(missing)} of the {len(classes)} classes of the data: "
            f"{', '.join(missing[:_NAMED])}{more}" + did_you_mean(missing[0], list(labels)),
            "its class names must equal the data's; give them in a file as teacher.labels",
        )
    columns = tuple(place[_plain_name(each)] for each in classes)
    if columns == tuple(range(width)):
        return None, single, [*notes, "classes in the data's order (by name)"]
    said = "classes reordered by name" if len(columns) == width else f"{len(columns)} of its {width} classes, by name"
    return columns, single, [*notes, said]


def _plain_name(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label.strip().lower())


def _normalisations(model: Described, options: Preprocess, adapter: Adapter, spec: TensorSpec) -> list[tuple[str, Adapter]]:
    """Return every way of scaling inputs that comes into question, named for people."""
    if spec.meaning == "features":
        own = replace(adapter, mean=spec.mean, std=spec.std)
        return [("features normalised by the training data", own), ("features as they are", adapter)]
    if spec.meaning != "image":
        return [("", adapter)]
    channels = adapter.channels or spec.shape[0]
    low_high = options.value_range or model.value_range
    mean, std = (options.mean, options.std) if options.mean is not None else (model.mean, model.std)
    if mean is not None and std is not None:
        if len(mean) not in {1, channels} or len(std) not in {1, channels}:
            raise UsageError(
                f"{model.name} takes {channels} channel(s), but mean and std are given for {len(mean)}", "give one per channel"
            )
        return [_scaled(adapter, (low_high[0], low_high[1]) if low_high else (0.0, 1.0), mean, std, channels)]
    if low_high is not None:
        return [_scaled(adapter, (low_high[0], low_high[1]), None, None, channels)]
    found = model.inputs[0]
    if found["dtype"] == "uint8" and found.get("scale") is None:
        return [_scaled(adapter, (0.0, 255.0), None, None, channels)]
    ways: list[tuple[tuple[float, float], tuple[float, ...] | None, tuple[float, ...] | None]] = [
        ((0.0, 1.0), spec.mean, spec.std), ((0.0, 1.0), None, None), ((-1.0, 1.0), None, None), ((0.0, 255.0), None, None),
    ]  # fmt: skip
    if channels == 3:
        ways.append(((0.0, 1.0), *_IMAGENET))
    return [_scaled(adapter, *way, channels) for way in ways]


def _scaled(
    adapter: Adapter,
    low_high: tuple[float, float],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    channels: int,
) -> tuple[str, Adapter]:
    if mean is not None and std is not None:
        mean, std = mean * channels if len(mean) == 1 else mean, std * channels if len(std) == 1 else std
        if len(mean) != channels:  # grey data, a teacher of colour, or the other way round
            mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    name = f"values {low_high[0]:g} to {low_high[1]:g}"
    if mean is not None and std is not None:
        known = "ImageNet's " if (mean, std) == _IMAGENET else ""
        shown = f"{known}mean {_numbers(mean)} and std {_numbers(std)}"
        name += f", then {shown}"
    return name, replace(adapter, value_range=low_high, mean=mean, std=std)


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in dict.fromkeys(values))


def _read_outputs(adapter: Adapter, model: Described, options: Preprocess, raw: Tensor) -> tuple[Adapter, str]:
    """Decide whether outputs are probabilities: rows of numbers of at least 0 that sum to 1."""
    rows = raw.float().reshape(len(raw), -1)
    scale = next((each.get("scale") for each in model.outputs if each["name"] == adapter.output), None)
    if options.outputs == "auto":
        # A quantized softmax has every value off by up to half a step.
        slack = 1e-3 + (scale or 0.0) * rows.shape[1] / 2
        sums = torch.ones(1) if adapter.single else rows.sum(1)
        inside = bool((rows >= 0).all() and (rows <= 1 + 1e-3).all())
        probabilities = inside and bool(((sums - 1).abs() <= slack).all())
    else:
        probabilities = options.outputs == "probabilities"
    said = "outputs are probabilities, their logarithms are used" if probabilities else "outputs are logits"
    dtype = next((each.get("dtype") for each in model.outputs if each["name"] == adapter.output), None)
    floor = scale / 2 if scale else _SMALLEST.get(str(dtype), _SMALLEST["float32"])
    return replace(adapter, probabilities=probabilities, floor=floor), said


def _shown(shape: list[int | None]) -> str:
    return "[" + ", ".join("any" if each is None else str(each) for each in shape) + "]"


def _product(shape: tuple[int, ...] | list[int | None]) -> int:
    product = 1
    for each in shape:
        product *= each or 0
    return product


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names of a file with one per line.

    Raises:
        UsageError: It cannot be read, is not UTF-8, or names a class twice.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"labels file {path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"cannot read labels file {path}: {error.strerror}", "check teacher.labels") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if len(set(map(_plain_name, labels))) != len(labels):
        twice = next(label for index, label in enumerate(labels) if _plain_name(label) in map(_plain_name, labels[:index]))
        raise UsageError(f"labels file {path} names '{twice}' twice", "name each class once")
    return labels
