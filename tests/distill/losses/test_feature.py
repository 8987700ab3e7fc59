"""Losses on feature maps against loops over samples, channels and positions in float64 NumPy."""

import numpy as np
import pytest
import torch
from numpy.linalg import norm
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses import ab, at, fitnet, fsp, nst, ofd, reviewkd_hcl, vid
from edgekd.errors import ModelError


def _maps(seed: int, *shape: int, size: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def _stages(seed: int) -> list[Tensor]:
    return [_maps(seed, 3, 2, 6, 6), _maps(seed + 1, 3, 4, 3, 3), _maps(seed + 2, 3, 5, 3, 3)]


def test_fitnet_is_the_mean_square_summed_over_stages() -> None:
    student, teacher = _stages(0), _stages(10)
    expected = sum(((s - t).numpy() ** 2).mean() for s, t in zip(student, teacher, strict=True))
    assert fitnet(student, teacher).item() == pytest.approx(expected)
    assert fitnet(student[0], teacher[0]).item() == pytest.approx(fitnet(student[:1], teacher[:1]).item())


@pytest.mark.parametrize("p", [1, 2, 3, 4.5])
def test_at_is_the_closed_form(p: float) -> None:
    student, teacher = _maps(0, 3, 4, 5, 5), _maps(1, 3, 7, 5, 5)
    total = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        a, b = (np.mean(np.abs(each) ** p, axis=0).ravel() for each in (s, t))
        total += ((a / norm(a) - b / norm(b)) ** 2).mean() / 3
    assert at(student, teacher, p).item() == pytest.approx(total)


def test_at_pools_the_larger_map() -> None:
    student, teacher = _maps(0, 2, 3, 8, 8), _maps(1, 2, 3, 4, 4)
    pooled = functional.avg_pool2d(student, 2)
    assert at(student, teacher).item() == pytest.approx(at(pooled, teacher).item())
    assert at(teacher, student).item() == pytest.approx(at(pooled, teacher).item())


def test_high_powers_of_large_features_stay_finite() -> None:
    student = (_maps(0, 2, 3, 4, 4).float() * 1e4).requires_grad_()
    at(student, _maps(1, 2, 3, 4, 4).float() * 1e-4, p=8).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_fsp_is_the_closed_form() -> None:
    student, teacher = [_maps(i, 2, 3 + i, 4, 4) for i in range(3)], [_maps(9 + i, 2, 3 + i, 4, 4) for i in range(3)]
    total = 0.0
    for i in range(2):
        flows = [np.einsum("nchw,ndhw->ncd", each[i].numpy(), each[i + 1].numpy()) / 16 for each in (student, teacher)]
        total += ((flows[0] - flows[1]) ** 2).mean()
    assert fsp(student, teacher).item() == pytest.approx(total)


def test_fsp_pools_the_larger_of_two_stages() -> None:
    student, teacher = _stages(0)[:2], _stages(10)[:2]
    pooled = [[functional.avg_pool2d(each[0], 2), each[1]] for each in (student, teacher)]
    assert fsp(student, teacher).item() == pytest.approx(fsp(*pooled).item())


def test_fsp_of_one_stage_is_refused() -> None:
    with pytest.raises(ModelError, match="fsp compares neighbouring stages and got one"):
        fsp([_maps(0, 2, 3, 4, 4)], [_maps(1, 2, 3, 4, 4)])


def test_vid_is_the_likelihood_of_a_gaussian() -> None:
    student, teacher, scale = _maps(0, 3, 4, 5, 5), _maps(1, 3, 4, 5, 5), _maps(2, 4)
    deviation = (np.log1p(np.exp(scale.numpy())) + 1e-5)[None, :, None, None] ** 0.5
    normal = torch.distributions.Normal(student, torch.tensor(deviation))
    expected = -float(normal.log_prob(teacher).mean()) - 0.5 * np.log(2 * np.pi)  # type: ignore[no-untyped-call]
    assert vid(student, teacher, scale).item() == pytest.approx(expected)


def test_vid_wants_a_variance_per_stage() -> None:
    with pytest.raises(ModelError, match="1 variances for 2 stages"):
        vid(_stages(0)[:2], _stages(1)[:2], torch.zeros(2))


def test_ofd_is_the_closed_form() -> None:
    student, teacher, margin = _maps(0, 2, 3, 4, 4), _maps(1, 2, 3, 4, 4), torch.tensor([-0.5, -1.0, -0.1]).view(1, 3, 1, 1)
    total = 0.0
    for (n, c, h, w), s in np.ndenumerate(student.numpy()):
        wanted = max(float(teacher[n, c, h, w]), float(margin[0, c, 0, 0]))
        if s > wanted or wanted > 0:
            total += (s - wanted) ** 2
    assert ofd(student, teacher, margin).item() == pytest.approx(total)
    assert ofd(student, teacher, -0.5).item() == pytest.approx(ofd(student, teacher, torch.full((1, 3, 1, 1), -0.5)).item())


def test_ofd_halves_the_weight_with_every_stage_from_the_last() -> None:
    student, teacher, margins = _stages(0), _stages(10), [-0.1, -0.2, -0.3]
    alone = [ofd(s, t, m).item() for s, t, m in zip(student, teacher, margins, strict=True)]
    assert ofd(student, teacher, margins).item() == pytest.approx(alone[0] / 4 + alone[1] / 2 + alone[2])


def test_ofd_leaves_alone_what_is_off_in_both() -> None:
    student = torch.full((1, 2, 2, 2), -5.0, requires_grad=True)
    value = ofd(student, torch.full((1, 2, 2, 2), -0.5), -1.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0.0
    assert student.grad is not None
    assert student.grad.abs().max() == 0.0


def test_nst_is_the_mean_over_pairs_of_channels() -> None:
    student, teacher = _maps(0, 2, 3, 4, 4), _maps(1, 2, 5, 4, 4)

    def kernel(first: Tensor, second: Tensor) -> float:
        values = []
        for a, b in zip(first.numpy(), second.numpy(), strict=True):
            values += [(np.vdot(x, y) / norm(x) / norm(y)) ** 2 for x in a for y in b]
        return float(np.mean(values))

    expected = kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)
    assert nst(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_ab_is_the_closed_form(margin: float) -> None:
    student, teacher = _stages(0), _stages(10)
    total = 0.0
    for index, (s, t) in enumerate(zip(student, teacher, strict=True)):
        for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True):
            if b > 0 and a <= margin:
                total += 2.0 ** (index - 2) * (a - margin) ** 2
            if b <= 0 and a > -margin:
                total += 2.0 ** (index - 2) * (a + margin) ** 2
    assert ab(student, teacher, margin).item() == pytest.approx(total / 3 * 3 / 1000)


def test_reviewkd_hcl_is_the_closed_form() -> None:
    student, teacher = _maps(0, 2, 3, 4, 4).numpy(), _maps(1, 2, 3, 4, 4).numpy()
    halves = [each.reshape(2, 3, 2, 2, 2, 2).mean((3, 5)) for each in (student, teacher)]
    expected = ((student - teacher) ** 2).mean() + ((halves[0] - halves[1]) ** 2).mean() / 2
    expected += ((student.mean((2, 3)) - teacher.mean((2, 3))) ** 2).mean() / 4
    assert reviewkd_hcl(torch.tensor(student), torch.tensor(teacher)).item() == pytest.approx(expected / 1.75)
    # A map of one pixel has no levels: the mean square.
    pixel_s, pixel_t = (torch.tensor(each[:, :, :1, :1]) for each in (student, teacher))
    assert reviewkd_hcl(pixel_s, pixel_t).item() == pytest.approx(((pixel_s - pixel_t) ** 2).mean().item())


def test_different_numbers_of_stages_are_refused() -> None:
    with pytest.raises(ModelError, match="2 stages of the student and 3 of the teacher"):
        at(_stages(0)[:2], _stages(0))


def test_different_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="differ in shape"):
        fitnet(_maps(0, 2, 3, 4, 4), _maps(0, 2, 1, 4, 4))
