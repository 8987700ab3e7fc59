"""Mutual learning against two training loops written out, each with its own optimizer."""

import torch
from torch.nn import functional

from edgekd.data.dataset import Dataset
from edgekd.distill.schemes.online import OnlineLesson
from edgekd.models.spec import call
from tests.distill.lessons import batch_of, student_of


def test_one_optimizer_over_all_peers_is_one_for_each(data: Dataset) -> None:
    together = {"student": student_of(data, 0), "peer-1": student_of(data, 1), "peer-2": student_of(data, 2)}
    lesson = OnlineLesson(together)
    optimizer = torch.optim.AdamW(lesson.parameters(), lr=1e-2)
    apart = [student_of(data, seed) for seed in range(3)]
    own = [torch.optim.AdamW(each.module.parameters(), lr=1e-2) for each in apart]
    for step in range(4):
        batch = batch_of(data, 32 * step)
        values, _ = lesson(batch)
        optimizer.zero_grad()
        lesson.weighting().total(values, 0.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        logits = [call(each.module, each.spec, batch.inputs)["logits"] for each in apart]
        for index, mine in enumerate(logits):
            others = [each.detach().softmax(1) for place, each in enumerate(logits) if place != index]
            mimic = [functional.kl_div(mine.log_softmax(1), each, reduction="batchmean") for each in others]
            loss = functional.cross_entropy(mine, batch.target) + sum(mimic[1:], mimic[0]) / 2
            own[index].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            own[index].step()
    for name, expected in zip(together, apart, strict=True):
        for first, second in zip(together[name].module.parameters(), expected.module.parameters(), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
