"""Modules with parameters that some losses need beside the student. They are trained with it and never exported."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.errors import ModelError


class HintRegressor(nn.Module):
    """Brings a student's map to the shape of a teacher's, for ``fitnet`` (Romero et al., 2015).

    One convolution, batch normalisation, ReLU: 1x1 for equal sizes, 3x3 of stride 2 to halve, transposed 4x4 of
    stride 2 to double. Without the ReLU where the teacher's map has negative values, which it could not reach.

    Args:
        student: Channels, height, width of the student's map.
        teacher: Of the teacher's map.
        signed: Whether the teacher's map has negative values.

    Raises:
        ModelError: The sizes are neither equal, half nor double.
    """

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int], signed: bool = False) -> None:
        super().__init__()
        self.signed = signed
        (channels, *size), (wanted, *wanted_size) = student, teacher
        if size == wanted_size:
            self.convolution: nn.Module = nn.Conv2d(channels, wanted, 1)
        elif [-(-each // 2) for each in size] == wanted_size:
            self.convolution = nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
        elif [each * 2 for each in size] == wanted_size:
            self.convolution = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
        else:
            raise ModelError(
                f"no regressor from a map of {size[0]} x {size[1]} to one of {wanted_size[0]} x {wanted_size[1]}",
                "pair layers of equal, half or double size",
            )
        self.normalization = nn.BatchNorm2d(wanted)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the map ``[n, teacher channels, teacher h, teacher w]``."""
        predicted: Tensor = self.normalization(self.convolution(maps))
        return predicted if self.signed else functional.relu(predicted)


class VidRegressor(nn.Module):
    """Predicts a teacher's map and its variance, for ``vid`` (Ahn et al., 2019).

    Three 1x1 convolutions without bias, ReLU between. ``log_scale`` ``[channels]`` is a parameter: its softplus, plus
    ``eps``, is the variance of a channel.

    Args:
        channels: Of the student's map.
        wanted: Channels of the teacher's map.
        variance: At the start, above ``eps``.
        eps: The ``eps`` that ``vid`` is called with.
    """

    def __init__(self, channels: int, wanted: int, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wanted, 1, bias=False), nn.ReLU(),
            nn.Conv2d(wanted, wanted, 1, bias=False), nn.ReLU(),
            nn.Conv2d(wanted, wanted, 1, bias=False),
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.full((wanted,), math.log(math.expm1(variance - eps))))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the predicted mean ``[n, teacher channels, h, w]``."""
        mean: Tensor = self.layers(maps)
        return mean


class Connector(nn.Sequential):
    """A 1x1 convolution without bias and batch normalisation, for ``ab`` and ``ofd`` (Heo et al., 2019).

    Args:
        channels: Of the student's map.
        wanted: Channels of the teacher's map.
    """

    def __init__(self, channels: int, wanted: int) -> None:
        convolution = nn.Conv2d(channels, wanted, 1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / wanted))
        super().__init__(convolution, nn.BatchNorm2d(wanted))


def batchnorm_margin(normalization: nn.BatchNorm2d) -> Tensor:
    """Return the margins of ``ofd`` for a teacher's map that comes out of ``normalization``, ``[1, channels, 1, 1]``.

    The mean of the negative part of a Gaussian of the layer's bias and scale, ``E[x | x < 0]``; -3 deviations where
    less than a thousandth is negative (Heo et al., 2019).
    """
    deviation, mean = normalization.weight.detach().double().abs(), normalization.bias.detach().double()
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    z = mean / deviation.clamp_min(1e-12)
    negative: Tensor = standard.cdf(-z)  # type: ignore[no-untyped-call]
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below = mean - deviation * density / negative.clamp_min(1e-12)
    margin = torch.where(negative > 1e-3, below, -3 * deviation)
    return margin.to(normalization.weight.dtype).view(1, -1, 1, 1)


class AttentionFusion(nn.Module):
    """One step of knowledge review: a stage's map fused with what the deeper stages left (Chen, Liu et al., 2021).

    ``x = BN(conv1x1(map))``; with a residual y, resized to x, ``x = x a_0 + y a_1``, ``a = sigmoid(conv1x1([x, y]))``;
    the output is ``BN(conv3x3(x))`` in the teacher's size, the next residual is x.

    Args:
        channels: Of the student's map.
        middle: Channels of the residuals.
        wanted: Channels of the teacher's map.
        fuses: Whether there is a residual; not at the deepest stage.
    """

    def __init__(self, channels: int, middle: int, wanted: int, fuses: bool) -> None:
        super().__init__()
        narrow = nn.Conv2d(channels, middle, 1, bias=False)
        widen = nn.Conv2d(middle, wanted, 3, padding=1, bias=False)
        for convolution in (narrow, widen):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.narrow = nn.Sequential(narrow, nn.BatchNorm2d(middle))
        self.widen = nn.Sequential(widen, nn.BatchNorm2d(wanted))
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuses else None

    def forward(self, maps: Tensor, residual: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the output ``[n, teacher channels, *size]`` and the next residual ``[n, middle, *size]``."""
        fused: Tensor = self.narrow(maps)
        if self.attention is not None and residual is not None:
            residual = functional.interpolate(residual, fused.shape[2:])
            share = torch.sigmoid(self.attention(torch.cat((fused, residual), 1)))
            fused = fused * share[:, :1] + residual * share[:, 1:]
        if fused.shape[2:] != size:
            fused = functional.interpolate(fused, size)
        return self.widen(fused), fused


class ReviewFusion(nn.Module):
    """The fusion module of knowledge review, for ``reviewkd_hcl`` (Chen, Liu, Zhao and Jia, 2021).

    Args:
        channels: Of the student's stages, shallow to deep.
        wanted: Channels of the teacher's stages.
    """

    def __init__(self, channels: Sequence[int], wanted: Sequence[int]) -> None:
        super().__init__()
        if len(channels) != len(wanted):
            raise ModelError(
                f"review: {len(channels)} stages of the student and {len(wanted)} of the teacher",
                "name one layer of each per stage",
            )
        middle, last = min(512, channels[-1]), len(channels) - 1
        self.steps = nn.ModuleList(
            AttentionFusion(each, middle, other, fuses=index != last)
            for index, (each, other) in enumerate(zip(channels, wanted, strict=True))
        )

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return a map of the teacher's shape for every stage; ``sizes`` are the teacher's heights and widths."""
        outputs: list[Tensor] = []
        residual = None
        for step, each, size in zip(reversed(self.steps), reversed(maps), reversed(sizes), strict=True):
            output, residual = step(each, residual, size)
            outputs.insert(0, output)
        return outputs


class ExitHead(nn.Module):
    """An early exit for ``byot_kd``: a 1x1 convolution to the last stage's channels, pooling, a classifier.

    Args:
        channels: Of the stage it sits on.
        features: Channels of the last stage.
        classes: Outputs.
    """

    def __init__(self, channels: int, features: int, classes: int) -> None:
        super().__init__()
        self.adapt = nn.Sequential(nn.Conv2d(channels, features, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU())
        self.classify = nn.Linear(features, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits ``[n, classes]``."""
        logits: Tensor = self.classify(self.adapt(maps).mean((2, 3)))
        return logits
