"""Losses on relations between samples against loops over pairs and triples in float64 NumPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from edgekd.distill.losses import cc_gaussian, pkt, rkd, rkd_angle, rkd_distance, sp
from edgekd.errors import ModelError


def _vectors(seed: int, n: int = 6, width: int = 5, size: float = 2.0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


STUDENT, TEACHER = _vectors(0), _vectors(1, width=8)


def _smooth_l1(difference: np.ndarray) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size < 1, difference**2 / 2, size - 0.5)


def _cosines(vectors: Tensor) -> np.ndarray:
    return np.asarray(1 - cdist(vectors.numpy(), vectors.numpy(), "cosine"))


def test_rkd_distance_is_the_closed_form() -> None:
    relative = [each / each[each > 0].mean() for each in (cdist(x, x) for x in (STUDENT.numpy(), TEACHER.numpy()))]
    assert rkd_distance(STUDENT, TEACHER).item() == pytest.approx(_smooth_l1(relative[0] - relative[1]).mean())


def test_rkd_distance_of_near_rows_far_from_the_origin_is_exact_in_float32() -> None:
    # |a|^2 + |b|^2 - 2ab would lose every digit.
    near = STUDENT * 1e-2 + 100.0
    exact = rkd_distance(near.float().double(), TEACHER.float().double()).item()
    assert rkd_distance(near.float(), TEACHER.float()).item() == pytest.approx(exact, rel=1e-4)


def test_rkd_distance_of_one_sample_is_zero_with_a_warning() -> None:
    student = _vectors(0, n=1).requires_grad_()
    with pytest.warns(UserWarning, match="0 for a batch of one"):
        value = rkd_distance(student, TEACHER[:1])
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0.0
    assert student.grad is not None
    assert student.grad.abs().max() == 0.0


def _angles(vectors: Tensor) -> np.ndarray:
    n, x = len(vectors), vectors.numpy()
    angles = np.zeros((n, n, n))
    for i, j, k in itertools.product(range(n), repeat=3):
        if i not in (j, k):
            a, b = x[j] - x[i], x[k] - x[i]
            angles[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return angles


def test_rkd_angle_is_the_closed_form() -> None:
    expected = _smooth_l1(_angles(STUDENT) - _angles(TEACHER)).mean()
    assert rkd_angle(STUDENT, TEACHER).item() == pytest.approx(expected)


def test_rkd_angle_does_not_see_scale_shift_or_rotation() -> None:
    rotation = torch.linalg.qr(_vectors(3, n=5)).Q
    assert rkd_angle(STUDENT @ rotation * 3 + 7, TEACHER).item() == pytest.approx(rkd_angle(STUDENT, TEACHER).item())


def test_an_edge_as_short_as_rounding_has_no_direction() -> None:
    student = STUDENT.clone()
    student[1] = student[0] + 1e-7
    student.requires_grad_()
    rkd_angle(student, TEACHER).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().max() < 1


def test_rkd_is_the_weighted_sum() -> None:
    expected = 3 * rkd_distance(STUDENT, TEACHER) + 5 * rkd_angle(STUDENT, TEACHER)
    assert rkd(STUDENT, TEACHER, 3.0, 5.0).item() == pytest.approx(expected.item())


def test_sp_is_the_closed_form() -> None:
    grams = [x @ x.T for x in (STUDENT.numpy(), TEACHER.numpy())]
    rows = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in grams]
    assert sp(STUDENT, TEACHER).item() == pytest.approx(((rows[0] - rows[1]) ** 2).sum() / 36)


def test_maps_are_flattened() -> None:
    maps = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    for loss in (rkd_distance, rkd_angle, sp, cc_gaussian, pkt):
        assert loss(maps, TEACHER[:4]).item() == pytest.approx(loss(maps.reshape(4, 12), TEACHER[:4]).item())


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.4, 0), (1.0, 3)])
def test_cc_gaussian_is_the_closed_form(gamma: float, order: int) -> None:
    kernels = [np.zeros((6, 6)), np.zeros((6, 6))]
    for kernel, vectors in zip(kernels, (STUDENT, TEACHER), strict=True):
        for p in range(order + 1):
            kernel += math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * _cosines(vectors) ** p
    expected = ((kernels[0] - kernels[1]) ** 2).mean()
    assert cc_gaussian(STUDENT, TEACHER, gamma, order).item() == pytest.approx(expected, abs=1e-15)


def test_cc_gaussian_of_high_order_is_the_gaussian_kernel() -> None:
    # For unit vectors exp(-gamma |a - b|^2) = exp(-2 gamma) exp(2 gamma a.b).
    kernels = [np.exp(-2 * 0.4 * (1 - _cosines(x))) for x in (STUDENT, TEACHER)]
    assert cc_gaussian(STUDENT, TEACHER, 0.4, 15).item() == pytest.approx(((kernels[0] - kernels[1]) ** 2).mean())


def test_pkt_is_the_closed_form() -> None:
    p_s, p_t = (each / each.sum(1, keepdims=True) for each in ((_cosines(x) + 1) / 2 for x in (STUDENT, TEACHER)))
    assert pkt(STUDENT, TEACHER).item() == pytest.approx((p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))).mean(), rel=1e-5)


def test_a_zero_row_has_no_gradient_and_spoils_no_other() -> None:
    for loss in (rkd_distance, rkd_angle, sp, cc_gaussian, pkt):
        student = STUDENT.float()
        student[2] = 0
        student.requires_grad_()
        loss(student, TEACHER.float()).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().max() < 10


def test_different_batches_are_refused() -> None:
    with pytest.raises(ModelError, match="6 samples of the student and 3 of the teacher"):
        sp(STUDENT, TEACHER[:3])
