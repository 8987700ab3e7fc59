"""Losses without a trained teacher: networks that teach one another, or a network that teaches itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.distill.losses.numerics import check_same_shape, full_precision, soft_log, true_class
from edgekd.distill.losses.response import kd
from edgekd.errors import UsageError


@full_precision
def dml(student: Tensor, peers: Sequence[Tensor], target: Tensor, temperature: float = 1.0) -> Tensor:
    """Deep mutual learning, the loss of one of the networks (Zhang, Xiang, Hospedales and Lu, 2018).

    ``CE(student, target) + mean over peers of T^2 KL(peer || student)``. The paper's first code sums over peers. Peers are
    detached: each network is trained by its own loss alone.

    Args:
        student: Logits ``[n, classes]``.
        peers: The other networks' logits, each ``[n, classes]``.
        target: Class indices ``[n]``.
        temperature: T, above 0; 1 in the paper.
    """
    if not peers:
        raise UsageError("dml needs a peer and got none", "train two networks or more")
    hard = -true_class(soft_log(student, 1.0), target).mean()
    return hard + torch.stack([kd(student, peer, temperature) for peer in peers]).mean()


@full_precision
def pskd(student: Tensor, teacher: Tensor, target: Tensor, alpha_t: float = 0.8) -> Tensor:
    """Progressive self-distillation (Kim, Ji, Yoon and Hwang, 2021).

    ``mean CE((1 - alpha_t) onehot(target) + alpha_t * teacher, softmax(student))``, the teacher being what the network
    said one epoch ago. ``alpha_t`` grows from 0 to 0.8 with the epochs; in the first epoch it is 0.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Probabilities of the epoch before, ``[n, classes]``.
        target: Class indices ``[n]``.
        alpha_t: Share of the old prediction, in [0, 1].
    """
    check_same_shape(student, teacher, "predictions")
    log_student = soft_log(student, 1.0)
    own = (teacher.detach() * log_student).sum(1)
    return -((1 - alpha_t) * true_class(log_student, target) + alpha_t * own).mean()


@full_precision
def byot_kd(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
    """Be your own teacher: an early exit learns from the last (Zhang, Song, Gao, Chen, Bao and Ma, 2019).

    ``T^2 * mean CE(softmax(last / T), softmax(exit / T))``: the gradient of :func:`kd <edgekd.distill.losses.kd>`, a value
    higher by the last exit's entropy.

    Args:
        student: Logits of an early exit ``[n, classes]``.
        teacher: Logits of the last exit, the same shape; no gradient flows to them.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "logits")
    soft = soft_log(teacher.detach(), temperature).exp()
    return -(temperature**2) * (soft * soft_log(student, temperature)).sum(1).mean()
