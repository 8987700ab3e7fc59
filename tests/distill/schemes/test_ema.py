"""The average that teaches: against one taken by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import alone
from edgekd.distill.schemes.ema import EmaLesson
from edgekd.distill.schemes.offline import ResponseTerm
from edgekd.models.spec import call
from edgekd.recipe_distill import DistillLoss
from tests.distill.lessons import batch_of, student_of

KD = ResponseTerm(DistillLoss(name="kd", weight=None, temperature=None, layers=None), {"temperature": 2.0})


def test_the_average_moves_as_it_should_and_gets_no_gradient(data: Dataset) -> None:
    student = student_of(data)
    lesson = EmaLesson(student, [KD], 1.0, [1.0], 0.9, 0.0, alone)
    optimizer = torch.optim.AdamW([each for each in lesson.parameters() if each.requires_grad], lr=1e-2)
    expected: dict[str, Tensor] = {}
    for step in range(15):
        values, _ = lesson(batch_of(data, 32 * step))
        optimizer.zero_grad()
        lesson.weighting().total(values, 1.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        lesson.after_step()
        decay = min(0.9, 1 - 1 / (step + 1))
        for name, each in student.module.named_parameters():
            expected[name] = each.detach().clone() if step == 0 else decay * expected[name] + (1 - decay) * each.detach()
    for name, each in lesson.average.module.named_parameters():
        torch.testing.assert_close(each, expected[name])
        assert each.grad is None


def test_its_loss_is_kd_from_the_average_in_evaluation_mode(data: Dataset) -> None:
    student = student_of(data)
    lesson = EmaLesson(student, [KD], 1.0, [1.0], 0.9, 0.0, alone)
    lesson.after_step()
    lesson.train()
    with torch.no_grad():
        for each in student.module.parameters():
            each.mul_(0.7)
    batch = batch_of(data)
    values, _ = lesson(batch)
    mine = call(student.module, student.spec, batch.inputs)["logits"]
    with torch.no_grad():
        soft = call(lesson.average.module.eval(), student.spec, batch.inputs)["logits"]
    expected = 4 * functional.kl_div((mine / 2).log_softmax(1), (soft / 2).softmax(1), reduction="batchmean")
    assert values["kd"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert lesson.weighting().total(values, 0.0).item() == pytest.approx(values["cross_entropy"].item())
