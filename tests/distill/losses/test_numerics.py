"""What all losses compute with, at the edges."""

import numpy as np
import pytest
import torch
from scipy.stats import zscore
from torch import Tensor

from edgekd.distill.losses.numerics import full_precision, length, mean_where, other_classes, pooled_alike, standardized, unit
from edgekd.errors import UsageError


@full_precision
def _product(first: Tensor, second: list[Tensor]) -> Tensor:
    return first @ second[0]


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)  # fmt: skip
def test_full_precision_inside_autocast(given: torch.dtype, computed: torch.dtype) -> None:
    matrix = torch.eye(3, dtype=given)
    with torch.autocast("cpu", torch.bfloat16):
        assert _product(matrix, [matrix]).dtype == computed
        assert _product(first=matrix, second=[matrix]).dtype == computed
        assert torch.is_autocast_enabled("cpu")


def test_a_loss_without_tensors_is_refused() -> None:
    with pytest.raises(UsageError, match="got no tensor"):
        full_precision(lambda values: torch.zeros(()))([])


def test_unit_and_length_of_zero_have_no_gradient() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(unit(values, 1), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (unit(values, 1)[1].sum() + length(values, 1)[1].sum()).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_standardized_is_the_z_score_and_zero_where_constant() -> None:
    values = torch.randn(4, 6, dtype=torch.float64)
    np.testing.assert_allclose(standardized(values, 1, 0.0, 1e-3), zscore(values.numpy(), axis=1, ddof=1))
    # 1e4 + 0.1 has no exact mean in float32: rounding must not be blown up to a deviation of 1.
    assert standardized(torch.full((2, 7), 1e4 + 0.1), 1, 0.0, 1e-3).abs().max() == 0.0
    assert standardized(torch.ones(3, 1), 1, 0.0, 1e-3).abs().max() == 0.0


def test_other_classes_keeps_their_order() -> None:
    values = torch.arange(6.0).view(2, 3)
    assert other_classes(values, torch.tensor([1, 2])).tolist() == [[0.0, 2.0], [3.0, 4.0]]


def test_pooled_alike_pools_each_side_where_it_is_larger() -> None:
    first, second = pooled_alike(torch.ones(1, 1, 8, 2), torch.ones(1, 1, 4, 6))
    assert first.shape == second.shape == (1, 1, 4, 2)


def test_mean_where_nothing_is_valid_is_zero() -> None:
    assert mean_where(torch.tensor([1.0, torch.inf]), torch.tensor([True, False])).item() == 1.0
    assert mean_where(torch.ones(2), torch.zeros(2, dtype=torch.bool)).item() == 0.0
