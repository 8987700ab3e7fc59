"""A student that learns from what it said an epoch ago (progressive self-distillation, Kim et al., 2021)."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from edgekd.data.dataset import Dataset
from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Gather, Lesson, Student
from edgekd.distill.losses import pskd
from edgekd.distill.processes import join_processes
from edgekd.distill.training_stage import Prepare, Prepared
from edgekd.recipe import Training
from edgekd.recipe_distill import Distill


class TemporalLesson(Lesson):
    """A student and a table of its predictions in the last epoch, ``[samples, classes]`` in half precision.

    Args:
        student: Who learns.
        samples, classes: Of the data.
        share: Of the last epoch's prediction in the target, at the end; it grows from 0 with the epochs.
        epochs: Of the training.
        gather: Joins the rows of all processes.
    """

    def __init__(self, student: Student, samples: int, classes: int, share: float, epochs: int, gather: Gather) -> None:
        super().__init__({"student": student}, gather=gather)
        self.share, self.epochs = share, epochs
        self.said: Tensor
        self.register_buffer("said", torch.zeros(samples, classes, dtype=torch.float16))

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the cross-entropy with true labels and last predictions mixed; those of this epoch are kept."""
        logits = self.logits("student", batch)
        rows = torch.from_numpy(batch.indices).to(logits.device)
        share = self.share * (batch.epoch + 1) / self.epochs if batch.epoch else 0.0
        value = pskd(logits, self.said[rows].float(), batch.target, share)
        with torch.no_grad():
            self.said[rows] = logits.detach().float().softmax(1).half()
        return {"pskd": value}, {}

    def weighting(self) -> Weighting:
        """Return the only term."""
        return Weighting({"pskd": 1.0})


def prepare_temporal(options: Distill, data: Dataset) -> Prepare:
    """Return what prepares the lesson of ``scheme: temporal``."""

    def prepare(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
        gather = join_processes().gather
        share, epochs = options.last_epoch_share, training.epochs
        return Prepared(TemporalLesson(students["student"], len(data.labels), len(data.classes), share, epochs, gather))

    return prepare
