"""What compression cost per class: the numbers against a plain count, the gate, and every form of the report."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.per_class import PerClass, compare_classes
from edgekd.recipe import Gates, Recipe
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.classes import class_tables, worst_class
from edgekd.report.report import Report
from edgekd.verify import check_gates
from tests.digits_data import digits_data
from tests.report.made_up import facts, made_up_report, term


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def _one_hot(predicted: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[predicted]


def _compared(classes: int = 4, n: int = 200, missing: int | None = None, forgotten: int | None = None) -> PerClass:
    """Compare random guesses; class ``missing`` has no samples, class ``forgotten`` the artifact never says."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    if missing is not None:
        labels[labels == missing] = (missing + 1) % classes
    reference = np.where(random.random(n) < 0.9, labels, random.integers(0, classes, n))
    own = np.where(random.random(n) < 0.8, labels, random.integers(0, classes, n))
    if forgotten is not None:
        own[own == forgotten] = (forgotten + 1) % classes
    names = [f"sample {index}" for index in range(n)]
    found = compare_classes(
        _one_hot(own, classes),
        _one_hot(reference, classes),
        labels,
        tuple(f"c{each}" for each in range(classes)),
        names,
        "teacher",
    )
    for index, each in enumerate(found.classes):
        mine = [own[i] == labels[i] for i in range(n) if labels[i] == index]
        theirs = [reference[i] == labels[i] for i in range(n) if labels[i] == index]
        assert each.n == len(mine)
        if mine:
            assert each.accuracy == pytest.approx(sum(mine) / len(mine))
            assert each.reference == pytest.approx(sum(theirs) / len(theirs))
            assert each.drop == pytest.approx(100 * (sum(theirs) - sum(mine)) / len(mine))
            assert each.ci95 is not None and each.drop is not None
            assert each.ci95[0] < each.drop < each.ci95[1]
    lost = [(names[i], f"c{labels[i]}") for i in range(n) if reference[i] == labels[i] != own[i]]
    assert list(found.lost) == lost
    assert lost
    return found


def test_numbers_are_those_of_a_plain_count() -> None:
    found = _compared()
    drops = [each.drop or 0.0 for each in found.ranked]
    assert drops == sorted(drops, reverse=True)


def test_a_class_without_samples_has_no_numbers_and_is_never_the_worst() -> None:
    found = _compared(missing=2)
    assert (found.classes[2].n, found.classes[2].drop, found.classes[2].ci95) == (0, None, None)
    assert "c2" not in [each.name for each in found.ranked]
    json.dumps(found.to_json(), allow_nan=False)


def test_the_gate_names_the_worst_class_and_goes_by_the_point_estimate(finished: Report) -> None:
    verified = next(each.verified for each in finished.artifacts if each.name == "tflite-int8")
    found = _compared(forgotten=1)
    worst = found.ranked[0]
    assert worst.name == "c1"
    assert worst.drop is not None
    for limit, passed in ((worst.drop + 0.1, True), (worst.drop - 0.1, False), (None, None)):
        gates = check_gates(
            Recipe(gates=Gates(max_class_drop=limit)), finished.teacher, finished.student, {"tflite-int8": verified},
            {"tflite-int8": found},
        )  # fmt: skip
        named = [gate for gate in gates if "class" in gate.name]
        assert [(gate.name, gate.value, gate.passed) for gate in named] == (
            [] if passed is None else [("tflite-int8 drop of class 'c1' in points", worst.drop, passed)]
        )


def test_a_limit_that_cannot_be_judged_does_not_pass_silently(finished: Report) -> None:
    verified = {each.name: each.verified for each in finished.artifacts}
    with pytest.raises(KeyError):
        check_gates(Recipe(gates=Gates(max_class_drop=1)), finished.teacher, finished.student, verified)


def test_a_run_tells_it_of_every_file(finished: Report) -> None:
    content = json.loads((finished.folder / "report.json").read_text())
    splits = json.loads((finished.folder / "splits.json").read_text())
    for each in content["artifacts"]:
        told = each["per_class"]
        assert told["against"] == "teacher"
        assert sum(row["n"] for row in told["classes"]) == finished.counts["test"]
        mean = sum(row["accuracy"] * row["n"] for row in told["classes"]) / finished.counts["test"]
        assert mean == pytest.approx(each["metric"]["value"])
        teacher = sum(row["reference"] * row["n"] for row in told["classes"]) / finished.counts["test"]
        assert teacher == pytest.approx(content["teacher"]["metric"]["value"])
        assert {row["id"] for row in told["lost"]} <= set(splits["test"])
    page, card = finished.html.read_text(), (finished.folder / "MODEL_CARD.md").read_text()
    assert page.count("<details><summary>What compression cost per class") == len(content["artifacts"])
    assert card.count("- per class, against the teacher: ") == len(content["artifacts"])


def _published(data: Dataset, folder: Path, found: PerClass) -> str:
    recipe = recipe_from_mapping({"export": {"artifacts": ["onnx-int8"]}})
    told = facts("offline", term("kd", 0.83))
    report = made_up_report(data, folder, recipe, told, classes={"onnx-int8": found})
    assert worst_class(found) in (folder / "MODEL_CARD.md").read_text()
    return report.html.read_text()


def test_more_than_fifty_classes_show_the_ten_worst_and_twenty_samples(data: Dataset, tmp_path: Path) -> None:
    many, few = _compared(51, 3000), _compared(50, 3000)
    assert len(many.lost) > 20
    page = _published(data, tmp_path / "many", many)
    body = page[page.index("What compression cost") : page.index("Make it again")]
    shown = re.findall(r"<td>(c\d+)</td>", body)
    assert shown == [each.name for each in many.ranked[:10]]
    assert "The 10 of 51 classes that lost most." in body
    assert re.findall(r"sample \d+", body) == [name for name, _ in many.lost[:20]]
    assert f"{len(many.lost):,} test samples" in body
    content = json.loads((tmp_path / "many" / "report.json").read_text())["artifacts"][0]["per_class"]
    assert len(content["lost"]) == len(many.lost)
    assert len(content["classes"]) == 51
    page = _published(data, tmp_path / "few", few)
    assert re.findall(r"<td>(c\d+)</td>", page) == [f"c{index}" for index in range(50)]


def test_names_from_the_user_are_escaped(data: Dataset, tmp_path: Path) -> None:
    found = _compared()
    hostile = replace(found, classes=(replace(found.classes[0], name="<script>x"), *found.classes[1:]))
    page = _published(data, tmp_path, hostile)
    assert "<script" not in page
    assert "&lt;script&gt;x" in page


def test_a_gain_is_told_as_no_loss() -> None:
    labels = np.asarray([0, 1, 0, 1])
    found = compare_classes(
        _one_hot(labels, 2), _one_hot(np.asarray([0, 1, 1, 0]), 2), labels, ("a", "b"), ["1", "2", "3", "4"], "student"
    )
    assert worst_class(found) == "no class lost anything"
    assert [each.drop for each in found.classes] == [-50, -50]
    assert found.lost == ()


def test_nothing_is_shown_where_nothing_was_compared(data: Dataset, tmp_path: Path) -> None:
    report = made_up_report(data, tmp_path, recipe_from_mapping({}), facts("offline", term("kd", 0.83)))
    assert class_tables(report) == []
    assert "per class" not in report.html.read_text() + (tmp_path / "MODEL_CARD.md").read_text()
