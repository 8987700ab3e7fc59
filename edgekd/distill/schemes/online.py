"""Online distillation: networks that learn from one another while they train (deep mutual learning, Zhang et al., 2018)."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor

from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.losses import dml
from edgekd.distill.processes import join_processes
from edgekd.distill.training_stage import Prepare, Prepared
from edgekd.recipe import Training
from edgekd.recipe_distill import Distill


class OnlineLesson(Lesson):
    """Every network learns from the labels and from all the others; the loss is the sum of theirs.

    Peers are detached in one another's losses, so that one optimizer over all networks does what one for each would.
    """

    temperature: float = 1.0

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return ``CE + mean over peers of T^2 KL(peer || network)`` of every network."""
        outputs = {name: self.logits(name, batch) for name in self.networks}
        values = {}
        for name, logits in outputs.items():
            peers = [other.detach() for each, other in outputs.items() if each != name]
            values[f"dml {name}"] = dml(logits, peers, batch.target, self.temperature)
        return values, {}

    def weighting(self) -> Weighting:
        """Return a weight of 1 for every network."""
        return Weighting({f"dml {name}": 1.0 for name in self.networks})


def prepare_online(options: Distill) -> Prepare:
    """Return what prepares the lesson of ``scheme: online``; a temperature of ``auto`` is 1, the paper's."""
    temperature = 1.0 if options.temperature == "auto" else options.temperature

    def prepare(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
        lesson = OnlineLesson(students, training.label_smoothing, join_processes().gather)
        lesson.temperature = temperature
        facts = {f"dml {name}": {"temperature": temperature} for name in students}
        return Prepared(lesson, facts={"terms": facts})

    return prepare
