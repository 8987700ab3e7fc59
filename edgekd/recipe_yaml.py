"""YAML 1.2 to plain values, with the line of everything and every mistake collected.

ruamel parses; the values are built here, because a recipe needs what no YAML library gives: all
duplicate keys at once, no types beyond plain data, and limits that a hostile file cannot pass.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from edgekd.errors import RecipeProblem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_NODES = 10_000
MAX_DEPTH = 40
_CORE = "tag:yaml.org,2002:"
_PLAIN_TEXT = {"str", "timestamp", "merge", "value"}
_TRUTH = {"true": True, "false": False}


@dataclass
class Parsed:
    """What a YAML text holds.

    Attributes:
        value: Dicts, lists, strings, numbers, booleans and ``None``.
        lines: Line of every key and list item, by its path.
        problems: Everything wrong with the text itself.
    """

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[RecipeProblem] = field(default_factory=list)


class _Hopeless(Exception):
    """The text cannot be read any further."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str, name: str) -> Parsed:
    """Parse ``text``; ``name`` stands before the line number in problems."""
    parsed = Parsed()
    last = max(1, len(text.splitlines()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an anchor given twice, which YAML allows
            node = YAML(typ="safe", pure=True).compose(text)
        if node is not None:
            parsed.value = _Builder(parsed, name, last).build(node, (), ())
    except _Hopeless as error:
        parsed.problems.append(RecipeProblem(f"{name}:{error.line}", "", str(error)))
    except RecursionError:
        parsed.problems.append(RecipeProblem(f"{name}:1", "", "is nested too deep for a recipe"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line + 1, last) if mark else 1
        parsed.problems.append(
            RecipeProblem(f"{name}:{line}", "", f"is not valid YAML: {one_line(error.problem or error.context)}")
        )
    except ReaderError as error:
        line = min(text[: error.position].count("\n") + 1, last)
        parsed.problems.append(RecipeProblem(f"{name}:{line}", "", f"is not valid YAML: {one_line(error)}"))
    except (
        YAMLError,
        OverflowError,
        ValueError,
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        NotImplementedError,
    ) as error:
        # The parser itself stumbles over some malformed input, with exceptions of any of these types.
        parsed.problems.append(RecipeProblem(f"{name}:1", "", f"is not valid YAML: {one_line(error)}"))
    return parsed


def one_line(value: object, limit: int = 160) -> str:
    """Return ``value`` as text on one line, control characters escaped, shortened to ``limit``."""
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(str(value).split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Builder:
    def __init__(self, parsed: Parsed, name: str, last_line: int) -> None:
        self.parsed, self.name, self.last_line, self.count = parsed, name, last_line, 0

    def build(self, node: Node, path: KeyPath, above: tuple[int, ...]) -> Any:
        line = self._line(node)
        self.count += 1
        if self.count > MAX_NODES:
            raise _Hopeless(f"has more than {MAX_NODES:,} entries, too many for a recipe", line)
        if id(node) in above:
            raise _Hopeless("has an alias that contains itself", line)
        if len(above) > MAX_DEPTH:
            raise _Hopeless("is nested too deep for a recipe", line)
        self.parsed.lines.setdefault(path, line)
        above = (*above, id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path, above)
        if isinstance(node, SequenceNode):
            self._check_tag(node, "seq", path, line)
            return [self.build(item, (*path, index), above) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path, line)

    def _mapping(self, node: MappingNode, path: KeyPath, above: tuple[int, ...]) -> dict[str, Any]:
        self._check_tag(node, "map", path, self._line(node))
        built: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = self._line(key_node)
            if not isinstance(key_node, ScalarNode):
                self._problem(line, path, "a key must be a plain name")
                continue
            key = str(key_node.value)
            if key in first_lines:
                self._problem(line, (*path, key), f"is given twice, first in line {first_lines[key]}; keep one of them")
                continue
            first_lines[key] = line
            self.parsed.lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key), above)
        return built

    def _line(self, node: Node) -> int:
        """Return where a node starts; one that is nowhere, such as the value after a last colon, is in the last line."""
        return min(int(node.start_mark.line) + 1, self.last_line)

    def _scalar(self, node: ScalarNode, path: KeyPath, line: int) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_CORE)
        if any("\ud800" <= each <= "\udfff" for each in text):
            self._problem(line, path, "holds characters that are no text")
            return "?"
        try:
            if kind in _PLAIN_TEXT:
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return _TRUTH[text.lower()]
            if kind == "int":
                return int(text.replace("_", ""), 10 if text.lstrip("+-").isdecimal() else 0)
            if kind == "float":
                return _number(text)
        except (ValueError, KeyError):
            return text  # such as an integer of 5,000 digits: the bounds of its field refuse it as text
        self._problem(
            line, path, f"has the tag '{one_line(node.tag, 60)}'; recipes hold plain text, numbers, true, false and null"
        )
        return text

    def _check_tag(self, node: Node, plain: str, path: KeyPath, line: int) -> None:
        if str(node.tag) != _CORE + plain:
            self._problem(line, path, f"has the tag '{one_line(node.tag, 60)}'; recipes hold plain data")

    def _problem(self, line: int, path: KeyPath, message: str) -> None:
        self.parsed.problems.append(RecipeProblem(f"{self.name}:{line}", dotted(path), message))


def _number(text: str) -> float:
    lowered = text.lower().lstrip("+")
    if lowered in {".nan", ".inf", "-.inf"}:
        return {".nan": math.nan, ".inf": math.inf, "-.inf": -math.inf}[lowered]
    return float(text.replace("_", ""))


def dotted(path: KeyPath) -> str:
    """Return a path as users write it: ``export.artifacts[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return one_line(text.removeprefix("."), 120)
