"""Losses on the inside of transformers with what they need: queries, keys and values, scores, hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from edgekd.distill.attention import AttentionParts, attention_parts
from edgekd.distill.layer_loss import LayerTerm
from edgekd.distill.matching import Pair
from edgekd.distill.taps import INPUT, module_of
from edgekd.errors import ModelError
from edgekd.models.tensors import ModelSpec
from edgekd.recipe_distill import DistillLoss

_MANY_HEADS = 12  # where the networks do not tell how many they have


class AttentionTerm(LayerTerm):
    """``minilmv1``, ``minilmv2`` and ``tinybert_att``: queries, keys and values of blocks.

    Relation heads that the recipe leaves open are 48 for ``minilmv2`` where that divides both widths, else the fewer
    attention heads of the two networks, or what divides the widths next below.
    """

    def __init__(
        self, loss: DistillLoss, pairs: Sequence[Pair], mask: str | None, own: Sequence[AttentionParts],
        others: Sequence[AttentionParts],
    ) -> None:  # fmt: skip
        # Queries, keys and values of the last block have one tensor in common with cross-entropy: what comes into it.
        deepest = module_of(pairs[-1].student.name) + INPUT
        names = [name for each in own for name in each.names] + ([mask] if mask is not None else [])
        super().__init__(loss, pairs, names, [name for each in others for name in each.names], deepest)
        self.mask, self.own, self.others = mask, tuple(own), tuple(others)
        if loss.name == "tinybert_att":
            self._check_heads()
        else:
            self.hyperparameters["relation_heads"] = self._relation_heads()

    def _check_heads(self) -> None:
        for pair, own, other in zip(self.matched, self.own, self.others, strict=True):
            if own.heads is None or other.heads is None or own.heads != other.heads:
                raise ModelError(
                    f"tinybert_att compares attention heads one by one, and {pair.student.name} of the student has "
                    f"{own.heads or 'unknown'}, {pair.teacher.name} of the teacher {other.heads or 'unknown'}",
                    "give the student as many heads as the teacher, or take minilmv2, which needs no equal heads",
                )
            if own.widths[0] != own.widths[1] or other.widths[0] != other.widths[1]:
                raise ModelError(
                    "tinybert_att needs as many keys as queries, and a block shares keys between heads", "take tinybert_hidden"
                )

    def _relation_heads(self) -> int:
        widths = math.gcd(*(width for each in (*self.own, *self.others) for width in each.widths))
        if "relation_heads" in self.loss.arguments:
            wanted = self.loss.arguments["relation_heads"]
            if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1 or widths % wanted:
                raise ModelError(
                    f"{self.name}: relation_heads is {wanted!r}, which does not divide the widths of both networks",
                    f"leave it out, or give a whole number that divides {widths}",
                )
            return wanted
        default = self.loss.definition.hyperparameters["relation_heads"]
        if self.name == "minilmv2" and widths % default == 0:
            return int(default)
        most = min(each.heads or _MANY_HEADS for each in (*self.own, *self.others))
        return max(each for each in range(1, most + 1) if widths % each == 0)

    def adapter(self, index: int) -> str:
        """Say how the blocks are cut."""
        if self.name == "tinybert_att":
            return f"{self.own[index].heads} heads"
        heads = self.hyperparameters["relation_heads"]
        return f"{heads} relation head" + ("s" if heads > 1 else "")

    def forward(self, student_seen: dict[str, Tensor], teacher_seen: dict[str, Tensor]) -> Tensor:
        """Return the loss, summed over pairs; padding is left out."""
        mask = student_seen[self.mask] if self.mask is not None else None
        taught = {name: teacher_seen[name].detach() for name in self.teacher_names}
        if self.name == "tinybert_att":
            scores = [each.scores(student_seen, mask) for each in self.own]
            return self.function(scores, [each.scores(taught, mask) for each in self.others], **self.hyperparameters)
        values = []
        for own, other in zip(self.own, self.others, strict=True):
            (q_s, k_s, v_s), (q_t, k_t, v_t) = own.split(student_seen), other.split(taught)
            values.append(self.function(q_s, q_t, k_s, k_t, v_s, v_t, mask=mask, **self.hyperparameters))
        return sum(values[1:], values[0])


class HiddenTerm(LayerTerm):
    """``tinybert_hidden``: what goes into the first block and what comes out of each.

    The student's states pass one dense layer, the same for all as in the authors' code, where widths differ.
    """

    def __init__(self, loss: DistillLoss, pairs: Sequence[Pair]) -> None:
        names = [each.student.name for each in pairs]
        super().__init__(loss, pairs, names, [each.teacher.name for each in pairs], names[-1])
        widths = {(each.student.shape[-1], each.teacher.shape[-1]) for each in pairs}
        if len(widths) > 1:
            raise ModelError(
                f"tinybert_hidden passes all states through one dense layer, and their widths differ: {sorted(widths)}",
                "name layers of one width in the loss's layers",
            )
        own, other = widths.pop()
        self.project: nn.Module = nn.Identity() if own == other else nn.Linear(own, other)

    def adapter(self, index: int) -> str:
        """Say whether there is a dense layer."""
        return "linear" if isinstance(self.project, nn.Linear) else ""

    def forward(self, student_seen: dict[str, Tensor], teacher_seen: dict[str, Tensor]) -> Tensor:
        """Return the loss, summed over states."""
        own = [self.project(student_seen[name]) for name in self.student_names]
        others = [teacher_seen[name].detach() for name in self.teacher_names]
        return self.function(own, others, **self.hyperparameters)


def transformer_term(
    loss: DistillLoss, pairs: Sequence[Pair], student: nn.Module, student_spec: ModelSpec, teacher: nn.Module
) -> LayerTerm:
    """Build a loss on the inside of two transformers.

    Raises:
        ModelError: The compared layers are no blocks of as many tokens, or have no queries, keys and values.
    """
    for pair in pairs:
        kinds = {pair.student.kind, pair.teacher.kind}
        if kinds != {"tokens"} or pair.student.shape[0] != pair.teacher.shape[0]:
            raise ModelError(
                f"{loss.name} compares as many tokens with tokens, and {pair.student.shown} is a {pair.student.kind}, "
                f"{pair.teacher.shown} a {pair.teacher.kind}",
                "name blocks of transformers that take the same tokens",
            )
    if loss.definition.takes[0] == "hidden":
        return HiddenTerm(loss, pairs)
    own = [attention_parts(student, module_of(each.student.name), "student") for each in pairs]
    others = [attention_parts(teacher, module_of(each.teacher.name), "teacher") for each in pairs]
    place = next((index for index, each in enumerate(student_spec.inputs) if each.meaning == "mask"), None)
    return AttentionTerm(loss, pairs, None if place is None else f"{INPUT}{place}", own, others)
