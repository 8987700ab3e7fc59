"""Recipes from files: round trips, overrides, and every mistake named with its place."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import RecipeError, RecipeProblem, UsageError
from edgekd.recipe import ARTIFACTS, Data, Distill, Export, Gates, Recipe, Training
from edgekd.recipe_file import commented_recipe, dump_recipe, find_recipe, load_recipe, recipe_from_mapping, shipped_recipes
from edgekd.recipe_yaml import parse_yaml
from tests.recipe_mutations import mutations


def _problems(tmp_path: Path, text: str, *overrides: str) -> list[RecipeProblem]:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return error.value.problems


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_shipped_recipes_load_and_open_with_their_command(name: str) -> None:
    path = shipped_recipes()[name]
    assert load_recipe(path).name == name
    assert path.read_text().startswith(f"# edgekd compress {name} ")


def test_commented_recipe_explains_every_key_and_loads_back(tmp_path: Path) -> None:
    for base in (Recipe(), load_recipe(find_recipe("cifar10"))):
        text = commented_recipe(base)
        (tmp_path / "r.yaml").write_text(text)
        assert load_recipe(tmp_path / "r.yaml") == base
        assert all("#" in line for line in text.splitlines() if ": " in line)


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(min_size=1, max_size=100).filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text)),
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.05, 100),
    rate=st.floats(1e-300, 10),
    artifacts=st.lists(st.sampled_from(ARTIFACTS), min_size=1, unique=True),
    size=st.none() | st.floats(1e-6, 1e12),
)
def test_dump_loads_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, temperature: float, rate: float, artifacts: list[str],
    size: float | None,
) -> None:  # fmt: skip
    recipe = Recipe(
        name=name, seed=seed, distill=Distill(temperature=temperature, train=Training(learning_rate=rate)),
        export=Export(artifacts=tuple(artifacts)), gates=Gates(max_size_kib=size), data=Data(source="folder:a b: {c} #d"),  # type: ignore[arg-type]
    )  # fmt: skip
    path = tmp_path_factory.mktemp("r") / "r.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_values_follow_yaml_1_2() -> None:
    parsed = parse_yaml("{a: 1e-3, b: yes, c: 12:30, d: 2024-01-01, e: ~, f: 0x1F, g: on, h: 012, i: true, j: 1_0}", "r")
    assert parsed.value == {
        "a": 0.001, "b": "yes", "c": "12:30", "d": "2024-01-01", "e": None, "f": 31, "g": "on", "h": 12, "i": True, "j": 10,
    }  # fmt: skip


def test_all_problems_come_at_once_with_line_key_and_advice(tmp_path: Path) -> None:
    text = (
        "name: 3\ndata: {source: digist, flip: true}\nteacher:\n  train: {epochs: 2.5, precision: fp61}\n"
        "distill:\n  temperature: hot\n  temprature: 3\n  alpha: 1\n  alpha: 2\ngates: 5\nstudent:\n  model: zoo:resnet9\n"
    )
    found = [(each.where.rpartition(":")[2], each.key) for each in _problems(tmp_path, text, "seed=-1", "x", "name.y=1")]
    assert found == [
        ("1", "name"), ("2", "data.source"), ("2", "data.flip"), ("4", "teacher.train.epochs"), ("4", "teacher.train.precision"),
        ("6", "distill.temperature"), ("7", "distill.temprature"), ("9", "distill.alpha"), ("10", "gates"),
        ("12", "student.model"), ("override 'x'", ""), ("override 'name.y=1'", "name.y"), ("override 'seed=-1'", "seed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("distill: {temprature: 3}", "did you mean 'temperature'?"),
        ("data: {flip: true}", "it belongs at 'data.augment.flip'"),
        ("data: {source: digist}", "did you mean 'digits'?"),
        ("student: {model: zoo:resnet9}", "did you mean 'resnet8'?"),
        ("student: {model: resnet8}", "allowed: zoo:NAME"),
        ("export: {artifacts: [tflite-int9]}", "did you mean 'tflite-int8'?"),
        ("export: {artifacts: [onnx-int8, onnx-int8]}", "name each once"),
        ("distill: {alpha: 0, beta: 0}", "raise one of them"),
        ("seed: 1.5", "must be an integer at least 0 and below 4,294,967,296, found 1.5"),
        ("data: {skip_bad: 'yes'}", 'must be true or false, found "yes"'),
        ("gates: {max_size_kib: .nan}", "found no finite number"),
        ("teacher: {train: {precision: fp61}}", "must be one of fp32, bf16"),
        ("seed: !!python/object:os.system 1", "has the tag"),
        ("? [a]\n: b", "a key must be a plain name"),
    ],
)
def test_advice(tmp_path: Path, text: str, advice: str) -> None:
    assert advice in "\n".join(map(str, _problems(tmp_path, text)))


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "is empty"),
        (b"# only this\n", 1, "is empty"),
        (b"[1]", 1, "must be a mapping of sections"),
        (b"seed: 1\nname: \xff\n", 2, "is not UTF-8"),
        (b"seed: 1\n---\nseed: 2\n", 2, "another document"),
        (b"name: [\n", 1, "not valid YAML"),
        (b"a: &a [*a]", 1, "contains itself"),
        (b"a: " + b"[" * 5000, 1, "nested too deep"),
        (b"seed: 1\n" + b"#" * (1 << 20), 1, "larger than 1 MiB"),
        (b"\n".join([b"a: &a [x, x, x, x, x, x, x, x, x]"] + [
            b"%c: &%c [%s]" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(8)]), 1, "more than 10,000"),
    ],
)  # fmt: skip
def test_hopeless_files_are_one_clear_problem(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(path)
    (problem,) = error.value.problems
    where, _, found = problem.where.rpartition(":")
    assert where == str(path)
    assert message == "more than 10,000" or int(found) == line


def test_overrides_change_values_and_mend_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("distill: {temperature: hot}\n")
    recipe = load_recipe(path, ["distill.temperature=2", "export.artifacts=[onnx-int8]", "threads=", "teacher.train.epochs=3"])
    assert (recipe.distill.temperature, recipe.export.artifacts, recipe.threads) == (2.0, ("onnx-int8",), None)
    assert recipe.teacher.train.epochs == 3


def test_mapping_recipes_name_the_key() -> None:
    assert recipe_from_mapping({"seed": 3}, ["seed=4"]).seed == 4
    with pytest.raises(RecipeError, match=r"recipe: distill\.temprature: unknown key"):
        recipe_from_mapping({"distill": {"temprature": 3}})
    with pytest.raises(RecipeError, match="not plain data"):
        recipe_from_mapping({"seed": object()})


def test_finding_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("digits").name == "digits.yaml"
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        find_recipe("digts")
    with pytest.raises(UsageError, match="is a folder"):
        find_recipe(str(tmp_path))
    (tmp_path / "digits").write_text("seed: 5")
    assert load_recipe(find_recipe("digits")).seed == 5


def test_200_mutations_give_errors_with_key_and_line(tmp_path: Path) -> None:
    refused = 0
    for number, mutation in enumerate(mutations(200, seed=1)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(mutation.text, encoding="utf-8")
        lines = mutation.text.count("\n") + 1
        try:
            load_recipe(path)
        except RecipeError as error:
            refused += 1
            for each in error.problems:
                where, _, line = each.where.rpartition(":")
                assert where == str(path), (mutation.name, each)
                assert 1 <= int(line) <= lines + 2, (mutation.name, each)
                assert "\n" not in each.message
            if mutation.key is not None:
                assert (mutation.key, f"{path}:{mutation.line}") in {
                    (each.key.partition("[")[0], each.where) for each in error.problems
                } or any(each.key.startswith(mutation.key) for each in error.problems), (mutation, error.problems)
        else:
            # A byte in a comment, another valid number: harmless changes exist, in these kinds only.
            assert mutation.name in {"bytes", "indented", "far off", "alias"}, mutation.text
    assert refused > 170


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_parses_or_is_a_problem(text: str) -> None:
    parsed = parse_yaml(text, "r.yaml")
    assert all(each.where.startswith("r.yaml:") for each in parsed.problems)
