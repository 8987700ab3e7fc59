"""Is a teacher worth imitating: one that knows nothing stops the run, the recipe can say to go on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from edgekd.data.dataset import Dataset, Raw
from edgekd.data.splits import Splits
from edgekd.distill.teacher import VALIDATION_LOGITS, Member, Teacher
from edgekd.distill.teacher_check import check_teacher, linear_probe
from edgekd.errors import GateMissed
from edgekd.models.spec import Cost
from edgekd.models.tensors import TensorSpec
from edgekd.progress import Silent
from edgekd.recipe import Recipe, TeacherMember
from edgekd.tasks.classification import Metric
from edgekd.workspace import open_workspace
from tests.digits_data import digits_data

GO_ON: dict[str, object] = {"teacher": {"check": False}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


class _Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.results: list[str] = []
        self.reused: list[bool] = []
        self.found: dict[str, Any] = {}

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        self.results.append(what)
        self.reused.append(reused)


def _right(data: Dataset, share: float, seed: int = 0) -> NDArray[np.float32]:
    """Return validation logits that are right on ``share`` of the samples."""
    random = np.random.default_rng(seed)
    labels = data.labels[data.splits.validation]
    right = random.permutation(len(labels)) < round(share * len(labels))
    guesses = np.where(right, labels, (labels + random.integers(1, 10, len(labels))) % 10)
    return np.eye(10, dtype=np.float32)[guesses] * 4


def _check(
    data: Dataset, logits: NDArray[np.float32], folder: Path, options: dict[str, object] | None = None,
    *more: NDArray[np.float32], labels: str | None = None,
) -> _Heard:  # fmt: skip
    members = []
    for index, rows in enumerate((logits, *more)):
        place = folder / f"member-{index}"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / VALIDATION_LOGITS, rows)
        source = TeacherMember(model="zoo:digits_teacher", labels=labels)
        members.append(Member(source, None, None, None, place, f"digest-{index}", Cost(None, None, 1), ()))
    teacher = Teacher(tuple(members), "mean_logits", Metric("top1", 0.5, (0.4, 0.6), 100), False)
    heard = _Heard()
    with open_workspace(folder / "out", heard) as workspace:
        heard.found = check_teacher(Recipe.model_validate(options or {}), data, teacher, workspace)
    return heard


def test_a_good_teacher_passes_and_what_was_found_is_said(data: Dataset, tmp_path: Path) -> None:
    heard = _check(data, _right(data, 1.0), tmp_path)
    assert heard.warnings == []
    assert "validation top-1 100.00 %" in heard.results[-1].replace("100.00%", "100.00 %")
    assert "linear model" in heard.results[-1]
    assert "chance" in heard.results[-1]


@pytest.mark.parametrize("kind", ["random", "constant", "wrong throughout"])
def test_a_teacher_no_better_than_chance_stops_with_exit_4(kind: str, data: Dataset, tmp_path: Path) -> None:
    count = len(data.splits.validation)
    logits = {
        "random": np.random.default_rng(0).normal(size=(count, 10)).astype(np.float32),
        "constant": np.tile(np.arange(10, dtype=np.float32), (count, 1)),
        "wrong throughout": _right(data, 0.0),
    }[kind]
    with pytest.raises(GateMissed, match=r"the teacher is no better than chance: .*the most frequent class has") as error:
        _check(data, logits, tmp_path / "a")
    assert error.value.exit_code == 4
    assert "teacher.check=false" in str(error.value.hint)
    heard = _check(data, logits, tmp_path / "b", GO_ON)
    assert len(heard.warnings) == 1
    assert "no better than chance" in heard.warnings[0]


def test_a_teacher_worse_than_a_linear_model_stops(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(GateMissed, match=r"worse than a linear model: .*a logistic regression has 9"):
        _check(data, _right(data, 0.7), tmp_path / "a")
    heard = _check(data, _right(data, 0.7), tmp_path / "b", GO_ON)
    assert "worse than a linear model" in heard.warnings[0]


def test_a_teacher_like_a_linear_model_is_a_warning(data: Dataset, tmp_path: Path) -> None:
    probe = linear_probe(data).value
    heard = _check(data, _right(data, probe - 0.01), tmp_path)
    assert len(heard.warnings) == 1
    assert "may be no better than a linear model" in heard.warnings[0]


def test_the_linear_probe_is_a_logistic_regression_on_pixels(data: Dataset) -> None:
    train, held_out = data.splits.train, data.splits.validation
    rows = {name: data.batch(each)["image"].reshape(len(each), -1) for name, each in (("fit", train), ("test", held_out))}
    model = LogisticRegression(max_iter=200).fit(rows["fit"], data.labels[train])
    assert linear_probe(data).value == pytest.approx(model.score(rows["test"], data.labels[held_out]), abs=0.01)
    assert linear_probe(data).n == len(held_out)


def _rows(labels: NDArray[np.int64], classes: tuple[str, ...], values: NDArray[np.float32], folder: Path) -> Dataset:
    """Return a data set of rows of numbers, the first half for training and the second for validation."""
    half, nothing = len(labels) // 2, np.asarray([], np.int64)
    np.save(folder / "features.npy", values)
    spec = TensorSpec(
        "features", "float32", values.shape[1:], "NC", "features", None, (0.0,) * values.shape[1], (1.0,) * values.shape[1]
    )
    return Dataset(
        kind="features", raw={"features": Raw(folder / "features.npy", values, None)}, inputs=(spec,), labels=labels,
        ids_file=folder / "ids", classes=classes, splits=Splits(np.arange(half), np.arange(half, len(labels)), nothing), digest="d",
    )  # fmt: skip


def test_the_probe_knows_columns_and_classes_it_never_saw(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.r_[random.integers(0, 2, 100), random.integers(0, 3, 100)]
    values = (labels[:, None] + random.normal(0, 0.1, (200, 4))).astype(np.float32)
    data = _rows(labels, ("a", "b", "c"), values, tmp_path)
    seen = labels[100:] < 2
    assert linear_probe(data).value == pytest.approx(seen.mean(), abs=0.02)
    one = replace(data, labels=np.r_[np.ones(100, np.int64), labels[100:]])
    assert linear_probe(one).value == pytest.approx((labels[100:] == 1).mean())


def test_checking_again_is_replayed_and_still_stops(data: Dataset, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(GateMissed):
            _check(data, _right(data, 0.3), tmp_path)
    heard = _check(data, _right(data, 0.3), tmp_path, GO_ON)
    assert heard.reused == [True]
    assert len(heard.warnings) == 1


ORDER = (0, 2, 1, 5, 4, 3, 6, 9, 8, 7)


def test_classes_in_another_order_stop_and_are_named(data: Dataset, tmp_path: Path) -> None:
    other = _right(data, 0.98)[:, ORDER]
    with pytest.raises(GateMissed) as error:
        _check(data, other, tmp_path / "a")
    assert error.value.exit_code == 4
    assert "teacher zoo:digits_teacher has its classes in another order than the data" in error.value.message
    named = [f"'{index}' look like '{ORDER[index]}'" for index in (1, 2, 3, 5, 7, 9)]
    assert sum(f"outputs named {each}" in error.value.message for each in named) == 1
    assert error.value.message.endswith(" and 3 more")
    assert "\n" not in error.value.message
    assert "teacher.labels=FILE" in str(error.value.hint)
    assert "teacher.check=false" in str(error.value.hint)
    heard = _check(data, other, tmp_path / "b", GO_ON)
    assert heard.warnings == [error.value.message]
    (found,) = heard.found["label_order"]
    assert {tuple(each) for each in found["mixed"]} == {(str(index), str(ORDER[index])) for index in (1, 2, 3, 5, 7, 9)}
    assert found["reordered"]["value"] == pytest.approx(0.98, abs=0.03)


def test_a_file_of_labels_in_the_wrong_order_is_blamed(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(GateMissed) as error:
        _check(data, _right(data, 1.0)[:, ORDER], tmp_path, labels="names.txt")
    assert "put the class names in the file of teacher.labels into the order of its outputs" in str(error.value.hint)


def test_one_of_an_ensemble_in_another_order_is_found(data: Dataset, tmp_path: Path) -> None:
    """All of them together are still right on most samples."""
    good = [_right(data, 1.0, seed) for seed in range(3)]
    assert _check(data, good[0], tmp_path / "a", None, *good[1:]).found["label_order"] == []
    with pytest.raises(GateMissed, match="in another order") as error:
        _check(data, good[0], tmp_path / "b", None, good[1], good[2][:, ORDER])
    assert "labels of member 2 of teacher.ensemble" in str(error.value.hint)


def test_groups_without_names_are_no_other_order(data: Dataset, tmp_path: Path) -> None:
    """Clusters fit the digits in some order about as well as clusters can, but worse than a linear model."""
    pixels = data.batch(data.splits.validation)["image"].reshape(len(data.splits.validation), -1)
    groups = KMeans(10, n_init=4, random_state=0).fit_predict(pixels)
    heard = _check(data, np.eye(10, dtype=np.float32)[groups] * 4, tmp_path, GO_ON)
    assert heard.found["label_order"] == []
    assert "another order" not in heard.warnings[0]
