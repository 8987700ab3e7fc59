"""Losses on outputs with places: pixels, tokens, frames; and on the actions of a policy. No gradient flows to the teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses.numerics import (
    Stages,
    check_same_shape,
    divergence,
    full_precision,
    mean_where,
    paired,
    soft_log,
    standardized,
)


@full_precision
def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (Shu, Liu, Gao, Yan and Shen, 2021).

    ``T^2 / (n c) * sum over maps of KL(softmax over positions (teacher / T) || ... (student / T))``.

    Args:
        student: Logits or features ``[n, c, h, w]``.
        teacher: The same shape.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "maps")
    log_teacher = soft_log(teacher.detach().flatten(2), temperature)
    return temperature**2 * divergence(log_teacher, soft_log(student.flatten(2), temperature)).mean()


@full_precision
def pixel_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """:func:`kd <edgekd.distill.losses.kd>` at every pixel, averaged over pixels (Liu, Chen, Liu, Qin, Luo and Wang, 2019).

    ``T^2 / (n h w) * sum over pixels of KL(softmax(teacher / T) || softmax(student / T))``. Codes that divide by classes
    too, or not by n, differ by those factors.

    Args:
        student: Logits ``[n, classes, h, w]``.
        teacher: The same shape.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "maps")
    log_teacher = soft_log(teacher.detach(), temperature, dim=1)
    return temperature**2 * divergence(log_teacher, soft_log(student, temperature, dim=1), dim=1).mean()


@full_precision
def pkd(student: Stages, teacher: Stages) -> Tensor:
    """Pearson distillation (Cao, Zhang, Gao, Cheng, Cheng and Zhang, 2022).

    ``sum over stages of mean((Z(student) - Z(teacher))^2) / 2``, Z the z-scores of a channel over samples and positions,
    unbiased, 1e-6 added to the deviation: 1 minus the correlation. The deviation is at least 1e-4: a constant channel
    has a gradient of 3e3 otherwise.

    Args:
        student: Feature maps ``[n, c, h, w]``, one or a list.
        teacher: The same shapes.
    """
    total = torch.zeros(())
    for s, t in paired(student, teacher, "features"):
        check_same_shape(s, t, "features")
        z_s, z_t = (standardized(each, (0, 2, 3), eps=1e-6, floor=1e-4) for each in (s, t))
        total = total + functional.mse_loss(z_s, z_t) / 2
    return total


@full_precision
def token_kd(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Divergence per token, averaged over valid tokens (Kim and Rush, 2016; Gandhi, von Platen and Rush, 2023).

    ``T^2 / valid * sum over valid tokens of KL(softmax(teacher / T) || softmax(student / T))``: independent of padding.

    Args:
        student, teacher: Logits ``[b, l, vocabulary]``.
        labels: ``[b, l]``, negative where a token does not count.
        mask: ``[b, l]``, 0 where a token does not count.
        temperature: T, above 0.
    """
    check_same_shape(student, teacher, "logits")
    valid = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    if labels is not None:
        valid = valid & (labels >= 0)
    if mask is not None:
        valid = valid & (mask != 0)
    rows = divergence(soft_log(teacher.detach(), temperature), soft_log(student, temperature))
    return temperature**2 * mean_where(rows, valid)


@full_precision
def frame_kd(student: Tensor, teacher: Tensor, lens: Tensor | None = None) -> Tensor:
    """Cross-entropy per frame, averaged over valid frames (Li, Zhao, Huang and Gong, 2014).

    ``-1 / valid * sum over valid frames and classes of p log softmax(student)``.

    Args:
        student: Logits ``[b, frames, classes]``; log-probabilities are as good.
        teacher: Probabilities p, the same shape.
        lens: Valid share of every sequence, ``[b]`` in 0 to 1; ``None``: all.
    """
    check_same_shape(student, teacher, "frames")
    rows = -(teacher.detach() * soft_log(student, 1.0)).sum(2)
    counts = _frames(lens, student)
    return mean_where(rows, torch.arange(student.shape[1], device=student.device) < counts.unsqueeze(1))


def _frames(lens: Tensor | None, like: Tensor) -> Tensor:
    frames = like.shape[1]
    if lens is None:
        return torch.full((len(like),), frames, device=like.device)
    return (lens * frames).round().long().clamp(0, frames)


@full_precision
def ctc_kd(student: Tensor, teacher: Tensor, lens: Tensor | None = None, blank: int = 0) -> Tensor:
    """CTC loss on what the teacher reads (Takashima, Li and Kawai, 2018, with its best path for a label).

    ``CTC(log softmax(student), collapse(argmax teacher))``: repeats merged, blanks dropped; a sequence's loss is divided by
    its label's length, then the mean over sequences.

    Args:
        student: Logits ``[b, frames, classes]``; log-probabilities are as good.
        teacher: Probabilities or logits, the same shape.
        lens: Valid share of every sequence, ``[b]`` in 0 to 1; ``None``: all.
        blank: Index of the blank.
    """
    check_same_shape(student, teacher, "frames")
    counts = _frames(lens, student)
    best = teacher.argmax(2)
    labels = [path[: int(count)].unique_consecutive() for path, count in zip(best, counts, strict=True)]
    labels = [each[each != blank] for each in labels]
    sizes = torch.tensor([len(each) for each in labels], device=student.device)
    log_probabilities = soft_log(student, 1.0).transpose(0, 1)
    return functional.ctc_loss(log_probabilities, torch.cat(labels), counts, sizes, blank, zero_infinity=True)


@full_precision
def policy_gaussian_kl(mean_s: Tensor, std_s: Tensor, mean_t: Tensor, std_t: Tensor) -> Tensor:
    """Divergence of Gaussian policies (Rusu et al., 2016, for continuous actions).

    ``mean over n, a of KL(N(mean_t, std_t^2) || N(mean_s, std_s^2))``,
    ``KL = log(std_s / std_t) + (std_t^2 + (mean_t - mean_s)^2) / (2 std_s^2) - 1/2``.

    Args:
        mean_s, mean_t: Mean actions of student and teacher ``[n, a]``.
        std_s, std_t: Standard deviations ``[n, a]``, or what broadcasts to it; above 0, 1e-6 at least is taken.
    """
    check_same_shape(mean_s, mean_t, "mean actions")
    narrow_s, narrow_t = std_s.clamp_min(1e-6), std_t.detach().clamp_min(1e-6)
    squares = (narrow_t / narrow_s).square() + ((mean_t.detach() - mean_s) / narrow_s).square()
    return (narrow_s.log() - narrow_t.log() + (squares - 1) / 2).mean()
