"""The same ``.ort`` file every time: what ONNX Runtime writes in another order each run, put in order.

ONNX Runtime's format (``onnxruntime/core/flatbuffers/schema/ort.fbs``) ends in the table ``KernelTypeStrResolver``: which
inputs and outputs of an operator each of its type constraints is about. Its order changes with the process, so two runs give
two files. Flatbuffers grow from the back, so this table and the root, built last, are the front of the file: they are written
anew, the constraints of an operator by name, onto the rest as it was.
"""

from __future__ import annotations

import struct
from importlib import import_module
from types import ModuleType
from typing import Any

import flatbuffers

_IDENTIFIER = b"ORTM"
_ALIGNMENT = 16
"""Largest alignment of anything in the rest."""


def in_order(content: bytes) -> bytes:
    """Return an ``.ort`` file with its type constraints in order, the same for every order they come in.

    Args:
        content: A file that ONNX Runtime wrote, with a model and a table of type constraints.

    Raises:
        ValueError: The file is laid out otherwise: the table of type constraints does not lie before the model.
    """
    schema = _schema("InferenceSession")
    root = schema.InferenceSession.GetRootAsInferenceSession(content, 0)
    version, model, resolver = root.OrtVersion(), root.Model(), root.KernelTypeStrResolver()
    if version is None or model is None or resolver is None:
        raise ValueError("this .ort file has no model or no type constraints")
    (to_fields,) = struct.unpack_from("<i", content, model._tab.Pos)
    # The list of a table's fields comes right before it, or is another's, farther back.
    rest = min(model._tab.Pos, max(model._tab.Pos - to_fields, resolver._tab.Pos))
    operators, last = _constraints(resolver)
    if not root._tab.Pos < resolver._tab.Pos <= last < rest:
        raise ValueError("the type constraints of this .ort file do not lie before its model")

    builder = flatbuffers.Builder(0)
    builder.minalign = _ALIGNMENT
    # The builder goes on where the rest begins: offsets in it count from the end of the file.
    builder.Bytes, builder.head = bytearray(content[rest:]), 0
    constraints = _written(builder, operators)
    text = builder.CreateString(version)
    schema.Start(builder)
    schema.AddOrtVersion(builder, text)
    schema.AddModel(builder, len(content) - model._tab.Pos)
    schema.AddKernelTypeStrResolver(builder, constraints)
    builder.Finish(schema.End(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _schema(table: str) -> ModuleType:
    """Return ONNX Runtime's own module for a table of its format."""
    return import_module(f"onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.{table}")


_Constraints = list[tuple[bytes, list[tuple[bytes, list[tuple[int, int]]]]]]
"""Per operator and type constraint: kind (input or output) and index of each argument."""


def _constraints(resolver: Any) -> tuple[_Constraints, int]:
    """Return the constraints by name, and where the last table of theirs is in the file."""
    operators, last = [], 0
    for entry in map(resolver.OpKernelTypeStrArgs, range(resolver.OpKernelTypeStrArgsLength())):
        own = []
        for constraint in map(entry.KernelTypeStrArgs, range(entry.KernelTypeStrArgsLength())):
            arguments = [constraint.Args(index) for index in range(constraint.ArgsLength())]
            own.append((constraint.KernelTypeStr(), [(each.ArgType(), each.Index()) for each in arguments]))
            last = max(last, *(each._tab.Pos for each in (entry, constraint, *arguments)))
        operators.append((entry.OpId(), sorted(own)))
    return sorted(operators), last


def _written(builder: flatbuffers.Builder, operators: _Constraints) -> int:
    resolver, entry = _schema("KernelTypeStrResolver"), _schema("OpIdKernelTypeStrArgsEntry")
    constraint, argument = _schema("KernelTypeStrArgsEntry"), _schema("ArgTypeAndIndex")

    def table(module: ModuleType, **fields: Any) -> int:
        module.Start(builder)
        for name, value in fields.items():
            getattr(module, f"Add{name}")(builder, value)
        written: int = module.End(builder)
        return written

    entries = []
    for operator, constraints in operators:
        own = []
        for kind, arguments in constraints:
            args = _vector(builder, [table(argument, ArgType=is_output, Index=index) for is_output, index in arguments])
            own.append(table(constraint, KernelTypeStr=builder.CreateString(kind), Args=args))
        entries.append(table(entry, OpId=builder.CreateString(operator), KernelTypeStrArgs=_vector(builder, own)))
    return table(resolver, OpKernelTypeStrArgs=_vector(builder, entries))


def _vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for each in reversed(offsets):
        builder.PrependUOffsetTRelative(each)
    written: int = builder.EndVector()
    return written
