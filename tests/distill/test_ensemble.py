"""How several teachers agree, against closed forms, and what must not change it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.special import log_softmax, softmax
from torch import Tensor

from edgekd.distill.ensemble import combine

RULES = ("mean_logits", "mean_probabilities", "entropy")


def _centred(rows: Tensor) -> Tensor:
    return rows.double() - rows.double().mean(1, keepdim=True)


@st.composite
def _ensembles(draw: st.DrawFn, limit: float = 20) -> tuple[list[Tensor], list[float], float]:
    members, rows, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 6))
    numbers = st.floats(-limit, limit, width=32)
    logits = [torch.from_numpy(draw(st_numpy.arrays("f4", (rows, classes), elements=numbers))) for _ in range(members)]
    weights = draw(st.lists(st.floats(0.01, 100), min_size=members, max_size=members))
    return logits, weights, draw(st.floats(0.5, 20))


def _direct(logits: list[Tensor], weights: list[float], rule: str, temperature: float) -> Any:
    """Return softened probabilities of the ensemble as the docstring says them, in float64."""
    rows = [each.numpy().astype(np.float64) for each in logits]
    shares = np.asarray(weights) / np.sum(weights)
    if rule == "mean_logits":
        return softmax(sum(share * each for share, each in zip(shares, rows, strict=True)) / temperature, 1)
    soft = [softmax(each / temperature, 1) for each in rows]
    per_sample = np.repeat(shares[:, None], len(rows[0]), 1)
    if rule == "entropy":
        entropies = np.stack([-(each * log_softmax(row / temperature, 1)).sum(1) for each, row in zip(soft, rows, strict=True)])
        per_sample = per_sample * (1 - entropies / entropies.sum(0))
        per_sample = per_sample / per_sample.sum(0)
    return sum(share[:, None] * each for share, each in zip(per_sample, soft, strict=True))


@settings(deadline=None)
@given(_ensembles(), st.sampled_from(RULES))
def test_it_is_the_formula(ensemble: tuple[list[Tensor], list[float], float], rule: str) -> None:
    logits, weights, temperature = ensemble
    found = (combine(logits, weights, rule, temperature).double() / temperature).softmax(1).numpy()
    expected = _direct(logits, weights, rule if len(logits) > 1 else "mean_logits", temperature)
    assert np.abs(found - expected).max() < 1e-4


@settings(deadline=None)
@given(_ensembles(), st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_the_order_of_teachers_does_not_matter(
    ensemble: tuple[list[Tensor], list[float], float], rule: str, random: Any
) -> None:
    logits, weights, temperature = ensemble
    order = list(range(len(logits)))
    random.shuffle(order)
    first = combine(logits, weights, rule, temperature)
    second = combine([logits[each] for each in order], [weights[each] for each in order], rule, temperature)
    assert torch.allclose(_centred(first), _centred(second), atol=1e-3)


@settings(deadline=None)
@given(_ensembles(), st.sampled_from(RULES), st.floats(0.1, 10))
def test_only_the_ratio_of_weights_matters(ensemble: tuple[list[Tensor], list[float], float], rule: str, factor: float) -> None:
    logits, weights, temperature = ensemble
    first = combine(logits, weights, rule, temperature)
    second = combine(logits, [factor * each for each in weights], rule, temperature)
    assert torch.allclose(_centred(first), _centred(second), atol=1e-3)


@settings(deadline=None)
@given(_ensembles(), st.sampled_from(RULES))
def test_teachers_of_one_mind_are_that_teacher(ensemble: tuple[list[Tensor], list[float], float], rule: str) -> None:
    (first, *_), weights, temperature = ensemble
    found = combine([first] * len(weights), weights, rule, temperature)
    assert torch.allclose(_centred(found), _centred(first), atol=1e-3)


@settings(deadline=None)
@given(_ensembles(), st.sampled_from(RULES), st.floats(-50, 50))
def test_a_constant_per_row_does_not_matter(
    ensemble: tuple[list[Tensor], list[float], float], rule: str, constant: float
) -> None:
    logits, weights, temperature = ensemble
    shifted = [each + constant * (index + 1) * torch.arange(1, len(each) + 1)[:, None] for index, each in enumerate(logits)]
    first, second = (combine(each, weights, rule, temperature) for each in (logits, shifted))
    assert torch.allclose((first / temperature).softmax(1), (second / temperature).softmax(1), atol=1e-3)


@settings(deadline=None)
@given(_ensembles(limit=1e4), st.sampled_from(RULES))
def test_extreme_logits_stay_finite(ensemble: tuple[list[Tensor], list[float], float], rule: str) -> None:
    logits, weights, temperature = ensemble
    assert bool(torch.isfinite(combine(logits, weights, rule, temperature)).all())


def test_classes_that_all_teachers_rule_out_keep_their_order() -> None:
    logits = [torch.tensor([[0.0, -200.0, -300.0]]), torch.tensor([[0.0, -210.0, -310.0]])]
    for rule in RULES:
        first, second, third = combine(logits, [1, 1], rule)[0].tolist()
        assert first > second + 100 > third + 190


def test_one_teacher_is_returned_as_it_is() -> None:
    only = torch.randn(3, 4)
    for rule in RULES:
        assert combine([only], [0.3], rule, 2.0) is only


def test_by_entropy_the_surer_teacher_decides_sample_by_sample() -> None:
    sure, unsure = torch.tensor([12.0, 0.0]), torch.tensor([0.0, 0.1])
    logits = [torch.stack([sure, unsure]), torch.stack([unsure, sure.flip(0)])]
    found = combine(logits, [1, 1], "entropy").softmax(1)
    plain = combine(logits, [1, 1], "mean_probabilities").softmax(1)
    assert found[0, 0] > 0.999 > plain[0, 0]
    assert found[1, 1] > 0.999 > plain[1, 1]


def test_by_entropy_teachers_without_any_doubt_count_by_weight() -> None:
    logits = [torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])]
    assert combine(logits, [3, 1], "entropy").softmax(1)[0].tolist() == pytest.approx([0.75, 0.25])


def test_log_probabilities_and_logits_mix_as_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(5, 7, generator=generator) * 4, torch.randn(5, 7, generator=generator) * 4
    for rule in RULES:
        plain = combine([first, second], [2, 1], rule, 3.0)
        mixed = combine([first.log_softmax(1), second], [2, 1], rule, 3.0)
        assert torch.allclose(_centred(plain), _centred(mixed), atol=1e-4)
