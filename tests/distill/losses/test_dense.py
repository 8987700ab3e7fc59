"""Losses on pixels, tokens, frames and actions against closed forms and other libraries."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses import ctc_kd, cwd, frame_kd, kd, pixel_kd, pkd, policy_gaussian_kl, token_kd
from edgekd.errors import ModelError


def _random(seed: int, *shape: int, size: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_the_closed_form(temperature: float) -> None:
    student, teacher = _random(0, 2, 3, 4, 5), _random(1, 2, 3, 4, 5)
    p, q = (softmax(each.flatten(2).numpy() / temperature, axis=2) for each in (teacher, student))
    assert cwd(student, teacher, temperature).item() == pytest.approx(temperature**2 * rel_entr(p, q).sum() / 6)


def test_pixel_kd_is_kd_of_all_pixels() -> None:
    student, teacher = _random(0, 2, 3, 4, 5), _random(1, 2, 3, 4, 5)
    rows_s, rows_t = (each.permute(0, 2, 3, 1).reshape(-1, 3) for each in (student, teacher))
    assert pixel_kd(student, teacher, 2.0).item() == pytest.approx(kd(rows_s, rows_t, 2.0).item())


def test_pkd_is_one_minus_the_correlation_of_every_channel() -> None:
    student, teacher = _random(0, 4, 3, 5, 5), _random(1, 4, 3, 5, 5)
    distances = [
        1 - pearsonr(s.flatten(), t.flatten()).statistic
        for s, t in zip(student.numpy().transpose(1, 0, 2, 3), teacher.numpy().transpose(1, 0, 2, 3), strict=True)
    ]
    assert pkd(student, teacher).item() == pytest.approx(np.mean(distances) * 99 / 100, rel=1e-5)  # unbiased std: (n - 1) / n
    assert pkd([student] * 2, [teacher] * 2).item() == pytest.approx(2 * pkd(student, teacher).item())


LABELS = torch.tensor([[3, 0, -100, 1], [2, -100, -100, -100]])


def test_token_kd_is_the_mean_over_valid_tokens() -> None:
    student, teacher = _random(0, 2, 4, 7), _random(1, 2, 4, 7)
    valid = LABELS >= 0
    expected = kd(student[valid], teacher[valid], 2.0).item()
    assert token_kd(student, teacher, LABELS).item() == pytest.approx(expected)
    assert token_kd(student, teacher, mask=valid.long()).item() == pytest.approx(expected)
    assert token_kd(student, teacher, torch.zeros(2, 4, dtype=torch.int64), valid).item() == pytest.approx(expected)
    assert token_kd(student, teacher).item() == pytest.approx(kd(student.flatten(0, 1), teacher.flatten(0, 1), 2.0).item())


def test_padding_does_not_change_token_kd() -> None:
    student, teacher = _random(0, 2, 4, 7), _random(1, 2, 4, 7)
    longer_s, longer_t = (torch.cat((each, _random(2 + i, 2, 3, 7, size=1e4)), 1) for i, each in enumerate((student, teacher)))
    labels = torch.cat((LABELS, torch.full((2, 3), -100)), 1)
    assert token_kd(longer_s, longer_t, labels).item() == pytest.approx(token_kd(student, teacher, LABELS).item())


def test_no_valid_token_is_zero() -> None:
    assert token_kd(_random(0, 2, 4, 7), _random(1, 2, 4, 7), torch.full((2, 4), -100)).item() == 0.0


def test_frame_kd_is_the_cross_entropy_of_valid_frames() -> None:
    student, teacher = _random(0, 2, 8, 5), _random(1, 2, 8, 5).softmax(2)
    rows = -(teacher.numpy() * log_softmax(student.numpy(), axis=2)).sum(2)
    expected = (rows[0].sum() + rows[1, :6].sum()) / 14
    assert frame_kd(student, teacher, torch.tensor([1.0, 0.75])).item() == pytest.approx(expected)
    assert frame_kd(student.log_softmax(2), teacher).item() == pytest.approx(rows.mean())


def _every_path(frames: int, classes: int, label: list[int], log_p: np.ndarray) -> float:
    """Probability of a label: the sum over all paths that collapse to it."""
    total = 0.0
    for path in np.ndindex(*(classes,) * frames):
        merged = [c for i, c in enumerate(path) if (i == 0 or c != path[i - 1]) and c != 0]
        if merged == label:
            total += float(np.exp(log_p[np.arange(frames), list(path)].sum()))
    return total


def test_ctc_kd_is_the_sum_over_all_paths() -> None:
    student = _random(0, 2, 5, 3)
    # Collapse to [1, 1, 2] and, in the first three frames alone, [2].
    teacher = functional.one_hot(torch.tensor([[1, 0, 1, 2, 2], [2, 2, 0, 1, 1]]), 3).double()
    log_p = log_softmax(student.numpy(), axis=2)
    losses = [-np.log(_every_path(5, 3, [1, 1, 2], log_p[0])) / 3, -np.log(_every_path(3, 3, [2], log_p[1]))]
    assert ctc_kd(student, teacher, torch.tensor([1.0, 0.6])).item() == pytest.approx(np.mean(losses))


def test_ctc_kd_of_a_silent_teacher_asks_for_blanks() -> None:
    student = _random(0, 1, 5, 3)
    teacher = functional.one_hot(torch.zeros(1, 5, dtype=torch.int64), 3).double()
    assert ctc_kd(student, teacher).item() == pytest.approx(-log_softmax(student.numpy(), axis=2)[0, :, 0].sum())


def test_ctc_kd_with_another_blank() -> None:
    student, teacher = _random(0, 2, 6, 4), _random(1, 2, 6, 4)
    swapped_s, swapped_t = (each[:, :, [3, 1, 2, 0]] for each in (student, teacher))
    assert ctc_kd(student, teacher, blank=0).item() == pytest.approx(ctc_kd(swapped_s, swapped_t, blank=3).item())


def test_policy_gaussian_kl_is_that_of_torch_distributions() -> None:
    mean_s, mean_t = _random(0, 6, 3), _random(1, 6, 3)
    std_s, std_t = _random(2, 6, 3).abs() + 0.1, _random(3, 6, 3).abs() + 0.1
    teacher, student = torch.distributions.Normal(mean_t, std_t), torch.distributions.Normal(mean_s, std_s)
    expected = torch.distributions.kl_divergence(teacher, student).mean()
    assert policy_gaussian_kl(mean_s, std_s, mean_t, std_t).item() == pytest.approx(expected.item())
    shared = policy_gaussian_kl(mean_s, std_s[0], mean_t, std_t[0]).item()
    assert shared == pytest.approx(policy_gaussian_kl(mean_s, std_s[:1].expand(6, 3), mean_t, std_t[:1].expand(6, 3)).item())


def test_maps_of_other_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="maps of the student"):
        pixel_kd(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2))
