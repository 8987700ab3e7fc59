"""Losses on relations between the samples of a batch; student and teacher may have different widths.

Features are ``[n, ...]``, flattened to vectors. Memory grows with n^2, with n^3 for angles. The statistics are those of
the batch on one device. No gradient flows to the teacher.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses.numerics import full_precision, length, unit
from edgekd.errors import ModelError


def _vectors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as ``[n, d]``, the teacher's without gradient.

    Raises:
        ModelError: They have different numbers of samples.
    """
    if len(student) != len(teacher):
        raise ModelError(
            f"{len(student)} samples of the student and {len(teacher)} of the teacher",
            "give both the same batch in the same order",
        )
    return student.flatten(1), teacher.detach().flatten(1)


@full_precision
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distances between samples (Park, Kim, Lu and Cho, 2019).

    ``mean over i, j of smoothL1(d_ij(student), d_ij(teacher))``, d the Euclidean distances, at least 1e-6, divided by
    their mean; 0 on the diagonal, which counts. Distances come from differences, not from ``|a|^2 + |b|^2 - 2ab``, whose
    rounding swamps near rows. A batch of one has no distances: 0, and a warning.

    Args:
        student: Vectors ``[n, d]``, or maps, which are flattened.
        teacher: ``[n, ...]``.
    """
    s, t = _vectors(student, teacher)
    if len(s) < 2:
        warnings.warn("rkd_distance is 0 for a batch of one", stacklevel=3)
        return (s * 0.0).sum()
    return functional.smooth_l1_loss(_relative_distances(s), _relative_distances(t))


def _relative_distances(vectors: Tensor) -> Tensor:
    n = len(vectors)
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(1e-6)
    distances = distances.masked_fill(torch.eye(n, dtype=torch.bool, device=vectors.device), 0.0)
    return distances / (distances.sum() / (n * (n - 1)))


@full_precision
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Angles between triples of samples (Park, Kim, Lu and Cho, 2019).

    ``mean over i, j, k of smoothL1(cos of the angle at i between j and k)``. An edge shorter than 1e-6 has no direction
    and no gradient; in the authors' code it has one of 1e9. Memory: 3 n^3 + 2 n^2 d numbers.

    Args:
        student: Vectors ``[n, d]``, or maps, which are flattened.
        teacher: ``[n, ...]``.
    """
    s, t = _vectors(student, teacher)
    return functional.smooth_l1_loss(_angles(s), _angles(t))


def _angles(vectors: Tensor) -> Tensor:
    edges = unit(vectors.unsqueeze(0) - vectors.unsqueeze(1), 2, floor=1e-6)
    return edges @ edges.transpose(1, 2)


@full_precision
def rkd(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Both relations: ``distance_weight * rkd_distance + angle_weight * rkd_angle`` (Park, Kim, Lu and Cho, 2019).

    Args:
        student: Vectors ``[n, d]``, or maps, which are flattened.
        teacher: ``[n, ...]``.
        distance_weight, angle_weight: 25 and 50 are common for classification; the authors' metric learning has 1 and 2.
    """
    return distance_weight * rkd_distance(student, teacher) + angle_weight * rkd_angle(student, teacher)


@full_precision
def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity preserving (Tung and Mori, 2019).

    ``|G(student) - G(teacher)|_F^2 / n^2``, ``G = F F^T`` with rows scaled to L2 length 1. torchdistill scales by L1,
    by an argument in the wrong place.

    Args:
        student: Features ``[n, ...]``, flattened; usually the last map.
        teacher: ``[n, ...]``.
    """
    s, t = _vectors(student, teacher)
    return functional.mse_loss(unit(s @ s.T, 1), unit(t @ t.T, 1))


@full_precision
def cc_gaussian(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Correlation congruence (Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, 2019).

    ``mean over i, j of (K(student) - K(teacher))^2``, ``K = sum for p to order of e^(-2 gamma) (2 gamma)^p / p! (a . b)^p``
    between rows scaled to length 1: the Taylor series of a Gaussian kernel, as in the paper. RepDistiller has an unrelated
    loss under this name, torchdistill does not scale rows.

    Args:
        student: Vectors ``[n, d]``, or maps, which are flattened.
        teacher: ``[n, ...]``.
        gamma: Of the kernel, above 0.
        order: Last power of the series, 0 or more.
    """
    s, t = _vectors(student, teacher)
    return functional.mse_loss(_taylor_kernel(s, gamma, order), _taylor_kernel(t, gamma, order))


def _taylor_kernel(vectors: Tensor, gamma: float, order: int) -> Tensor:
    rows = unit(vectors, 1)
    cosine = rows @ rows.T
    series, power = torch.zeros_like(cosine), torch.ones_like(cosine)
    for p in range(order + 1):
        series = series + math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * power
        power = power * cosine
    return series


@full_precision
def pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """Probabilistic knowledge transfer (Passalis and Tefas, 2018).

    ``mean over i, j of p_t log((p_t + eps) / (p_s + eps))``, p the rows of ``(cos + 1) / 2`` scaled to sum 1. The mean over
    n^2 is the authors' code, hence the weight of 30,000. Their gradient is NaN for a zero row; here it is 0.

    Args:
        student: Vectors ``[n, d]``, or maps, which are flattened.
        teacher: ``[n, ...]``.
        eps: Added to lengths and probabilities.
    """
    s, t = _vectors(student, teacher)
    p_s, p_t = _neighbours(s, eps), _neighbours(t, eps)
    return (p_t * ((p_t + eps).log() - (p_s + eps).log())).mean()


def _neighbours(vectors: Tensor, eps: float) -> Tensor:
    size = length(vectors, 1)
    rows = unit(vectors, 1) * (size / (size + eps))  # vectors / (size + eps), but without gradient where that is 0
    similarity = (rows @ rows.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
