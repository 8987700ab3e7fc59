"""Losses with several teachers: what each teaches, weighted. No gradient flows to any of them.

All three take ``target``, so that they can stand for one another; only :func:`multi_camkd` looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.distill.losses.numerics import check_same_shape, divergence, full_precision, soft_log, true_class
from edgekd.errors import UsageError


@full_precision
def multi_avg(student: Tensor, teachers: Sequence[Tensor], target: Tensor | None = None, temperature: float = 4.0) -> Tensor:
    """Mean of :func:`kd <edgekd.distill.losses.kd>` over teachers (You, Xu, Xu and Tao, 2017).

    ``1 / K * sum over k of T^2 KL(teacher_k || student)``. Its gradient is that of distilling the mean of their softened
    probabilities.

    Args:
        student: Logits ``[n, classes]``.
        teachers: K times the same shape.
        target: Unused.
        temperature: T, above 0.
    """
    return _divergences(student, teachers, temperature).mean()


@full_precision
def multi_entropy(
    student: Tensor, teachers: Sequence[Tensor], target: Tensor | None = None, temperature: float = 4.0
) -> Tensor:
    """Sure teachers weigh more (Kwon, Na, Lee and Kim, 2020).

    ``1 / (n K) * sum over n, k of (1 - H_nk / sum over k H_nk) T^2 KL(teacher_k || student)``, H the entropies at
    temperature 1. The weights of a sample sum to K - 1. One teacher alone has the weight 1.

    Args:
        student: Logits ``[n, classes]``.
        teachers: K times the same shape.
        target: Unused.
        temperature: T, above 0.
    """
    losses = _divergences(student, teachers, temperature)
    if len(teachers) == 1:
        return losses.mean()
    logs = torch.stack([soft_log(each.detach(), 1.0) for each in teachers])
    entropy = -(logs.exp() * logs).sum(2)
    # Teachers that are all certain share alike, where the quotient would be 0 / 0.
    share = (entropy + 1e-30) / (entropy + 1e-30).sum(0)
    return ((1 - share) * losses).mean()


@full_precision
def multi_camkd(student: Tensor, teachers: Sequence[Tensor], target: Tensor, temperature: float = 4.0) -> Tensor:
    """Teachers that are right weigh more (Zhang, Chen and Wang, 2022).

    ``1 / (n K) * sum over n, k of w_nk T^2 KL(teacher_k || student)``, ``w_nk = (1 - softmax over k of CE_nk) / (K - 1)``.
    As in the authors' code, the result is divided by K although the weights of a sample sum to 1: K times less than
    :func:`multi_avg`. One teacher alone has the weight 1, where theirs divides by 0.

    Args:
        student: Logits ``[n, classes]``.
        teachers: K times the same shape.
        target: Class indices ``[n]``.
        temperature: T, above 0.
    """
    losses = _divergences(student, teachers, temperature)
    if len(teachers) == 1:
        return losses.mean()
    errors = torch.stack([-true_class(soft_log(each.detach(), 1.0), target) for each in teachers])
    weights = (1 - torch.softmax(errors, 0)) / (len(teachers) - 1)
    return (weights * losses).mean()


def _divergences(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Return ``T^2 KL`` of every teacher and sample, ``[teachers, n]``."""
    if not teachers:
        raise UsageError("a loss with several teachers got none", "give it a list of logits")
    log_student = soft_log(student, temperature)
    rows = []
    for teacher in teachers:
        check_same_shape(student, teacher, "logits")
        rows.append(divergence(soft_log(teacher.detach(), temperature), log_student))
    return temperature**2 * torch.stack(rows)
