"""MobileNetV3: searched inverted residuals with squeeze-and-excite and hard swish (Howard et al., 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgekd.models.blocks import ConvBN, HardSwish, InvertedResidual, initialise, scaled, whole


class _Block(NamedTuple):
    kernel: int
    expanded: int
    width: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int


_LARGE = (
    _Block(3, 16, 16, False, nn.ReLU, 1), _Block(3, 64, 24, False, nn.ReLU, 2), _Block(3, 72, 24, False, nn.ReLU, 1),
    _Block(5, 72, 40, True, nn.ReLU, 2), _Block(5, 120, 40, True, nn.ReLU, 1), _Block(5, 120, 40, True, nn.ReLU, 1),
    _Block(3, 240, 80, False, HardSwish, 2), _Block(3, 200, 80, False, HardSwish, 1), _Block(3, 184, 80, False, HardSwish, 1),
    _Block(3, 184, 80, False, HardSwish, 1), _Block(3, 480, 112, True, HardSwish, 1), _Block(3, 672, 112, True, HardSwish, 1),
    _Block(5, 672, 160, True, HardSwish, 2), _Block(5, 960, 160, True, HardSwish, 1), _Block(5, 960, 160, True, HardSwish, 1),
)  # fmt: skip
"""Table 1 of the paper."""
_SMALL = (
    _Block(3, 16, 16, True, nn.ReLU, 2), _Block(3, 72, 24, False, nn.ReLU, 2), _Block(3, 88, 24, False, nn.ReLU, 1),
    _Block(5, 96, 40, True, HardSwish, 2), _Block(5, 240, 40, True, HardSwish, 1), _Block(5, 240, 40, True, HardSwish, 1),
    _Block(5, 120, 48, True, HardSwish, 1), _Block(5, 144, 48, True, HardSwish, 1), _Block(5, 288, 96, True, HardSwish, 2),
    _Block(5, 576, 96, True, HardSwish, 1), _Block(5, 576, 96, True, HardSwish, 1),
)  # fmt: skip
"""Table 2 of the paper."""


class MobileNetV3(nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, global average pooling and two dense layers.

    As in the reference code, blocks squeeze to a quarter of the expanded channels in multiples of 8, nothing is squeezed
    after the last 1x1 convolution, and expansions are ratios of the scaled channels that come in.
    """

    def __init__(
        self, channels: int, classes: int, layout: tuple[_Block, ...], last: int, width: float, stem_stride: int
    ) -> None:
        super().__init__()
        base, size = 16, scaled(16, width, 8)
        self.stem = ConvBN(channels, size, 3, whole("stem_stride", stem_stride), activation=HardSwish)
        blocks = []
        for block in layout:
            expanded = scaled(size, block.expanded / base, 8) if block.expanded != base else size
            squeezed = scaled(expanded, 0.25, 8) if block.squeeze else 0
            wide = scaled(block.width, width, 8)
            blocks.append(InvertedResidual(size, expanded, wide, block.kernel, block.stride, block.activation, squeezed))
            base, size = block.width, wide
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvBN(size, size * 6, 1, activation=HardSwish)
        # A narrow network keeps its last layer, as MobileNetV2 does.
        last = scaled(last, max(1.0, width), 8)
        self.features = nn.Linear(size * 6, last)
        self.activation = HardSwish()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, classes)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        maps: Tensor = self.head(self.blocks(self.stem(image)))
        features = self.activation(self.features(torch.mean(maps, dim=(2, 3))))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


def mobilenet_v3_large(channels: int, classes: int, width: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build MobileNetV3-Large 1.0 (Howard et al., 2019): 5,483,032 parameters, 217 M MACs for 224x224 RGB in 1,000 classes.

    (The paper says 219 M, its reference code 217 M.) At width 0.75: 4.0 M parameters, 155 M MACs.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels, in multiples of 8: 0.35 to 1.25 in the paper. The last 1,280 features never shrink.
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return MobileNetV3(channels, classes, _LARGE, 1280, width, stem_stride)


def mobilenet_v3_small(channels: int, classes: int, width: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build MobileNetV3-Small 1.0 (Howard et al., 2019): 2,542,856 parameters, 57 M MACs for 224x224 RGB in 1,000 classes.

    At width 0.75: 2.0 M parameters, 44 M MACs.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels, in multiples of 8: 0.35 to 1.25 in the paper. The last 1,024 features never shrink.
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return MobileNetV3(channels, classes, _SMALL, 1024, width, stem_stride)
