"""What a converter cannot do, in one line: the operator or the branch, the module it is in, and the line of its source."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edgekd
from edgekd.errors import EdgekdError, ExportError

_NO_OPERATOR = (r"No ONNX function found for <OpOverload\(op='([\w.]+)'", r"Lowering not found: ([\w.]+)")
_BRANCHES = ("GuardOnDataDependentSymNode", "TracerBoolConversionError")
_SIZES = ("NonConcreteBooleanIndexError", "DynamicOutputShapeException", "ConcretizationTypeError")
_OURS = (str(Path(torch.__file__).parent), str(Path(edgekd.__file__).parent))


@contextmanager
def plain_refusals(model: nn.Module, reference: str, form: str, program: Callable[[], Any], root: str = "") -> Iterator[None]:
    """Turn what a converter raises on networks that it cannot convert into one line; all of it is printed, for the log.

    Args:
        model: What is converted.
        reference: Of the student, for messages.
        form: ``ONNX`` or ``TFLite``.
        program: Exports the model by torch.export, to find where an operator comes from.
        root: Path of the student inside ``model``, where that is a wrapper.

    Raises:
        ExportError: Instead of an unsupported operator, control flow or a size that depends on values.
    """
    try:
        yield
    except EdgekdError:
        raise
    except Exception as error:  # each converter has types of its own, some of them private
        refusal = _refusal(error, model, reference, form, program, root)
        if refusal is None:
            raise
        traceback.print_exception(error)
        raise refusal from None


def _refusal(
    error: Exception, model: nn.Module, reference: str, form: str, program: Callable[[], Any], root: str
) -> ExportError | None:
    chain = list(_chain(error))
    names = {type(each).__name__ for each in chain}
    text = "\n".join(str(each) for each in chain)
    for pattern in _NO_OPERATOR:
        if found := re.search(pattern, text):
            operator = found[1].removesuffix(".default")
            place = _origin(program, operator, root)
            return ExportError(
                f"{reference} cannot become {form}: it has no operator for {operator}, used{place}",
                f"replace it by operators that {form} has, or leave it to the app, after the network",
            )
    where = _frame(chain, model, root) or _line(text)
    if names & set(_BRANCHES):
        return ExportError(
            f"{reference} cannot become {form}: which way it goes depends on the values of its inputs{where}",
            "compute both ways and choose by torch.where, or leave the decision to the app",
        )
    if names & set(_SIZES):
        return ExportError(
            f"{reference} cannot become {form}: the size of a tensor depends on the values of its inputs{where}",
            "keep the size and mask what is not wanted, for example by torch.where",
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _origin(program: Callable[[], Any], operator: str, root: str) -> str:
    """Return the module and line that an operator comes from, as `` by MODULE (CLASS) at FILE:LINE``."""
    # A converter may know it by another namespace than PyTorch: prims.bessel_j0 was aten.special_bessel_j0.
    core = operator.split(".")[1]
    exported = program()
    for graph in (exported.graph, exported.run_decompositions().graph):
        for each in graph.nodes:
            if each.op == "call_function" and core in str(each.target):
                modules = list(each.meta.get("nn_module_stack", {}).values())
                path, kind = modules[-1] if modules else ("", "")
                named = f" by {_short(path, root)} ({str(kind).rpartition('.')[2]})" if kind else ""
                return named + _line(each.meta.get("stack_trace") or "")
    return " somewhere"


def _short(path: str, root: str) -> str:
    """Return the path of a module as the student knows it."""
    inner = path.removeprefix("L['self']").removeprefix(".")
    if root and (inner == root or inner.startswith(f"{root}.")):
        inner = inner[len(root) + 1 :]
    return inner or "the network itself"


def _line(text: str) -> str:
    """Return the last line of the user's own source in a stack trace in words, as `` at FILE:LINE``; empty: none."""
    places = [(file, line) for file, line in re.findall(r'File "([^"]+)", line (\d+)', text) if not file.startswith(_OURS)]
    return f" at {places[-1][0]}:{places[-1][1]}" if places else ""


def _frame(chain: list[BaseException], model: nn.Module, root: str) -> str:
    """Return the innermost module of ``model`` that ran when an error was raised, and the line; empty: none of the user's."""
    paths = {id(module): path for path, module in model.named_modules()}
    for error in reversed(chain):
        found = ""
        for frame, line in traceback.walk_tb(error.__traceback__):
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and not frame.f_code.co_filename.startswith(_OURS):
                path = _short(paths.get(id(owner), ""), root)
                found = f", in {path} ({type(owner).__name__}) at {frame.f_code.co_filename}:{line}"
        if found:
            return found
    return ""
