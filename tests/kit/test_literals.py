"""Literals: every language reads back the text that was put in."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from edgekd.kit.literals import Code, cpp, kotlin, markdown, only_code, python, shell, swift
from tests.kit.made_up import HOSTILE


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800 half"])
def test_python_reads_it_back(text: str) -> None:
    assert ast.literal_eval(python(text)) == text
    assert ast.literal_eval(python({"labels": [text] * 30, "n": (1, None, True, 1e-5)})) == {
        "labels": [text] * 30, "n": (1, None, True, 1e-5),
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: apt install g++")
def test_cpp_reads_it_back(tmp_path: Path) -> None:
    texts = [each.replace("\0", "\x01") for each in HOSTILE]  # a C string ends at NUL
    lines = "".join(f"    std::printf(\"%s%c\", {cpp(text)}, '\\0');\n" for text in texts)
    (tmp_path / "a.cpp").write_text(f"#include <cstdio>\nint main() {{\n{lines}}}\n", encoding="ascii")
    subprocess.run(["g++", "-std=c++11", "-Werror", "-Wall", "-Wtrigraphs", "a.cpp", "-o", "a"], cwd=tmp_path, check=True)
    found = subprocess.run([str(tmp_path / "a")], capture_output=True, check=True).stdout
    assert found.decode().split("\0") == [*texts, ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_kotlin_has_json_escapes_and_no_templates(text: str) -> None:
    literal = kotlin(text)
    assert "$" not in literal
    assert json.loads(literal) == text  # the escapes that are used mean the same in JSON
    assert literal.isascii()
    assert literal.isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_swift_has_scalar_escapes_and_no_interpolation(text: str) -> None:
    literal = swift(text)
    assert literal.isascii()
    assert literal.isprintable()
    assert re.fullmatch(r'"([^"\\]|\\u\{[0-9a-f]{1,6}\})*"', literal)
    assert re.sub(r"\\u\{([0-9a-f]+)\}", lambda each: chr(int(each[1], 16)), literal[1:-1]) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_is_code_on_one_line(text: str) -> None:
    shown = markdown(text)
    assert "\n" not in shown
    assert "\r" not in shown
    fence = re.match("`+", shown)
    assert fence is not None
    assert shown.endswith(fence[0])
    assert fence[0] not in shown[len(fence[0]) : -len(fence[0])]


def test_shell_keeps_one_word() -> None:
    for text in HOSTILE:
        if "\0" not in text:
            done = subprocess.run(["sh", "-c", f"printf %s {shell(text)}"], capture_output=True, check=True)
            assert done.stdout.decode() == text


def test_halves_of_surrogates_become_replacement_characters() -> None:
    assert json.loads(kotlin("a\ud800b")) == "a\ufffdb"
    assert swift("\udc00") == '"\\u{fffd}"'
    assert cpp("\ud800") == '"\\357\\277\\275"'


@pytest.mark.parametrize(("value", "expected"), [(True, "true"), (False, "false"), (3, "3"), (-0.5, "-0.5"), (1e-7, "1e-07")])
def test_numbers(value: float, expected: str) -> None:
    assert cpp(value) == kotlin(value) == swift(value) == expected


@pytest.mark.parametrize("value", [None, [1]])
def test_other_values_are_a_mistake_of_the_template(value: object) -> None:
    for write in (cpp, kotlin, swift):
        with pytest.raises(TypeError):
            write(value)


def test_text_without_a_filter_is_a_mistake_of_the_template() -> None:
    assert only_code(Code("x")) == "x"
    assert only_code(3) == 3
    with pytest.raises(TypeError, match="not escaped"):
        only_code("label")


@pytest.mark.parametrize(("name", "write", "form"), [("kotlin", kotlin, "val a = {}\n"), ("swift", swift, "let a = {}\n")])
def test_a_parser_of_the_language_finds_one_string_without_errors(name: str, write: object, form: str) -> None:
    tree_sitter: ModuleType = pytest.importorskip("tree_sitter", reason=f"pip install tree-sitter tree-sitter-{name}")
    grammar: ModuleType = pytest.importorskip(f"tree_sitter_{name}", reason=f"pip install tree-sitter-{name}")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    for text in HOSTILE:
        source = form.format(write(text))  # type: ignore[operator]
        tree = parser.parse(source.encode())
        assert not tree.root_node.has_error, source
        assert "interpolat" not in str(tree.root_node), source
