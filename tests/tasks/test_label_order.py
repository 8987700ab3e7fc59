"""A teacher whose classes are in another order is found; one that merely knows little is not taken for one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.distill.trainer import predict
from edgekd.models.spec import build
from edgekd.models.tensors import classifier
from edgekd.tasks.label_order import find_reordering
from tests.digits_data import digits_data


def _labels(n: int, classes: int, seed: int, shares: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    labels = np.random.default_rng([seed, 1]).choice(classes, n, p=shares)
    return labels.astype(np.int64)


def _logits(predicted: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[predicted] * 5


def _right(labels: NDArray[np.int64], classes: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return predictions that are right on about ``share`` of the samples and random elsewhere."""
    random = np.random.default_rng([seed, 2])
    return np.where(random.random(len(labels)) < share, labels, random.integers(0, classes, len(labels)))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.floats(0.8, 1.0), st.integers(0, 10_000))
def test_another_order_is_found_and_named(classes: int, share: float, seed: int) -> None:
    labels = _labels(40 * classes + 100, classes, seed)
    order = np.roll(np.random.default_rng(seed).permutation(classes), 1)
    if (order == np.arange(classes)).mean() > 0.5:  # no other order, or hardly
        order = np.roll(np.arange(classes), 1)
    seen = np.argsort(order)[_right(labels, classes, share, seed)]  # output i stands for class order[i]
    found = find_reordering(_logits(seen, classes), labels)
    assert found is not None
    assert found.order.tolist() == order.tolist()
    assert set(found.mixed) == {index for index in range(classes) if order[index] != index}
    assert found.metric.value >= share - 0.1
    assert found.p_value < 1e-6


def test_a_part_of_the_classes_in_another_order_is_found() -> None:
    classes = 20
    labels = _labels(2_000, classes, 0)
    order = np.arange(classes)
    order[[3, 4, 5, 6, 7, 8]] = [4, 5, 6, 7, 8, 3]
    found = find_reordering(_logits(np.argsort(order)[labels], classes), labels)
    assert found is not None
    assert sorted(found.mixed) == [3, 4, 5, 6, 7, 8]
    order = np.arange(classes)
    order[[3, 4]] = [4, 3]  # 10 points: too few to stop a run
    assert find_reordering(_logits(np.argsort(order)[labels], classes), labels) is None


def test_a_thousand_classes_with_few_samples_of_each() -> None:
    labels = np.repeat(np.arange(1_000), 5)
    order = np.random.default_rng(0).permutation(1_000)
    found = find_reordering(_logits(np.argsort(order)[_right(labels, 1_000, 0.8, 0)], 1_000), labels)
    assert found is not None
    assert found.metric.value == pytest.approx(0.8, abs=0.1)
    guesses = np.random.default_rng(1).integers(0, 1_000, len(labels))
    assert find_reordering(_logits(guesses, 1_000), labels) is None


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 80), st.integers(1, 1_500), st.floats(0.05, 5.0), st.integers(0, 10_000))
def test_random_outputs_are_in_no_order(classes: int, n: int, evenness: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = _labels(n, classes, seed, random.dirichlet(np.full(classes, evenness)))
    assert find_reordering(random.normal(size=(n, classes)).astype(np.float32), labels) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 1_500), st.floats(0.05, 5.0), st.integers(0, 10_000))
def test_a_teacher_that_always_says_the_same_is_in_no_order(classes: int, n: int, evenness: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = _labels(n, classes, seed, random.dirichlet(np.full(classes, evenness)))
    same = np.full(n, random.integers(0, classes))
    assert find_reordering(_logits(same, classes), labels) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.floats(0.0, 0.55), st.floats(0.0, 0.5), st.integers(0, 10_000))
def test_classes_that_are_confused_are_no_other_order(pairs: int, confused: float, noise: float, seed: int) -> None:
    """Of each pair of classes, each is taken for the other in up to 55 % of cases; of two classes as well."""
    classes, random = 2 * pairs, np.random.default_rng(seed)
    labels = _labels(1_000, classes, seed)
    said = np.where(random.random(1_000) < confused, labels ^ 1, labels)
    said = np.where(random.random(1_000) < noise, random.integers(0, classes, 1_000), said)
    assert find_reordering(_logits(said, classes), labels) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.floats(0.0, 1.0), st.integers(0, 10_000))
def test_a_teacher_in_the_right_order_is_never_stopped(classes: int, share: float, seed: int) -> None:
    labels = _labels(800, classes, seed)
    assert find_reordering(_logits(_right(labels, classes, share, seed), classes), labels) is None


@pytest.mark.parametrize("share", [0.95, 0.85])
def test_two_classes_the_wrong_way_round(share: float) -> None:
    labels = _labels(400, 2, 0)
    flipped = 1 - np.where(np.random.default_rng(0).random(400) < share, labels, 1 - labels)
    found = find_reordering(_logits(flipped, 2), labels)
    assert found is not None
    assert found.order.tolist() == [1, 0]
    assert find_reordering(_logits(1 - flipped, 2), labels) is None


def test_two_classes_of_which_one_is_rare() -> None:
    """Saying always the rare one is no other order, though the other way round would be right in nine of ten cases."""
    labels = (np.arange(1_000) % 10 == 0).astype(np.int64)
    assert find_reordering(_logits(np.ones(1_000, np.int64), 2), labels) is None
    assert find_reordering(_logits(1 - labels, 2), labels) is not None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("reference", ["zoo:shallow_cnn", "zoo:digits_teacher"])
def test_untrained_networks_are_in_no_order(data: Dataset, reference: str) -> None:
    """Their outputs fall into groups that have to do with the classes, and so agree with some order more than with chance."""
    spec = classifier(reference, data.inputs, data.classes)
    for seed in range(5):
        torch.manual_seed(seed)
        logits = predict(build(spec), spec, data, data.splits.validation)
        assert find_reordering(logits, data.labels[data.splits.validation]) is None
