"""Losses on outputs: the student imitates what the teacher says. Logits are ``[n, classes]``, targets indices ``[n]``.

Temperatures of 0.05 to 100 and logits to 1e4 in size are in range. No gradient flows to the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses.numerics import (
    check_same_shape,
    check_temperature,
    divergence,
    full_precision,
    length,
    other_classes,
    soft_log,
    standardized,
    true_class,
)


@full_precision
def cross_entropy(student: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the true labels, averaged over the batch.

    Args:
        student: Logits ``[n, classes]``.
        target: Class indices ``[n]``.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
    """
    return functional.cross_entropy(student, target, label_smoothing=label_smoothing)


@full_precision
def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence of the student's softened outputs from the teacher's (Hinton, Vinyals and Dean, 2015).

    ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the batch; the factor T^2
    keeps gradients of one size whatever the temperature. Some codes leave it out, or divide by the number
    of classes too: both weaken the term by one to three orders.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "logits")
    log_student = soft_log(student, temperature)
    log_teacher = soft_log(teacher.detach(), temperature)
    return temperature**2 * divergence(log_teacher, log_student).mean()


@full_precision
def kd_logit_std(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """:func:`kd` between logits standardised per sample (Sun, Ren, Li, Wang and Cao, 2024).

    ``T^2 * KL(softmax(Z(teacher) / T) || softmax(Z(student) / T))``, ``Z(z) = (z - mean) / (std + 1e-7)``,
    unbiased std. The authors' code lets gradients of constant logits reach 4.5e5; the deviation is at least 1e-3 here.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "logits")
    log_student = soft_log(_standard_logits(student), temperature)
    log_teacher = soft_log(_standard_logits(teacher.detach()), temperature)
    return temperature**2 * divergence(log_teacher, log_student).mean()


def _standard_logits(logits: Tensor) -> Tensor:
    return standardized(logits, 1, eps=1e-7, floor=1e-3)


@full_precision
def dkd(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled distillation (Zhao, Cui, Song, Qiu and Liang, 2022).

    ``T^2 * mean(alpha * KL(true class against the rest) + beta * KL(among the other classes))``. In log-space: the
    authors take logarithms of sums of softmax, infinite for logits of 60. MMRazor returns the sum over the batch.

    Args:
        student: Logits ``[n, classes]``, two classes or more.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        target: Class indices ``[n]``.
        temperature: T, above 0.
        alpha, beta: Weights of the two parts, 0 or more.

    Raises:
        ModelError: There is one class only.
    """
    check_same_shape(student, teacher, "logits")
    binary_student, others_student = _decoupled(student, target, temperature)
    binary_teacher, others_teacher = _decoupled(teacher.detach(), target, temperature)
    true = divergence(binary_teacher, binary_student)
    others = divergence(others_teacher, others_student)
    return temperature**2 * (alpha * true + beta * others).mean()


def _decoupled(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities ``[n, 2]`` of the true class and the rest, and ``[n, classes - 1]`` among the rest."""
    log_all = soft_log(logits, temperature)
    rest = other_classes(log_all, target).logsumexp(1)
    return torch.stack((true_class(log_all, target), rest), 1), soft_log(other_classes(logits, target), temperature)


@full_precision
def dist(student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Correlations instead of equality (Huang, You, Wang, Qian and Xu, 2022).

    ``T^2 * (beta * (1 - mean over samples r(q_n, p_n)) + gamma * (1 - mean over classes r(q_c, p_c)))``, r Pearson's
    correlation of probabilities; its denominator gets 1e-8, as in the authors' code, and an entry that varies by less
    than a thousandth of its mean counts as if by that much: there, gradients of constant logits reach 2e6.
    Of a batch of one the second part is the constant ``gamma * T^2``.

    Args:
        student: Logits ``[n, classes]``, or ``[n, classes, h, w]``, where every pixel counts as a sample.
        teacher: Logits of the same shape; no gradient flows to them.
        temperature: T, above 0.
        beta, gamma: Weights of samples and of classes, 0 or more.
    """
    check_same_shape(student, teacher, "logits")
    q = soft_log(_pixels_as_rows(student), temperature).exp()
    p = soft_log(_pixels_as_rows(teacher.detach()), temperature).exp()
    between, within = 1 - _pearson(q, p, 1).mean(), 1 - _pearson(q, p, 0).mean()
    return temperature**2 * (beta * between + gamma * within)


def _pixels_as_rows(logits: Tensor) -> Tensor:
    return logits.movedim(1, -1).flatten(0, -2) if logits.dim() > 2 else logits


def _pearson(first: Tensor, second: Tensor, dim: int) -> Tensor:
    a, length_a = _deviations(first, dim)
    b, length_b = _deviations(second, dim)
    return (a * b).sum(dim) / (length_a * length_b + 1e-8).squeeze(dim)


def _deviations(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    mean = values.mean(dim, keepdim=True)
    floor = 1e-3 * values.shape[dim] ** 0.5 * mean.detach()
    return values - mean, length(values - mean, dim, floor.clamp_min(1e-12))


@full_precision
def nkd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.0, gamma: float = 1.5) -> Tensor:
    """Normalised distillation (Yang, Zeng, Li, Zhang, Yuan and Li, 2023).

    ``-mean p_y log q_y + gamma * T^2 * mean CE(p', q')``: p, q at temperature 1, p', q' over the classes but y
    at temperature T. Cross-entropies, not divergences: above 0 when student and teacher agree.

    Args:
        student: Logits ``[n, classes]``, two classes or more.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        target: Class indices ``[n]``, y.
        temperature: T, above 0.
        gamma: Weight of the other classes, 0 or more.

    Raises:
        ModelError: There is one class only.
    """
    check_same_shape(student, teacher, "logits")
    teacher = teacher.detach()
    true = -true_class(soft_log(teacher, 1.0), target).exp() * true_class(soft_log(student, 1.0), target)
    log_student = soft_log(other_classes(student, target), temperature)
    log_teacher = soft_log(other_classes(teacher, target), temperature)
    others = -(log_teacher.exp() * log_student).sum(1)
    return true.mean() + gamma * temperature**2 * others.mean()


@full_precision
def wttm(student: Tensor, teacher: Tensor, gamma: float = 0.2) -> Tensor:
    """Weighted transformed teacher matching (Zheng and Yang, 2024).

    ``mean over n of U_n * KL(p_n^gamma / U_n || softmax(student_n))``, ``U_n = sum over classes p_nc^gamma``: the teacher
    alone is softened, which equals a temperature of 1 / gamma, and uncertain samples weigh more.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        gamma: Power, above 0; below 1 softens.
    """
    check_same_shape(student, teacher, "logits")
    powered = gamma * soft_log(teacher.detach(), 1.0)
    log_weight = powered.logsumexp(1)
    return (log_weight.exp() * divergence(powered - log_weight.unsqueeze(1), soft_log(student, 1.0))).mean()


@full_precision
def kd_logit_mse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared difference of logits (Ba and Caruana, 2014; Kim, Oh, Kim, Cho and Yun, 2021).

    ``mean((student / T - teacher / T)^2)`` over samples and classes.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    return functional.mse_loss(student / temperature, teacher.detach() / temperature)


@full_precision
def wsld(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 2.0, weight: float = 2.5) -> Tensor:
    """Weighted soft labels (Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, 2021).

    ``weight * T^2 * mean over n of w_n CE(softmax(teacher / T), softmax(student / T))``,
    ``w_n = 1 - exp(-CE(student, y) / (CE(teacher, y) + 1e-7))``, a constant: samples on which the student is worse
    than the teacher count. A cross-entropy, not a divergence.

    Args:
        student: Logits ``[n, classes]``.
        teacher: Logits ``[n, classes]``; no gradient flows to them.
        target: Class indices ``[n]``.
        temperature: T, above 0.
        weight: Of the whole.
    """
    check_same_shape(student, teacher, "logits")
    teacher = teacher.detach()
    ratio = -true_class(soft_log(student.detach(), 1.0), target) / (1e-7 - true_class(soft_log(teacher, 1.0), target))
    soft = -(soft_log(teacher, temperature).exp() * soft_log(student, temperature)).sum(1)
    return weight * temperature**2 * (-torch.expm1(-ratio) * soft).mean()
