"""Files of weights, read as data: safetensors, or PyTorch files that hold tensors only."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.")
_OWN_WRAPPER = "model."
"""What edgekd puts before the names of a transformers model, whose own files do not."""
_NAMED = 10
_SAVE_HINT = "save tensors only: safetensors.torch.save_file(model.state_dict(), ...) or torch.save(model.state_dict(), ...)"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` or ``.pt`` file by name. No code of the file ever runs.

    A state dict may lie in a wrapper, as training scripts save it (``{"state_dict": ..., "epoch": ...}``);
    prefixes of DistributedDataParallel and torch.compile are taken off.

    Raises:
        ModelError: The file is missing, broken, would run code, or holds no tensors.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}", "check the path of the weights")
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if not start:
        raise ModelError(f"{path} is empty", "copy or save it again")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the weights themselves", "fetch them with: git lfs pull")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pytorch(path)
    tensors = _state_dict(content)
    if not tensors:
        raise ModelError(f"{path} holds no tensors by name", _SAVE_HINT)
    while found := next((each for each in _PREFIXES if all(name.startswith(each) for name in tensors)), None):
        tensors = {name.removeprefix(found): value for name, value in tensors.items()}
    return tensors


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is a broken safetensors file: {_first_line(error)}", "copy or save it again") from None


def _pytorch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        wanted = re.search(r"GLOBAL ([\w.]+)|(?:class|function|type) `?([\w.]+\.\w+)", text)
        if wanted or "reduce" in text:
            named = f" ({wanted[1] or wanted[2]})" if wanted else ""
            raise ModelError(
                f"{path} holds more than tensors: loading it would run code{named}; nothing was run", _SAVE_HINT
            ) from None
        reason = re.search(r"(?:WeightsUnpickler error:|Unsupported)[^.\n]*\s*([^.\n]*)", text)
        told = " ".join(reason[0].removeprefix("WeightsUnpickler error:").split()) if reason else _first_line(error)
        raise ModelError(f"{path} is no file of weights, or broken: {told}", _SAVE_HINT) from None
    # Broken zip files and pickles surface as many types: RuntimeError, EOFError, KeyError, ValueError, AttributeError...
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript program, not a file of weights",
                "save model.state_dict(); a whole program is a teacher as pt2:FILE, saved by torch.export.save",
            ) from None
        raise ModelError(f"{path} is a broken PyTorch file: {_first_line(error)}", "copy or save it again") from None


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.split(r"\. |\s+\(Could this", line)[0][:200]  # what PyTorch adds is advice to its own developers


def _state_dict(content: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of one inside a wrapper."""
    if not isinstance(content, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        # First, because a training script may save a step or a loss beside it, as a tensor.
        found = _state_dict(content.get(wrapper))
        if found:
            return found
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def load_into(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put ``weights`` into ``model``, all of them and nothing else; a model that does not fit stays as it was.

    Args:
        model: Gets the weights, brought to its own dtypes.
        weights: By name.
        source: Where they come from, for messages.

    Raises:
        ModelError: Keys are missing, extra or of another shape: the first ten of each; or a value is not finite, or no
            plain number.
    """
    own: dict[str, Any] = model.state_dict()
    if all(name.startswith(_OWN_WRAPPER) for name in own) and not any(name.startswith(_OWN_WRAPPER) for name in weights):
        weights = {_OWN_WRAPPER + name: value for name, value in weights.items()}
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    differing = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if not missing and not extra and _only_head(differing, own, weights):
        theirs, ours = len(weights[differing[0]]), len(own[differing[0]])
        raise ModelError(
            f"{source}: its last layer has {theirs} outputs ({differing[0].rpartition('.')[0]}), the data {ours} classes",
            "give a file with the class name of each of its outputs as teacher.labels, or weights trained on these classes",
        )
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_listed(missing)})")
    if extra:
        parts.append(f"{len(extra)} extra ({_listed(extra)})")
    if differing:
        shapes = [f"{name} {list(weights[name].shape)} instead of {list(own[name].shape)}" for name in differing]
        parts.append(f"{len(differing)} of another shape ({_listed(shapes)})")
    if parts:
        raise ModelError(
            f"{source} does not fit the model, keys: {'; '.join(parts)}",
            "check that model, arguments and weights belong together",
        )
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex() != own[name].is_complex():
            raise ModelError(f"{source}: {name} is not stored as plain numbers", "save the weights as dense float tensors")
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise ModelError(f"{source}: {name} holds NaN or infinity", "use a checkpoint from before training diverged")
    model.load_state_dict(dict(weights), strict=True)


def _only_head(differing: list[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether all that differs is how many outputs the last layer has."""
    layers = {name.rpartition(".")[0] for name in differing}
    return len(layers) == 1 and all(
        own[name].shape[1:] == weights[name].shape[1:] and own[name].ndim and weights[name].ndim for name in differing
    )


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
