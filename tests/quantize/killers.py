"""Small networks that static int8 ruins, each in one known way. Images of 3 channels and 8x8 pixels, 4 outputs."""

import torch
from torch import Tensor, nn


class _Network(nn.Module):
    """A convolution, something in the middle, and a linear layer on the mean of each channel."""

    def __init__(self, middle: nn.Module, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.mix = nn.Conv2d(width, 8, 1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        features = torch.relu(self.mix(self.middle(torch.relu(self.stem(image)))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.left(maps), self.right(maps)], 1)


class _Gated(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(8, 8, 1), activation

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.activation(self.conv(maps))
        return result


class _Head(nn.Module):
    """Boxes in pixels and scores below 1 in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.boxes, self.scores = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        features = torch.relu(self.stem(image)).mean((2, 3))
        return torch.cat([self.boxes(features) * 300, torch.sigmoid(self.scores(features))], 1)


def concat(channels: int, classes: int) -> nn.Module:
    """One branch is 300 times as large as the other, and what reads both makes up for it."""
    branches = _Branches()
    network = _Network(branches, 8)
    with torch.no_grad():
        branches.left.weight *= 300
        network.mix.weight[:, :4] /= 300
    return network


def hard_swish(channels: int, classes: int) -> nn.Module:
    """Half of the channels are far below zero, where hard-swish gives nothing."""
    return _far_below(nn.Hardswish())


def silu(channels: int, classes: int) -> nn.Module:
    """The same for SiLU."""
    return _far_below(nn.SiLU())


def gelu(channels: int, classes: int) -> nn.Module:
    """The same for GELU."""
    return _far_below(nn.GELU())


def _far_below(activation: nn.Module) -> nn.Module:
    gated = _Gated(activation)
    with torch.no_grad():
        gated.conv.bias[:4] -= 400  # type: ignore[index]
    return _Network(gated, 8)


def depthwise(channels: int, classes: int) -> nn.Module:
    """Half of the channels of a depthwise convolution are 1 in size, one is 1,000, and what reads them makes up for it."""
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    network = _Network(convolution, 8)
    with torch.no_grad():
        convolution.weight[0] *= 1000
        network.mix.weight[:, 0] /= 1000
    return network


def head(channels: int, classes: int) -> nn.Module:
    """Boxes in pixels beside scores."""
    return _Head()


def first(channels: int, classes: int) -> nn.Module:
    """The first channel of the image is 1,000 times as large as the others, and the first layer makes up for it."""
    network = _Network(nn.Identity(), 8)
    with torch.no_grad():
        network.stem.weight[:, 0] /= 1000
    return network


def last(channels: int, classes: int) -> nn.Module:
    """The first output is 100 above the others."""
    network = _Network(nn.Identity(), 8)
    with torch.no_grad():
        network.classifier.bias[0] += 100
    return network
