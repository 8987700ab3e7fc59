"""Losses with several teachers against closed forms in float64 NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy
from torch import Tensor

from edgekd.distill.losses import kd, multi_avg, multi_camkd, multi_entropy
from edgekd.errors import ModelError, UsageError


def _logits(seed: int, size: float = 3.0) -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


STUDENT, TEACHERS = _logits(0), [_logits(i) for i in (1, 2, 3)]
TARGET = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def _divergences(temperature: float) -> np.ndarray:
    """Of every teacher and sample."""
    q = softmax(STUDENT.numpy() / temperature, axis=1)
    return temperature**2 * np.array([rel_entr(softmax(t.numpy() / temperature, axis=1), q).sum(1) for t in TEACHERS])


def test_multi_avg_is_the_mean_of_kd() -> None:
    expected = np.mean([kd(STUDENT, teacher, 4.0).item() for teacher in TEACHERS])
    assert multi_avg(STUDENT, TEACHERS, TARGET, 4.0).item() == pytest.approx(expected)
    assert multi_avg(STUDENT, TEACHERS, temperature=4.0).item() == pytest.approx(expected)


def test_gradient_of_multi_avg_is_that_of_the_mean_probabilities() -> None:
    student = STUDENT.clone().requires_grad_()
    multi_avg(student, TEACHERS, temperature=4.0).backward()  # type: ignore[no-untyped-call]
    mean = np.mean([softmax(each.numpy() / 4, axis=1) for each in TEACHERS], axis=0)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad, 4 * (softmax(STUDENT.numpy() / 4, axis=1) - mean) / 7, atol=1e-12)


def test_multi_entropy_is_the_closed_form() -> None:
    entropies = np.array([entropy(softmax(each.numpy(), axis=1), axis=1) for each in TEACHERS])
    weights = 1 - entropies / entropies.sum(0)
    expected = (weights * _divergences(4.0)).sum() / (7 * 3)
    assert multi_entropy(STUDENT, TEACHERS, TARGET, 4.0).item() == pytest.approx(expected)


def test_multi_camkd_is_the_closed_form() -> None:
    errors = np.array([-log_softmax(each.numpy(), axis=1)[np.arange(7), TARGET.numpy()] for each in TEACHERS])
    weights = (1 - softmax(errors, axis=0)) / 2
    np.testing.assert_allclose(weights.sum(0), 1)
    expected = (weights * _divergences(4.0)).sum() / (7 * 3)
    assert multi_camkd(STUDENT, TEACHERS, TARGET, 4.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [multi_avg, multi_entropy, multi_camkd])
def test_one_teacher_is_kd(loss: Any) -> None:
    assert loss(STUDENT, TEACHERS[:1], TARGET, 4.0).item() == pytest.approx(kd(STUDENT, TEACHERS[0], 4.0).item())


@pytest.mark.parametrize("loss", [multi_avg, multi_entropy, multi_camkd])
def test_the_order_of_teachers_does_not_matter(loss: Any) -> None:
    assert loss(STUDENT, TEACHERS[::-1], TARGET).item() == pytest.approx(loss(STUDENT, TEACHERS, TARGET).item())


def test_teachers_that_are_all_certain_share_alike() -> None:
    certain = [each * 1e4 for each in TEACHERS]
    expected = multi_avg(STUDENT, certain, temperature=4.0).item() * 2 / 3
    assert multi_entropy(STUDENT, certain, temperature=4.0).item() == pytest.approx(expected)


def test_no_teachers_and_other_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="got none"):
        multi_avg(STUDENT, [])
    with pytest.raises(ModelError, match="differ in shape"):
        multi_avg(STUDENT, [TEACHERS[0], TEACHERS[1][:, :4]])
