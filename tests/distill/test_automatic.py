"""Temperature by the spread of logits, weights by gradients: against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.distill.automatic import Weighting, add_term, automatic_temperature, wanted_ratio, warm_up_share
from edgekd.distill.losses import cross_entropy, kd


def test_temperature_is_twice_the_spread() -> None:
    logits = np.random.default_rng(0).normal(0, 1.7, (4000, 100)).astype(np.float32)
    assert automatic_temperature(logits, mixes=False) == pytest.approx(3.4, rel=0.02)


def test_temperature_ignores_what_log_probabilities_hide() -> None:
    logits = np.random.default_rng(0).normal(0, 1.5, (300, 10)).astype(np.float32)
    log_probabilities = torch.from_numpy(logits).log_softmax(1).numpy()
    assert automatic_temperature(log_probabilities, mixes=False) == automatic_temperature(logits, mixes=False)


@given(st.floats(1e-3, 1e4))
def test_temperature_stays_in_its_range(scale: float) -> None:
    logits = (scale * np.random.default_rng(0).normal(size=(50, 10))).astype(np.float32)
    assert 1 <= automatic_temperature(logits, mixes=False) <= 8


def test_temperature_is_1_for_mixed_images_and_many_classes() -> None:
    rng = np.random.default_rng(0)
    assert automatic_temperature(rng.normal(0, 3, (50, 10)).astype(np.float32), mixes=True) == 1
    assert automatic_temperature(rng.normal(0, 3, (50, 1000)).astype(np.float32), mixes=False) == 1
    assert automatic_temperature(rng.normal(0, 3, (50, 10)).astype(np.float32), mixes=False, fine_tunes=True) == 1


def _losses(weight: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    body = torch.randn(64, 10, requires_grad=True)
    logits = body * 1.0
    teacher, target = 3 * torch.randn(64, 10), torch.randint(0, 10, (64,))
    return {"cross_entropy": cross_entropy(logits, target), "kd": weight * kd(logits, teacher, 4.0)}, logits


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_chosen_weight_makes_the_gradients_as_large_as_wanted(scale: float) -> None:
    values, logits = _losses(scale)
    weighting = Weighting({"cross_entropy": 1.0}, steps=100)
    add_term(weighting, "kd", "response", None, 0, 0.8)
    assert weighting.due(0)
    weighting.learn(weighting.measure(values, {"kd": logits}))
    (hard,) = torch.autograd.grad(values["cross_entropy"], logits, retain_graph=True)
    (soft,) = torch.autograd.grad(weighting.weight("kd") * values["kd"], logits, retain_graph=True)
    expected = 8.0 if 0.05 <= 8.0 / weighting.ratios["kd"] <= 50 else None
    if expected:
        assert float(soft.norm() / hard.norm()) == pytest.approx(expected, rel=0.01)
    else:
        assert weighting.weight("kd") in (0.05, 50.0)


def test_measuring_leaves_no_gradient() -> None:
    body = torch.randn(64, 10, requires_grad=True)
    logits = body * 1.0
    values = {"cross_entropy": cross_entropy(logits, torch.zeros(64, dtype=torch.int64)), "kd": kd(logits, torch.randn(64, 10))}
    found = Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 3.0}).measure(values, {"kd": logits})
    assert found["kd"] > 0
    assert body.grad is None


def test_all_terms_together_pull_a_little_harder_than_cross_entropy_alone() -> None:
    weighting = Weighting({"cross_entropy": None})
    add_term(weighting, "kd", "response", None, 0, 0.8)
    add_term(weighting, "fitnet", "feature", None, 0, 0.8)
    add_term(weighting, "dist", "response", 0.5, 0, 0.8)
    weighting.learn({"kd": 2.0, "fitnet": 0.01})
    assert weighting.weight("cross_entropy") == 0.16  # 1.6 / (1 + 8 + 1); what is given by hand is left as it is
    assert weighting.weight("kd") * 2.0 == pytest.approx(8 * 0.16)
    assert weighting.weight("fitnet") * 0.01 == pytest.approx(0.16)
    assert weighting.weight("dist") == 0.5


def test_weights_are_measured_early_and_then_stay() -> None:
    weighting = Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 3.0}, steps=2000)
    due = [step for step in range(2000) if weighting.due(step)]
    assert due[0] == 0
    assert due[-1] < 100
    assert len(due) == 10


def test_late_measurements_count_more_and_wild_ones_do_not_break_it() -> None:
    weighting = Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 3.0})
    for ratio in (math.inf, math.nan, 0.0, 2.0, 2.0, 2.0):
        weighting.learn({"kd": ratio})
    assert weighting.weight("kd") == 1.5
    weighting.learn({"kd": 4.0})
    assert 2.0 < weighting.ratios["kd"] < 4.0


def test_given_weights_are_kept_and_terms_warm_up() -> None:
    one = torch.ones(())
    weighting = Weighting({"cross_entropy": 0.5, "dkd": 2.0}, warm_up={"dkd": 0.1})
    weighting.learn({"dkd": 100.0})
    assert weighting.weight("dkd") == 2.0
    values = {"cross_entropy": one, "dkd": one}
    assert weighting.total(values, 0.0).item() == pytest.approx(0.5)
    assert weighting.total(values, 0.05).item() == pytest.approx(1.5)
    assert weighting.total(values, 0.5).item() == pytest.approx(2.5)


def test_the_published_warm_up_is_a_share_of_the_training() -> None:
    assert warm_up_share(20) == pytest.approx(1 / 12)


def test_what_was_measured_goes_through_a_checkpoint() -> None:
    weighting = Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 3.0})
    weighting.learn({"kd": 1.7})
    again = Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 3.0})
    again.restore(weighting.to_json())
    assert again.weight("kd") == weighting.weight("kd")


def test_losses_on_layers_may_weigh_what_they_must() -> None:
    weighting = Weighting({"cross_entropy": 1.0})
    for name, family in (("kd", "response"), ("pkt", "relation"), ("rkd", "relation")):
        add_term(weighting, name, family, None, 0, 0.75)
    weighting.learn({"kd": 1e-5, "pkt": 1e-5, "rkd": 1e3})
    assert (weighting.weight("kd"), weighting.weight("pkt"), weighting.weight("rkd")) == (50.0, 1e5, 1e-3)


def test_a_teacher_is_trusted_by_its_odds_of_being_right() -> None:
    assert wanted_ratio("kd", "response", 0.8) == pytest.approx(8)
    assert wanted_ratio("multi_avg", "ensemble", 0.5) == pytest.approx(1)
    assert (wanted_ratio("kd", "response", 0.1), wanted_ratio("kd", "response", 1.0)) == (0.5, 15)
    assert wanted_ratio("fitnet", "feature", 0.99) == 1


def test_a_loss_about_the_other_classes_leaves_room_for_the_labels() -> None:
    assert (wanted_ratio("dkd", "response", 0.5), wanted_ratio("dkd", "response", 0.99)) == (1, 3)
