"""Training checkpoints: weights, optimizer and place in the schedule in one safetensors file.

One file, renamed into place, so a kill leaves either the old checkpoint or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.safe.files import atomic_path

_OPTIMIZER = "optimizer"


@dataclass
class Place:
    """Where a training run is.

    Attributes:
        epoch: Current epoch, from 0.
        step: Steps done in it.
        loss_sum: Sum of this epoch's step losses.
        history: One entry per finished epoch: ``loss``, and accuracy on the ``validation`` split.
        weighting: What was measured for the weights of the loss's terms.
        best: Best validation accuracy so far, where training may stop early, and its epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    weighting: dict[str, Any] = field(default_factory=dict)
    best: tuple[float, int] | None = None


def save_checkpoint(
    path: Path, tensors: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, place: Place
) -> None:
    """Write a checkpoint to ``path`` atomically.

    Args:
        path: The file.
        tensors: Named groups of named tensors; no name of a group has a slash.
        optimizer: Its state is kept.
        place: Where training is.
    """
    from safetensors.torch import save_file

    flat = {f"{group}/{name}": each.detach().cpu() for group, named in tensors.items() for name, each in named.items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            flat[f"{_OPTIMIZER}/{index}/{name}"] = tensor.cpu()
    # Cloned, because safetensors refuses tensors that share memory, as the heads of tied weights do.
    whole = {name: tensor.contiguous().clone() for name, tensor in flat.items()}
    with atomic_path(path) as temporary:
        # repr of a float in JSON reads back to the same bits, so the loss sum resumes exactly.
        save_file(whole, temporary, metadata={"place": json.dumps(asdict(place))})


def load_checkpoint(path: Path, optimizer: torch.optim.Optimizer) -> tuple[Place, dict[str, dict[str, Tensor]]]:
    """Put the checkpoint at ``path`` into ``optimizer``; return its place and its groups of tensors."""
    from safetensors import safe_open

    states: dict[int, dict[str, Tensor]] = {}
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["place"])
        for name in file.keys():  # noqa: SIM118 - not a mapping
            group, _, rest = name.partition("/")
            if group == _OPTIMIZER:
                index, _, part = rest.partition("/")
                states.setdefault(int(index), {})[part] = file.get_tensor(name)
            else:
                groups.setdefault(group, {})[rest] = file.get_tensor(name)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    best = content.pop("best")
    return Place(**content, best=tuple(best) if best else None), groups
