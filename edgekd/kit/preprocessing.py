"""What an app does to raw data before the file takes it, in words and numbers, from nothing but the report."""

from __future__ import annotations

from edgekd.kit.literals import markdown
from edgekd.kit.run_folder import ReportedArtifact, Tensor

_SHOWN = 20


def preprocessing(artifact: ReportedArtifact) -> str:
    """Return ``PREPROCESSING.md`` of an artifact."""
    lines = [f"# What {markdown(artifact.file_name)} takes and gives", ""]
    for number, tensor in enumerate(artifact.inputs):
        lines += [f"## Input {number}: {markdown(tensor.name)}", "", _signature(tensor), "", *_numbered(_steps(tensor)), ""]
    for number, tensor in enumerate(artifact.outputs):
        lines += [f"## Output {number}: {markdown(tensor.name)}", "", _signature(tensor), "", *_numbered(_reading(tensor)), ""]
    lines += [
        "All arithmetic is in 32-bit floats. `round` goes to the nearest integer, and from the middle to the even one.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _signature(tensor: Tensor) -> str:
    named = {"NCHW": "batch, channel, row, column", "NHWC": "batch, row, column, channel", "NC": "batch, value"}
    sizes = " x ".join(str(size) for size in tensor.sample_shape)
    return f"{tensor.dtype}, {sizes} ({named[tensor.layout]})."


def _numbered(steps: list[str]) -> list[str]:
    return [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def image_size(tensor: Tensor) -> tuple[int, int, int]:
    """Return height, width and channels of an image input."""
    _, *sizes = tensor.sample_shape
    if tensor.layout == "NCHW":
        return sizes[1], sizes[2], sizes[0]
    return sizes[0], sizes[1], sizes[2]


def _steps(tensor: Tensor) -> list[str]:
    length = tensor.sample_shape[-1]
    if tensor.meaning == "tokens":
        return [
            "Turn the text into token ids with the tokenizer of `tokenizer.json`, special tokens included "
            "(`vocab.txt` has one token per line, in order of their ids).",
            f"Cut to {length} tokens, or fill up to {length} with the padding token: `tokenizer.json` does both.",
        ]
    if tensor.meaning == "mask":
        return ["1 where there is a token, 0 where there is padding."]
    if tensor.meaning == "image":
        return _image_steps(tensor) + _normalisation(tensor, "of every channel") + _quantization(tensor)
    if tensor.meaning == "waveform":
        assert tensor.value_range is not None
        assert tensor.sample_rate is not None
        return [
            "Take the mean of all channels.",
            f"Bring the sound to {tensor.sample_rate:,} samples a second.",
            f"Cut to the first {length:,} samples, or fill up with silence (0) at its end.",
            f"As 16-bit values: `x = value / 32768{_times(tensor.value_range[1])}`.",
            *_normalisation(tensor, ""), *_quantization(tensor),
        ]  # fmt: skip
    return [
        f"{length} numbers, in the order of the columns that the network was trained on.",
        *_normalisation(tensor, "of every column"), *_quantization(tensor),
    ]  # fmt: skip


def _image_steps(tensor: Tensor) -> list[str]:
    height, width, channels = image_size(tensor)
    assert tensor.value_range is not None
    low, high = tensor.value_range
    colour = (
        "Bring it to grey: `0.299 R + 0.587 G + 0.114 B`" if channels == 1 else "Bring it to red, green, blue in this order"
    )
    return [
        "Turn the image upright by its EXIF orientation.",
        f"{colour}, 8 bits each; without transparency.",
        f"If it is not {width} x {height} pixels: scale it so that the shorter side fits, bilinear with a filter as wide as "
        f"the reduction, and cut out the centre (in Pillow: `ImageOps.fit(image, ({width}, {height}), BILINEAR)`).",
        f"`x = pixel / 255{_times(high - low)}{_plus(low)}`: black is {low:g}, white is {high:g}.",
    ]


def _normalisation(tensor: Tensor, what: str) -> list[str]:
    if tensor.mean is None or tensor.std is None:
        return []
    return [f"{f'{what[0].upper()}{what[1:]}: ' if what else ''}`x = (x - mean) / std`, mean {_listed(tensor.mean)}, "
            f"std {_listed(tensor.std)}."]  # fmt: skip


def _quantization(tensor: Tensor) -> list[str]:
    if tensor.scale is None:
        return []
    limits = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
    low, high = limits.get(tensor.dtype, (-(2**31), 2**31 - 1))
    return [f"`q = round(x / {tensor.scale!r}{_plus(tensor.zero_point or 0)})`, cut to {low} to {high}, as {tensor.dtype}."]


def _reading(tensor: Tensor) -> list[str]:
    steps = []
    if tensor.scale is not None:
        steps.append(f"Real value: `(q{_plus(-(tensor.zero_point or 0))}) * {tensor.scale!r}`.")
    if tensor.labels is not None:
        steps.append(f"One logit for each of the {len(tensor.labels)} classes, in the order of `labels.json`.")
        steps.append("The class is where the logit is largest; softmax over the real values gives shares that sum to 1.")
        names = ", ".join(markdown(label) for label in tensor.labels[:_SHOWN])
        more = f", and {len(tensor.labels) - _SHOWN} more" if len(tensor.labels) > _SHOWN else ""
        steps.append(f"Classes: {names}{more}.")
    return steps


def _listed(values: list[float]) -> str:
    return f"[{', '.join(repr(value) for value in values)}]"


def _times(factor: float) -> str:
    return "" if factor == 1 else f" * {factor!r}"


def _plus(term: float) -> str:
    return "" if term == 0 else f" + {term!r}" if term > 0 else f" - {-term!r}"
