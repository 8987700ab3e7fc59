"""Training checkpoints: weights, optimizer and place in the schedule in one safetensors file.

One file, renamed into place, so a kill leaves either the old checkpoint or the new one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from edgekd.safe.files import atomic_path

_MODEL, _OPTIMIZER = "model/", "optimizer/"


@dataclass
class Place:
    """Where a training run is.

    Attributes:
        epoch: Current epoch, from 0.
        step: Steps done in it.
        loss_sum: Sum of this epoch's step losses.
        history: One entry per finished epoch: ``{"loss", "validation"}``.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
    """Write a checkpoint to ``path`` atomically."""
    from safetensors.torch import save_file

    tensors = {_MODEL + name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            tensors[f"{_OPTIMIZER}{index}/{name}"] = tensor.contiguous()
    with atomic_path(path) as temporary:
        # repr of a float in JSON reads back to the same bits, so the loss sum resumes exactly.
        save_file(tensors, temporary, metadata={"place": json.dumps(asdict(place))})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Place:
    """Put the checkpoint at ``path`` into ``model`` and ``optimizer``; return its place."""
    from safetensors import safe_open

    states: dict[int, dict[str, torch.Tensor]] = {}
    weights = {}
    with safe_open(path, framework="pt") as file:
        place = Place(**json.loads(file.metadata()["place"]))
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if name.startswith(_MODEL):
                weights[name.removeprefix(_MODEL)] = tensor
            else:
                index, _, part = name.removeprefix(_OPTIMIZER).partition("/")
                states.setdefault(int(index), {})[part] = tensor
    model.load_state_dict(weights, strict=True)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return place
