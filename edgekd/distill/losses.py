"""Distillation losses: pure functions of logits, computed in float32 whatever the autocast."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's softened outputs from the teacher's (Hinton, Vinyals and Dean, 2015).

    ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the batch; the factor T^2
    keeps gradients of one size whatever the temperature.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        temperature: T, above 0.
    """
    log_p = functional.log_softmax(student.float() / temperature, dim=1)
    log_q = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    return functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def cross_entropy(student: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the true labels, averaged over the batch.

    Args:
        student: Logits ``[n, classes]``.
        target: Class indices ``[n]``.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
    """
    return functional.cross_entropy(student.float(), target, label_smoothing=label_smoothing)
