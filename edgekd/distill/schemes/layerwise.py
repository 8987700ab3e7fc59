"""A student whose early exits learn from its last layer, and go before export (be your own teacher, Zhang et al., 2019)."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor, nn

from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.layers import find_layers
from edgekd.distill.lesson import Gather, Lesson, Student
from edgekd.distill.losses import byot_kd
from edgekd.distill.losses.adapters import ExitHead
from edgekd.distill.processes import join_processes
from edgekd.distill.taps import Taps
from edgekd.distill.training_stage import Prepare, Prepared
from edgekd.errors import ModelError
from edgekd.recipe import Training
from edgekd.recipe_distill import Distill

_IMITATION = 0.1
"""Share of each exit's loss that imitates the last one; the rest is cross-entropy (Zhang et al., 2019)."""
_TEMPERATURE = 3.0


class LayerwiseLesson(Lesson):
    """A student with an exit after each stage but the last.

    ``CE + sum over exits of (0.9 CE(exit) + 0.1 T^2 KL(last || exit))``; the paper's hint between maps, of weight 1e-6, is
    left out.

    Args:
        student: Who learns.
        exits: Head of each exit, by the module it sits on.
        temperature: T.
        label_smoothing: Of cross-entropy.
        gather: Joins the rows of all processes.
    """

    def __init__(
        self, student: Student, exits: dict[str, nn.Module], temperature: float, label_smoothing: float, gather: Gather
    ) -> None:
        super().__init__({"student": student}, label_smoothing, gather)
        self.places = list(exits)
        self.exits = nn.ModuleList(exits.values())
        self.temperature = temperature
        self._taps = Taps(student.module, self.places)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms of the last layer and of the exits."""
        logits = self.logits("student", batch)
        values = {"cross_entropy": self.cross_entropy(logits, batch)}
        seen = self._taps.take()
        early = [self.gather(head(seen[place])) for place, head in zip(self.places, self.exits, strict=True)]
        hard = [self.cross_entropy(each, batch) for each in early]
        soft = [byot_kd(each, logits.detach(), self.temperature) for each in early]
        values["exits"] = sum(hard[1:], hard[0])
        values["byot_kd"] = sum(soft[1:], soft[0])
        return values, {}

    def weighting(self) -> Weighting:
        """Return the paper's weights."""
        return Weighting({"cross_entropy": 1.0, "exits": 1 - _IMITATION, "byot_kd": _IMITATION})

    def close(self) -> None:
        """Take the hooks off the student."""
        self._taps.close()


def prepare_layerwise(options: Distill) -> Prepare:
    """Return what prepares the lesson of ``scheme: layerwise``; a temperature of ``auto`` is 3, the paper's."""
    temperature = _TEMPERATURE if options.temperature == "auto" else options.temperature

    def prepare(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
        student = students["student"]
        stages = [each for each in find_layers(student.module, student.spec) if each.kind == "map"]
        if len(stages) < 2:
            raise ModelError(
                f"distill.scheme is layerwise, but {student.spec.reference} has no two stages of maps to put exits on",
                "choose another scheme, or a convolutional student",
            )
        features = stages[-1].shape[0]
        exits: dict[str, nn.Module] = {
            each.name: ExitHead(each.shape[0], features, student.spec.outputs[0].shape[0]) for each in stages[:-1]
        }
        lesson = LayerwiseLesson(student, exits, temperature, training.label_smoothing, join_processes().gather)
        facts = {"byot_kd": {"temperature": temperature, "layers": [[place, "the last layer"] for place in exits]}}
        return Prepared(lesson, facts={"terms": facts})

    return prepare
