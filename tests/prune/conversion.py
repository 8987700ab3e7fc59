"""A network brought into all four kinds of files by edgekd's own functions, and run there."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.flavours import FLAVOURS, ArtifactName, format_of
from edgekd.models.spec import call, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.parity import Parity, measure_parity
from edgekd.quantize.calibration import activation_ranges
from edgekd.runtimes import describe, feed, open_artifact, real_values

FILES: tuple[ArtifactName, ...] = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")


def converted(model: nn.Module, spec: ModelSpec, inputs: dict[str, torch.Tensor], folder: Path) -> dict[ArtifactName, Parity]:
    """Make :data:`FILES` of a network and return how far the outputs of each are from PyTorch's on ``inputs``.

    Ranges of int8 are those of the same samples; of texts, they are dynamic, as in a run.
    """
    with torch.no_grad():
        expected = call(model.eval(), spec, inputs)["logits"].numpy()
    weights = folder / "weights.safetensors"
    save_weights(model, weights)
    np.savez(folder / "calibration.npz", **{name: each.numpy() for name, each in inputs.items()})  # type: ignore[arg-type]
    kind = "text" if spec.inputs[0].meaning == "tokens" else "images"
    paths = {name: folder / f"{name}.{format_of(name)}" for name in FILES}
    found = {}
    for name, path in paths.items():
        flavour = FLAVOURS[name]
        function = flavour.function
        if flavour.source is None:
            arguments: dict[str, Any] = {"spec": spec.to_json(), "weights": str(weights)}
        elif activation_ranges("auto", kind) == "dynamic":
            function, arguments = flavour.dynamic, {"model": str(paths[flavour.source])}
        else:
            arguments = {"model": str(paths[flavour.source]), "calibration": str(folder / "calibration.npz")}
        assert function is not None
        module, _, attribute = function.partition(":")
        getattr(importlib.import_module(module), attribute)(**arguments, out=str(path))
        found[name] = measure_parity(_outputs(path, name, spec, inputs), expected)
    return found


def settle(model: nn.Module, spec: ModelSpec, inputs: dict[str, torch.Tensor]) -> None:
    """Give batch norms the statistics of samples: with random ones, outputs hardly depend on what goes in."""
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for each in norms:
        each.reset_running_stats()
        each.momentum = None
        each.train()
    with torch.no_grad():
        call(model, spec, inputs)
    model.eval()


def _outputs(path: Path, name: ArtifactName, spec: ModelSpec, inputs: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    run, takes, gives = open_artifact(str(path), format_of(name), 1)
    # The samples are normalised already, unlike raw ones.
    plain = [
        {k: v for k, v in each.items() if k not in {"mean", "std"}} for each in describe(takes, spec.inputs, format_of(name))
    ]
    fed = {}
    for each in plain:
        values = inputs[each["name"]].numpy()
        fed[each["name"]] = feed(values.transpose(0, 2, 3, 1) if values.ndim == 4 else values, None, each)
    (logits,) = describe(gives, spec.outputs, format_of(name))
    return real_values(run(fed)["logits"], logits)
