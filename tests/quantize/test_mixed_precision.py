"""The search for layers to keep in float, against exhaustive search, with made-up qualities."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekd.quantize.layers import Group, Layer, group_layers
from edgekd.quantize.mixed_precision import MixedPrecision, keep_fewest
from edgekd.quantize.quality import Quality

Kept = frozenset[int]


def _quality(noise: float) -> Quality:
    return Quality(top1=0.5, drop=0.0, agreement=1.0, sqnr_db=-10 * math.log10(noise + 1e-12), n=10)


def _search(
    costs: list[int], harm: list[float], noise_of: Callable[[Kept], float], most_noise: float, **options: int
) -> tuple[MixedPrecision, list[Kept]]:
    """Search over groups ``0, 1, ...``; return also what was tried, in order."""
    groups = [Group((f"layer {index}",), cost, cost) for index, cost in enumerate(costs)]
    asked: list[Kept] = []

    def quality_of(kept: tuple[str, ...]) -> Quality:
        assert list(kept) == sorted(kept, key=lambda name: int(name.split()[1]))  # in order of execution
        asked.append(frozenset(int(name.split()[1]) for name in kept))
        return _quality(noise_of(asked[-1]))

    found = keep_fewest(groups, harm, quality_of, lambda each: each.sqnr_db >= _quality(most_noise).sqnr_db, **options)
    assert len(asked) == len(set(asked)) == len(found.trials)
    return found, asked


def _indices(kept: tuple[str, ...]) -> Kept:
    return frozenset(int(name.split()[1]) for name in kept)


def _subsets(count: int) -> list[Kept]:
    return [frozenset(each) for size in range(count + 1) for each in itertools.combinations(range(count), size)]


noises = st.lists(st.floats(0.001, 100), min_size=1, max_size=9)


@given(noises, st.floats(0.001, 200))
def test_of_layers_that_cost_the_same_and_add_up_the_fewest_are_kept(noise: list[float], most: float) -> None:
    def noise_of(kept: Kept) -> float:
        return sum(each for index, each in enumerate(noise) if index not in kept)

    found, _ = _search([10] * len(noise), noise, noise_of, most)
    fewest = min(len(each) for each in _subsets(len(noise)) if noise_of(each) <= most * (1 + 1e-8))  # as decibels tell
    assert found.best.holds
    assert len(found.best.kept) == fewest


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(1, 100)), min_size=1, max_size=9), st.floats(0.001, 200))
@example([(1.0, 1), (2.0, 1), (9.0, 3)], 11.0)  # the most harmful suffices, and so does a cheaper one
def test_of_layers_of_any_cost_that_add_up_at_most_twice_the_cheapest_are_kept(
    layers: list[tuple[float, int]], most: float
) -> None:
    noise, costs = [each[0] for each in layers], [each[1] for each in layers]

    def noise_of(kept: Kept) -> float:
        return sum(each for index, each in enumerate(noise) if index not in kept)

    def cost_of(kept: Kept) -> float:
        return sum(costs[index] / sum(costs) + 0.02 for index in kept)

    found, _ = _search(costs, noise, noise_of, most)
    cheapest = min(cost_of(each) for each in _subsets(len(noise)) if noise_of(each) <= most * (1 - 1e-8))  # as decibels tell
    assert found.best.holds
    assert cost_of(_indices(found.best.kept)) <= 2 * cheapest + 1e-9


@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_whatever_the_function_nothing_is_claimed_that_was_not_measured(count: int, seed: int, most: float) -> None:
    """Noise of each set drawn at random: no order, no additivity; only all in floating point is without noise."""
    drawn = np.random.default_rng(seed).random(2**count)
    table = {kept: float(drawn[place]) for place, kept in enumerate(_subsets(count))} | {frozenset(range(count)): 0.0}
    found, asked = _search([7] * count, [1.0] * count, table.__getitem__, most, most_trials=2**count + 2)
    best = _indices(found.best.kept)
    assert best in asked
    assert found.best.holds and table[best] <= most + 1e-9
    assert found.best.quality == _quality(table[best])


def test_layers_that_only_help_together_are_found() -> None:
    """Two killers, each of which alone ruins all: keeping one of them changes nothing."""
    found, _ = _search([10] * 12, [1.0] * 12, lambda kept: 0.1 if {3, 8} <= kept else 100.0, 1.0)
    assert _indices(found.best.kept) == {3, 8}


def test_a_goal_out_of_reach_gives_the_best_that_was_seen() -> None:
    found, asked = _search([1, 2, 3], [3, 2, 1], lambda kept: 5.0 - len(kept), 0.5)
    assert not found.best.holds
    assert _indices(found.best.kept) == {0, 1, 2}
    assert frozenset() in asked


def test_a_file_that_is_good_already_costs_one_trial() -> None:
    found, asked = _search([1, 2], [1, 1], lambda kept: 0.1, 1.0)
    assert asked == [frozenset()] and found.best.kept == ()
    assert _search([], [], lambda kept: 5.0, 1.0)[1] == [frozenset()]


@given(st.integers(2, 30))
def test_trials_are_bounded_and_the_best_still_holds(most_trials: int) -> None:
    found, asked = _search([5] * 24, [1.0] * 24, lambda kept: float(24 - len(kept)), 2.0, most_trials=most_trials)
    assert len(asked) <= most_trials
    assert found.best.holds


def test_shares_are_of_multiply_accumulates_and_weights() -> None:
    groups = [Group(("a",), 30, 1), Group(("b",), 70, 3)]
    found = keep_fewest(groups, [1, 0], lambda kept: _quality(0.1 if "a" in kept else 9), lambda each: each.sqnr_db > 0)
    assert found.best.kept == ("a",)
    assert found.best.int8_macs == pytest.approx(0.7) and found.best.int8_weights == pytest.approx(0.75)
    assert [each.kept for each in found.trials] == [(), ("a",), ("a", "b")]


def _layer(name: str, macs: int) -> Layer:
    return Layer(name, "Conv" if macs else "Relu", macs, macs, (), ())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 24))
def test_groups_hold_every_layer_once_and_in_order(macs: list[int], most: int) -> None:
    layers = tuple(_layer(f"{index}", each) for index, each in enumerate(macs))
    groups = group_layers(layers, most)
    assert len(groups) <= most
    assert [name for each in groups for name in each.layers] == [each.name for each in layers]
    assert sum(each.macs for each in groups) == sum(macs)


def test_what_has_no_weights_goes_with_the_layer_before_it_and_cheap_neighbours_are_joined() -> None:
    layers = tuple(_layer(f"{index}", macs) for index, macs in enumerate((0, 9, 0, 1, 1, 0, 8)))
    assert [each.layers for each in group_layers(layers)] == [("0", "1", "2"), ("3",), ("4", "5"), ("6",)]
    assert [each.layers for each in group_layers(layers, 3)] == [("0", "1", "2"), ("3", "4", "5"), ("6",)]
