"""Splits: disjoint, complete, stratified, repeatable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.cache import TEST, TRAIN, VALIDATION
from edgekd.data.splits import split
from edgekd.errors import DataError


@settings(deadline=None)
@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=6),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_complete_and_stratified(counts: list[int], validation: float, test: float, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    classes = tuple(f"c{index}" for index in range(len(counts)))
    parts = split(labels, classes, validation, test, seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(labels)))
    for index, count in enumerate(counts):
        sizes = [int((labels[part] == index).sum()) for part in (parts.train, parts.validation, parts.test)]
        assert min(sizes) >= 1
        assert abs(sizes[2] - count * test) <= 1
        assert abs(sizes[1] - count * validation) <= 1
    assert split(labels, classes, validation, test, seed).digest() == parts.digest()


def test_seed_decides() -> None:
    labels = np.repeat(np.arange(2), 50)
    assert split(labels, ("a", "b"), 0.2, 0.2, 0).digest() != split(labels, ("a", "b"), 0.2, 0.2, 1).digest()


def test_a_fixed_test_split_is_kept() -> None:
    labels = np.repeat(np.arange(2), 10)
    fixed = np.full(20, TRAIN, np.uint8)
    fixed[[0, 1, 12]] = TEST
    parts = split(labels, ("a", "b"), 0.2, 0.9, 0, fixed)
    assert parts.test.tolist() == [0, 1, 12]
    assert len(parts.train) + len(parts.validation) == 17


def test_a_given_validation_split_is_kept_and_the_test_split_made() -> None:
    labels = np.repeat(np.arange(2), 20)
    given = np.full(40, TRAIN, np.uint8)
    given[[3, 4, 25]] = VALIDATION
    parts = split(labels, ("a", "b"), 0.9, 0.2, 0, given)
    assert parts.validation.tolist() == [3, 4, 25]
    assert (labels[parts.test] == 0).sum() == (labels[parts.test] == 1).sum() == 4
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(40))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([TRAIN, VALIDATION, TEST])), max_size=60),
    st.floats(0.01, 0.8),
    st.floats(0.01, 0.8),
    st.integers(0, 2**32 - 1),
)
def test_given_samples_never_change_their_split(rows: list[tuple[int, int]], validation: float, test: float, seed: int) -> None:
    # Every class has enough to split of every part.
    rows = [*rows, *((label, part) for label in range(3) for part in (TRAIN, TRAIN, TEST))]
    labels, given = np.asarray([row[0] for row in rows]), np.asarray([row[1] for row in rows], np.uint8)
    parts = split(labels, ("a", "b", "c"), validation, test, seed, given)
    assert parts.test.tolist() == np.flatnonzero(given == TEST).tolist()
    assert not {*parts.test} & {*parts.train, *parts.validation}
    assert not {*parts.train} & {*parts.validation}
    if (given == VALIDATION).any():
        assert parts.validation.tolist() == np.flatnonzero(given == VALIDATION).tolist()
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(rows)))


@pytest.mark.parametrize(
    ("labels", "classes", "shares", "message"),
    [
        ([0] * 9, ("cat",), (0.2, 0.2), r"one class only \(cat\)"),
        ([0] * 9 + [1] * 2, ("cat", "dog"), (0.2, 0.2), r"class 'dog' has 2 sample"),
        ([0] * 9 + [1] * 9, ("cat", "dog"), (0.6, 0.5), "leave no training samples"),
    ],
)
def test_too_little_is_an_error(labels: list[int], classes: tuple[str, ...], shares: tuple[float, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(np.asarray(labels), classes, *shares, 0)
