"""Recipes from files: round trips, overrides, and every mistake named with its place."""

import contextlib
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import RecipeError, RecipeProblem, UsageError
from edgekd.flavours import ARTIFACT_NAMES
from edgekd.recipe import Data, Distill, Export, Gates, Recipe, Training
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
    artifacts=st.lists(st.sampled_from(ARTIFACT_NAMES), min_size=1, unique=True),
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
        ("seed: 0x" + "f" * 5000, 'found "0xffff'),
        ("distill: {epochs: 3}", "it belongs at 'distill.train.epochs'"),
        ("epochs: 3", "it belongs at 'teacher.train.epochs' or 'distill.train.epochs'"),
        ('data: {source: "x\\ny  z\\e"}', r"'x\ny  z\x1b' is no data source, allowed: digits"),
        (f"student: {{model: 'zoo:{'z' * 5000}'}}", f"no model '{'z' * 57}...' in the zoo, allowed: shallow_cnn"),
        (f"data: {{source: '{'z' * 5000}'}}", f"'{'z' * 57}...' is no data source, allowed: digits"),
        (f"name: '{'z' * 5000}'", f'must be text of 1 to 100 characters, found "{"z" * 56}...'),
        ("data: {source: digist}", "did you mean 'digits'?"),
        ("student: {model: zoo:resnet9}", "did you mean 'resnet8'?"),
        ("student: {model: resnet8}", "allowed: zoo:NAME"),
        ("export: {artifacts: [tflite-int9]}", "did you mean 'tflite-int8'?"),
        ("export: {artifacts: [onnx-int8, onnx-int8]}", "name each once"),
        ("distill: {alpha: 0, beta: 0}", "raise one of them"),
        ("seed: 1.5", "must be an integer at least 0 and below 4,294,967,296, found 1.5"),
        ("data: {skip_bad: 'yes'}", 'must be true or false, found "yes"'),
        ("gates: {max_size_kib: .nan}", "found no finite number"),
        ("teacher: {train: {precision: fp61}}", "must be one of auto, fp32, bf16"),
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


def test_reading_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read recipe .*gone\.yaml: No such file"):
        load_recipe(tmp_path / "gone.yaml")
    with pytest.raises(UsageError, match=r"cannot read recipe .*: Is a directory"):
        load_recipe(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\r\ndata:\r\n  test: 0.1\r\n")
    assert load_recipe(tmp_path / "r.yaml") == Recipe(seed=3, data=Data(test=0.1))


@pytest.mark.parametrize(
    ("text", "override", "where", "key", "message"),
    [
        ("seed: 1", "seed=x", "override", "seed", 'must be an integer at least 0 and below 4,294,967,296, found "x"'),
        ("seed: x", "seed=y", "override", "seed", 'found "y"'),
        ("data: {test: x}", "data.test=2", "override", "data.test", "found 2"),
        ("data: {test: x}", "seed=3", "1", "data.test", 'found "x"'),
        ("seed: 1", "data={sorce: x}", "override", "data.sorce", "did you mean 'source'?"),
        ("seed: 1", "distill.train.epohs=3", "override", "distill.train.epohs", "did you mean 'epochs'?"),
        ("seed: 1", "flip=true", "override", "flip", "it belongs at 'data.augment.flip'"),
        ("seed: 1", "seed.x=1", "override", "seed.x", "'seed' is a value, not a section"),
        ("seed: 1", "export.artifacts.0=onnx-fp32", "override", "export.artifacts", "found a section"),
        ("seed: 1", "distill={alpha: 0, beta: 0}", "override", "distill", "raise one of them"),
        ("seed: 1", "name=[", "override", "name", "is not valid YAML"),
        ("seed: 1", "name=!x y", "override", "name", "has the tag '!x'"),
        ("seed: 1", "name=&a [*a]", "override", "name", "contains itself"),
        ("seed: 1", "data={test: 0.1, test: 0.3}", "override", "data", "is given twice"),
        ("seed: 1", "nonsense", "override", "", "must be KEY=VALUE"),
        ("seed: 1", "=1", "override", "", "must be KEY=VALUE"),
        ("seed: 1", "data..test=1", "override", "", "must be KEY=VALUE"),
        ("seed: 1\nseed: 2", "seed=3", "2", "seed", "is given twice, first in line 1"),
    ],
)
def test_what_is_wrong_with_overrides_is_found_at_them(
    tmp_path: Path, text: str, override: str, where: str, key: str, message: str
) -> None:
    (problem,) = _problems(tmp_path, text, override)
    place = f"override '{override}'" if where == "override" else f"{tmp_path / 'r.yaml'}:{where}"
    assert (problem.where, problem.key) == (place, key)
    assert message in problem.message


def test_overrides_come_in_order_and_win_over_the_file() -> None:
    recipe = recipe_from_mapping(
        {"data": {"test": 0.1}}, ["seed=1", "data={test: 0.5, validation: 0.3}", "seed= 2", "data.test=0.4"]
    )
    assert (recipe.seed, recipe.data) == (2, Data(test=0.4, validation=0.3))


@pytest.mark.parametrize("text", ["seed: x", "data: hot", "data: {bogus: 1, test: x}", "teacher:"])
def test_overrides_mend_what_is_wrong(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    section = text.partition(":")[0]
    assert load_recipe(tmp_path / "r.yaml", [f"{section}={'0' if section == 'seed' else '{}'}"]) == Recipe()


def test_problems_of_mappings_have_no_line() -> None:
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping({"seed": -1, "data": {"test": float("nan")}}, ["threads=0"])
    assert [(each.where, each.key) for each in error.value.problems] == [
        ("recipe", "seed"), ("recipe", "data.test"), ("override 'threads=0'", "threads"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["null", "True", "~", "yes", "1", "a: b", "#x", " x ", "\x85", "\u2028", "\0", "\ufeff", "\U0001f600", "'\""]
)
def test_names_that_yaml_could_misread_load_back(tmp_path: Path, name: str) -> None:
    for text in (dump_recipe(Recipe(name=name)), commented_recipe(Recipe(name=name))):
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        assert load_recipe(tmp_path / "r.yaml").name == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("na\udcffme=1", "must be KEY=VALUE"),  # how Python hands on an argument that is not UTF-8
        ("seed=\udcff", "not valid YAML"),
        ('seed="\\ud800"', "no text"),
        ("name=a\nb: c", "not valid YAML"),
        (".".join("a" * 3000) + "=1", "nested too deep"),
    ],
)
def test_hostile_overrides_are_problems_of_one_short_line(tmp_path: Path, override: str, message: str) -> None:
    problem = _problems(tmp_path, "name: x\n", override)[0]
    assert problem.where.startswith("override '")
    assert message in problem.message
    assert str(problem).isprintable()
    assert len(str(problem)) < 800


def test_problems_name_the_whole_file_however_long(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 150) / ("e" * 150) / "my  recipe.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("seed: x\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert [each.where for each in error.value.problems] == [f"{path}:1"]


def test_thousands_of_problems_take_one_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    schema = Recipe.model_json_schema()

    def counted() -> dict[str, Any]:
        calls.append(None)
        return schema

    monkeypatch.setattr(Recipe, "model_json_schema", counted)
    assert len(_problems(tmp_path, "".join(f"k{number}: 1\n" for number in range(2000)))) == 2000
    assert len(calls) <= 1


def test_mapping_recipes_take_any_mapping_of_plain_values() -> None:
    mapping = MappingProxyType({"distill": MappingProxyType({"alpha": 1}), "export": {"artifacts": ("onnx-int8",)}})
    recipe = recipe_from_mapping(mapping)
    assert (recipe.distill.alpha, recipe.export.artifacts) == (1.0, ("onnx-int8",))
    assert recipe_from_mapping(recipe.model_dump()) == recipe


def _deep(depth: int) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for _ in range(depth):
        mapping = {"a": mapping}
    return mapping


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([1], "must be a mapping of sections"), ({"name": "\ud800"}, "not plain data"), ({"data": {"source": Path("x")}}, "Path"),
        ({(1, 2): 3}, "not plain data"), ({1: 2}, "unknown key"), ({"seed": math.nan}, "found no finite number"),
        ({"seed": 10**5000}, "not plain data"), (_deep(300), "nested too deep"), (_deep(700), "nested too deep"),
        (_deep(5000), "not plain data"),
    ],
)  # fmt: skip
def test_bad_mappings_are_one_problem(mapping: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        recipe_from_mapping(mapping)
    assert [each.where for each in error.value.problems] == ["recipe"]


def test_200_mutations_give_errors_with_key_and_line(tmp_path: Path) -> None:
    refused = 0
    for number, mutation in enumerate(mutations(200, seed=1)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(mutation.text, encoding="utf-8")
        last = max(1, len(mutation.text.splitlines()))
        try:
            recipe = load_recipe(path)
        except RecipeError as error:
            refused += 1
            for each in error.problems:
                where, _, line = each.where.rpartition(":")
                assert where == str(path), (mutation.name, each)
                assert 1 <= int(line) <= last, (mutation.name, each)
                assert each.message.isprintable()
            if mutation.key is not None:
                at_line = [each.key for each in error.problems if each.where == f"{path}:{mutation.line}"]
                # Where the value became a list or a section, what is wrong may be inside it.
                inside = (mutation.key + ".", mutation.key + "[")
                assert any(key == mutation.key or key.startswith(inside) for key in at_line), (mutation, error.problems)
        else:
            # A byte in a comment, a shorter recipe: harmless changes exist, in these kinds only.
            assert mutation.name in {"bytes", "indented", "cut off"}, mutation
            assert recipe == recipe_from_mapping(recipe.model_dump(mode="json"))
    assert refused > 170


@pytest.mark.parametrize("overrides", [[], ["threads=0x" + "f" * 5000]])
def test_hexadecimal_integers_without_end(tmp_path: Path, overrides: list[str]) -> None:
    text = "seed: 1" if overrides else "seed: 0x" + "f" * 5000
    assert [each.key for each in _problems(tmp_path, text, *overrides)] == ["threads" if overrides else "seed"]


def test_half_characters_in_keys_are_named(tmp_path: Path) -> None:
    found = _problems(tmp_path, 'data: {"\\ud800": 1}\nseed: hot')
    assert [(each.where.rpartition(":")[2], each.key) for each in found] == [("1", r"data.\ud800"), ("2", "seed")]


def test_one_bad_item_is_one_problem(tmp_path: Path) -> None:
    assert [each.key for each in _problems(tmp_path, "export: {artifacts: [tflite-int9]}")] == ["export.artifacts[0]"]


@pytest.mark.parametrize("name", ["~no-such-user/r.yaml", "a" * 300, "a\0b", "", "\udcff"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UsageError):
        find_recipe(name)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_parses_or_is_a_problem(text: str) -> None:
    parsed = parse_yaml(text, "r.yaml")
    assert all(each.where.startswith("r.yaml:") for each in parsed.problems)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(st.characters(), max_size=40), max_size=3))
def test_any_file_and_overrides_load_or_are_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, overrides: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "ignore"))
    try:
        load_recipe(path, overrides)
    except RecipeError as error:
        assert error.problems
        assert all(str(each).isprintable() for each in error.problems)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_a_recipe_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with contextlib.suppress(RecipeError):
        load_recipe(path)
