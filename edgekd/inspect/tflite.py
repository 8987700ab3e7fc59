"""Read a TFLite file into a :class:`~edgekd.inspect.graph.GraphDescription`. Runs in a child process."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.inspect import macs
from edgekd.inspect.graph import GraphDescription, OperatorDescription, Role, Shape, TensorDescription, dense_bytes, product
from edgekd.safe.model_files import check_tflite

_WEIGHT_PLACES = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "TRANSPOSE_CONV": (1, 3), "CONV_3D": (1, 2), "CONV_3D_TRANSPOSE": (1, 3),
    "FULLY_CONNECTED": (1, 2), "BATCH_MATMUL": (0, 1), "PRELU": (1,),
}  # fmt: skip
"""Places of inputs that are parameters even where they hold a single value, or as integers of more than 8 bits: biases."""
_RECURRENT = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN",
    "LSTM", "RNN",
}  # fmt: skip
_UNKNOWN_COST = {"WHILE", "IF", "CUSTOM", "CALL", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_CUSTOM_CALL", "SVDF",
                 "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "CONCAT_EMBEDDINGS"}  # fmt: skip
_WITH_SUBGRAPHS = {"WHILE", "IF", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE"}
_CHANGING = {
    "READ_VARIABLE",
    "VAR_HANDLE",
    "RANDOM_UNIFORM",
    "RANDOM_STANDARD_NORMAL",
    "MULTINOMIAL",
    "STABLEHLO_RNG_BIT_GENERATOR",
}
"""Operators that give something else each time, whatever they are given."""
_DEEPEST = 8
"""Composite operators inside composite operators."""


def describe_tflite(path: str) -> dict[str, Any]:
    """Return the main graph of a TFLite file as plain data, its shapes as stored: for the batch it was made for.

    Raises:
        UsageError: The file is cut off or broken.
        ModelError: It is no TFLite file, or its tables contradict one another.
    """
    from ai_edge_litert import schema_py_generated as schema

    check_tflite(Path(path))
    _verify(path)
    content = Path(path).read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if not model.subgraphs:
        raise ModelError(f"{path} is no TFLite model: it has no graph", "export it again")
    return _Reader(path, schema, model, len(content)).describe(_metadata(path, model)).to_json()


def _verify(path: str) -> None:
    """Let LiteRT check the file's structure: the reader in Python takes what is missing for zeros or cuts it short."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        Interpreter(path, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    except ValueError as error:
        # Anything else it says is about what this runtime can run, which is no reason not to describe the file.
        if "Flatbuffer" in str(error):
            raise UsageError(f"{path} is cut off or broken: LiteRT's check of its structure fails", "copy it again") from None


class _Reader:
    """A parsed file, and names for its numbers."""

    def __init__(self, path: str, schema: Any, model: Any, size: int) -> None:
        self._path, self._model, self._size = path, model, size
        self._types = {value: name.lower() for name, value in _entries(schema.TensorType)}
        self._codes = {value: name for name, value in _entries(schema.BuiltinOperator)}

    def describe(self, metadata: dict[str, str]) -> GraphDescription:
        graph = self._model.subgraphs[0]
        names = self._names(graph)
        indices = {side: [int(each) for each in _list(getattr(graph, side))] for side in ("inputs", "outputs")}
        constant = {index for index, tensor in enumerate(_list(graph.tensors)) if self._stored(tensor)}
        roles = self._roles(graph, constant, set(indices["inputs"]))
        tensors = {}
        for index, tensor in enumerate(_list(graph.tensors)):
            tensors[names[index]] = self._tensor(names[index], tensor, roles.get(index, "activation"), index in constant)
        signatures = self._signature_names()
        inputs, outputs = (self._rename(tensors, names, indices[side], signatures) for side in ("inputs", "outputs"))
        weights = self._weights(graph, roles, tensors, names)
        operators = []
        for operator in _list(graph.operators):
            kind = self._kind(operator)
            given, made = self._of(operator.inputs, names), self._of(operator.outputs, names)
            name = next((each for each in made if each), kind)
            cost = self._macs(kind, operator, graph, 0)
            operators.append(OperatorDescription(name, kind, given, made, cost, weights(operator)))
        subgraphs = sum(self._kind(each) in _WITH_SUBGRAPHS for each in _list(graph.operators))
        return GraphDescription("tflite", tensors, tuple(operators), inputs, outputs, metadata, subgraphs)

    def _names(self, graph: Any) -> list[str]:
        """Return a unique name for each tensor: names in a file need not be."""
        found: list[str] = []
        seen: set[str] = set()
        for index, tensor in enumerate(_list(graph.tensors)):
            name = (tensor.name or b"").decode(errors="replace") or f"tensor_{index}"
            found.append(name if name not in seen else f"{name}#{index}")
            seen.add(found[-1])
        for operator in _list(graph.operators):
            for index in (*_list(operator.inputs), *_list(operator.outputs)):
                if not -1 <= index < len(found):
                    raise ModelError(f"{self._path} is a broken TFLite file: no tensor {index}", "export it again")
        for index in (*_list(graph.inputs), *_list(graph.outputs)):
            if not 0 <= index < len(found):
                raise ModelError(f"{self._path} is a broken TFLite file: no tensor {index}", "export it again")
        return found

    def _signature_names(self) -> dict[int, str]:
        """Return the names that the first signature of the main graph gives to tensors."""
        for signature in _list(self._model.signatureDefs):
            if signature.subgraphIndex == 0:
                both = (*_list(signature.inputs), *_list(signature.outputs))
                return {int(each.tensorIndex): (each.name or b"").decode(errors="replace") for each in both}
        return {}

    def _rename(
        self, tensors: dict[str, TensorDescription], names: list[str], indices: list[int], signatures: dict[int, str]
    ) -> tuple[str, ...]:
        """Give inputs and outputs the names of the signature, which apps call them by."""
        for index in indices:
            wanted = signatures.get(index)
            if wanted and wanted not in tensors:
                old = tensors.pop(names[index])
                tensors[wanted] = TensorDescription(**vars(old) | {"name": wanted})
                names[index] = wanted
        return tuple(names[index] for index in indices)

    def _stored(self, tensor: Any) -> bool:
        if not 0 <= tensor.buffer < len(self._model.buffers):
            raise ModelError(f"{self._path} is a broken TFLite file: no buffer {tensor.buffer}", "export it again")
        buffer = self._model.buffers[tensor.buffer]
        if buffer.data is None and buffer.offset > 1 and buffer.offset + buffer.size > self._size:
            raise UsageError(f"{self._path} is cut off: a weight ends at byte {buffer.offset + buffer.size:,}, "
                             f"the file at {self._size:,}", "copy it again")  # fmt: skip
        return bool(len(buffer.data) if buffer.data is not None else buffer.size) or bool(tensor.externalBuffer)

    def _tensor(self, name: str, tensor: Any, role: Role, constant: bool) -> TensorDescription:
        shape = self._shape(tensor)
        dtype = self._types.get(tensor.type, "unknown")
        quantization = tensor.quantization
        scales = _list(None if quantization is None else quantization.scale)
        zeros = _list(None if quantization is None else quantization.zeroPoint)
        signature = [int(each) for each in _list(tensor.shapeSignature)]
        declared = [each if each >= 0 else None for each in signature] or list(shape or ())
        size = dense_bytes(shape, dtype)
        if constant and not tensor.externalBuffer:
            buffer = self._model.buffers[tensor.buffer]
            size = len(buffer.data) if buffer.data is not None else int(buffer.size)
        return TensorDescription(
            name, shape, dtype, size, role, f"buffer {tensor.buffer} {tensor.externalBuffer}" if constant else None,
            float(scales[0]) if len(scales) else None, int(zeros[0]) if len(zeros) else (0 if len(scales) else None),
            len(scales) > 1, tuple("?" if each is None else each for each in declared),
        )  # fmt: skip

    def _shape(self, tensor: Any) -> Shape | None:
        if tensor.shape is None:
            return None if not tensor.hasRank else ()
        return tuple(int(size) if size >= 0 else None for size in tensor.shape)

    def _kind(self, operator: Any) -> str:
        codes = _list(self._model.operatorCodes)
        if not 0 <= operator.opcodeIndex < len(codes):
            raise ModelError(
                f"{self._path} is a broken TFLite file: no operator code {operator.opcodeIndex}", "export it again"
            )
        code = codes[operator.opcodeIndex]
        name = self._codes.get(max(code.builtinCode, code.deprecatedBuiltinCode), "unknown")
        return f"CUSTOM {(code.customCode or b'').decode(errors='replace')}" if name == "CUSTOM" else name

    def _of(self, indices: Any, names: list[str]) -> tuple[str, ...]:
        return tuple(names[index] if index >= 0 else "" for index in _list(indices))

    def _roles(self, graph: Any, constant: set[int], inputs: set[int]) -> dict[int, Role]:
        roles: dict[int, Role] = dict.fromkeys(constant, "constant")
        for operator in _list(graph.operators):
            kind = self._kind(operator)
            for place, index in enumerate(_list(operator.inputs)):
                if index in constant and self._is_weight(graph.tensors[index], kind, place):
                    roles[index] = "weight"
        known = {*constant, -1}
        for operator in _list(graph.operators):
            fixed = self._kind(operator) not in _CHANGING | _WITH_SUBGRAPHS and len(_list(operator.inputs))
            if fixed and known.issuperset(int(each) for each in operator.inputs):
                made = [int(each) for each in _list(operator.outputs)]
                known |= set(made)
                roles |= dict.fromkeys(made, "derived")
        return {index: role for index, role in roles.items() if index not in inputs}

    def _is_weight(self, tensor: Any, kind: str, place: int) -> bool:
        dtype = self._types.get(tensor.type, "unknown")
        if place in _WEIGHT_PLACES.get(kind, ()):
            return True
        return ("float" in dtype or dtype in {"int8", "uint8", "int4", "int2", "int16"}) and (_count(self._shape(tensor)) > 1)

    def _weights(
        self, graph: Any, roles: dict[int, Role], tensors: dict[str, TensorDescription], names: list[str]
    ) -> Callable[[Any], int]:
        """Return how many bytes of weights an operator reads, through what is derived from them."""
        roots = {index: frozenset({index}) for index, role in roles.items() if role == "weight"}

        def found(operator: Any) -> frozenset[int]:
            return frozenset[int]().union(*(roots.get(int(index), frozenset()) for index in _list(operator.inputs)))

        for operator in _list(graph.operators):
            if all(roles.get(int(index)) == "derived" for index in _list(operator.outputs)):
                roots |= dict.fromkeys((int(index) for index in _list(operator.outputs)), found(operator))

        def count(operator: Any) -> int:
            made = [int(index) for index in _list(operator.outputs)]
            if made and all(roles.get(index) == "derived" for index in made):
                return 0
            return sum(tensors[names[index]].bytes or 0 for index in found(operator))

        return count

    def _macs(self, kind: str, operator: Any, graph: Any, depth: int) -> int | None:
        if kind == "STABLEHLO_COMPOSITE":
            return self._composite(operator, depth)
        if kind in _UNKNOWN_COST or kind.startswith("CUSTOM"):
            return None
        given = [self._shape(graph.tensors[index]) if index >= 0 else None for index in _list(operator.inputs)]
        made = [self._shape(graph.tensors[index]) if index >= 0 else None for index in _list(operator.outputs)]
        if kind in _RECURRENT:
            stored = [index >= 0 and self._stored(graph.tensors[index]) for index in _list(operator.inputs)]
            matrices: list[Shape | None] = [
                shape for shape, held in zip(given, stored, strict=True) if held and shape is not None and len(shape) == 2
            ]
            sizes = given[0] if given else None
            return macs.recurrent(None if sizes is None else product(*sizes[:-1]), matrices)
        count = _MACS.get(kind)
        if count is None:
            return 0
        if len(given) < 2 or not made:
            raise ModelError(f"{self._path} is a broken TFLite file: a {kind} has too few tensors", "export it again")
        return count(given, made[0], operator.builtinOptions)

    def _composite(self, operator: Any, depth: int) -> int | None:
        """Return the cost of the graph that stands for a composite operator where a runtime does not know it."""
        index = getattr(operator.builtinOptions2, "decompositionSubgraphIndex", -1)
        if depth >= _DEEPEST or not 0 < index < len(self._model.subgraphs):
            return None
        graph = self._model.subgraphs[index]
        self._names(graph)
        costs = [self._macs(self._kind(each), each, graph, depth + 1) for each in _list(graph.operators)]
        return None if None in costs else sum(each or 0 for each in costs)


def _transposed(given: list[Shape | None], out: Shape | None, options: Any) -> int | None:
    return macs.transposed_convolution(given[2] if len(given) > 2 else None, given[1], -1)


_MACS: dict[str, Callable[[list[Shape | None], Shape | None, Any], int | None]] = {
    "CONV_2D": lambda given, out, options: macs.convolution(out, given[1], 0),
    "DEPTHWISE_CONV_2D": lambda given, out, options: macs.convolution(out, given[1], -1),
    "CONV_3D": lambda given, out, options: macs.convolution(out, given[1], -1),
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D_TRANSPOSE": _transposed,
    "FULLY_CONNECTED": lambda given, out, options: macs.matmul(out, given[1]),
    "BATCH_MATMUL": lambda given, out, options: macs.matmul(out, given[0], bool(getattr(options, "adjX", False))),
}
"""How many multiply-accumulates an operator takes. Filters are ``[out, height, width, in]``, of depthwise convolutions
``[1, height, width, out]``, of those over volumes ``[depth, height, width, in, out]``."""


def _metadata(path: str, model: Any) -> dict[str, str]:
    found = {"description": (model.description or b"").decode(errors="replace"), "schema version": str(model.version)}
    for each in _list(model.metadata):
        name = (each.name or b"").decode(errors="replace")
        data = model.buffers[each.buffer].data if 0 <= each.buffer < len(model.buffers) else None
        if data is not None:
            text = bytes(data).rstrip(b"\0")
            shown = text.decode("ascii") if len(text) <= 64 and text.isascii() and text.decode("ascii").isprintable() else None
            found[name] = shown or f"{len(data):,} bytes"
    signatures = [(each.signatureKey or b"").decode(errors="replace") for each in _list(model.signatureDefs)]
    found["signatures"] = ", ".join(signatures)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as packed:
                found["packed files"] = ", ".join(packed.namelist()[:20])
        except zipfile.BadZipFile:  # bytes that look like the end of one, by chance
            pass
    return {key: value for key, value in found.items() if value}


def _list(values: Any) -> Any:
    return () if values is None else values


def _count(shape: Shape | None) -> int:
    total = 1
    for size in shape or ():
        total *= size or 1
    return total


def _entries(enumeration: Any) -> Iterable[tuple[str, int]]:
    return ((name, value) for name, value in vars(enumeration).items() if not name.startswith("_"))
