"""Losses on outputs against closed forms in float64 NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr, zscore

from edgekd.distill.losses import cross_entropy, dist, dkd, kd, kd_logit_mse, kd_logit_std, nkd, wsld, wttm
from edgekd.errors import ModelError, UsageError


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


def _numpy(logits: torch.Tensor) -> np.ndarray:
    return logits.double().numpy()


def _kl(p: np.ndarray, q: np.ndarray) -> Any:
    """Of probabilities along the last axis, as scipy has it."""
    return rel_entr(p, q).sum(-1)


TARGET = torch.tensor([0, 1, 2, 3, 4, 0, 1])


@pytest.mark.parametrize("temperature", [0.5, 2.0, 20.0])
def test_kd_logit_std_is_the_closed_form(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    p, q = (softmax(zscore(_numpy(each), axis=1, ddof=1) / temperature, axis=1) for each in (teacher, student))
    assert kd_logit_std(student, teacher, temperature).item() == pytest.approx(temperature**2 * _kl(p, q).mean(), rel=1e-4)


def test_kd_logit_std_does_not_see_scale() -> None:
    student, teacher = _logits(0).double(), _logits(1).double()
    assert kd_logit_std(student * 10 + 3, teacher).item() == pytest.approx(kd_logit_std(student, teacher).item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0)])
def test_dkd_is_the_closed_form(temperature: float, weights: tuple[float, float]) -> None:
    student, teacher = _logits(0), _logits(1)
    expected = np.float64(0)
    for z_s, z_t, y in zip(_numpy(student), _numpy(teacher), TARGET.numpy(), strict=True):
        q, p = softmax(z_s / temperature), softmax(z_t / temperature)
        rest_q, rest_p = np.delete(q, y), np.delete(p, y)
        binary = _kl(np.array([p[y], rest_p.sum()]), np.array([q[y], rest_q.sum()]))
        others = _kl(rest_p / rest_p.sum(), rest_q / rest_q.sum())
        expected += temperature**2 * (weights[0] * binary + weights[1] * others) / len(TARGET)
    assert dkd(student, teacher, TARGET, temperature, *weights).item() == pytest.approx(expected, rel=1e-5)


def test_dkd_splits_the_divergence() -> None:
    # KL = KL(true class against rest) + (1 - p_true) KL(others): with one other class the second part is 0.
    student, teacher, target = _logits(0)[:, :2].double(), _logits(1)[:, :2].double(), TARGET % 2
    assert dkd(student, teacher, target, 4.0, 1.0, 8.0).item() == pytest.approx(kd(student, teacher, 4.0).item(), rel=1e-9)


def test_dkd_is_finite_where_logarithms_of_softmax_are_not() -> None:
    student, teacher = _logits(0, 60.0).requires_grad_(), _logits(1, 60.0)
    value = dkd(student, teacher, TARGET, 1.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", [dkd, nkd])
def test_one_class_alone_is_refused(loss: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="needs two classes"):
        loss(torch.ones(3, 1), torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_the_closed_form(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    q, p = softmax(_numpy(student) / temperature, axis=1), softmax(_numpy(teacher) / temperature, axis=1)
    rows = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q.T, p.T, strict=True)])
    expected = temperature**2 * (2.0 * rows + 0.5 * columns)
    assert dist(student, teacher, temperature, 2.0, 0.5).item() == pytest.approx(expected, rel=1e-4)


def test_dist_of_maps_takes_pixels_for_samples() -> None:
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    rows_s, rows_t = (each.permute(0, 2, 3, 1).reshape(24, 5) for each in (student, teacher))
    assert dist(student, teacher).item() == pytest.approx(dist(rows_s, rows_t).item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_nkd_is_the_closed_form(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    expected = 0.0
    for z_s, z_t, y in zip(_numpy(student), _numpy(teacher), TARGET.numpy(), strict=True):
        true = -softmax(z_t)[y] * np.log(softmax(z_s)[y])
        others = -(softmax(np.delete(z_t, y) / temperature) * log_softmax(np.delete(z_s, y) / temperature)).sum()
        expected += (true + 1.5 * temperature**2 * others) / len(TARGET)
    assert nkd(student, teacher, TARGET, temperature, 1.5).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
def test_wttm_is_the_closed_form(gamma: float) -> None:
    student, teacher = _logits(0), _logits(1)
    powered = softmax(_numpy(teacher), axis=1) ** gamma
    norm = powered.sum(1)
    expected = (norm * _kl(powered / norm[:, None], softmax(_numpy(student), axis=1))).mean()
    assert wttm(student, teacher, gamma).item() == pytest.approx(expected, rel=1e-5)


def test_wttm_of_power_one_is_kd() -> None:
    student, teacher = _logits(0), _logits(1)
    assert wttm(student, teacher, 1.0).item() == pytest.approx(kd(student, teacher, 1.0).item(), rel=1e-5)


def test_kd_logit_mse_is_the_closed_form() -> None:
    student, teacher = _logits(0), _logits(1)
    expected = ((_numpy(student) - _numpy(teacher)) ** 2).mean() / 9
    assert kd_logit_mse(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_kd_is_logit_mse_at_high_temperature() -> None:
    # Hinton et al., section 2.1: for centred logits T^2 KL tends to |student - teacher|^2 / (2 classes).
    student, teacher = (each - each.mean(1, keepdim=True) for each in (_logits(0).double(), _logits(1).double()))
    assert kd(student, teacher, 1e4).item() == pytest.approx(kd_logit_mse(student, teacher).item() / 2, rel=1e-3)


def _wsld_weights(student: torch.Tensor, teacher: torch.Tensor) -> np.ndarray:
    error_s, error_t = (-log_softmax(_numpy(each), axis=1)[np.arange(7), TARGET.numpy()] for each in (student, teacher))
    return np.asarray(1 - np.exp(-error_s / error_t))


def test_wsld_is_the_closed_form() -> None:
    student, teacher = _logits(0), _logits(1)
    soft = -(softmax(_numpy(teacher) / 2, axis=1) * log_softmax(_numpy(student) / 2, axis=1)).sum(1)
    expected = 2.5 * 4 * (_wsld_weights(student, teacher) * soft).mean()
    assert wsld(student, teacher, TARGET, 2.0, 2.5).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_wsld_takes_its_weights_for_constants() -> None:
    student, teacher = _logits(0).requires_grad_(), _logits(1)
    wsld(student, teacher, TARGET, 2.0, 1.0).backward()  # type: ignore[no-untyped-call]
    difference = softmax(_numpy(student.detach()) / 2, axis=1) - softmax(_numpy(teacher) / 2, axis=1)
    assert student.grad is not None
    np.testing.assert_allclose(
        student.grad, 2 * _wsld_weights(student.detach(), teacher)[:, None] * difference / 7, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("loss", [kd, kd_logit_std, dist, wttm, kd_logit_mse])
def test_outputs_of_other_classes_are_refused(loss: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ModelError, match=r"logits of the student \[7, 5\] and of the teacher \[7, 1\] differ in shape"):
        loss(_logits(0), _logits(1)[:, :1])


@pytest.mark.parametrize("loss", [kd, kd_logit_std, dist, kd_logit_mse])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_not_above_zero_is_refused(loss: Callable[..., torch.Tensor], temperature: float) -> None:
    with pytest.raises(UsageError, match="is not above 0"):
        loss(_logits(0), _logits(1), temperature=temperature)
