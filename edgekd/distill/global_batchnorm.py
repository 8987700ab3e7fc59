"""Batch normalisation over the batch of all processes (torch's own ``SyncBatchNorm`` needs a GPU).

Modules keep their identity: only their class changes and comes back, so parameters, buffers, names and hooks stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.errors import ModelError

_BEFORE = "_class_of_one_process"


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics in training are those of the rows of all processes.

    Input ``[n, channels, ...]``; processes may have unequal n. Statistics are computed in float32 at least: the mean
    first, then the squares around it. Every process ends a step with the same running statistics.
    """

    def _check_input_dim(self, rows: Tensor) -> None:
        if rows.ndim < 2:
            raise ValueError(f"expected at least 2 dimensions, got {rows.ndim}")

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def forward(self, rows: Tensor) -> Tensor:
        """Return ``rows`` normalised."""
        if not self.training:
            return super().forward(rows)
        self._check_input_dim(rows)
        wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        axes = [axis for axis in range(rows.ndim) if axis != 1]
        shape = [1, -1, *[1] * (rows.ndim - 2)]
        own = rows.numel() // rows.shape[1]
        total = _sum_over_processes(torch.cat([wide.sum(axes), wide.new_tensor([own])]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(rows.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def convert(module: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation in ``module`` one over all processes, in place.

    Raises:
        ModelError: A module derives from torch's batch normalisation in a way that is not known here.
    """
    replacement: type[nn.Module] = nn.SyncBatchNorm if device.type == "cuda" else GlobalBatchNorm
    found = [(name, each) for name, each in module.named_modules() if isinstance(each, _BatchNorm)]
    for name, each in found:
        if type(each) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, GlobalBatchNorm):
            raise ModelError(
                f"{name} is a {type(each).__name__}, whose statistics cannot be taken over several processes",
                "train in one process",
            )
    for _, each in found:
        if not hasattr(each, _BEFORE):
            setattr(each, _BEFORE, type(each))
            each.__class__ = replacement  # type: ignore[assignment]
            each.process_group = None  # type: ignore[assignment]


def revert(module: nn.Module) -> None:
    """Undo :func:`convert`."""
    for each in module.modules():
        if hasattr(each, _BEFORE):
            each.__class__ = getattr(each, _BEFORE)
            delattr(each, _BEFORE)
            del each.process_group


class _Sum(torch.autograd.Function):
    """Sum over processes. Backward: every process's result depends on every input, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        whole = own.clone()
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(whole)
        return whole


def _sum_over_processes(own: Tensor) -> Tensor:
    whole: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
    return whole
