"""Learning rates against PyTorch's own schedules."""

import pytest
import torch

from edgekd.distill.schedule import cosine, learning_rate, one_cycle


def test_one_cycle_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=50)
    for step in range(50):
        assert one_cycle(step, 50, 0.02) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < 49:
            reference.step()


@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_one_cycle_stays_within_its_peak_for_very_short_runs(total: int) -> None:
    assert all(0 < one_cycle(step, total, 0.1) <= 0.1 for step in range(total))


def test_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert cosine(step, 40, 0.02) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_the_recipes_names_choose() -> None:
    assert learning_rate("cosine", 3, 10, 1.0) == cosine(3, 10, 1.0)
    assert learning_rate("one_cycle", 3, 10, 1.0) == one_cycle(3, 10, 1.0)
