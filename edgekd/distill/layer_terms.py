"""The losses of a recipe that look inside both networks, ready for the taps of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.families import family_warning
from edgekd.distill.feature_terms import StageTerm, VectorTerm
from edgekd.distill.layer_loss import LayerTerm
from edgekd.distill.layers import find_structure
from edgekd.distill.matching import pairs_for
from edgekd.distill.transformer_terms import transformer_term
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.recipe_distill import DistillLoss

__all__ = ["LayerTerm", "describe_pairs", "layer_term"]


def layer_term(
    loss: DistillLoss, student: nn.Module, student_spec: ModelSpec, teacher: nn.Module,
    ask: Callable[[dict[str, Tensor]], Any],
) -> LayerTerm:  # fmt: skip
    """Build a loss on inner layers for two networks, whose layers are found by one probe batch each.

    Args:
        loss: The recipe's words for it.
        student: The network that learns.
        student_spec: What it takes.
        teacher: The network whose layers are imitated.
        ask: Runs it on what the student takes, perhaps resized.

    Raises:
        UsageError: The recipe names a layer that is not there.
        ModelError: There is nothing to compare.
    """
    own = find_structure(student, student_spec, lambda inputs: call(student, student_spec, inputs))
    # Samples are made where the teacher is; what it takes may be another size.
    other = find_structure(teacher, student_spec, ask)
    pairs = pairs_for(loss, own, other)
    takes = loss.definition.takes[0]
    if takes == "features":
        term: LayerTerm = VectorTerm(loss, pairs)
    elif takes == "stages":
        term = StageTerm(loss, pairs, own, other, teacher)
    else:
        term = transformer_term(loss, pairs, student, student_spec, teacher)
    warning = family_warning(loss.name, student, teacher)
    term.warnings = (warning,) if warning is not None else ()
    device = next((each.device for each in student.parameters()), torch.device("cpu"))
    return term.to(device)


def describe_pairs(
    losses: Sequence[DistillLoss], student: nn.Module, student_spec: ModelSpec, teacher: nn.Module,
    ask: Callable[[dict[str, Tensor]], Any],
) -> list[str]:  # fmt: skip
    """Return a line for each pair of layers that losses of a recipe compare; untrained networks will do.

    Args:
        losses: Of the recipe; those on outputs have no line.
        student, student_spec, teacher, ask: As for :func:`layer_term`.

    Raises:
        UsageError: The recipe names a layer that is not there.
        ModelError: There is nothing to compare.
    """
    inner = [each for each in losses if each.definition.inner_layers]
    return [line for each in inner for line in layer_term(each, student, student_spec, teacher, ask).described()]
