"""Losses against closed forms in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from edgekd.distill.losses import cross_entropy, kd


def _logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_closed_form(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    log_p = log_softmax(student.double().numpy() / temperature, axis=1)
    log_q = log_softmax(teacher.double().numpy() / temperature, axis=1)
    expected = temperature**2 * (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    assert kd(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_kd_gradient_is_temperature_times_difference_of_softmaxes() -> None:
    student, teacher = _logits(0).requires_grad_(), _logits(1).requires_grad_()
    kd(student, teacher, 4.0).backward()  # type: ignore[no-untyped-call]
    expected = 4.0 * (torch.softmax(student / 4, 1) - torch.softmax(teacher / 4, 1)) / len(student)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-4, atol=1e-6)
    assert teacher.grad is None


def test_kd_of_equal_outputs_is_zero_whatever_constant_is_added() -> None:
    student = _logits(2)
    assert kd(student, student + 100.0, 2.0).item() == pytest.approx(0.0, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.05, 100),
    st.floats(-1e4, 1e4),
    st.integers(0, 1000),
)
def test_kd_has_finite_gradients_in_all_of_its_range(temperature: float, size: float, seed: int) -> None:
    student = (_logits(seed, size)).requires_grad_()
    value = kd(student, _logits(seed + 1, size), temperature)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_losses_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        student = torch.nn.Linear(5, 5)(_logits(0))
        assert student.dtype == torch.bfloat16
        assert kd(student, student, 1.0).dtype == torch.float32
        assert cross_entropy(student, torch.zeros(7, dtype=torch.int64)).dtype == torch.float32


def test_cross_entropy_with_smoothing_is_the_closed_form() -> None:
    logits, target = _logits(3), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    log_p = log_softmax(logits.double().numpy(), axis=1)
    soft = np.full((7, 5), 0.1 / 5) + 0.9 * np.eye(5)[target.numpy()]
    assert cross_entropy(logits, target, 0.1).item() == pytest.approx(-(soft * log_p).sum(1).mean(), rel=1e-5)
