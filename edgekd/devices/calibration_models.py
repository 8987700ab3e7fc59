"""The model files that a device is calibrated on: made once, from fixed seeds, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edgekd import __version__
from edgekd.models.tensors import ModelSpec, classifier, image_input
from edgekd.progress import Listener, Silent
from edgekd.safe.child import run_in_child

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "int8"]
_CLASSES = 10
_SAMPLES = 4
_SEED = 20_240_229
_BATCH = 4
"""Models that one child makes: importing a converter takes longer than most of them."""


class Network(Protocol):
    """What files are made of."""

    @property
    def name(self) -> str:
        """How its files are called."""

    @property
    def spec(self) -> ModelSpec:
        """How it is built."""


@dataclass(frozen=True)
class CalibrationModel:
    """A network with random weights.

    Attributes:
        name: What it is heavy in.
        size: Height and width of its input, which has 3 channels.
        blocks, hidden: As of :func:`~edgekd.devices.calibration_networks.chain`.
    """

    name: str
    size: int
    blocks: tuple[tuple[str, int, int, int], ...]
    hidden: tuple[int, ...] = ()

    @property
    def spec(self) -> ModelSpec:
        """How it is built."""
        arguments: dict[str, Any] = {"blocks": [list(each) for each in self.blocks], "hidden": list(self.hidden)}
        image = image_input((self.size, self.size, 3), (0.5,) * 3, (0.25,) * 3)
        labels = tuple(map(str, range(_CLASSES)))
        return classifier("python:edgekd.devices.calibration_networks:chain", (image,), labels, arguments)


@dataclass(frozen=True)
class CalibrationFile:
    """One of them as a file.

    Attributes:
        model: Name of the network.
        format, precision: What kind of file.
        path: Where it is.
    """

    model: str
    format: Format
    precision: Precision
    path: Path


CALIBRATION_MODELS = (
    CalibrationModel("pointwise", 64, (("conv3", 32, 2, 1), ("conv1", 96, 1, 3), ("avgpool", 0, 2, 1), ("conv1", 160, 1, 2))),
    CalibrationModel("pointwise_deep", 96, (("conv5", 32, 4, 1), ("maxpool", 0, 2, 1), ("conv1", 256, 2, 5))),
    CalibrationModel("conv3x3", 48, (("conv3", 24, 1, 5), ("maxpool", 0, 2, 1), ("conv3", 48, 1, 1))),
    CalibrationModel("conv3x3_deep", 32, (("conv3", 32, 2, 2), ("conv3", 128, 2, 5)), (256,)),
    CalibrationModel("conv3x3_wide", 32, (("conv3", 32, 1, 2), ("maxpool", 0, 2, 1), ("conv3", 64, 1, 3))),
    CalibrationModel("strided", 128, (("conv3", 16, 2, 1), ("conv5", 32, 2, 1), ("conv3", 64, 2, 1), ("conv3", 128, 2, 1))),
    CalibrationModel(
        "strided_wide", 96, (("conv7", 24, 2, 1), ("conv5", 48, 2, 1), ("conv3", 96, 2, 1), ("conv5", 96, 1, 1))
    ),
    CalibrationModel("depthwise", 96, (("conv3", 16, 2, 1), ("conv1", 64, 2, 1), ("depthwise3", 0, 1, 6))),
    CalibrationModel(
        "depthwise5", 64, (("conv3", 16, 2, 1), ("conv1", 96, 1, 1), ("depthwise5", 0, 2, 3), ("depthwise3", 0, 2, 2))
    ),
    CalibrationModel(
        "separable", 96, (("conv3", 16, 2, 1), ("separable", 32, 1, 1), ("separable", 64, 2, 2), ("separable", 128, 2, 4))
    ),
    CalibrationModel(
        "inverted", 96, (("conv3", 16, 2, 1), ("inverted", 24, 2, 2), ("inverted", 32, 2, 3), ("inverted", 64, 2, 2))
    ),
    CalibrationModel("inverted_large", 160, (("conv3", 24, 2, 1), ("inverted", 24, 2, 2), ("inverted", 40, 2, 2))),
    CalibrationModel("hard_swish", 80, (("conv3", 16, 2, 1), ("hard", 24, 2, 2), ("hard", 48, 2, 3))),
    CalibrationModel(
        "squeezed", 112, (("conv3", 16, 2, 1), ("squeezed", 24, 2, 2), ("squeezed", 40, 2, 2), ("hard", 80, 2, 2))
    ),
    CalibrationModel("excited", 96, (("conv3", 16, 2, 1), ("excited", 32, 2, 3), ("excited", 64, 2, 2)), (512,)),
    CalibrationModel(
        "residual", 32, (("conv3", 16, 1, 1), ("residual", 16, 1, 2), ("residual", 32, 2, 2), ("residual", 64, 2, 2))
    ),
    CalibrationModel(
        "residual_wide", 64, (("conv7", 32, 2, 1), ("maxpool", 0, 2, 1), ("residual", 64, 1, 2), ("residual", 128, 2, 2))
    ),
    CalibrationModel(
        "branches", 64, (("conv3", 16, 2, 1), ("branches", 64, 1, 2), ("avgpool", 0, 2, 1), ("branches", 96, 1, 3))
    ),
    CalibrationModel("dense", 32, (("conv3", 32, 4, 1), ("conv1", 256, 2, 1)), (1024, 1024, 512)),
    CalibrationModel("heavy_pointwise", 32, (("conv3", 64, 4, 1), ("conv1", 512, 2, 8))),
    CalibrationModel("heavy_conv3x3", 32, (("conv3", 64, 4, 1), ("conv3", 256, 2, 5))),
    CalibrationModel("heavy_inverted", 64, (("conv3", 24, 4, 1), ("inverted", 64, 2, 2), ("inverted", 144, 2, 4))),
    CalibrationModel("many_small", 32, (("conv3", 16, 4, 1), ("separable", 16, 1, 10), ("residual", 16, 1, 5))),
)  # fmt: skip
"""2 to 100 million multiply-accumulates each; the heavy ones have 2 million weights, more than the caches near a core hold."""


def cache_folder(models: Sequence[Network] = CALIBRATION_MODELS) -> Path:
    """Return where the files are: below ``XDG_CACHE_HOME``, or ``~/.cache``, in a folder for each version of the networks."""
    source = Path(__file__).with_name("calibration_networks.py").read_bytes()
    content = json.dumps([__version__, _SEED, [(each.name, each.spec.to_json()) for each in models]]).encode()
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path.home() / ".cache"
    return base / "edgekd" / f"calibration-{hashlib.sha256(source + content).hexdigest()[:12]}"


def calibration_files(
    formats: Iterable[str], models: Sequence[Network] = CALIBRATION_MODELS, folder: Path | None = None,
    listener: Listener | None = None,
) -> list[CalibrationFile]:  # fmt: skip
    """Return the files in float32 and int8, after making those that are not there yet: a few minutes, once.

    Args:
        formats: ``onnx``, ``tflite``.
        models: Which networks.
        folder: Where they are kept; ``None``: the user's cache.
        listener: Is told how far it is.

    Raises:
        ExportError: A converter failed.
        ResourceError: The disk is full.
    """
    folder, listener = folder or cache_folder(models), listener or Silent()
    found = [
        CalibrationFile(each.name, kind, precision, folder / f"{each.name}.{precision}.{kind}")
        for kind in ("onnx", "tflite") if kind in set(formats) for each in models for precision in ("fp32", "int8")
    ]  # fmt: skip
    missing = [each for each in found if not each.path.is_file()]
    names = {kind: list(dict.fromkeys(each.model for each in missing if each.format == kind)) for kind in ("onnx", "tflite")}
    work = [
        (kind, part[start : start + _BATCH]) for kind, part in names.items() for start in range(0, len(part), _BATCH)
    ]  # fmt: skip
    specs = {each.name: each.spec.to_json() for each in models}
    for done, (kind, batch) in enumerate(work):
        listener.stage_advanced(done, len(work), f"making {kind} files of {', '.join(batch)}")
        run_in_child(
            f"{__name__}:make_files",
            {"folder": str(folder), "kind": kind, "specs": {name: specs[name] for name in batch}},
            log=folder / "log.txt", threads=1,
        )  # fmt: skip
    return found


def make_files(folder: str, kind: Format, specs: dict[str, dict[str, Any]]) -> None:
    """Write the float32 and the int8 file of each network. Runs in a child process.

    Args:
        folder: Where to.
        kind: Format.
        specs: Networks by name.
    """
    import tempfile

    import numpy as np
    import torch

    from edgekd.models.spec import build, save_weights
    from edgekd.models.tensors import spec_from_json

    for name, content in specs.items():
        spec = spec_from_json(content)
        torch.manual_seed(_SEED)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as scratch:
            weights, samples = Path(scratch, "weights.safetensors"), Path(scratch, "samples.npz")
            save_weights(build(spec), weights)
            image = np.random.default_rng(_SEED).standard_normal((_SAMPLES, *spec.inputs[0].shape)).astype(np.float32)
            np.savez(samples, allow_pickle=False, **{spec.inputs[0].name: image})
            whole, small = Path(folder, f"{name}.fp32.{kind}"), Path(folder, f"{name}.int8.{kind}")
            if kind == "onnx":
                from edgekd.export.onnx import export_onnx
                from edgekd.quantize.onnx import quantize_onnx

                export_onnx(content, str(weights), str(whole))
                quantize_onnx(str(whole), str(samples), str(small))
            else:
                from edgekd.export.tflite import export_tflite
                from edgekd.quantize.tflite import quantize_tflite

                export_tflite(content, str(weights), str(whole))
                quantize_tflite(str(whole), str(samples), str(small))
