"""What is said of a training while it runs."""

import pytest

from edgekd.distill.automatic import Weighting
from edgekd.distill.watch import overtaken, wild_weights


def _weighting(given: float | None, ratio: float) -> Weighting:
    return Weighting({"cross_entropy": 1.0, "sp": given}, targets={"sp": 1.0}, ratios={"sp": ratio})


@pytest.mark.parametrize(("given", "ratio", "advised"), [(3000.0, 0.5, "2"), (1e-3, 0.5, "2"), (1.0, 1e-4, "1e+04")])
def test_a_weight_beyond_all_measure_is_told_with_one_that_balances(given: float, ratio: float, advised: str) -> None:
    (told,) = wild_weights(_weighting(given, ratio))
    assert f"sp of weight {given:g}" in told and f"a weight of {advised} would balance" in told


@pytest.mark.parametrize(("given", "ratio"), [(None, 1e9), (0.0, 1e9), (3000.0, 0.001), (1.0, 99.0), (1.0, 0.011)])
def test_chosen_switched_off_and_sensible_weights_are_not(given: float | None, ratio: float) -> None:
    assert wild_weights(_weighting(given, ratio)) == ()


def test_a_student_that_is_better_than_its_teacher_is_told() -> None:
    assert overtaken(0.7, None) == overtaken(0.7, 0.7) == ()
    (told,) = overtaken(0.71, 0.7)
    assert "71.0% and 70.0%" in told
