"""Which layers the losses of a recipe will compare: found in fresh networks, before data is read or anything trained."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data.cache import Preview
from edgekd.distill.layer_terms import describe_pairs
from edgekd.models.adapter import teacher_inputs
from edgekd.models.derive import derive_student
from edgekd.models.detect import fit_inputs, read_labels
from edgekd.models.pretrained import open_untrained
from edgekd.models.references import kind_of, name_of
from edgekd.models.spec import build, call
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input
from edgekd.prune.record import read_record, with_record
from edgekd.recipe import Recipe, TeacherMember
from edgekd.recipe_distill import DistillLoss, Network
from edgekd.safe.user_code import code_file


@dataclass(frozen=True)
class _Fresh:
    """A network with fresh weights: its stage or role, how it is called on what the student takes, its spec if trained here."""

    name: str
    reference: str
    module: nn.Module
    ask: Callable[[dict[str, Tensor]], Any]
    spec: ModelSpec | None


def planned_layers(recipe: Recipe, losses: tuple[DistillLoss, ...], preview: Preview) -> list[list[str]]:
    """Return lines on the pairs of layers, of each training in which a network learns from another's layers, in order.

    Those are the assistants' and the student's; of born-again generations, which are all alike, one. The first line of each
    says who learns from whom. What networks print as they are built goes to stderr.

    Args:
        recipe: Of the run.
        losses: On inner layers.
        preview: Of its data, with a shape.

    Raises:
        UsageError: The recipe names a layer that is not there.
        ModelError: A network cannot be built or does not take the data, or there is nothing to compare.
    """
    options = recipe.distill
    inputs, classes = planned_inputs(recipe, preview), preview.classes
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        student = _student(recipe, inputs, classes)
        if options.scheme == "born-again":
            chain = [replace(student, name="the one before"), replace(student, name="a generation")]
        else:
            assistants = [
                _assistant(f"assistant-{index}", each, student, inputs, classes)
                for index, each in enumerate(options.assistants, 1)
            ]
            chain = [_teacher(recipe.teacher, inputs, classes), *assistants, student]
        found = []
        for teacher, learner in pairwise(chain):
            assert learner.spec is not None
            pairs = describe_pairs(losses, learner.module, learner.spec, teacher.module, teacher.ask)
            found.append([f"{learner.name} <- {teacher.name}{_code(learner, teacher)}", *pairs])
    return found


def planned_inputs(recipe: Recipe, preview: Preview) -> tuple[TensorSpec, ...]:
    """Return what networks will take, as :func:`edgekd.data.load.load_data` does; normalisation is not known yet."""
    shape = preview.shape
    assert shape is not None
    if preview.kind == "image":
        height, width, channels = shape
        return (image_input((height, width, channels), (0.0,) * channels, (1.0,) * channels),)
    if preview.kind == "text":
        tokens = TensorSpec("input_ids", "int32", shape, "NC", "tokens", vocabulary=recipe.data.vocabulary)
        return tokens, TensorSpec("attention_mask", "int32", shape, "NC", "mask")
    if preview.kind == "waveform":
        return (TensorSpec("waveform", "float32", shape, "NC", "waveform", (-1.0, 1.0), sample_rate=preview.sample_rate),)
    return (TensorSpec("features", "float32", shape, "NC", "features"),)


def _code(*networks: _Fresh) -> str:
    names = [name_of(each.reference) for each in networks if kind_of(each.reference) == "python"]
    shown = " and of ".join(dict.fromkeys(str(code_file(each)) for each in names))
    return f"; the code of {shown} ran to build them" if names else ""


def _student(recipe: Recipe, inputs: tuple[TensorSpec, ...], classes: tuple[str, ...]) -> _Fresh:
    reference, arguments = recipe.student.model, recipe.student.arguments
    if reference == "from-teacher":
        reference, arguments, _ = derive_student(recipe.teacher, arguments)
    spec = classifier(reference, inputs, classes, arguments)
    if recipe.student.pruning is not None:
        spec = with_record(spec, read_record(Path(recipe.student.pruning).expanduser()))
    return _fresh("student", spec)


def _assistant(
    name: str, network: Network, student: _Fresh, inputs: tuple[TensorSpec, ...], classes: tuple[str, ...]
) -> _Fresh:  # fmt: skip
    assert student.spec is not None
    reference, arguments = network.model, network.arguments
    if reference is None:
        reference, arguments = student.spec.reference, {**student.spec.arguments, **arguments}
    return _fresh(name, classifier(reference, inputs, classes, arguments))


def _teacher(member: TeacherMember, inputs: tuple[TensorSpec, ...], classes: tuple[str, ...]) -> _Fresh:
    if not member.is_trained:
        return _fresh("teacher", classifier(member.model, inputs, classes, member.arguments))
    labels = read_labels(Path(member.labels).expanduser()) if member.labels is not None else classes
    opened = open_untrained(member, inputs, labels)
    assert opened.module is not None
    adapter, _ = fit_inputs(opened.described, member.preprocess, inputs)
    return _Fresh(
        "teacher", member.model, opened.module, lambda given: opened.run(teacher_inputs(adapter, given, inputs)), None
    )


def _fresh(name: str, spec: ModelSpec) -> _Fresh:
    module = build(spec)
    return _Fresh(name, spec.reference, module, lambda given: call(module, spec, given), spec)
