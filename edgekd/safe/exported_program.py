"""Programs saved by ``torch.export.save``, loaded as data.

``torch.export.load`` trusts its file: it unpickles constants and example inputs, evaluates size expressions through
sympy, and looks operators up by name from all of ``torch``, which holds ``os``. So everything in the archive that such a
step would read is checked first, and while it loads, whatever would unpickle freely is made to refuse.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from edgekd.errors import ModelError

_MOST_JSON_BYTES = 256 << 20
_MOST_EXPRESSION = 2_000
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=!&|~.]*")
_WORD = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_FUNCTIONS = frozenset({
    "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CeilToInt", "FloorToInt", "CleanDiv", "IntTrueDiv",
    "FloatTrueDiv", "ToFloat", "TruncToInt", "TruncToFloat", "RoundToInt", "Where", "ModularIndexing", "PowByNatural",
    "FloatPow", "Abs", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "And", "Or", "Not", "True", "False", "floor", "ceiling", "sqrt",
    "log", "exp", "oo", "int_oo", "Piecewise", "Identity", "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow",
    "positive", "nonnegative", "integer", "real", "finite", "precision", "Equality", "Unequality", "LessThan", "StrictLessThan",
    "GreaterThan", "StrictGreaterThan", "Infinity", "NegativeInfinity",
})  # fmt: skip
_QUOTED = re.compile(r"(Symbol\(|Float\()'(?:[a-z]+\d+|[\d.e+-]+)'")
_SYMBOL = re.compile(r"[a-z]+\d+")
_TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized_decomposed)\.\w+(?:\.\w+)?"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|xor)"
    r"|math\.(?:ceil|floor|trunc|sqrt|exp|log|log2|pow|isqrt)"
    r"|torch\.(?:sym_int|sym_float|sym_max|sym_min|sym_not|sym_ite|sym_sum|_sym_sqrt)"
)
_FILE_OPERATORS = re.compile(r"torch\.ops\.aten\.(?:from_file|_print|_assert_scalar_print)\b")
_CODE_IN_TREES = ("defaultdict", "namedtuple", "functools", "importlib")
_HINT = "save it again with torch.export.save, from a module with plain tensors"


def load_exported_program(path: Path) -> torch.export.ExportedProgram:
    """Load ``path``, running nothing that it holds.

    Raises:
        ModelError: It is broken, was saved by an old PyTorch, or holds something that would run code.
    """
    _check(path)
    try:
        with _no_free_pickles():
            return torch.export.load(path)
    except ModelError:
        raise
    except Exception as error:  # whatever PyTorch's deserializer raises on a file it does not understand
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"PyTorch {torch.__version__} cannot load {path}: {first}", _HINT) from None


def _check(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise ModelError(
                    f"{path} is no program in the pt2 format", "save it with torch.export.save of PyTorch 2.8 or newer"
                )
            for name in names:
                _check_member(path, archive, name)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is a broken pt2 file: {str(error)[:200]}", "copy or save it again") from None


def _check_member(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    inside = name.partition("/")[2]
    if inside.startswith("data/aotinductor") or inside.endswith((".so", ".cubin", ".py")):
        raise ModelError(f"{path} holds compiled code ({inside})", "save the exported program, not the compiled one")
    if inside.endswith(".json"):
        if archive.getinfo(name).file_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path}: {inside} is too large to be the description of a program")
        content = json.loads(archive.read(name))
        if inside.endswith("_config.json"):
            _check_payloads(path, content)
        else:
            _check_program(path, content)
    elif inside.startswith("data/sample_inputs/"):
        try:
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        except Exception as error:  # torn and hostile pickles raise many types
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise ModelError(
                f"{path}: its sample inputs are more than tensors, loading them would run code: {first}", _HINT
            ) from None


def _check_payloads(path: Path, content: Any) -> None:
    for name, payload in content.get("config", {}).items():
        if (
            payload.get("use_pickle")
            or "custom_obj" in str(payload.get("path_name"))
            or "opaque" in str(payload.get("path_name"))
        ):
            raise ModelError(f"{path}: '{name[:80]}' is stored as a pickle, which could run code", _HINT)


def _check_program(path: Path, content: Any) -> None:
    for key, value in _strings(content):
        if key == "expr_str" and not _is_expression(value):
            raise ModelError(f"{path} holds '{value[:60]}' where the size of a tensor should be", _HINT)
        if key == "target" and (not _TARGET.fullmatch(value) or _FILE_OPERATORS.match(value)):
            raise ModelError(f"{path} calls '{value[:80]}', which is no tensor operation", _HINT)
        if key in {"in_spec", "out_spec"} and any(word in value for word in _CODE_IN_TREES):
            raise ModelError(f"{path} takes or gives something else than tensors, lists and mappings", _HINT)


def _strings(content: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a JSON tree, with the key of the mapping it is in."""
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        key, each = stack.pop()
        if isinstance(each, str):
            yield key, each
        elif isinstance(each, dict):
            # Input specs name the parameter they feed as their target; a node names what it calls.
            is_node = "target" in each and "inputs" in each
            stack += [(name if name != "target" or is_node else "name", value) for name, value in each.items()]
        elif isinstance(each, list):
            stack += [(key, value) for value in each]


def _is_expression(text: str) -> bool:
    text = _QUOTED.sub(r"\1", text)
    if len(text) > _MOST_EXPRESSION or not _EXPRESSION.fullmatch(text):
        return False
    return all(word in _FUNCTIONS or _SYMBOL.fullmatch(word) for word in _WORD.findall(text))


@contextmanager
def _no_free_pickles() -> Iterator[None]:
    """While inside, ``torch.load`` loads tensors only, and other ways to unpickle refuse."""
    load = torch.load

    def only_tensors(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **{**options, "weights_only": True})

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("a pt2 file holds a pickle, which could run code", _HINT)

    with (
        mock.patch.object(torch, "load", only_tensors),
        mock.patch.object(torch._C, "_pickle_load_obj", refuse),
        mock.patch("torch.export.pt2_archive._package.pickle.loads", refuse),
    ):
        yield
