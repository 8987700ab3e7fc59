"""Programs saved by ``torch.export.save``, loaded as data.

``torch.export.load`` trusts its file: it unpickles constants and example inputs, evaluates size expressions and guards,
looks operators up by name from all of ``torch``, which holds ``os``, imports modules that trees of inputs name, and pastes
names into Python source. So the file is read here, what a program needs is held against a list of what is allowed, and
PyTorch is given a new archive in memory, made of that alone.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgekd.errors import ModelError

_MOST_JSON_BYTES = 256 << 20
_MOST_EXPRESSION = 2_000
_MOST_POWERS, _MOST_EXPONENT = 3, 4
_FUNCTIONS = frozenset({
    "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CeilToInt", "FloorToInt", "CleanDiv", "IntTrueDiv",
    "FloatTrueDiv", "ToFloat", "TruncToInt", "TruncToFloat", "RoundToInt", "Where", "ModularIndexing", "PowByNatural",
    "FloatPow", "Abs", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "And", "Or", "Not", "floor", "ceiling", "sqrt", "log", "exp",
    "Piecewise", "Identity", "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Equality", "Unequality",
    "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan", "Infinity", "NegativeInfinity",
})  # fmt: skip
"""What a size may be made of, besides numbers, symbols and operators."""
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_SYMBOL = re.compile(r"[a-z]+\d+|oo|int_oo", re.ASCII)
_SYMBOL_TEXT = re.compile(r"[a-z]+\d+|[\d.e+-]+", re.ASCII)
_TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized_decomposed)\.\w+(?:\.\w+)?"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|xor)"
    r"|math\.(?:ceil|floor|trunc|sqrt|exp|log|log2|pow|isqrt)"
    r"|torch\.(?:sym_int|sym_float|sym_max|sym_min|sym_not|sym_ite|sym_sum|_sym_sqrt)",
    re.ASCII,
)
_OUTSIDE = re.compile(r"torch\.ops\.aten\.(?:from_file|save|_print|warn|manual_seed|seed)(?:\.|$)")
"""Operators that touch files, the terminal, or the random numbers of a run."""
_NAME = re.compile(r"[\w.+-]*", re.ASCII)
"""What may stand where PyTorch writes a name into Python source."""
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_HINT = "save it again with torch.export.save, from a module with plain tensors"
_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_WEIGHTS, _CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
_TENSOR = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+", re.ASCII)
_PLAIN = ("archive_format", "archive_version", "byteorder", ".data/version")


def load_exported_program(path: Path) -> torch.export.ExportedProgram:
    """Load ``path``, running nothing that it holds. Make a module of it with :func:`callable_module` only.

    Raises:
        ModelError: It is broken, was saved by an old PyTorch, or holds something that would run code.
    """
    # Not torch.export.load: where this fails, that tries the file again in an older format.
    from torch.export.pt2_archive._package import load_pt2

    try:
        clean = _checked_copy(path)
        return load_pt2(clean).exported_programs["model"]
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RecursionError) as error:
        raise ModelError(f"{path} is a broken pt2 file: {_first_line(error)}", "copy or save it again") from None
    except Exception as error:  # whatever PyTorch's deserializer raises on a file it does not understand
        raise ModelError(f"PyTorch {torch.__version__} cannot load {path}: {_first_line(error)}", _HINT) from None


def callable_module(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """Return the module of a program, without its guards: those are source code made from texts in the file."""
    return program.module(check_guards=False)


def _checked_copy(path: Path) -> io.BytesIO:
    """Return a new archive with what ``path`` needs to hold, checked, and nothing else."""
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean:
        members = _members(path, archive)

        def read(name: str) -> bytes:
            return archive.read(members[name])

        for name in (_MODEL, _WEIGHTS, _CONSTANTS):
            if name not in members:
                raise ModelError(f"{path} has no {name}, so it is no program", _HINT)
        _check_samples(path, read(_SAMPLES) if _SAMPLES in members else b"")
        for name in _PLAIN:
            if name in members:
                clean.writestr(f"model/{name}", read(name))
        clean.writestr(f"model/{_MODEL}", json.dumps(_checked_program(path, _json(path, _MODEL, read(_MODEL)))))
        clean.writestr(f"model/{_SAMPLES}", b"")
        for name in (_WEIGHTS, _CONSTANTS):
            clean.writestr(f"model/{name}", json.dumps(_checked_payloads(path, _json(path, name, read(name)))))
        for name in members:
            if _TENSOR.fullmatch(name):
                clean.writestr(f"model/{name}", read(name))
    copy.seek(0)
    return copy


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by their name below its only top folder."""
    members: dict[str, zipfile.ZipInfo] = {}
    tops = set()
    for entry in archive.infolist():
        top, _, name = entry.filename.partition("/")
        tops.add(top)
        if name in members:
            raise ModelError(f"{path} holds {name[:80]!r} twice", "copy or save it again")
        if name.startswith("data/aotinductor") or name.endswith((".so", ".cubin", ".py")):
            raise ModelError(f"{path} holds compiled code ({name[:80]!r})", "save the exported program, not the compiled one")
        if name.endswith((".json", ".pt")) and entry.file_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path}: {name[:80]!r} is too large to be part of a program", _HINT)
        members[name] = entry
    if len(tops) != 1 or "archive_format" not in members:
        raise ModelError(f"{path} is no program in the pt2 format", "save it with torch.export.save of PyTorch 2.8 or newer")
    return members


def _json(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is a broken pt2 file, {name}: {_first_line(error)}", "copy or save it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is a broken pt2 file: {name} is no mapping", "copy or save it again")
    return found


def _check_samples(path: Path, content: bytes) -> None:
    """Refuse example inputs that are more than tensors. They are not handed on in any case."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # torn and hostile pickles raise many types
        raise ModelError(
            f"{path}: its sample inputs are more than tensors, loading them would run code: {_first_line(error)[:120]}", _HINT
        ) from None


def _checked_payloads(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return a table of weights or constants; refuse those that are no plain tensors."""
    entries = content.get("config")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ModelError(f"{path} is a broken pt2 file: a table of its tensors is not as it should be", "copy or save it again")
    for name, entry in entries.items():
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name")), re.ASCII):
            raise ModelError(f"{path}: {name[:80]!r} is stored as a pickle, which could run code", _HINT)
    _check_texts(path, content)
    return content


def _checked_program(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the program without guards and metadata, which running it does not need."""
    content = {**content, "guards_code": []}
    graph = content.get("graph_module")
    if isinstance(graph, dict):
        content["graph_module"] = {**graph, "metadata": {}, "treespec_namedtuple_fields": {}}
    stack: list[Any] = [content]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if isinstance(each.get("metadata"), dict):
                each["metadata"] = {}
            stack += each.values()
        elif isinstance(each, list):
            stack += each
    _check_texts(path, content)
    return content


def _check_texts(path: Path, content: dict[str, Any]) -> None:
    for key, value in _texts(content):
        if key == "expr_str":
            if not _is_expression(value):
                raise ModelError(f"{path} holds {value[:60]!r} where the size of a tensor should be", _HINT)
        elif key in {"target", "as_operator"}:
            if not _TARGET.fullmatch(value) or _OUTSIDE.match(value):
                raise ModelError(f"{path} calls {value[:80]!r}, which is no tensor operation", _HINT)
        elif key in {"in_spec", "out_spec"}:
            if not _is_tree(value):
                raise ModelError(f"{path} takes or gives something else than tensors, lists and mappings", _HINT)
        elif key not in {"as_string", "as_strings"} and not _NAME.fullmatch(value):
            raise ModelError(f"{path} has {value[:80]!r} where a name should be", _HINT)


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a JSON tree, with the key of the mapping it is in; keys too, as names."""
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        key, each = stack.pop()
        if isinstance(each, str):
            yield key, each
        elif isinstance(each, dict):
            stack += [("", name) for name in each]
            # A node names what it calls; a specification of an input names the parameter it is for.
            is_node = "inputs" in each or str(each.get("target")).startswith(("torch", "_operator", "math", "#"))
            stack += [("" if name == "target" and not is_node else name, value) for name, value in each.items()]
        elif isinstance(each, list):
            stack += [(key, value) for value in each]


def _is_expression(text: str) -> bool:
    """Whether ``text`` is a size: numbers, symbols, operators and known functions, and no power that takes long."""
    if len(text) > _MOST_EXPRESSION:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    powers = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called not in _FUNCTIONS or any(each.arg is None for each in node.keywords):
                return False
            if called not in {"Symbol", "Float"} and any(
                isinstance(each, ast.Constant) and isinstance(each.value, str) for each in node.args
            ):
                return False
            if called in _POWERS and not (len(node.args) == 2 and _is_small(node.args[1])):
                return False
            powers += called in _POWERS
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            if not _is_small(node.right):
                return False
            powers += 1
        elif isinstance(node, ast.Name):
            if node.id not in _FUNCTIONS and not _SYMBOL.fullmatch(node.id):
                return False
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, int | float | str | bool):
                return False
            if isinstance(node.value, str) and not _SYMBOL_TEXT.fullmatch(node.value):
                return False
        elif not isinstance(node, _SYNTAX):
            return False
    return powers <= _MOST_POWERS


_SYNTAX = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Tuple, ast.keyword, ast.expr_context,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.unaryop, ast.cmpop, ast.boolop,
    ast.Pow,
)  # fmt: skip


def _is_small(exponent: ast.expr) -> bool:
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:  # Integer(2)
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    return isinstance(exponent, ast.Constant) and isinstance(exponent.value, int) and exponent.value <= _MOST_EXPONENT


def _is_tree(text: str) -> bool:
    """Whether ``text`` describes nested tuples, lists and mappings; other types import modules that the file names."""
    try:
        stack = json.loads(text)
        if not isinstance(stack, list):
            return False
        while stack:
            each = stack.pop()
            if isinstance(each, int | float):
                continue
            if each["type"] not in _TREES or not _is_plain(each["context"]):
                return False
            stack += each["children_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return True


def _is_plain(context: object) -> bool:
    """Whether the context of a node of a tree is nothing, or the keys of a mapping."""
    found = json.loads(context) if isinstance(context, str) else context
    return found is None or (isinstance(found, list) and all(isinstance(key, str | int | float | None) for key in found))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
