"""Be your own teacher: the loss written out, and a student that has no exits once it is done."""

import copy
from contextlib import ExitStack

import pytest
import torch
from torch.nn import functional

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import alone
from edgekd.distill.losses.adapters import ExitHead
from edgekd.distill.schemes.layerwise import LayerwiseLesson, prepare_layerwise
from edgekd.errors import ModelError
from edgekd.models.spec import call
from edgekd.recipe import Distill, Training
from tests.distill.lessons import batch_of, student_of


def test_the_loss_is_the_papers(data: Dataset) -> None:
    student = student_of(data, model="zoo:resnet8")
    student.module.eval()  # so that a second pass finds the same statistics
    names = [name for name, _ in student.module.named_modules()]
    place = next(name for name in names if name.endswith("stages.0"))
    seen: dict[str, torch.Tensor] = {}
    student.module.get_submodule(place).register_forward_hook(lambda _m, _i, output: seen.update(map=output))
    batch = batch_of(data)
    logits = call(student.module, student.spec, batch.inputs)["logits"]
    head = ExitHead(seen["map"].shape[1], 64, 10).eval()
    lesson = LayerwiseLesson(student, {place: head}, 3.0, 0.0, alone)
    values, _ = lesson(batch)
    early = head(seen["map"])
    hard = functional.cross_entropy(early, batch.target)
    soft = -((logits / 3).softmax(1).detach() * (early / 3).log_softmax(1)).sum(1).mean() * 9
    expected = functional.cross_entropy(logits, batch.target) + 0.9 * hard + 0.1 * soft
    assert lesson.weighting().total(values, 0.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_exits_go_when_the_lesson_is_over(data: Dataset) -> None:
    student = student_of(data, model="zoo:resnet8")
    before = copy.deepcopy(student.module.state_dict())
    prepared = prepare_layerwise(Distill())(ExitStack(), {"student": student}, Training())
    assert isinstance(prepared.lesson, LayerwiseLesson)
    assert len(prepared.lesson.exits) >= 2
    prepared.lesson(batch_of(data))
    prepared.lesson.close()
    assert student.module.state_dict().keys() == before.keys()
    assert not any(each._forward_hooks for each in student.module.modules())


def test_a_student_without_stages_is_told(data: Dataset) -> None:
    student = student_of(data, model="python:tests/distill/schemes/flat.py:make")
    with pytest.raises(ModelError, match="no two stages"):
        prepare_layerwise(Distill())(ExitStack(), {"student": student}, Training())


def test_gradients_reach_exits_and_student(data: Dataset) -> None:
    student = student_of(data)
    lesson = prepare_layerwise(Distill())(ExitStack(), {"student": student}, Training()).lesson
    values, _ = lesson(batch_of(data))
    lesson.weighting().total(values, 0.0).backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None and bool(torch.isfinite(each.grad).all()) for each in lesson.parameters())
