"""What every loss on inner layers has: the layers it compares, and what the taps must keep for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from edgekd.distill.matching import Pair
from edgekd.recipe_distill import DistillLoss


class LayerTerm(nn.Module, ABC):
    """One loss between inner layers, without its weight.

    Args:
        loss: The recipe's words for it.
        pairs: Layers that are compared.
        student_names, teacher_names: What the taps must keep, see :class:`~edgekd.distill.taps.Taps`.
        deepest: Of the student, where all that this loss and cross-entropy share has come together: gradients are compared
            there.

    Attributes:
        pairs: Names of compared layers, student's and teacher's.
        warnings: What the user should know.
    """

    def __init__(
        self, loss: DistillLoss, pairs: Sequence[Pair], student_names: Sequence[str], teacher_names: Sequence[str], deepest: str
    ) -> None:
        super().__init__()
        self.loss, self.name, self.matched = loss, loss.name, tuple(pairs)
        self.pairs = tuple((each.student.name, each.teacher.name) for each in pairs)
        self.student_names, self.teacher_names, self.deepest = tuple(student_names), tuple(teacher_names), deepest
        self.warnings: tuple[str, ...] = ()
        self.function = loss.definition.load()
        self.hyperparameters: dict[str, Any] = {**loss.definition.hyperparameters, **loss.arguments}

    @property
    def between_samples(self) -> bool:
        """Whether it compares samples with one another, so that it must see the whole batch."""
        return self.loss.definition.family == "relation"

    def adapter(self, index: int) -> str:
        """Say what comes between the layers of a pair, ``""`` if nothing does."""
        return ""

    def described(self) -> list[str]:
        """Return a line for each pair: ``fitnet: stages.1 (32x16x16) <- stages.5 (64x16x16), conv 1x1``."""
        lines = []
        for index, pair in enumerate(self.matched):
            adapter = self.adapter(index)
            lines.append(f"{self.name}: {pair.student.shown} <- {pair.teacher.shown}" + (f", {adapter}" if adapter else ""))
        return lines

    @abstractmethod
    def forward(self, student_seen: dict[str, Tensor], teacher_seen: dict[str, Tensor]) -> Tensor:
        """Return the loss of what the taps of both networks saw in one batch; no gradient flows to the teacher."""
