"""Offline distillation: the loss against one written out, temperatures and weights as the recipe has them, degenerate losses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgekd.data.dataset import Dataset
from edgekd.distill.batch import Batch
from edgekd.distill.schemes.offline import OfflineLesson, fitting_losses, response_terms
from edgekd.models.spec import call
from edgekd.recipe import Training
from edgekd.recipe_distill import Distill, DistillLoss
from edgekd.recipe_file import recipe_from_mapping
from tests.distill.lessons import batch_of, student_of

TRAINING = Training()
LOGITS = np.random.default_rng(0).normal(0, 2.0, (300, 10)).astype(np.float32)


def _distill(**given: Any) -> Distill:
    return recipe_from_mapping({"distill": given}).distill


def _said(count: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(count, 10, generator=torch.Generator().manual_seed(seed))


def _lesson(data: Dataset, options: Distill, rule: str = "mean_logits", members: int = 1) -> OfflineLesson:
    terms, _ = response_terms(list(options.losses), options, LOGITS, TRAINING)

    def ask(batch: Batch) -> list[Tensor]:
        return [_said(len(batch.indices), seed) for seed in range(members)]

    return OfflineLesson(student_of(data), options, 0.1, terms, [], ask, [1.0] * members, rule, None, 0.75)


def test_the_loss_is_alpha_ce_plus_beta_kl(data: Dataset) -> None:
    lesson = _lesson(data, _distill(alpha=0.3, beta=0.7, temperature=3))
    batch = batch_of(data)
    values, _ = lesson(batch)
    found = lesson.weighting().total(values, 0.0)
    logits = call(lesson.networks["student"], lesson.specs["student"], batch.inputs)["logits"]
    soft = functional.kl_div((logits / 3).log_softmax(1), (_said(32) / 3).softmax(1), reduction="batchmean")
    hard = functional.cross_entropy(logits, batch.target, label_smoothing=0.1)
    assert found.item() == pytest.approx((0.3 * hard + 0.7 * 9 * soft).item(), rel=1e-5)


def test_an_ensemble_speaks_with_one_voice_or_with_many(data: Dataset) -> None:
    batch = batch_of(data)
    one = _lesson(data, _distill(beta=1, temperature=2), "mean_probabilities", members=2)
    values, _ = one(batch)
    logits = call(one.networks["student"], one.specs["student"], batch.inputs)["logits"]
    rows = [_said(32, seed) for seed in range(2)]
    mean = torch.stack([(each / 2).softmax(1) for each in rows]).mean(0)
    expected = 4 * functional.kl_div((logits / 2).log_softmax(1), mean, reduction="batchmean")
    assert values["kd"].item() == pytest.approx(expected.item(), rel=1e-4)

    many = _lesson(data, _distill(losses=["multi_avg"], beta=1, temperature=2), members=2)
    values, _ = many(batch)
    apart = [4 * functional.kl_div((logits / 2).log_softmax(1), (e / 2).softmax(1), reduction="batchmean") for e in rows]
    assert values["multi_avg"].item() == pytest.approx(torch.stack(apart).mean().item(), rel=1e-4)


def test_temperatures_are_those_of_the_loss_the_recipe_or_the_teacher() -> None:
    options = _distill(losses=["kd", {"name": "dkd", "temperature": 2}, "kd_logit_std", "wttm"])
    terms, facts = response_terms(list(options.losses), options, LOGITS, TRAINING)
    found = {term.name: term.temperature for term in terms}
    assert found["kd"] == pytest.approx(4.0, rel=0.05)  # twice the spread
    assert found["dkd"] == 2.0
    assert found["kd_logit_std"] == 2.0  # standardised already
    assert found["wttm"] is None
    assert facts["kd"]["temperature_chosen"] is True
    assert facts["dkd"]["temperature_chosen"] is False

    options = _distill(losses=["kd", "dist"], temperature=5)
    terms, _ = response_terms(list(options.losses), options, LOGITS, TRAINING)
    assert [term.temperature for term in terms] == [5.0, 5.0]


def test_which_weights_are_chosen(data: Dataset) -> None:
    options = _distill(losses=["kd", {"name": "dist", "weight": 2}, {"name": "dkd", "weight": "auto"}], beta=0.5)
    weighting = _lesson(data, options).weighting()
    assert weighting.given == {"cross_entropy": None, "kd": 0.5, "dist": 2.0, "dkd": None}
    assert weighting.targets["kd"] == pytest.approx(3.0**1.5)  # by the odds of a teacher of 75 %
    assert weighting.targets["dkd"] == 3.0  # which leaves the true class to the labels
    assert weighting.warm_up["dkd"] == pytest.approx(20 / 240)


def test_without_cross_entropy_an_automatic_weight_is_1(data: Dataset) -> None:
    assert _lesson(data, _distill(alpha=0)).weighting().given == {"cross_entropy": 0, "kd": 1.0}


def test_dkd_between_two_classes_becomes_kd() -> None:
    losses = (DistillLoss(name="dkd", weight=0.5, temperature=2.0, layers=None),)
    kept, told = fitting_losses(losses, 2)
    assert [(each.name, each.weight, each.temperature) for each in kept] == [("kd", 0.5, 2.0)]
    assert "degenerate" in told[0]
    assert fitting_losses(losses, 3) == (list(losses), [])
    both = (*losses, DistillLoss(name="kd", weight=None, temperature=None, layers=None))
    assert [each.name for each in fitting_losses(both, 2)[0]] == ["kd"]
