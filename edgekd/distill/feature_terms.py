"""Losses on the maps of stages and on relations between samples, with the adapters they need.

Adapters train with the student and stay behind at its export. Where two maps differ in size, the larger is average-pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.layer_loss import LayerTerm
from edgekd.distill.layers import Layer, Structure
from edgekd.distill.losses.adapters import Connector, HintRegressor, ReviewFusion, VidRegressor, batchnorm_margin
from edgekd.distill.losses.numerics import pooled_alike
from edgekd.distill.matching import Pair
from edgekd.distill.places import Shape, as_map, map_shape
from edgekd.errors import ModelError
from edgekd.recipe_distill import DistillLoss


class VectorTerm(LayerTerm):
    """A loss on relations between the samples of a batch.

    Widths may differ, also for ``cc_gaussian``, which compares kernels of rows: the 128-wide embeddings that its paper
    puts after both networks are left out, for trained ones could agree by collapsing.
    """

    def __init__(self, loss: DistillLoss, pairs: Sequence[Pair]) -> None:
        names = [each.student.name for each in pairs]
        super().__init__(loss, pairs, names, [each.teacher.name for each in pairs], names[-1])

    def forward(self, student_seen: dict[str, Tensor], teacher_seen: dict[str, Tensor]) -> Tensor:
        """Return the loss, summed over pairs."""
        values = [
            self.function(student_seen[own], teacher_seen[other].detach(), **self.hyperparameters) for own, other in self.pairs
        ]
        return sum(values[1:], values[0])


class StageTerm(LayerTerm):
    """A loss on the maps of stages, or on blocks of tokens as maps one token wide.

    ``ofd`` and ``ab`` take what goes into the last ReLU of a stage, where it ends in one; a stage of any other end as it is.
    Margins of ``ofd`` are those of the last batch norm of the teacher's stage, 0 where there is none.
    """

    def __init__(self, loss: DistillLoss, pairs: Sequence[Pair], student: Structure, teacher: Structure, taught: nn.Module):
        before = loss.name in {"ofd", "ab"}
        own = [_tapped(each.student, student, before) for each in pairs]
        others = [_tapped(each.teacher, teacher, before) for each in pairs]
        super().__init__(loss, pairs, own, others, own[-1])
        if loss.name == "fsp" and len(pairs) < 2:
            raise ModelError(
                f"fsp compares neighbouring stages, and only {pairs[0].student.name} and {pairs[0].teacher.name} match",
                "name two layers or more in the loss's layers, or take another loss",
            )
        self.shapes = [(map_shape(each.student, each.teacher), map_shape(each.teacher, each.student)) for each in pairs]
        if loss.name == "reviewkd_hcl":
            self.fusion: ReviewFusion | None = ReviewFusion(
                [own[0] for own, _ in self.shapes], [other[0] for _, other in self.shapes]
            )
            self.adapters = nn.ModuleList()
        else:
            self.fusion = None
            self.adapters = nn.ModuleList(self._adapter(pair, *each) for pair, each in zip(pairs, self.shapes, strict=True))
        if loss.name == "ofd":
            for index, pair in enumerate(pairs):
                margin = _margin(pair.teacher, teacher, taught)
                self.register_buffer(f"margin{index}", margin, persistent=False)

    def _adapter(self, pair: Pair, own: Shape, other: Shape) -> nn.Module:
        size = (min(own[1], other[1]), min(own[2], other[2]))
        if self.name == "fitnet":
            if pair.teacher.kind == "map":
                return HintRegressor((own[0], *size), (other[0], *size), signed=pair.teacher.signed)
            return nn.Conv2d(own[0], other[0], 1)
        if self.name == "vid":
            return VidRegressor(own[0], other[0], eps=self.hyperparameters["eps"])
        if self.name in {"ofd", "ab"} or (self.name == "fsp" and own[0] != other[0]):
            return Connector(own[0], other[0])
        if self.name == "pkd" and own[0] != other[0]:
            return nn.Conv2d(own[0], other[0], 1)
        return nn.Identity()

    def adapter(self, index: int) -> str:
        """Say what comes between the layers of a pair."""
        own, other = self.shapes[index]
        if self.fusion is not None:
            shown = ["review fusion"]
        elif isinstance(self.adapters[index], nn.Identity):
            shown = []
        elif isinstance(self.adapters[index], VidRegressor):
            shown = ["three convs 1x1"]
        else:
            shown = ["linear" if self.matched[index].student.kind == "tokens" else "conv 1x1"]
        if own[1:] != other[1:]:
            larger = "student" if own[1] * own[2] > other[1] * other[2] else "teacher"
            shown.append(f"{larger} pooled to {min(own[1], other[1])}x{min(own[2], other[2])}")
        return ", ".join(shown)

    def forward(self, student_seen: dict[str, Tensor], teacher_seen: dict[str, Tensor]) -> Tensor:
        """Return the loss, summed over pairs."""
        own, others = [], []
        for pair, name, other in zip(self.matched, self.student_names, self.teacher_names, strict=True):
            maps = as_map(student_seen[name], pair.student, pair.teacher)
            taught = as_map(teacher_seen[other], pair.teacher, pair.student).detach()
            first, second = pooled_alike(maps, taught)
            own.append(maps if self.fusion is not None else first)  # the fusion resizes by itself
            others.append(second)
        extra: dict[str, Any] = {}
        if self.fusion is not None:
            own = self.fusion(own, [(each.shape[2], each.shape[3]) for each in others])
        else:
            own = [adapter(each) for adapter, each in zip(self.adapters, own, strict=True)]
        if self.name == "vid":
            extra["log_scale"] = [each.log_scale for each in self.adapters]
        if self.name == "ofd":
            extra["margin"] = [self.get_buffer(f"margin{index}") for index in range(len(own))]
        return self.function(own, others, **extra, **self.hyperparameters)


def _tapped(layer: Layer, network: Structure, before_activation: bool) -> str:
    return network.before_activation.get(layer.name, layer.name) if before_activation else layer.name


def _margin(layer: Layer, network: Structure, taught: nn.Module) -> Tensor:
    name = network.normalizations.get(layer.name)
    found = taught.get_submodule(name) if name is not None else None
    if isinstance(found, nn.BatchNorm2d) and found.affine:
        return batchnorm_margin(found)
    return torch.zeros(1, 1, 1, 1)
