"""What the forms of the report say about distillation: who taught, what chose itself and how to fix it, and the control."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.cli.terminal import print_report
from edgekd.data.dataset import Dataset
from edgekd.recipe import Recipe
from edgekd.recipe_distill import TEACHERLESS
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.charts import size_accuracy_latency, training_curves
from edgekd.report.distillation import pins, sentence, taught_by
from edgekd.report.report import Report
from edgekd.report.rows import HEADINGS, table_rows
from tests.digits_data import digits_data
from tests.report.made_up import curve, facts, made_up_report, some_control, term


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def _recipe(distill: dict[str, Any]) -> Recipe:
    return recipe_from_mapping({"distill": distill})


def _content(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((report.folder / "report.json").read_text())
    return content


def _text(page: str) -> str:
    """Return what a reader sees of a page: no tags, no line breaks."""
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    unescaped = re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")
    return re.sub(r"\s+", " ", unescaped)


KD_AND_DIST = facts(
    "offline",
    term("kd", 0.83, temperature=5.2, ratio=3.6),
    term("dist", 2.0, chosen=False),
    term("fitnet", 0.4, ratio=2.5, layers=(("stages.2", "stages.8"), ("stages.3", "stages.12"))),
    soft_targets="stored: 8 augmentations of 1,079 samples", precision="bf16", warnings=["kd has a gradient 200 times <too> large"],
)  # fmt: skip
LOSSES = ["kd", {"name": "dist", "weight": 2.0}, "fitnet"]


def test_with_a_teacher_every_form_tells_the_facts(data: Dataset, tmp_path: Path) -> None:
    report = made_up_report(data, tmp_path, _recipe({"losses": LOSSES}), KD_AND_DIST)
    content = _content(report)
    assert content["distillation"] == KD_AND_DIST
    assert content["control"] is None
    assert content["student"]["method"] == "kd+dist+fitnet"
    assert content["student"]["compression_ratio"] == pytest.approx(4_400_000 / 36_000)
    page, card = report.html.read_text(), (tmp_path / "MODEL_CARD.md").read_text()
    seen = _text(page)
    assert "zoo:shallow_cnn, distilled from zoo:digits_teacher, 1,100,000 to 9,000 parameters" in seen
    assert "kd 0.83 (chosen) 5.2 (chosen) 3.6x" in seen
    assert "dist 2 (given)" in seen
    assert "stages.2 from stages.8, stages.3 from stages.12" in seen
    for said in ("cross-entropy of weight 1", "bf16, channels last", "stored: 8 augmentations of 1,079 samples", "offline:"):
        assert said in seen
    assert "200 times &lt;too&gt; large" in page
    assert "distilled from zoo:digits_teacher" in card
    assert (
        "Its loss was labels (weight 1) + kd (weight 0.83, temperature 5.2) + dist (weight 2) + fitnet (weight 0.4), "
        "over 30 epochs in bf16" in card
    )
    pinned = pins(report.recipe, KD_AND_DIST)
    assert pinned in card and pinned in seen


@pytest.mark.parametrize("scheme", TEACHERLESS)
def test_without_a_teacher(data: Dataset, tmp_path: Path, scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = made_up_report(data, tmp_path, _recipe({"scheme": scheme}), facts(scheme, term("kd", 1.0, chosen=False)))
    content = _content(report)
    assert content["teacher"] is None
    assert content["student"]["method"] == scheme
    assert content["student"]["compression_ratio"] == 1.0
    taught = f"taught by {'its peers' if scheme == 'online' else 'itself'} ({scheme})"
    if scheme == "none":
        taught = "as it was given"
    page, card = _text(report.html.read_text()), (tmp_path / "MODEL_CARD.md").read_text()
    assert f"zoo:shallow_cnn, {taught}, 9,000 parameters" in page
    assert f"zoo:shallow_cnn, {taught}, for classification" in card
    assert "distilled from" not in page + card
    assert " Teacher " not in page
    print_report(report)
    assert "teacher zoo" not in capsys.readouterr().out
    rows = table_rows(report)
    assert [row.cells[0].split()[0] for row in rows[:2]] == ["student", "student.fp32.onnx"]
    assert rows[0].cells[2] == "1.0x"
    for row, each in zip(rows[1:], report.artifacts, strict=True):
        ratio = dict(zip(HEADINGS, row.cells, strict=True))["ratio"]
        assert float(ratio.removesuffix("x")) == pytest.approx(36_000 / each.size_bytes, abs=0.051)
    assert "teacher" not in size_accuracy_latency(report) + training_curves(report)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((30, 5), "distillation helped: +7.0 points"),
        ((6, 5), "distillation made no difference beyond chance: +0.3 points"),
        ((2, 12), "distillation hurt: -2.8 points"),
    ],
)
def test_a_control_is_a_row_and_a_sentence_everywhere(
    data: Dataset, tmp_path: Path, counts: tuple[int, int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = some_control(*counts)
    report = made_up_report(data, tmp_path, _recipe({"control": True}), facts("offline", term("kd", 0.83)), control)
    found = _content(report)["control"]
    assert found["gain"] == pytest.approx(100 * (counts[0] - counts[1]) / 359)
    assert found["ci95"][0] < found["gain"] < found["ci95"][1]
    assert found["discordant"] == list(counts)
    assert found["metric"]["value"] == pytest.approx(345 / 359 - found["gain"] / 100)
    page, card = _text(report.html.read_text()), (tmp_path / "MODEL_CARD.md").read_text()
    print_report(report)
    printed = capsys.readouterr().out
    (row,) = (row for row in table_rows(report) if row.cells[0] == "student alone")
    assert row.cells[1:3] == table_rows(report)[1].cells[1:3]
    for form in (page, card, printed):
        assert said in form
        assert "student alone" in form
        assert row.cells[3] in form
    assert "of one training each" in page and "of one training each" in card
    assert "student alone" in size_accuracy_latency(report)
    assert "student alone" in training_curves(report)


def test_curves_of_peers_and_which_was_kept(data: Dataset, tmp_path: Path) -> None:
    told = facts("online", term("dml student", 1.0, chosen=False, temperature=1.0), kept="peer-1")
    report = made_up_report(
        data, tmp_path, _recipe({"scheme": "online"}), told, some_control(9, 4), curve(0.2, 0.95, peer_1=0.97)
    )
    chart = training_curves(report)
    assert "peer-1 (kept)" in chart
    assert "student (kept)" not in chart
    assert "kept network peer-1" in _text(report.html.read_text())
    assert chart == training_curves(report)


def test_one_loss_is_fixed_by_the_short_keys() -> None:
    told = facts("offline", term("kd", 0.83, temperature=5.2))
    assert pins(Recipe(), told) == "distill.beta=0.83 distill.temperature=5.2"
    given = facts("offline", {**term("kd", 0.83, temperature=4.0), "temperature_chosen": False})
    assert pins(_recipe({"temperature": 4.0}), given) == "distill.beta=0.83"


def test_nothing_chosen_needs_no_fixing(data: Dataset, tmp_path: Path) -> None:
    told = facts("offline", term("kd", 2.0, chosen=False, temperature=4.0))
    recipe = _recipe({"beta": 2.0, "temperature": 4.0})
    assert pins(recipe, told) == ""
    report = made_up_report(data, tmp_path, recipe, told)
    assert "this run chose by itself" not in report.html.read_text() + (tmp_path / "MODEL_CARD.md").read_text()


def test_what_the_machine_chose_is_fixed_too() -> None:
    told = facts("offline", term("kd", 0.83), precision="bf16", layout="contiguous")
    assert pins(Recipe(), told).split()[1:] == ["distill.train.precision=bf16", "distill.train.layout=contiguous"]
    asked = _recipe({"train": {"precision": "bf16", "layout": "contiguous"}})
    assert pins(asked, told) == "distill.beta=0.83"


_NUMBERS = st.floats(0.05, 50).map(lambda value: float(f"{value:.3g}"))


@given(
    st.dictionaries(st.sampled_from(["kd", "dkd", "dist", "fitnet"]), st.tuples(_NUMBERS, _NUMBERS), min_size=1),
    st.sampled_from([None, "auto"]),
)
def test_the_fixed_recipe_has_what_was_chosen(found: dict[str, tuple[float, float]], wanted: str | None) -> None:
    """A recipe that leaves everything open, changed by the overrides as a shell would pass them."""
    losses: list[dict[str, Any]] = [{"name": name, "weight": wanted} for name in found]
    for each in losses:
        if each["name"] == "dkd":
            each["arguments"] = {"beta": 2.5}
    recipe = _recipe({"losses": losses})
    softened = {"kd", "dkd"}
    told = facts("offline", *(
        term(name, weight, temperature=temperature if name in softened else None)
        for name, (weight, temperature) in found.items()
    ))  # fmt: skip
    fixed = recipe_from_mapping(recipe.model_dump(mode="json"), shlex.split(pins(recipe, told)))
    for before, after in zip(recipe.distill.losses, fixed.distill.losses, strict=True):
        weight, temperature = found[after.name]
        assert (fixed.distill.beta if after.weight is None else after.weight) == weight
        if after.name in softened:
            assert (fixed.distill.temperature if after.temperature is None else after.temperature) == temperature
        assert (after.name, after.arguments) == (before.name, before.arguments)


def test_fixing_keeps_layers_that_were_given() -> None:
    layers = [{"student": "a 'quoted' name", "teacher": "stages.1"}]
    recipe = _recipe({"losses": ["kd", {"name": "fitnet", "layers": layers}]})
    told = facts("offline", term("kd", 0.5, temperature=3.0), term("fitnet", 0.7))
    fixed = recipe_from_mapping(recipe.model_dump(mode="json"), shlex.split(pins(recipe, told)))
    assert fixed.distill.losses[1].layers == recipe.distill.losses[1].layers
    assert fixed.distill.losses[1].weight == 0.7


def test_kd_in_place_of_dkd_between_two_classes_is_fixed() -> None:
    told = facts("offline", term("kd", 0.5, temperature=3.0), term("dist", 0.7))
    recipe = _recipe({"losses": ["dkd", "dist"]})
    fixed = recipe_from_mapping(recipe.model_dump(mode="json"), shlex.split(pins(recipe, told)))
    assert [(each.name, each.weight) for each in fixed.distill.losses] == [("dkd", 0.5), ("dist", 0.7)]
    assert fixed.distill.losses[0].temperature == 3.0


def test_a_mix_up_of_classes_that_was_gone_on_with_is_on_the_page(data: Dataset, tmp_path: Path) -> None:
    mixed = {"model": "onnx:<b>", "metric": {"value": 0.396}, "reordered": {"value": 0.989}, "mixed": [["0", "1"]]}
    report = made_up_report(data, tmp_path, Recipe(), facts("offline", term("kd", 0.83)), label_order=[mixed])
    said = "onnx:&lt;b&gt; has its classes in another order than the data: 39.6 % right as it is, 98.9 % with"
    assert said in re.sub(r"\s+", " ", report.html.read_text())
    assert _content(report)["teacher"]["validation"]["label_order"] == [mixed]


def test_assistants_are_named(data: Dataset, tmp_path: Path) -> None:
    recipe = _recipe({"assistants": [{"model": "zoo:digits_teacher"}, {}]})
    report = made_up_report(data, tmp_path, recipe, facts("offline", term("kd", 0.83)))
    assert "over assistants zoo:digits_teacher, zoo:shallow_cnn" in _text(report.html.read_text())


def test_a_training_on_labels_alone_has_a_sentence() -> None:
    assert sentence(facts("offline")).startswith("Its loss was labels (weight 1), over 30 epochs in fp32; ")
    assert taught_by(None, facts("ema")) == "taught by itself (ema)"
