"""Losses on inner feature maps ``[n, channels, h, w]``: one map, or a list with one for each stage, which are summed.

Where sizes may differ, the larger map is average-pooled to the smaller. Where channels must be equal, an adapter of
:mod:`edgekd.distill.losses.adapters` comes after the student. No gradient flows to the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses.numerics import Stages, check_same_shape, full_precision, paired, pooled_alike, unit
from edgekd.errors import ModelError


@full_precision
def fitnet(student: Stages, teacher: Stages) -> Tensor:
    """Hints (Romero, Ballas, Kahou, Chassang, Gatta and Bengio, 2015).

    ``sum over stages of mean((student - teacher)^2)``. MMRazor normalises both first, which is another loss.

    Args:
        student: Maps, vectors or tokens after their regressors.
        teacher: The same shapes.
    """
    return _summed_mse(student, teacher)


def _summed_mse(student: Stages, teacher: Stages) -> Tensor:
    total = torch.zeros(())
    for s, t in paired(student, teacher, "features"):
        check_same_shape(s, t, "features")
        total = total + functional.mse_loss(s, t)
    return total


@full_precision
def at(student: Stages, teacher: Stages, p: float = 2.0) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis, 2017).

    ``sum over stages of mean((A(student) - A(teacher))^2)``, ``A(F)`` = ``mean over channels |F|^p`` with its
    positions scaled to length 1. This is the authors' code; their equation sums channels and does not square the norm.
    Codes that raise without the absolute value break for odd p.

    Args:
        student: Maps ``[n, channels, h, w]``.
        teacher: Maps of any channels, size pooled alike.
        p: Power, 1 or more.
    """
    total = torch.zeros(())
    for s, t in paired(student, teacher, "features"):
        s, t = pooled_alike(s, t)
        total = total + functional.mse_loss(_attention(s, p), _attention(t, p))
    return total


def _attention(maps: Tensor, p: float) -> Tensor:
    # A does not depend on the scale, so the scale is taken out before powers overflow or vanish.
    scale = maps.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return unit((maps / scale).abs().pow(p).mean(1).flatten(1), 1)


@full_precision
def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Flow of solution procedure (Yim, Joo, Bae and Kim, 2017).

    ``sum over neighbouring stages i, i+1 of mean((G(student) - G(teacher))^2)``, ``G = F_i F_(i+1)^T / (h w)``; the
    larger map average-pooled. torchdistill max-pools and takes another norm, a thousand times larger.

    Args:
        student: Two maps or more, ``[n, channels, h, w]``.
        teacher: As many, with the same channels.

    Raises:
        ModelError: There is one map only, or channels differ.
    """
    pairs = paired(student, teacher, "features")
    if len(pairs) < 2:
        raise ModelError("fsp compares neighbouring stages and got one", "name two layers or more")
    total = torch.zeros(())
    for (s, t), (next_s, next_t) in pairwise(pairs):
        flow_s, flow_t = _flow(s, next_s), _flow(t, next_t)
        check_same_shape(flow_s, flow_t, "channels of neighbouring features")
        total = total + functional.mse_loss(flow_s, flow_t)
    return total


def _flow(first: Tensor, second: Tensor) -> Tensor:
    first, second = pooled_alike(first, second)
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / first[0, 0].numel()


@full_precision
def vid(student: Stages, teacher: Stages, log_scale: Stages, eps: float = 1e-5) -> Tensor:
    """Variational information distillation (Ahn, Hu, Damianou, Lawrence and Dai, 2019).

    ``sum over stages of mean((student - teacher)^2 / v + log v) / 2``, ``v = softplus(log_scale) + eps`` per channel: the
    negative log-likelihood of the teacher under a Gaussian around the student, without its constant; it can be negative.
    mdistiller never trains its variances; here ``log_scale`` is a parameter of ``adapters.VidRegressor``.

    Args:
        student: Predicted means ``[n, channels, h, w]``, after the regressors.
        teacher: The same shapes.
        log_scale: Of the variance, ``[channels]``, per stage.
        eps: Smallest variance.
    """
    pairs = paired(student, teacher, "features")
    scales = [log_scale] if isinstance(log_scale, Tensor) else list(log_scale)
    if len(scales) != len(pairs):
        raise ModelError(f"vid: {len(scales)} variances for {len(pairs)} stages", "give one log_scale per stage")
    total = torch.zeros(())
    for (s, t), scale in zip(pairs, scales, strict=True):
        check_same_shape(s, t, "features")
        variance = functional.softplus(scale).view(1, -1, 1, 1) + eps
        total = total + ((s - t).square() / variance + variance.log()).mean() / 2
    return total


@full_precision
def ofd(student: Stages, teacher: Stages, margin: Tensor | float | Sequence[Tensor | float]) -> Tensor:
    """Overhaul of feature distillation (Heo, Kim, Yun, Park, Kwak and Choi, 2019).

    ``sum over stages i of 2^-(L-i-1) * sum((s - t')^2 where s > t' or t' > 0)``, ``t' = max(t, margin)``: a partial
    distance that leaves the student alone where both are off. A sum over batch, channels and positions, as in the
    authors' code, which then divides by 1000 times the batch; mdistiller takes the mean over the batch.

    Args:
        student: Maps before the activation, after connectors, ``[n, channels, h, w]``.
        teacher: Maps before the activation, the same shapes.
        margin: Per stage, below 0: a number, or ``[1, channels, 1, 1]`` as ``adapters.batchnorm_margin`` returns.
    """
    pairs = paired(student, teacher, "features")
    margins = list(margin) if isinstance(margin, list | tuple) else [margin] * len(pairs)
    if len(margins) != len(pairs):
        raise ModelError(f"ofd: {len(margins)} margins for {len(pairs)} stages", "give one margin, or one per stage")
    total = torch.zeros(())
    for index, ((s, t), each) in enumerate(zip(pairs, margins, strict=True)):
        check_same_shape(s, t, "features")
        wanted = torch.maximum(t, torch.as_tensor(each, dtype=t.dtype, device=t.device))
        counts = (s > wanted) | (wanted > 0)
        total = total + ((s - wanted).square() * counts).sum() / 2 ** (len(pairs) - index - 1)
    return total


@full_precision
def nst(student: Stages, teacher: Stages) -> Tensor:
    """Neuron selectivity transfer (Huang and Wang, 2017).

    ``sum over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t)``, ``k(a, b) = (a . b)^2`` between channels whose
    positions are scaled to length 1: a squared maximum mean discrepancy.

    Args:
        student: Maps ``[n, channels, h, w]``.
        teacher: Maps of any channels, size pooled alike.
    """
    total = torch.zeros(())
    for s, t in paired(student, teacher, "features"):
        a, b = (unit(each.flatten(2), 2) for each in pooled_alike(s, t))
        total = total + _kernel(b, b) + _kernel(a, a) - 2 * _kernel(a, b)
    return total


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.transpose(1, 2)).square().mean()


@full_precision
def ab(student: Stages, teacher: Stages, margin: float = 1.0) -> Tensor:
    """Activation boundaries (Heo, Lee, Yun and Choi, 2019).

    ``0.003 / n * sum over stages i of 2^(i-L+1) * sum((s+m)^2 where s > -m and t <= 0, (s-m)^2 where s <= m and t > 0)``:
    which neurons are on, not how far. The scale of 3 / 1000 is that of the CIFAR recipes.

    Args:
        student: Maps before the activation, after connectors, ``[n, channels, h, w]``.
        teacher: Maps before the activation, the same shapes.
        margin: m, 0 or more.
    """
    pairs = paired(student, teacher, "features")
    total = torch.zeros(())
    for index, (s, t) in enumerate(pairs):
        check_same_shape(s, t, "features")
        excess = torch.where(t > 0, functional.relu(margin - s), functional.relu(s + margin))
        total = total + 2.0 ** (index - len(pairs) + 1) * excess.square().sum() / len(s)
    return 3e-3 * total


@full_precision
def reviewkd_hcl(student: Stages, teacher: Stages, levels: Sequence[int] = (4, 2, 1)) -> Tensor:
    """Hierarchical context loss of knowledge review (Chen, Liu, Zhao and Jia, 2021).

    ``sum over stages of (MSE + sum over k 2^-k MSE(pooled to levels_k)) / (1 + sum over k 2^-k)``, k from 1 over the
    levels smaller than the map.

    Args:
        student: Maps after ``adapters.ReviewFusion``, ``[n, channels, h, w]``.
        teacher: The same shapes.
        levels: Heights and widths to pool to, falling.
    """
    total = torch.zeros(())
    for s, t in paired(student, teacher, "features"):
        check_same_shape(s, t, "features")
        stage, weight, weights = functional.mse_loss(s, t), 1.0, 1.0
        for level in levels:
            if level < s.shape[2]:
                weight /= 2
                weights += weight
                pooled_s, pooled_t = functional.adaptive_avg_pool2d(s, level), functional.adaptive_avg_pool2d(t, level)
                stage = stage + weight * functional.mse_loss(pooled_s, pooled_t)
        total = total + stage / weights
    return total
