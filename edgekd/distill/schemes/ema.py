"""A student that learns from the moving average of its own weights (Tarvainen and Valpola, 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Gather, Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.schemes.offline import ResponseTerm
from edgekd.distill.training_stage import Prepare, Prepared
from edgekd.models.spec import call
from edgekd.recipe import Training
from edgekd.recipe_distill import Distill

_WARM_UP = 0.2
"""Share of the training in which the average is still too young to teach much."""


class EmaLesson(Lesson):
    """A student and its average, which gets no gradient: ``average <- d * average + (1 - d) * student`` after every step.

    The decay d grows to its full value as ``min(decay, 1 - 1 / (step + 1))``, so that the first weights are soon forgotten.

    Args:
        student: Who learns.
        responses: Losses on outputs, between student and average.
        alpha: Weight of cross-entropy.
        weights: Of ``responses``.
        decay: d, in (0, 1).
        label_smoothing: Of cross-entropy.
        gather: Joins the rows of all processes.
    """

    def __init__(
        self, student: Student, responses: list[ResponseTerm], alpha: float, weights: list[float], decay: float,
        label_smoothing: float, gather: Gather,
    ) -> None:  # fmt: skip
        super().__init__({"student": student}, label_smoothing, gather)
        self.responses, self.alpha, self.weights, self.decay = responses, alpha, weights, decay

        def average(mean: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
            share = 1 - min(self.decay, 1 - 1 / (float(count) + 1))
            for old, each in zip(mean, new, strict=True):
                if old.is_floating_point():
                    old.lerp_(each.to(old.dtype), share)
                else:
                    old.copy_(each)

        self.average = AveragedModel(student.module, multi_avg_fn=average, use_buffers=True)
        self.average.requires_grad_(False)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return cross-entropy, and the losses between the student and its average."""
        logits = self.logits("student", batch)
        values = {"cross_entropy": self.cross_entropy(logits, batch)}
        self.average.eval()
        spec = self.specs["student"]
        with torch.no_grad():
            taught = self.gather(call(self.average, spec, batch.inputs)[spec.outputs[0].name])
        for term in self.responses:
            target = {"target": batch.target} if "target" in term.loss.definition.arguments else {}
            values[term.name] = term.loss.definition.load()(student=logits, teacher=taught, **target, **term.arguments)
        return values, {}

    def weighting(self) -> Weighting:
        """Return the weights. They are not measured: at first, the average differs from the student by nothing."""
        weights = {term.name: weight for term, weight in zip(self.responses, self.weights, strict=True)}
        return Weighting({"cross_entropy": self.alpha, **weights}, warm_up=dict.fromkeys(weights, _WARM_UP))

    def after_step(self) -> None:
        """Move the average towards the student."""
        self.average.update_parameters(self.networks["student"])


def prepare_ema(options: Distill) -> Prepare:
    """Return what prepares the lesson of ``scheme: ema``; an ``auto`` weight or temperature is 1."""

    def prepare(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
        responses, weights, facts = [], [], {}
        for loss in options.losses:
            arguments = {**loss.definition.hyperparameters, **loss.arguments}
            if "temperature" in arguments:
                wanted = options.temperature_of(loss)
                arguments["temperature"] = 1.0 if wanted == "auto" else wanted
                facts[loss.name] = {"temperature": arguments["temperature"]}
            weight = options.weight_of(loss)
            responses.append(ResponseTerm(loss, arguments))
            weights.append(1.0 if weight == "auto" else weight)
        alpha = 1.0 if options.alpha == "auto" else options.alpha
        gather = join_processes().gather
        lesson = EmaLesson(students["student"], responses, alpha, weights, options.ema_decay, training.label_smoothing, gather)
        return Prepared(lesson, facts={"terms": facts})

    return prepare
