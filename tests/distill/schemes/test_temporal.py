"""Progressive self-distillation: what is remembered, and how much of it is learned from."""

import pytest
import torch
from torch.nn import functional

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import alone
from edgekd.distill.schemes.temporal import TemporalLesson
from edgekd.models.spec import call
from tests.distill.lessons import batch_of, student_of


def test_the_first_epoch_is_plain_and_the_next_remembers_it(data: Dataset) -> None:
    student = student_of(data)
    lesson = TemporalLesson(student, len(data.labels), 10, share=0.8, epochs=4, gather=alone)
    first = batch_of(data)
    values, _ = lesson(first)
    logits = call(student.module, student.spec, first.inputs)["logits"]
    assert values["pskd"].item() == pytest.approx(functional.cross_entropy(logits, first.target).item(), rel=1e-5)
    said = logits.softmax(1).detach()
    torch.testing.assert_close(lesson.said[torch.from_numpy(first.indices)].float(), said, rtol=2e-3, atol=1e-4)

    with torch.no_grad():
        for each in student.module.parameters():
            each.mul_(0.5)
    third = batch_of(data, epoch=2)
    values, _ = lesson(third)
    logits = call(student.module, student.spec, third.inputs)["logits"]
    share = 0.8 * 3 / 4
    target = (1 - share) * functional.one_hot(third.target, 10) + share * said
    assert values["pskd"].item() == pytest.approx(functional.cross_entropy(logits, target).item(), rel=1e-3)


def test_what_is_remembered_goes_through_a_checkpoint_and_not_into_the_student(data: Dataset) -> None:
    student = student_of(data)
    lesson = TemporalLesson(student, len(data.labels), 10, share=0.8, epochs=4, gather=alone)
    assert "said" in lesson.state_dict()
    assert not any("said" in name for name in student.module.state_dict())
