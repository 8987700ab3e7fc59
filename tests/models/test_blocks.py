"""The building blocks against PyTorch's own, and rounding against what it promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekd.models.blocks import ConvBN, HardSigmoid, HardSwish, InvertedResidual, SqueezeExcite, initialise, scaled, whole


@given(st.integers(1, 2000), st.floats(0.01, 8), st.sampled_from([1, 2, 8]))
def test_scaled_channels_are_near_and_never_over_a_tenth_smaller(channels: int, width: float, divisor: int) -> None:
    found = scaled(channels, width, divisor)
    assert found % divisor == 0
    assert found >= divisor
    assert found >= 0.9 * channels * width
    assert found <= max(divisor, channels * width + divisor)
    assert scaled(channels, width * 1.5, divisor) >= found * 0.9


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(32, 0.35, 16), (16, 0.35, 8), (24, 0.35, 8), (96, 0.35, 32), (32, 1.4, 48)]
)
def test_scaled_channels_are_those_of_mobilenet_v2(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width, 8) == expected


@pytest.mark.parametrize("width", [0, -0.5, float("nan"), float("inf"), "1", None, True])
def test_no_other_width_is_taken(width: float) -> None:
    with pytest.raises(ValueError, match="width is"):
        scaled(8, width)


@pytest.mark.parametrize("value", [0, -3, 2.0, "2", None, True, 10**9])
def test_whole_numbers_only(value: object) -> None:
    assert whole("layers", 1) == 1
    with pytest.raises(ValueError, match="layers is"):
        whole("layers", value)


def test_hard_activations_are_pytorchs() -> None:
    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(HardSigmoid()(x), nn.functional.hardsigmoid(x))
    torch.testing.assert_close(HardSwish()(x), nn.functional.hardswish(x))


def test_a_convolution_pads_to_the_size_over_the_stride() -> None:
    for kernel in (1, 3, 5):
        assert ConvBN(3, 8, kernel, stride=2)(torch.zeros(2, 3, 32, 32)).shape == (2, 8, 16, 16)


def test_squeeze_and_excite_scales_channels_by_a_number_between_0_and_1() -> None:
    torch.manual_seed(0)
    block, x = SqueezeExcite(6, 2).requires_grad_(False), torch.randn(4, 6, 5, 5) + 9 * torch.randn(4, 6, 1, 1)
    ratio = block(x) / x
    assert torch.allclose(ratio.amax((2, 3)), ratio.amin((2, 3)), atol=1e-5)
    assert 0 <= float(ratio.min()) <= float(ratio.max()) <= 1
    assert not torch.allclose(ratio[0], ratio[1])


@pytest.mark.parametrize(("channels", "width", "stride", "shortcut"), [(8, 8, 1, True), (8, 16, 1, False), (8, 8, 2, False)])
def test_a_shortcut_is_where_shapes_allow(channels: int, width: int, stride: int, shortcut: bool) -> None:
    block = InvertedResidual(channels, 48, width, 3, stride).eval()
    x = torch.randn(2, channels, 16, 16)
    nn.init.zeros_(block.project.bn.weight)  # what is not the shortcut is 0 now
    expected = x if shortcut else torch.zeros(2, width, 16 // stride, 16 // stride)
    torch.testing.assert_close(block(x), expected)


def test_initialised_convolutions_keep_the_variance_of_gradients() -> None:
    """Fan-out within a group (He et al., 2015): the gradient of the inputs is as large as that of ReLU's outputs."""
    for groups in (1, 64):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=groups, bias=True), nn.Linear(8, 4))
        initialise(network)
        conv = network[0]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        assert not conv.bias.any()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 64 / groups)) ** 0.5, rel=0.1)
