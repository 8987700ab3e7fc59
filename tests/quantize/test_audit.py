"""Calibration samples are of the training split alone, in content too, and prepared as training prepares them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.dataset import Dataset
from edgekd.errors import DataError
from edgekd.quantize.audit import audit, balance, check_range
from edgekd.quantize.calibration import calibration_order, calibration_said
from tests.digits_data import digits_data


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def _with_copies(data: Dataset, pairs: list[tuple[int, int]]) -> Dataset:
    """The same data with some samples overwritten by others."""
    (raw,) = data.raw.values()
    array = raw.array[np.arange(len(data.labels))].copy()
    for to, source in pairs:
        array[to] = array[source]
    return replace(data, raw={"image": replace(raw, array=array)})


def test_copies_of_what_is_judged_are_left_out(digits: Dataset) -> None:
    train, validation, test = digits.splits.train, digits.splits.validation, digits.splits.test
    order = calibration_order(train, digits.labels, 0)[:300]
    kept, copies = audit(digits, order)
    assert np.array_equal(kept, order)
    assert copies == []
    planted = [(int(order[3]), int(validation[0])), (int(order[250]), int(test[-1])), (int(order[7]), int(order[8]))]
    kept, copies = audit(_with_copies(digits, planted), order)
    assert copies == [order[3], order[250]]  # a copy within the training split lets nothing be seen
    assert np.array_equal(kept, np.delete(order, [3, 250]))


def test_samples_of_another_split_are_refused(digits: Dataset) -> None:
    with pytest.raises(DataError, match="not all of the training split"):
        audit(digits, np.concatenate([digits.splits.train[:5], digits.splits.test[:1]]))


def test_values_that_training_does_not_have_are_refused(digits: Dataset) -> None:
    batch = digits.batch(digits.splits.train[:50])
    check_range(digits, batch)
    for wrong in (batch["image"] * 255, batch["image"] - 3, np.where(batch["image"] > 1, np.nan, batch["image"])):
        with pytest.raises(DataError, match=r"calibration samples of 'image' range from .* training's from -"):
            check_range(digits, {"image": wrong.astype(np.float32)})


def test_balance_counts_classes(digits: Dataset) -> None:
    order = calibration_order(digits.splits.train, digits.labels, 0)
    assert balance(digits, order[:400]) == (40, 40)
    assert balance(digits, order[:403]) == (40, 41)
    assert balance(digits, order[:5]) == (0, 1)


def test_it_is_said_in_words() -> None:
    facts = {"samples": 1400, "change": 0.012, "settled": False, "per_class": [100, 180], "copies_left_out": 3}
    assert calibration_said(facts) == (
        "1,400 training samples, 100 to 180 of every class; the last of them changed ranges by 1.2%, which is not settled; "
        "3 left out that validation or test hold as well"
    )
    facts |= {"change": None, "per_class": [140, 140], "copies_left_out": 0}
    assert calibration_said(facts) == "1,400 training samples, 140 of every class"


def test_every_beginning_of_the_order_is_balanced(digits: Dataset, tmp_path: Path) -> None:
    order = calibration_order(digits.splits.train, digits.labels, 3)
    assert sorted(order) == sorted(digits.splits.train)
    for count in (10, 57, 200, 900):
        least, most = balance(digits, order[:count])
        assert most - least <= 1
