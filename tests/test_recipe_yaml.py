"""YAML to plain values: the rules of YAML 1.2, lines, every mistake at once, and hostile files."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import RecipeProblem
from edgekd.recipe_yaml import MAX_DEPTH, MAX_NODES, KeyPath, Parsed, dotted, one_line, parse_yaml

YAML_PIECES = [
    "a", "b: ", ": ", "- ", "? ", "\n", "\n  ", "\n\t", "[", "]", "{", "}", ", ", "&x ", "*x", "!!int ", "!t ", "!<", "%", "|\n", ">-\n",
    "'", '"', "\\u12", "\\ud800", "#", " #", "---\n", "...\n", "%YAML 1.1\n", "1e3", "0x", "0b2", "1_", ".nan", "<<: ", "~", "\ufeff",
    "\r", "\x85", "\u2028", "é", "\U0001f600",
]  # fmt: skip


def _said(parsed: Parsed) -> str:
    return "\n".join(map(str, parsed.problems))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 100000.0), (".5", 0.5), ("1.", 1.0), ("-2.5e+1", -25.0), ("1e400", math.inf), ("-.inf", -math.inf),
        ("0x1F", 31), ("0o17", 15), ("012", 12), ("08", 8), ("+3", 3), ("-0", 0), ("9007199254740993", 9007199254740993),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("Null", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("2024-01-01", "2024-01-01"), ("2024-01-01 10:00:00Z", "2024-01-01 10:00:00Z"),
        ("1.2.3", "1.2.3"), ("'1'", "1"), ('"true"', "true"), ("''", ""), ("!!str 1", "1"), ("<<", "<<"), ("=", "="),
        ('"\\u00e9\\n"', "é\n"), ("[1, [a], {b: ~}]", [1, ["a"], {"b": None}]), ("|\n  x\n  y\n", "x\ny\n"), (">-\n  x\n  y\n", "x y"),
    ],
)  # fmt: skip
def test_values_follow_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(f"key: {text}", "r")
    assert parsed.problems == []
    assert parsed.value == {"key": value}
    assert type(parsed.value["key"]) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse_yaml("key: .NaN", "r").value["key"])


def test_a_yaml_1_1_directive_changes_nothing() -> None:
    parsed = parse_yaml("%YAML 1.1\n---\na: yes\nb: 1e-3\nc: 012\nd: 12:30\n", "r")
    assert (parsed.value, parsed.problems) == ({"a": "yes", "b": 0.001, "c": 12, "d": "12:30"}, [])


def test_keys_are_always_text() -> None:
    assert parse_yaml("null: 1\ntrue: 2\n1: 3\n1.0: 4\n? q\n: 5\n", "r").value == {
        "null": 1,
        "true": 2,
        "1": 3,
        "1.0": 4,
        "q": 5,
    }


def test_merge_keys_are_plain_keys() -> None:
    assert parse_yaml("a: &a {x: 1}\nb:\n  <<: *a\n", "r").value == {"a": {"x": 1}, "b": {"<<": {"x": 1}}}


def test_lines_of_keys_and_items() -> None:
    text = "# first\na: 1\n\nb:\n  c: |\n    two\n    lines\n  d: [1,\n      2, {e: 3}]\nf:\n- x\n-\n  y\n"
    lines = parse_yaml(text, "r").lines
    expected: dict[KeyPath, int] = {
        ("a",): 2, ("b",): 4, ("b", "c"): 5, ("b", "d"): 8, ("b", "d", 0): 8, ("b", "d", 1): 9, ("b", "d", 2): 9,
        ("b", "d", 2, "e"): 9, ("f",): 10, ("f", 0): 11, ("f", 1): 13,
    }  # fmt: skip
    assert {path: lines[path] for path in expected} == expected
    assert lines.keys() - expected.keys() == {()}


def test_lines_hold_with_windows_line_ends_and_a_byte_order_mark() -> None:
    parsed = parse_yaml("\ufeffa: 1\r\nb:\r\n  c: 2\r\n  c: 3\r\n", "r")
    assert parsed.value == {"a": 1, "b": {"c": 2}}
    assert (parsed.lines["b", "c"], [each.where for each in parsed.problems]) == (3, ["r:4"])


def test_all_duplicates_come_at_once_and_the_first_counts() -> None:
    parsed = parse_yaml("a: 1\na: 2\nb: {c: 1, c: {d: 2}}\n'a': 3\nb: 4\n", "r")
    assert parsed.value == {"a": 1, "b": {"c": 1}}
    message = "is given twice, first in line {}; keep one of them"
    assert parsed.problems == [
        RecipeProblem("r:2", "a", message.format(1)), RecipeProblem("r:3", "b.c", message.format(3)),
        RecipeProblem("r:4", "a", message.format(1)), RecipeProblem("r:5", "b", message.format(3)),
    ]  # fmt: skip


def test_all_unknown_tags_come_at_once_and_nothing_is_built() -> None:
    text = (
        "a: !!python/object/apply:os.system [x]\nb: !mine 1\nc: !!binary AAAA\nd: !!set {e}\nf: !!omap [g: 1]\nh: !!int [1]\n"
        "i: !!str {j: 1}\nk: {l: !!python/name:os.system x}\n"
    )
    parsed = parse_yaml(text, "r")
    assert [(each.where, each.key) for each in parsed.problems] == [
        ("r:1", "a"), ("r:2", "b"), ("r:3", "c"), ("r:4", "d"), ("r:5", "f"), ("r:6", "h"), ("r:7", "i"), ("r:8", "k.l"),
    ]  # fmt: skip
    assert all("has the tag '" in each.message for each in parsed.problems)


def test_keys_that_are_no_names() -> None:
    parsed = parse_yaml("a:\n  ? [1]\n  : 2\n  {c: 1}: 3\n", "r")
    assert [str(each) for each in parsed.problems] == [
        "r:2: a: a key must be a plain name",
        "r:4: a: a key must be a plain name",
    ]


def test_aliases_stand_for_what_they_name() -> None:
    parsed = parse_yaml("a: &x {b: 1}\nc: *x\nd: [*x, *x]\n", "r")
    assert (parsed.value, parsed.problems) == ({"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}]}, [])


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "&r {a: {b: [*r]}}", "a: &a\n  - b: &b\n    - *a\n"])
def test_aliases_within_themselves(text: str) -> None:
    assert "has an alias that contains itself" in _said(parse_yaml(text, "r"))


def test_billion_laughs_are_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]
    started = time.monotonic()
    assert _said(parse_yaml("\n".join(lines), "r")).endswith(f"has more than {MAX_NODES:,} entries, too many for a recipe")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("opened", ["[", "{a: ", "- ", "? "])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 10, 500, 20_000])
def test_deep_nesting_is_one_problem(opened: str, depth: int) -> None:
    closed = {"[": "]", "{": "}"}.get(opened[0], "")
    (problem,) = parse_yaml(opened * depth + "1" + closed * depth, "r").problems[:1]
    assert problem.where == "r:1"
    assert "nested too deep" in problem.message or "a key must be a plain name" in problem.message


def test_nesting_within_the_limit_is_fine() -> None:
    assert parse_yaml("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), "r").problems == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\n---\nb: 2\n", 2, "another document"), ("a: 1\n...\nb: 2\n", 3, "another document"), ("a: \0", 1, "#x0000"),
        ("a: \x07", 1, "unacceptable character"), ("a: \ud800", 1, "unacceptable character"), ("a: 1\nb:\n\tc: 1\n", 3, "cannot start"),
        ("a: 1\nb: *x\n", 2, "undefined alias 'x'"), ("a: 1\nb: c: d\n", 2, "mapping values"), ("a: 1\n b: 2\n", 2, "mapping values"),
        ("a: 1\nb: 'x\n", 2, "end of stream"), ("%YAML 9.9\n---\na: 1\n", 1, "incompatible"), ('a: 1\nb: "\\xZZ"', 2, "hexdecimal"),
        ('a: "\\U00110000"', 1, "not valid YAML"), ("a: !<%FF> b", 1, "not valid YAML"),
    ],
)  # fmt: skip
def test_broken_yaml_is_one_problem_with_its_line(text: str, line: int, message: str) -> None:
    parsed = parse_yaml(text, "r")
    (problem,) = parsed.problems
    assert (problem.where, problem.key, parsed.value) == (f"r:{line}", "", None)
    assert message in problem.message


def test_half_characters_are_a_problem() -> None:
    assert _said(parse_yaml('a: {b: "x\\ud800"}', "r")) == "r:1: a.b: holds characters that are no text"


def test_numbers_that_are_none_stay_text() -> None:
    digits = "9" * 5000
    assert parse_yaml(f"a: {digits}\nb: !!int x\nc: !!float x\nd: 0x_\n", "r").value == {
        "a": digits,
        "b": "x",
        "c": "x",
        "d": "0x_",
    }


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "\ufeff"])
def test_empty_texts_hold_nothing(text: str) -> None:
    parsed = parse_yaml(text, "r")
    assert (parsed.value, parsed.problems) == (None, [])


def test_escapes_beyond_unicode() -> None:
    assert "not valid YAML" in _said(parse_yaml('a: "\\UFFFFFFFF"', "r"))


def test_forbidden_characters_are_located() -> None:
    assert [each.where for each in parse_yaml("a: 1\nb: \0\n", "r").problems] == ["r:2"]


def test_an_anchor_given_twice_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    assert parse_yaml("a: &x 1\nb: &x 2\nc: *x\n", "r").value == {"a": 1, "b": 2, "c": 2}
    assert [str(each.message) for each in recwarn] == []


def test_paths_are_written_as_users_write_them() -> None:
    assert dotted(("export", "artifacts", 2)) == "export.artifacts[2]"
    assert dotted((0, "a")) == "[0].a"
    assert dotted(()) == ""


@given(st.text(st.characters(), max_size=400), st.integers(10, 200))
def test_one_line_is_one_printable_line(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def _check_any(text: str) -> None:
    parsed = parse_yaml(text, "r.yaml")
    assert isinstance(parsed, Parsed)
    last = max(1, len(text.splitlines()))
    for each in parsed.problems:
        name, _, line = each.where.rpartition(":")
        assert name == "r.yaml"
        assert 1 <= int(line) <= last
        assert each.message.isprintable()
    # The line of the whole may be the one after the last, where a lone --- opens an empty document.
    assert all(1 <= line <= last for path, line in parsed.lines.items() if path)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_any_text_is_parsed(text: str) -> None:
    _check_any(text)


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")
@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(YAML_PIECES), max_size=40).map("".join))
def test_any_text_of_yaml_is_parsed(text: str) -> None:
    _check_any(text)
