"""Modules beside the student: shapes, formulas, and that everything in them trains."""

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill.losses import byot_kd, fitnet, ofd, reviewkd_hcl, vid
from edgekd.distill.losses.adapters import (
    AttentionFusion,
    Connector,
    ExitHead,
    HintRegressor,
    ReviewFusion,
    VidRegressor,
    batchnorm_margin,
)
from edgekd.errors import ModelError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _assert_all_trained(module: nn.Module, loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("sizes", [((8, 8), (8, 8)), ((8, 6), (4, 3)), ((7, 7), (4, 4)), ((4, 3), (8, 6))])
def test_hint_regressor_has_the_teachers_shape(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    regressor = HintRegressor((3, *sizes[0]), (5, *sizes[1]))
    teacher = torch.randn(4, 5, *sizes[1])
    _assert_all_trained(regressor, fitnet(regressor(torch.randn(4, 3, *sizes[0])), teacher))


def test_hint_regressor_refuses_other_sizes() -> None:
    with pytest.raises(ModelError, match="no regressor from a map of 8 x 8 to one of 3 x 3"):
        HintRegressor((3, 8, 8), (5, 3, 3))


def test_vid_regressor_starts_with_its_variance_and_trains_it() -> None:
    regressor = VidRegressor(3, 5, variance=2.0)
    variance = functional.softplus(regressor.log_scale.detach()) + 1e-5
    np.testing.assert_allclose(variance, 2.0, rtol=1e-5)
    maps, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    _assert_all_trained(regressor, vid(regressor(maps), teacher, regressor.log_scale))


def test_the_variance_of_vid_learns_what_the_residual_is() -> None:
    regressor, teacher = VidRegressor(3, 5), torch.randn(64, 5, 4, 4) * torch.linspace(0.5, 2.5, 5).view(1, 5, 1, 1)
    optimizer = torch.optim.Adam([regressor.log_scale], lr=0.1)
    for _ in range(800):
        optimizer.zero_grad()
        vid(torch.zeros_like(teacher), teacher, regressor.log_scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    learned = functional.softplus(regressor.log_scale.detach())
    torch.testing.assert_close(learned, teacher.square().mean((0, 2, 3)), rtol=0.02, atol=0.02)


def test_connector_trains_in_ofd() -> None:
    connector = Connector(3, 5)
    assert [name for name, _ in connector.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    _assert_all_trained(connector, ofd(connector(torch.randn(4, 3, 4, 4)), torch.randn(4, 5, 4, 4), -0.5))


def test_batchnorm_margin_is_the_mean_of_the_negative_part() -> None:
    normalization = nn.BatchNorm2d(4)
    means, deviations = [0.0, 0.5, -1.0, 20.0], [1.0, 0.7, -2.0, 1.0]
    normalization.bias.data, normalization.weight.data = torch.tensor(means), torch.tensor(deviations)
    margin = batchnorm_margin(normalization)
    assert margin.shape == (1, 4, 1, 1)
    assert not margin.requires_grad
    for i in range(3):
        m, s = means[i], abs(deviations[i])
        assert margin[0, i, 0, 0].item() == pytest.approx(truncnorm.mean(-np.inf, -m / s, m, s), rel=1e-4)
    assert margin[0, 3, 0, 0].item() == pytest.approx(-3.0)  # never negative


def test_attention_fusion_weighs_map_and_residual_by_position() -> None:
    step = AttentionFusion(3, 4, 5, fuses=True)
    maps, residual = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
    assert step.attention is not None
    assert step.attention.bias is not None
    step.attention.weight.data.zero_()
    step.attention.bias.data = torch.tensor([100.0, -100.0])  # shares of 1 and 0: the residual does not count
    alone = step.narrow(maps)
    output, left = step(maps, residual, (8, 8))
    torch.testing.assert_close(left, alone)
    torch.testing.assert_close(output, step.widen(alone))
    step.attention.bias.data = torch.tensor([-100.0, 100.0])
    torch.testing.assert_close(step(maps, residual, (8, 8))[1], residual.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_review_fusion_has_the_teachers_shapes_and_looks_deeper() -> None:
    fusion = ReviewFusion([3, 4, 5], [6, 7, 8])
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 5, 2, 2)]
    teacher = [torch.randn(2, 6, 8, 8), torch.randn(2, 7, 4, 4), torch.randn(2, 8, 4, 4)]
    outputs = fusion(maps, [(8, 8), (4, 4), (4, 4)])
    assert [each.shape for each in outputs] == [each.shape for each in teacher]
    _assert_all_trained(fusion, reviewkd_hcl(outputs, teacher))
    # The shallowest output depends on every deeper map, the deepest on none but its own.
    for index in range(3):
        changed = [each + 1.0 * torch.randn_like(each) * (index == i) for i, each in enumerate(maps)]
        differs = [not torch.equal(a, b) for a, b in zip(outputs, fusion(changed, [(8, 8), (4, 4), (4, 4)]), strict=True)]
        assert differs == [True] * (index + 1) + [False] * (2 - index)


def test_review_fusion_wants_as_many_stages() -> None:
    with pytest.raises(ModelError, match="review: 2 stages of the student and 1 of the teacher"):
        ReviewFusion([3, 4], [6])


def test_exit_head_gives_logits() -> None:
    head = ExitHead(3, 8, 5)
    logits = head(torch.randn(4, 3, 6, 6))
    assert logits.shape == (4, 5)
    _assert_all_trained(head, byot_kd(logits, torch.randn(4, 5)))
