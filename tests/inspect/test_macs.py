"""The formulas against PyTorch's own counter of floating-point operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd.inspect import macs


def _torch_macs(call: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("layer", [
    nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Conv2d(8, 16, 5, groups=4), nn.Conv2d(8, 8, 3, groups=8, dilation=2),
    nn.Conv2d(8, 3, (1, 7), padding="same"),
])  # fmt: skip
def test_convolutions(layer: nn.Conv2d) -> None:
    given = torch.zeros(1, 8, 17, 19)
    out = layer(given)
    assert macs.convolution(tuple(out.shape), tuple(layer.weight.shape)) == _torch_macs(lambda: layer(given))


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(8, 12, 3, stride=2), nn.ConvTranspose2d(8, 4, 4, stride=2, groups=2)])
def test_transposed_convolutions(layer: nn.ConvTranspose2d) -> None:
    given = torch.zeros(1, 8, 9, 5)
    found = macs.transposed_convolution(tuple(given.shape), tuple(layer.weight.shape))
    assert found == _torch_macs(lambda: layer(given))


def test_matrix_products() -> None:
    left, right = torch.zeros(3, 4, 7), torch.zeros(3, 7, 5)
    assert macs.matmul((3, 4, 5), (3, 4, 7)) == _torch_macs(lambda: torch.bmm(left, right))
    assert macs.matmul((3, 4, 5), (3, 7, 4), transposed=True) == 3 * 4 * 5 * 7
    assert macs.einsum("bij,bjk->bik", [(3, 4, 7), (3, 7, 5)]) == _torch_macs(lambda: torch.einsum("bij,bjk->bik", left, right))
    assert macs.einsum("bij,bjk->bik", [(1, 4, 7), (3, 7, 5)]) == 3 * 4 * 7 * 5
    assert macs.einsum("ii->i", [(4, 4)]) == 0


@pytest.mark.parametrize("cached", [0, 5])
def test_attention(cached: int) -> None:
    def heads(length: int, size: int) -> Tensor:
        return torch.zeros(2, 4, length, size)

    queries, keys, values = heads(6, 8), heads(9 + cached, 8), heads(9 + cached, 16)
    expected = _torch_macs(lambda: torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).mT)) + _torch_macs(
        lambda: torch.bmm(torch.zeros(8, 6, 9 + cached), values.flatten(0, 1))
    )
    past = (2, 4, cached, 8) if cached else ()
    assert macs.attention((2, 4, 6, 8), (2, 4, 9, 8), (2, 4, 9, 16), past, (0, 0)) == expected
    assert macs.attention((2, 6, 32), (2, 9, 32), (2, 9, 64), past, (4, 4)) == expected


def test_recurrent_layers() -> None:
    # Two gates of 5 units from 3 inputs, in 7 steps of one sample.
    assert macs.recurrent(7, [(1, 10, 3), (1, 10, 5)]) == 7 * (10 * 3 + 10 * 5)


def test_what_is_unknown_stays_unknown() -> None:
    assert macs.convolution((1, None, 4, 4), (8, 8, 3, 3)) is None
    assert macs.convolution((1, 8, 4, 4), None) is None
    assert macs.transposed_convolution(None, (8, 8, 3, 3)) is None
    assert macs.matmul((2, 2), (2, None)) is None
    assert macs.matmul((2, 2), ()) is None
    assert macs.einsum("...i,ij->...j", [(2, 3), (3, 4)]) is None
    assert macs.einsum("i,i,i->i", [(2,), (2,), (2,)]) is None
    assert macs.attention((1, 2, 3, 4), (1, 2, 3, 4), None, (), (0, 0)) is None
    assert macs.recurrent(None, [(1, 2)]) is None
    assert macs.matmul((1 << 40, 1 << 40), (1 << 40, 1 << 40)) is None
