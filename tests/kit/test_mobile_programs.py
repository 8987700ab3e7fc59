"""The Kotlin and Swift programs of a kit. There is no compiler for them here: a parser of each language reads them, where it is
installed, and the constants in them are compared with the run's."""

import json
import re
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekd.kit.kit import write_kits
from tests.kit.made_up import HOSTILE, image_spec, write_run
from tests.kit.tflite_run import CONTENT, as_tflite

NAME = 'im"age\\ $x ${y} \\(z)\n"""\'\' */ ünï/🦊'
PROGRAMS = {"android": "GoldenTest.kt", "ios": "GoldenTests.swift"}


@pytest.fixture(scope="module", params=["int8", "float32"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = np.random.default_rng(0).integers(0, 256, size=(24, 4, 5, 3)).astype(np.uint8)
    folder = tmp_path_factory.mktemp(request.param) / "run"
    write_run(folder, (image_spec((3, 4, 5), NAME),), HOSTILE, {NAME: raw}, {NAME: 255.0}, NAME, HOSTILE[:20], f"{NAME}2")
    as_tflite(folder, request.param)
    return folder


def _kit(run: Path, target: str) -> tuple[Path, str]:
    (kit,) = write_kits(run, [target]).written
    return kit.folder, (kit.folder / PROGRAMS[target]).read_text(encoding="utf-8")


def _golden(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "golden" / "student.int8.tflite" / "golden.json").read_text())
    return content


def _strings(source: str, target: str) -> list[str]:
    """Return every string literal of the program as the language reads it; independent of how they were written."""
    found = re.findall(r'"((?:[^"\\\n]|\\.)*)"', re.sub(r"^\s*//.*$", "", source, flags=re.M))
    if target == "android":
        return [json.loads(f'"{each}"') for each in found]
    return [re.sub(r"\\u\{([0-9a-f]+)\}", lambda code: chr(int(code[1], 16)), each) for each in found]


@pytest.mark.parametrize("target", PROGRAMS)
def test_the_constants_are_the_runs(run: Path, target: str) -> None:
    _, source = _kit(run, target)
    golden, strings = _golden(run), _strings(source, target)
    dtype = golden["inputs"][0]["dtype"]
    for text in (NAME, f"{NAME}2", "student.int8.tflite", golden["rule"], dtype, *HOSTILE[:20]):
        assert text in strings, text
    for sample in golden["samples"]:
        assert strings.count(HOSTILE[sample["top1"]]) >= 1
        assert repr(sample["margin"]) in source
    for each in (*golden["inputs"], *golden["outputs"]):
        assert each["sha256"] in strings
        assert each["file"] in strings
        size = int(np.prod(each["shape"][1:])) * np.dtype(dtype).itemsize
        assert re.search(rf"\b{size}\b", source)
    for value in golden["outputs"][0]["tolerance"]:
        assert repr(value) in source
    assert len(re.findall(r"\bSample\(", source)) == 24 + (target == "android")  # its class has one too


@pytest.mark.parametrize("target", PROGRAMS)
def test_every_file_that_it_opens_is_there(run: Path, target: str) -> None:
    folder, source = _kit(run, target)
    root = folder / ("assets/edgekd" if target == "android" else "resources")
    golden = _golden(run)
    place = root / "golden" if target == "android" else root
    assert (root / "student.int8.tflite").read_bytes() == CONTENT
    for each in (*golden["inputs"], *golden["outputs"]):
        original = run / "golden" / "student.int8.tflite" / each["file"]
        assert zlib.crc32((place / each["file"]).read_bytes()) == zlib.crc32(original.read_bytes())
    assert (place / "golden.json").is_file()
    assert json.loads((root / "labels.json").read_text()) == list(HOSTILE)
    for name in re.findall(r'"((?:golden/)?[a-z0-9_.]+\.(?:bin|tflite))"', source):
        assert (root / name).is_file() or (place / name).is_file(), name


@pytest.mark.parametrize("target", PROGRAMS)
def test_brackets_are_in_pairs(run: Path, target: str) -> None:
    _, source = _kit(run, target)
    assert source.isascii()
    code = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', re.sub(r"//.*$", "", source, flags=re.M))
    waiting = []
    for each in code:
        if each in "([{":
            waiting.append(each)
        elif each in ")]}":
            assert waiting.pop() + each in {"()", "[]", "{}"}
    assert not waiting


@pytest.mark.parametrize(("target", "language"), [("android", "kotlin"), ("ios", "swift")])
def test_a_parser_of_the_language_reads_it(run: Path, target: str, language: str) -> None:
    tree_sitter: ModuleType = pytest.importorskip("tree_sitter", reason=f"pip install tree-sitter tree-sitter-{language}")
    grammar: ModuleType = pytest.importorskip(f"tree_sitter_{language}", reason=f"pip install tree-sitter-{language}")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    folder, source = _kit(run, target)
    assert not parser.parse(source.encode()).root_node.has_error
    if target == "android":
        assert not parser.parse((folder / "build.gradle.kts").read_bytes()).root_node.has_error
    assert parser.parse(source.replace("Sample(", "Sample((", 1).encode()).root_node.has_error  # it does look
