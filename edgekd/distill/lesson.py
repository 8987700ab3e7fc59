"""A lesson: the networks of one training and everything that trains with them, from a batch to the terms of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.losses import cross_entropy
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec

Gather = Callable[[Tensor], Tensor]
"""From this process's rows to those of all processes; gradients flow back."""


def alone(rows: Tensor) -> Tensor:
    """Gather of a single process: the rows themselves."""
    return rows


@dataclass(frozen=True)
class Student:
    """A network that is trained: its module, how it is called, and whether it is compiled."""

    module: nn.Module
    spec: ModelSpec


class Lesson(nn.Module):
    """Trains networks on labels; the schemes of :mod:`edgekd.distill.schemes` build on it.

    All parameters that need a gradient are trained by one optimizer, and all of ``state_dict()`` is in the checkpoint.

    Args:
        students: The networks by name; the first is the one that the recipe calls the student.
        label_smoothing: Share of the target spread over all classes.
        gather: Joins the rows of all processes, see :class:`~edgekd.distill.processes.Processes`.
    """

    teacher_accuracy: float | None = None
    """Top-1 of the teacher on the validation split, if there is one."""

    def __init__(self, students: dict[str, Student], label_smoothing: float = 0.0, gather: Gather = alone) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: each.module for name, each in students.items()})
        self.specs = {name: each.spec for name, each in students.items()}
        self.label_smoothing, self.gather = label_smoothing, gather
        self._fast: dict[str, Callable[..., object]] = {}

    def compile_networks(self) -> None:
        """Run the networks through ``torch.compile`` in training; their weights stay where they are."""
        # What was compiled in this process before may be the same class without hooks, and hooks are not among the guards:
        # it would be taken, and layers that losses look at would stay unseen.
        torch.compiler.reset()
        # Kept out of the registered modules, so that names in checkpoints stay as they are.
        self._fast = {name: torch.compile(network) for name, network in self.networks.items()}

    def logits(self, name: str, batch: Batch) -> Tensor:
        """Return the outputs of a network on the batch of all processes, ``[n, classes]``."""
        spec = self.specs[name]
        network = self._fast.get(name, self.networks[name])
        return self.gather(call(network, spec, batch.inputs)[spec.outputs[0].name])  # type: ignore[arg-type]

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of ``logits`` with the true labels."""
        return cross_entropy(logits, batch.target, self.label_smoothing)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms of the loss, without weights, and for terms whose weight can be chosen the student's tensor
        at which their gradient is compared with that of ``cross_entropy``.
        """
        logits = self.logits(next(iter(self.networks)), batch)
        return {"cross_entropy": self.cross_entropy(logits, batch)}, {}

    def weighting(self) -> Weighting:
        """Return the weights of the terms."""
        return Weighting({"cross_entropy": 1.0})

    def after_step(self) -> None:
        """Do what follows a step of the optimizer: nothing here."""

    def close(self) -> None:
        """Remove everything that must not be exported with the networks: nothing here."""
