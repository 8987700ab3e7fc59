"""Seeded ways to break a recipe, with the key and line that an error must name where they are known."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from edgekd.recipe import Recipe
from edgekd.recipe_file import commented_recipe

WRONG_TYPES = ["[]", "{}", "{a: 1}", "[1, 2]", "!!binary AAAA", "!x y"]
FAR_OFF = ["-1000000000", "1e300", ".inf", "-.inf", ".nan", "99999999999999999999", "0x" + "f" * 40]


@dataclass(frozen=True)
class Mutation:
    """A broken recipe: its text, and the dotted key and 1-based line that are wrong, if one thing is."""

    name: str
    text: str
    key: str | None = None
    line: int | None = None


def mutations(count: int, seed: int) -> list[Mutation]:
    """Return ``count`` broken recipes."""
    chance = random.Random(seed)
    kinds: list[Callable[[list[str], random.Random], Mutation]] = [
        _renamed, _duplicated, _wrong_type, _far_off, _unknown_section, _unclosed, _tab, _indented, _alias, _bytes, _nested,
    ]  # fmt: skip
    lines = commented_recipe(Recipe()).splitlines()
    return [kinds[index % len(kinds)](list(lines), chance) for index in range(count)]


def _entries(lines: list[str]) -> list[tuple[int, str, str]]:
    """Return (index, dotted key, value) of every line that gives a value."""
    found, path = [], [""] * 4
    for index, line in enumerate(lines):
        bare = line.split("  #")[0].rstrip()
        if not bare or bare.lstrip().startswith("#"):
            continue
        depth = (len(bare) - len(bare.lstrip())) // 2
        name, _, value = bare.strip().partition(":")
        path[depth] = name
        if value.strip():
            found.append((index, ".".join(path[: depth + 1]), value.strip()))
    return found


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _renamed(lines: list[str], chance: random.Random) -> Mutation:
    index, key, value = chance.choice(_entries(lines))
    parent, _, name = key.rpartition(".")
    letter = chance.randrange(len(name))
    wrong = name[:letter] + name[letter] + "x" + name[letter + 1 :]
    lines[index] = f"{_indent(lines[index])}{wrong}: {value}"
    return Mutation("renamed", "\n".join(lines), f"{parent}.{wrong}".lstrip("."), index + 1)


def _duplicated(lines: list[str], chance: random.Random) -> Mutation:
    index, key, _ = chance.choice(_entries(lines))
    lines.insert(index + 1, lines[index])
    return Mutation("duplicated", "\n".join(lines), key, index + 2)


def _replaced(kind: str, lines: list[str], chance: random.Random, values: list[str]) -> Mutation:
    index, key, _ = chance.choice(_entries(lines))
    name = key.rpartition(".")[2]
    lines[index] = f"{_indent(lines[index])}{name}: {chance.choice(values)}"
    return Mutation(kind, "\n".join(lines), key, index + 1)


def _wrong_type(lines: list[str], chance: random.Random) -> Mutation:
    return _replaced("wrong type", lines, chance, WRONG_TYPES)


def _far_off(lines: list[str], chance: random.Random) -> Mutation:
    return _replaced("far off", lines, chance, FAR_OFF)


def _unknown_section(lines: list[str], chance: random.Random) -> Mutation:
    name = "section" + str(chance.randrange(1000))
    return Mutation("unknown section", "\n".join([*lines, f"{name}:", "  epochs: 3"]), name, len(lines) + 1)


def _unclosed(lines: list[str], chance: random.Random) -> Mutation:
    index, key, _ = chance.choice(_entries(lines))
    name = key.rpartition(".")[2]
    opened = chance.choice(["[1, 2", "{a: 1", '"text', "'text"])
    lines[index] = f"{_indent(lines[index])}{name}: {opened}"
    return Mutation("unclosed", "\n".join(lines))


def _tab(lines: list[str], chance: random.Random) -> Mutation:
    index, _, _ = chance.choice(_entries(lines))
    lines[index] = "\t" + lines[index]
    return Mutation("tab", "\n".join(lines))


def _indented(lines: list[str], chance: random.Random) -> Mutation:
    index, _, _ = chance.choice(_entries(lines))
    lines[index] = " " * chance.randrange(1, 6) + lines[index]
    return Mutation("indented", "\n".join(lines))


def _alias(lines: list[str], chance: random.Random) -> Mutation:
    index, key, _ = chance.choice(_entries(lines))
    name = key.rpartition(".")[2]
    value = chance.choice(["*nowhere", "&a [*a]", "&a {b: *a}"])
    lines[index] = f"{_indent(lines[index])}{name}: {value}"
    return Mutation("alias", "\n".join(lines))


def _bytes(lines: list[str], chance: random.Random) -> Mutation:
    text = list("\n".join(lines))
    for _ in range(chance.randrange(1, 6)):
        text[chance.randrange(len(text))] = chance.choice("\x00\x01\t:{}[]&*!|>'\"%@`#-?,\n é\u2028\x85")
    return Mutation("bytes", "".join(text))


def _nested(lines: list[str], chance: random.Random) -> Mutation:
    depth = chance.choice([60, 500, 5000])
    index, key, _ = chance.choice(_entries(lines))
    name = key.rpartition(".")[2]
    lines[index] = f"{_indent(lines[index])}{name}: {chance.choice('[{') * depth}"
    return Mutation("nested", "\n".join(lines))
