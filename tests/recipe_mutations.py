"""Seeded ways to break the shipped recipes, with the key and line that an error must name where they are known."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from edgekd.recipe import Recipe
from edgekd.recipe_file import commented_recipe, load_recipe, shipped_recipes

WRONG_TYPES = ["[]", "{}", "{a: 1}", "[1, 2]", "!!binary AAAA", "!x y"]
FAR_OFF = ["-1000000000", "1e300", ".inf", "-.inf", ".nan", "99999999999999999999", "0x" + "f" * 40]
EMPTY_IS_FINE = {"distill.assistants", "quantize.keep", "teacher.ensemble"}
"""Keys that a list without anything in it is right for."""
MAPPINGS = {"teacher.arguments", "student.arguments"}
"""Keys that any mapping is right for: only the network knows its arguments."""
SECTIONS = {name: list(value) for name, value in Recipe().model_dump().items() if isinstance(value, dict)}
BEYOND = {
    "seed": "4294967296", "threads": "0", "data.image_size": "3", "data.validation": "0.9", "data.test": "0",
    "data.augment.crop_padding": "-1", "teacher.train.epochs": "0", "teacher.train.learning_rate": "0",
    "distill.temperature": "0.049", "distill.train.batch_size": "1", "distill.train.label_smoothing": "1",
    "quantize.calibration_samples": "100001", "gates.fp32_max_error": "1.001", "gates.int8_weight_share": "-1e-9",
    "quantize.max_drop": "-1", "gates.max_size_kib": "0", "benchmark.runs": "9",
}  # fmt: skip


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
        _misplaced, _out_of_range, _unknown_tag, _huge_number, _cut_off, _several_documents, _flattened,
    ]  # fmt: skip
    # Written out in full, so that every key is on a line of its own and can be broken.
    bases = [commented_recipe(base).splitlines() for base in (Recipe(), *map(load_recipe, shipped_recipes().values()))]
    return [kinds[index % len(kinds)](list(bases[index // len(kinds) % len(bases)]), chance) for index in range(count)]


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
    wrong = [each for each in values if each != "[]" or key not in EMPTY_IS_FINE]
    wrong = [each for each in wrong if each[0] != "{" or key not in MAPPINGS]
    lines[index] = f"{_indent(lines[index])}{name}: {chance.choice(wrong)}"
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


def _misplaced(lines: list[str], chance: random.Random) -> Mutation:
    """Move a key to the end of a section that has none of that name."""
    index, key, _ = chance.choice([entry for entry in _entries(lines) if entry[1].count(".")])
    name = key.rpartition(".")[2]
    section = chance.choice([each for each in SECTIONS if name not in SECTIONS[each]])
    moved = "  " + lines.pop(index).strip()
    opening = lines.index(f"{section}:") + 1
    lines.insert(opening, moved)
    return Mutation("misplaced", "\n".join(lines), f"{section}.{name}", opening + 1)


def _out_of_range(lines: list[str], chance: random.Random) -> Mutation:
    """Give a number just beyond the bounds of its field."""
    wanted, value = chance.choice(list(BEYOND.items()))
    index = next(index for index, key, _ in _entries(lines) if key == wanted)
    lines[index] = f"{_indent(lines[index])}{wanted.rpartition('.')[2]}: {value}"
    return Mutation("out of range", "\n".join(lines), wanted, index + 1)


def _unknown_tag(lines: list[str], chance: random.Random) -> Mutation:
    index, key, value = chance.choice(_entries(lines))
    tag = chance.choice(["!x", "!!python/object/apply:os.system", "!!binary", "!!set", "!<tag:example.org,2000:t>"])
    lines[index] = f"{_indent(lines[index])}{key.rpartition('.')[2]}: {tag} {value}"
    return Mutation("unknown tag", "\n".join(lines), key, index + 1)


_WORDS = {
    "name", "data.input_column", "data.label_column", "data.tokenizer", "teacher.weights", "teacher.labels",
    "teacher.preprocess.output", "student.weights",
}  # fmt: skip
"""Keys whose value is any text; a number there is the name of something."""


def _huge_number(lines: list[str], chance: random.Random) -> Mutation:
    values = ["9" * 30, "9" * 4000, "9" * 6000, "-" + "9" * 400, "0x" + "f" * 400, "1" + "0" * 400 + ".5", "1e99999"]
    index, key, _ = chance.choice([entry for entry in _entries(lines) if entry[1] not in _WORDS])
    lines[index] = f"{_indent(lines[index])}{key.rpartition('.')[2]}: {chance.choice(values)}"
    return Mutation("huge number", "\n".join(lines), key, index + 1)


def _cut_off(lines: list[str], chance: random.Random) -> Mutation:
    text = "\n".join(lines)
    return Mutation("cut off", text[: chance.randrange(len(text))])


def _several_documents(lines: list[str], chance: random.Random) -> Mutation:
    index = chance.choice([index for index, line in enumerate(lines) if line[:1].isalpha()][1:])
    lines.insert(index, "---")
    return Mutation("several documents", "\n".join(lines), None, index + 1)


def _flattened(lines: list[str], chance: random.Random) -> Mutation:
    """Give a section a plain value, or a list, where its keys should be."""
    section, value = chance.choice(list(SECTIONS)), chance.choice(["5", "text", "[]", "true", "[{epochs: 3}]", ".nan"])
    opening = lines.index(f"{section}:")
    end = next((each for each in range(opening + 1, len(lines)) if lines[each][:1] not in {" "}), len(lines))
    lines[opening:end] = [f"{section}: {value}"]
    return Mutation("flattened", "\n".join(lines), section, opening + 1)
