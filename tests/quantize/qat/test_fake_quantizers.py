"""Fake quantizers against integers worked out in NumPy, and their gradients against automatic ones of the formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.quantize.qat.fake_quantizers import ActivationQuantizer, WeightQuantizer, integer_range


def _quantizer(low: float, high: float) -> ActivationQuantizer:
    return ActivationQuantizer(low, high)


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.9), (0.0, 5.7), (-4.0, 0.0), (-0.001, 100.0)])
def test_values_become_one_of_256_steps(low: float, high: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2000) * 4
    scale = (np.float32(high) - np.float32(low)) / np.float32(255)
    zero = np.clip(np.rint(-np.float32(low) / scale), 0, 255)
    place = np.rint(x.numpy() / scale) + zero
    expected = (np.clip(place, 0, 255) - zero) * scale
    np.testing.assert_allclose(_quantizer(low, high)(x).detach().numpy(), expected, atol=1e-5 * (high - low))
    assert _quantizer(low, high)(torch.zeros(3)).detach().tolist() == [0, 0, 0]


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def test_gradients_are_those_of_the_formula_with_rounding_passed_through() -> None:
    torch.manual_seed(0)
    low, high = -100 / 64, 155 / 64  # a zero point of exactly 100
    x = torch.randn(500, dtype=torch.float64) * 2
    weights = torch.randn(500, dtype=torch.float64)
    ends = torch.tensor([low, high], dtype=torch.float64, requires_grad=True)
    mine = x.clone().requires_grad_()
    scale = (ends[1] - ends[0]) / 255
    zero = _round(-ends[0] / scale)
    expected = ((_round(mine / scale) + zero).clamp(0, 255) - zero) * scale
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert ends.grad is not None

    quantizer = _quantizer(low, high)
    given = x.float().requires_grad_()
    found = quantizer(given)
    (found * weights.float()).sum().backward()
    assert given.grad is not None
    assert quantizer.growth.grad is not None
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.grad.double(), mine.grad, atol=1e-6, rtol=0)
    # growth is a logarithm: its slope is that of the end times the end.
    torch.testing.assert_close(quantizer.growth.grad.double(), ends.grad * ends.detach(), atol=1e-3, rtol=1e-4)


def test_a_range_learns_to_hold_what_it_cuts_off() -> None:
    torch.manual_seed(0)
    quantizer = _quantizer(-0.5, 1.0)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    x = torch.linspace(-2, 3, 500)
    for _ in range(300):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    low, high = quantizer.exact_range()
    assert low == pytest.approx(-2, abs=0.1)
    assert high == pytest.approx(3, abs=0.1)


def test_an_end_at_zero_stays_and_a_ceiling_holds() -> None:
    quantizer = ActivationQuantizer(0.0, 5.0, ceiling=6.0)
    with torch.no_grad():
        quantizer.growth.fill_(1.0)
    low, high = quantizer.range()
    assert (low.item(), high.item()) == (0.0, 6.0)


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.9), (0.0, 5.7), (-0.013, 0.77), (0.0, 0.0)])
def test_the_exact_range_gives_the_same_integers_again(low: float, high: float) -> None:
    quantizer = _quantizer(low, high)
    scale, zero = integer_range(*quantizer.range())
    again = integer_range(*(torch.tensor(each, dtype=torch.float32) for each in quantizer.exact_range()))
    assert again[1] == zero
    assert again[0].item() == pytest.approx(scale.item(), rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_become_steps_of_their_channel_and_are_found_again(axis: int) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(6, 6, 3, 3) * torch.logspace(-3, 2, 6).reshape(-1, 1, 1, 1)).transpose(0, axis).contiguous()
    weight.requires_grad_()
    rounded = WeightQuantizer(axis)(weight)
    rounded.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    scales = np.abs(weight.detach().numpy()).max(axis=(1 - axis, 2, 3), keepdims=True) / np.float32(127)
    integers = np.rint(weight.detach().numpy() / scales)
    np.testing.assert_allclose(rounded.detach().numpy(), integers * scales, rtol=1e-5, atol=0)
    again = np.abs(rounded.detach().numpy()).max(axis=(1 - axis, 2, 3), keepdims=True) / np.float32(127)
    np.testing.assert_array_equal(np.rint(rounded.detach().numpy() / again), integers)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert not WeightQuantizer()(torch.zeros(2, 3)).any()
