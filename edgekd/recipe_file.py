"""Recipes in files: find, read with overrides, and write them.

Everything wrong is reported at once, each with its file and line, the dotted key, what was found,
what is allowed, and what was probably meant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgekd.errors import RecipeError, RecipeProblem, UsageError
from edgekd.names import did_you_mean
from edgekd.recipe import Recipe, Section
from edgekd.recipe_yaml import MAX_BYTES, MAX_DEPTH, KeyPath, Parsed, dotted, one_line, parse_yaml

_MAX_INTEGER_BITS = 4_096


def shipped_recipes() -> dict[str, Path]:
    """Return ``{name: file}`` of the recipes that come with edgekd, sorted."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a recipe given by path or by shipped name; an existing file wins.

    Raises:
        UsageError: There is neither.
    """
    shipped = shipped_recipes()
    try:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        if name_or_path in shipped:
            return shipped[name_or_path]
        if name_or_path and path.is_dir():
            raise UsageError(f"recipe {_escaped(path)} is a folder, not a file", "name the YAML file in it")
    except (OSError, RuntimeError, ValueError):
        pass  # a name no file can have: too long, with a NUL, or of a user that does not exist
    raise UsageError(
        f"no recipe '{_escaped(name_or_path, 160)}': there is no such file, and no shipped recipe of that name"
        + did_you_mean(name_or_path, shipped),
        f"shipped recipes: {', '.join(shipped)}; `edgekd init` writes one to start from",
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe at ``path``, changed by ``key=value`` overrides.

    Raises:
        RecipeError: Something in it is wrong; ``problems`` lists all of it.
        UsageError: The file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read recipe {_escaped(path)}: {reason}") from error
    name = _escaped(path)  # whole: editors and people open what it says
    if len(content) > MAX_BYTES:
        raise RecipeError([RecipeProblem(f"{name}:1", "", f"is larger than {MAX_BYTES >> 20} MiB, too large for a recipe")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError([RecipeProblem(f"{name}:{line}", "", "is not UTF-8 text")]) from None
    parsed = _writable_yaml(text, name)
    if not parsed.problems and parsed.value is None:
        raise RecipeError([RecipeProblem(f"{name}:1", "", "is empty")], "`edgekd init` writes a recipe to start from")
    return _validated(parsed, name, overrides)


def recipe_from_mapping(mapping: Mapping[str, object], overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that a mapping of plain values describes, changed by overrides.

    Raises:
        RecipeError: Something in it is wrong.
    """
    try:
        text = json.dumps(mapping, default=_plain_mapping, ensure_ascii=False)
        text.encode()  # refuses characters that are no text, which JSON would let pass
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError([RecipeProblem("recipe", "", f"is not plain data: {one_line(error)}")]) from None
    return _validated(Parsed(value), "recipe", overrides)


def _plain_mapping(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _validated(parsed: Parsed, name: str, overrides: Sequence[str]) -> Recipe:
    problems = list(parsed.problems)
    tree = parsed.value
    top = f"{name}:1" if parsed.lines else name
    if not isinstance(tree, dict):
        if not problems:
            problems.append(RecipeProblem(top, "", f"must be a mapping of sections, found {_shown(tree)}"))
        raise RecipeError(problems)
    places = {path: f"{name}:{line}" for path, line in parsed.lines.items()}
    for override in overrides:
        problems += _apply(override, tree, places)
    try:
        recipe = Recipe.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        for each in error.errors(include_url=False):
            path = tuple(each["loc"])
            if each["type"] == "too_short" and len(_at(path, tree)) >= each["ctx"]["min_length"]:
                continue  # pydantic counts the good items only, and the bad ones have their own problems
            problems.append(RecipeProblem(_place(path, places, top), dotted(path), _explain(each, path, tree)))
    except RecursionError:
        problems.append(RecipeProblem(top, "", "is nested too deep for a recipe"))
    else:
        if not problems:
            return recipe
    raise RecipeError(sorted(dict.fromkeys(problems), key=_file_order))


def _writable_yaml(text: str, name: str) -> Parsed:
    """Parse ``text``; whatever it holds, ``json.dumps`` and pydantic can take it."""
    parsed = parse_yaml(text, name)
    lines = {tuple(map(_writable, path)): line for path, line in parsed.lines.items()}
    return Parsed(_writable(parsed.value), lines, parsed.problems)


def _writable(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: half characters escaped, integers too long for decimals as text."""
    if isinstance(value, dict):
        return {_writable(key): _writable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_writable(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return hex(value) if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS else value


def _file_order(problem: RecipeProblem) -> tuple[bool, int]:
    line = problem.where.rpartition(":")[2]
    is_override = problem.where.startswith("override ")
    return is_override, 0 if is_override or not line.isdecimal() else int(line)


def _place(path: KeyPath, places: dict[KeyPath, str], default: str) -> str:
    """Return where ``path`` is, or the nearest part of it that is anywhere."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return default


def _apply(override: str, tree: dict[str, Any], places: dict[KeyPath, str]) -> list[RecipeProblem]:
    """Put one ``key=value`` into ``tree``; return what is wrong with it."""
    where = f"override '{_escaped(override, 160)}'"
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path) or not key.isprintable():
        return [RecipeProblem(where, "", "must be KEY=VALUE, for example distill.temperature=2")]
    if len(path) > MAX_DEPTH:
        return [RecipeProblem(where, dotted(path), "is nested too deep for a recipe")]
    parsed = _writable_yaml(text, "override")
    if parsed.problems:
        return [RecipeProblem(where, dotted(path), each.message) for each in parsed.problems]
    section: Any = tree
    for length, part in enumerate(path[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
            places[path[:length]] = where
        section = section[part]
        if not isinstance(section, dict):
            return [RecipeProblem(where, dotted(path), f"'{dotted(path[:length])}' is a value, not a section")]
    section[path[-1]] = parsed.value
    for known in [each for each in places if each[: len(path)] == path]:
        del places[known]
    places[path] = where
    return []


def _explain(error: Any, path: KeyPath, tree: Any) -> str:
    if error["type"] == "extra_forbidden":
        return _explain_unknown(path)
    if error["type"] == "json_invalid":  # it is JSON that json.dumps wrote, so only its depth can be wrong
        return "is nested too deep for a recipe"
    if error["type"] == "missing":
        return f"must be given: {_allowed(_schema(path))}"
    found = _at(path, tree)
    if error["type"] == "value_error":
        message = str(error["msg"]).removeprefix("Value error, ")
        # The message quotes what was found, or what follows its colon: keep a long one from hiding the advice.
        for quoted in (found, found.partition(":")[2]) if isinstance(found, str) else ():
            message = message.replace(f"'{quoted}'", f"'{_escaped(quoted, 60)}'")
        return _escaped(message, 400)
    schema = _schema(path)
    meant = did_you_mean(found, map(str, schema.get("enum", []))) if isinstance(found, str) else ""
    return f"must be {_allowed(schema)}, found {_shown(found)}{meant}"


def _at(path: KeyPath, tree: Any) -> Any:
    for part in path:
        if isinstance(tree, list | dict):
            tree = tree[part]  # type: ignore[index]  # pydantic walked this very path
    return tree


def _explain_unknown(path: KeyPath) -> str:
    name = str(path[-1])
    siblings = list(_filled(_schema(path[:-1])).get("properties", {}))
    close = did_you_mean(name, siblings)
    homes = _homes(Recipe, name, ()) if not close else []
    # A home further down the section that was written is what was meant, if there is one.
    homes = [home for home in homes if path[:-1] and home[: len(path) - 1] == path[:-1]] or homes
    belongs = "; it belongs at " + " or ".join(f"'{dotted(home)}'" for home in homes) if homes else ""
    return f"unknown key, allowed here: {', '.join(siblings)}{close}{belongs}"


def _homes(section: type[BaseModel], name: str, path: KeyPath) -> list[KeyPath]:
    """Return every path of the recipe that ends in ``name``."""
    found = []
    for key, info in section.model_fields.items():
        if key == name:
            found.append((*path, key))
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found += _homes(info.annotation, name, (*path, key))
    return found


@cache
def _whole_schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _schema(path: KeyPath) -> dict[str, Any]:
    """Return the JSON schema of the field at ``path``, as far as there is one."""
    schema = _resolved(_whole_schema())
    for part in path:
        schema = _filled(schema)
        schema = _resolved(schema.get("items", {}) if isinstance(part, int) else schema.get("properties", {}).get(part, {}))
    return schema


def _filled(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what a field holds where it is not null."""
    filled = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    return _resolved(filled[0]) if len(filled) == 1 else schema


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref") or next((each["$ref"] for each in schema.get("allOf", []) if "$ref" in each), None)
    found: dict[str, Any] = _whole_schema()["$defs"][reference.rpartition("/")[2]] if reference else schema
    return found


def _allowed(schema: dict[str, Any]) -> str:
    """Say in words what a field takes."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        choices = [str(each) for each in schema.get("enum", [schema.get("const")])]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        return ("an integer" if kind == "integer" else "a number") + _bounds(schema)
    if kind == "array":
        return f"a list of at least {schema.get('minItems', 0)}, each {_allowed(schema['items'])}"
    if kind == "object":
        return "a section with the keys " + ", ".join(schema.get("properties", {}))
    if kind == "string":
        limits = schema.get("minLength"), schema.get("maxLength")
        return "text" if None in limits else f"text of {limits[0]} to {limits[1]} characters"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "something else")


def _bounds(schema: dict[str, Any]) -> str:
    words = [
        f"{word} {schema[key]:,}" if isinstance(schema[key], int) else f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    return f" {' and '.join(words)}" if words else ""


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    return _escaped(json.dumps(value, ensure_ascii=False), 60)


def _escaped(value: object, limit: int = 4_096) -> str:
    """Return ``value`` on one line, spaces as they are, all that cannot be seen escaped, shortened to ``limit``."""
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(value)[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, every default filled in. :func:`load_recipe` reads it back to an equal one."""
    return "\n".join(_emit(recipe, "", comments=False)) + "\n"


def commented_recipe(recipe: Recipe | None = None) -> str:
    """Return a recipe as YAML with the meaning of every key beside it; the default recipe if none is given."""
    head = [
        "# A recipe of edgekd. Run it with: edgekd compress FILE --out FOLDER",
        "# Every key may be left out; shown are all.",
        "",
    ]
    return "\n".join([*head, *_emit(recipe or Recipe(), "", comments=True)]) + "\n"


def _emit(section: BaseModel, indent: str, *, comments: bool) -> list[str]:
    lines = []
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            if comments:
                lines += ([""] if not indent else []) + [f"{indent}# {info.description}"]
            lines += [f"{indent}{key}:", *_emit(value, indent + "  ", comments=comments)]
        else:
            entry = f"{indent}{key}: {_emit_value(value)}"
            lines.append(f"{entry:<40}  # {info.description}" if comments else entry)
    return lines


def _emit_value(value: object) -> str:
    # JSON is YAML 1.2; only plain words go without quotes, for people's eyes.
    if isinstance(value, tuple) and not any(isinstance(each, BaseModel) for each in value):
        return "[" + ", ".join(_emit_value(each) for each in value) + "]"
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum() and value.isascii() and value[0].isalpha():
        return value if value.lower() not in {"true", "false", "null"} else json.dumps(value)
    text = json.dumps(value, ensure_ascii=False, default=lambda section: section.model_dump(mode="json"))
    # YAML files may hold printable characters only; its escapes, unlike JSON's, reach all others in one piece.
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
