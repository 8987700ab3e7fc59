"""Which layer of the student learns from which of the teacher: by size and depth, never by similarity of untrained maps.

Forward matching by depth does as well as learned or searched maps, and the uniform map of TinyBERT beats the top or the
bottom layers by 4 points (Jiao et al., 2020). What is matched can be seen in the plan, and overruled in the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.distill.layers import Layer, Structure
from edgekd.distill.taps import INPUT, module_of
from edgekd.errors import ModelError, UsageError
from edgekd.names import did_you_mean
from edgekd.recipe_distill import DistillLoss

_LAST_TWO = {"fitnet", "vid", "ofd", "ab", "pkd"}
"""Losses on stages that compare the last two, as hints do; the others compare all."""
_PLACES = {"at", "nst"}
"""Losses that compare positions with one another, so that a map of one pixel says nothing."""
_SAME_SIZE = 0.5  # octaves: sizes of an odd map round up or down
_NAMED = 8


@dataclass(frozen=True)
class Pair:
    """A layer of the student and the one of the teacher that it learns from."""

    student: Layer
    teacher: Layer


def match_layers(
    student: Sequence[Layer], teacher: Sequence[Layer], student_input: tuple[int, int] | None,
    teacher_input: tuple[int, int] | None,
) -> tuple[Pair, ...]:  # fmt: skip
    """Pair two sequences of layers, neither running backwards.

    Blocks of two transformers: student block m of M learns from teacher block ``round(m N / M)`` of N. Else the pairing has
    as many pairs as it can of equal size relative to the input, or if there are none, as many as it can; of those it has
    the smallest sum of differences in depth. No layer is in two pairs.

    Args:
        student, teacher: Layers from shallow to deep.
        student_input, teacher_input: Height and width of what comes in.
    """
    if not student or not teacher:
        return ()
    if all(each.kind == "tokens" for each in (*student, *teacher)):
        chosen = [max(1, round((m + 1) * len(teacher) / len(student))) for m in range(len(student))]
        return tuple(Pair(each, teacher[place - 1]) for each, place in zip(student, chosen, strict=True))
    equal = {
        (i, j)
        for i, own in enumerate(student)
        for j, other in enumerate(teacher)
        if _same_size(own, other, student_input, teacher_input)
    }
    return _best(student, teacher, equal or {(i, j) for i in range(len(student)) for j in range(len(teacher))})


def _same_size(
    own: Layer, other: Layer, own_input: tuple[int, int] | None, other_input: tuple[int, int] | None
) -> bool:  # fmt: skip
    if own.kind != "map" or other.kind != "map" or own_input is None or other_input is None:
        return False
    ratios = [
        (mine / whole) / (theirs / their_whole)
        for mine, whole, theirs, their_whole in zip(own.shape[1:], own_input, other.shape[1:], other_input, strict=True)
    ]
    return all(abs(math.log2(each)) < _SAME_SIZE for each in ratios)


def _best(student: Sequence[Layer], teacher: Sequence[Layer], allowed: set[tuple[int, int]]) -> tuple[Pair, ...]:
    """Return the monotone pairing of ``allowed`` places with the most pairs, then the least difference in depth."""
    nothing: tuple[int, float, tuple[tuple[int, int], ...]] = (0, 0.0, ())
    table = [[nothing] * (len(teacher) + 1) for _ in range(len(student) + 1)]
    for i, own in enumerate(student):
        for j, other in enumerate(teacher):
            found = max(table[i][j + 1], table[i + 1][j], key=lambda each: each[:2])
            if (i, j) in allowed:
                count, value, pairs = table[i][j]
                taken = (count + 1, value - abs(own.depth - other.depth), (*pairs, (i, j)))
                found = max(found, taken, key=lambda each: each[:2])
            table[i + 1][j + 1] = found
    return tuple(Pair(student[i], teacher[j]) for i, j in table[-1][-1][2])


def pairs_for(loss: DistillLoss, student: Structure, teacher: Structure) -> tuple[Pair, ...]:
    """Return the pairs that a loss compares: those of the recipe, or those that match.

    The last two stages but the stem for hints (fitnet, vid, ofd, ab, pkd), all but the stem for other losses on stages;
    the last vectors for relations between samples, for sp the last maps; the last blocks for relations between tokens,
    all blocks for attention and hidden states, and what goes into the first.

    Raises:
        UsageError: The recipe names a module that is not there.
        ModelError: There is nothing to match, or a named module gives no maps, tokens or vectors.
    """
    if loss.layers is not None:
        return tuple(
            Pair(_named(each.student, student, "student", loss.name), _named(each.teacher, teacher, "teacher", loss.name))
            for each in loss.layers
        )
    takes = loss.definition.takes[0]
    if takes == "features":
        return (Pair(_last(student, "student", loss.name), _last(teacher, "teacher", loss.name)),)
    if takes in {"relations", "attention", "hidden"}:
        own, others = student.of_kind("tokens"), teacher.of_kind("tokens")
        if not own or not others:
            raise ModelError(
                f"{loss.name} compares blocks of transformers, and the {'student' if not own else 'teacher'} has none that"
                " can be found (equal modules in a ModuleList that give tokens)",
                "name them in the loss's layers, or take a loss on outputs, for example kd",
            )
        pairs = match_layers(own, others, None, None)
        if takes == "hidden":  # TinyBERT's state 0, the embeddings
            pairs = (Pair(student.seen[own[0].name + INPUT], teacher.seen[others[0].name + INPUT]), *pairs)
        return pairs[-1:] if takes == "relations" else pairs
    pairs = match_layers(_stages(student), _stages(teacher), student.input_size, teacher.input_size)
    if loss.name in _PLACES:
        pairs = tuple(each for each in pairs if _places(each.student) > 1 and _places(each.teacher) > 1)
    if not pairs:
        raise ModelError(
            f"{loss.name} compares inner maps or tokens, and no layers of student and teacher match: "
            f"{_listed(student.layers)} and {_listed(teacher.layers)}",
            "name modules in the loss's layers, or take a loss on outputs, for example kd",
        )
    return pairs[-2:] if loss.name in _LAST_TWO else pairs


def _stages(network: Structure) -> tuple[Layer, ...]:
    maps = network.of_kind("map")
    return tuple(each for each in maps if not each.stem) or network.of_kind("tokens") or maps


def _places(layer: Layer) -> int:
    return layer.shape[0] if layer.kind == "tokens" else math.prod(layer.shape[1:])


def _last(network: Structure, role: str, loss: str) -> Layer:
    """Return the last vector, for sp the last map or block; where there is none, the deepest layer of any kind."""
    found = (_stages(network) if loss == "sp" else network.of_kind("vector")) or network.layers
    if not found:
        raise ModelError(
            f"{loss} compares the last features, and the {role} shows none: neither maps nor the input of a last dense layer",
            "name a module in the loss's layers, or take a loss on outputs, for example kd",
        )
    return found[-1]


def _named(name: str, network: Structure, role: str, loss: str) -> Layer:
    if name in network.seen:
        return network.seen[name]
    if module_of(name) not in network.modules:
        near = did_you_mean(name, (*network.modules, *(each for each in network.seen if each.endswith(INPUT))))
        raise UsageError(
            f"{loss}: the {role} has no module '{name}'{near}", f"layers found in the {role}: {_listed(network.layers)}"
        )
    raise ModelError(
        f"{loss}: module '{name}' of the {role} gives no maps, tokens or vectors of one shape per sample",
        f"layers found in the {role}: {_listed(network.layers)}",
    )


def _listed(layers: Sequence[Layer]) -> str:
    shown = [each.name for each in layers[-_NAMED:]]
    return ", ".join((["..."] if len(layers) > _NAMED else []) + shown) or "none"
