"""Read an ONNX file into a :class:`~edgekd.inspect.graph.GraphDescription`. Runs in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.inspect.graph import BITS, GraphDescription, OperatorDescription, Role, Shape, TensorDescription, dense_bytes
from edgekd.inspect.onnx_macs import node_macs
from edgekd.safe.model_files import check_onnx

_TWO_INPUTS = (1, 2, 4, 5, 6, 7)
_ONE_INPUT = (1, 2, 3, 4)
_SCALES = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
    "QGemm": (1, 2, 4, 5, 7, 8), "DynamicQuantizeMatMul": (2, 3), "MatMulIntegerToFloat": (2, 3, 4, 5), "MatMulNBits": (2, 3),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), _TWO_INPUTS),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), _ONE_INPUT),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), _ONE_INPUT),
    "Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2),
}  # fmt: skip
"""Places of inputs that are no parameters of a network: scales, zero points, limits."""
_WEIGHT_PLACES = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "FusedConv": (1, 2), "Gemm": (1, 2), "QLinearConv": (3, 8), "QGemm": (3, 6),
    "ConvInteger": (1,), "MatMulInteger": (0, 1), "MatMul": (0, 1), "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "PRelu": (1,),
}  # fmt: skip
"""Places of inputs that are parameters even where they hold a single value."""
_INT32_PLACES = {"DequantizeLinear": (0,), "QLinearConv": (8,), "QGemm": (6,)}
"""Places of inputs where int32 is a bias, and no index."""
_INLINE_ELEMENTS = 4096
"""Shape inference reads the values of small constants, as shapes; larger ones are dropped before it."""
_MOST_BYTES = 2 << 30
"""Of protocol buffers, the format that ONNX is written in."""


def describe_onnx(path: str) -> dict[str, Any]:
    """Return the main graph of an ONNX file as plain data, its shapes inferred for a batch of 1.

    The first dimension of each input is the batch where it is open. Functions of the file are inlined, and constants in
    nodes count as stored ones, not as operators.

    Raises:
        UsageError: The file is cut off.
        ModelError: It is broken, or keeps weights outside its folder.
    """
    import onnx
    from onnx import inliner

    file = Path(path)
    if file.stat().st_size >= _MOST_BYTES:
        raise ModelError(f"{path} is no ONNX file: none is larger than 2 GiB", "its weights belong in a file beside it")
    _check_whole(file)
    check_onnx(file)
    model = onnx.load(path, load_external_data=False)
    if not model.opset_import:
        raise ModelError(f"{path} is no ONNX model: it names no opset", "export it again")
    if model.functions:
        model = inliner.inline_local_functions(model)
    declared = {each.name: _declared(each.type) for each in (*model.graph.input, *model.graph.output)}
    _constants_to_initializers(model.graph)
    zero_points = {each.name: _first_value(each) for each in model.graph.initializer if _count(each) <= _INLINE_ELEMENTS}
    metadata = _metadata(model)
    _fix_batch(model)
    _drop_large_values(model.graph)
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # a C++ exception type of onnx, and ValueError of protobuf
        raise ModelError(f"{path} is a broken ONNX file: {_first_line(error)}", "check it with onnx.checker") from None
    return _describe(path, model.graph, declared, zero_points, metadata).to_json()


def _describe(
    path: str, graph: Any, declared: dict[str, tuple[int | str, ...]], values: dict[str, float | None], metadata: dict[str, str]
) -> GraphDescription:
    stored = {each.name: each for each in graph.initializer}
    inputs = [each.name for each in graph.input if each.name not in stored]
    shapes: dict[str, tuple[Shape | None, str]] = {}
    for each in (*graph.input, *graph.value_info, *graph.output):
        shapes[each.name] = _shape(each.type)
    for name, tensor in stored.items():
        shapes[name] = tuple(tensor.dims), _dtype(tensor.data_type)
    roles = _roles(graph, stored, shapes, set(inputs))
    quantization = _quantization(graph, values, shapes)
    names = dict.fromkeys([*inputs, *stored, *(name for node in graph.node for name in (*node.input, *node.output) if name)])
    unknown: tuple[Shape | None, str] = (None, "unknown")
    tensors = {}
    for name in names:
        shape, dtype = shapes.get(name, unknown)
        scale, zero_point, per_channel = quantization.get(name, (None, None, False))
        tensors[name] = TensorDescription(
            name, shape, dtype, dense_bytes(shape, dtype), roles.get(name, "activation"),
            name if name in stored else None, scale, zero_point, per_channel, declared.get(name),
        )  # fmt: skip
    missing = [each.name for each in graph.output if each.name not in tensors]
    if missing:
        raise ModelError(f"{path} is a broken ONNX file: nothing computes its output '{missing[0][:100]}'", "export it again")
    roots = _roots(graph, tensors)
    operators = tuple(
        OperatorDescription(
            node.name or next((name for name in node.output if name), f"node_{index}"), _kind(node), tuple(node.input),
            tuple(node.output), node_macs(node, _kind(node), tensors),
            0 if _folds(node, tensors) else sum(tensors[each].bytes or 0 for each in _union(node, roots)),
        )
        for index, node in enumerate(graph.node)
    )  # fmt: skip
    subgraphs = sum(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    outputs = tuple(each.name for each in graph.output)
    return GraphDescription("onnx", tensors, operators, tuple(inputs), outputs, metadata, subgraphs)


def _check_whole(path: Path) -> None:
    """Raise a UsageError where a field of the file, at its top level, is longer than what is left of the file."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == 0:
            _, place = _varint(content, place)
        elif kind == 2:
            length, place = _varint(content, place)
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            return  # not what protocol buffers look like: whoever parses it says so
        if place > len(content):
            raise UsageError(f"{path} is cut off: {place:,} bytes belong to it, {len(content):,} are there", "copy it again")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of variable length and the place behind it, past the end of the file where that cuts it off."""
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    return value, len(content) + 1


def _constants_to_initializers(graph: Any) -> None:
    """Turn Constant nodes, those that hold a plain tensor or numbers, into stored constants."""
    from onnx import helper, numpy_helper

    kept = []
    for node in graph.node:
        attribute = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if attribute is None or len(node.output) != 1 or attribute.name not in _CONSTANTS:
            kept.append(node)
            continue
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
        else:
            tensor = graph.initializer.add()
            tensor.CopyFrom(numpy_helper.from_array(_numpy(value, attribute.name)))
        tensor.name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


_CONSTANTS = {"value": None, "value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}


def _numpy(value: Any, attribute: str) -> Any:
    import numpy as np

    return np.asarray(value, _CONSTANTS[attribute])


def _fix_batch(model: Any) -> None:
    """Make every open first dimension of an input 1, wherever its name is found."""
    stored = {each.name for each in model.graph.initializer}
    batches = set()
    for each in model.graph.input:
        shape = each.type.tensor_type.shape
        if each.name not in stored and shape.dim and not shape.dim[0].HasField("dim_value"):
            batches.add(shape.dim[0].dim_param)
            shape.dim[0].dim_value = 1
    for each in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in each.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param in batches:
                size.dim_value = 1


def _drop_large_values(graph: Any) -> None:
    """Drop the values of large constants: 2 GiB is the most that shape inference takes."""
    for tensor in graph.initializer:
        if _count(tensor) > _INLINE_ELEMENTS:
            kept = (tensor.name, tensor.data_type, list(tensor.dims))
            tensor.Clear()
            tensor.name, tensor.data_type = kept[:2]
            tensor.dims.extend(kept[2])


def _count(tensor: Any) -> int:
    total = 1
    for size in tensor.dims:
        total *= size
    return total


def _roles(
    graph: Any, stored: dict[str, Any], shapes: dict[str, tuple[Shape | None, str]], inputs: set[str]
) -> dict[str, Role]:
    """Tell weights from other constants by where they are used, and mark what is computed from constants alone."""
    scales = {node.output[1] for node in graph.node if node.op_type == "DynamicQuantizeLinear" and len(node.output) > 1}
    uses: dict[str, list[tuple[str, int, bool]]] = {name: [] for name in stored}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in uses:
                uses[name].append((node.op_type, place, bool(scales & set(node.input))))
    roles: dict[str, Role] = {}
    for name, tensor in stored.items():
        roles[name] = "weight" if _is_weight(_count(tensor), shapes[name][1], uses[name]) else "constant"
    known = set(stored) | {""}
    for node in graph.node:
        if (
            node.op_type not in _RANDOM
            and not any(each.HasField("g") for each in node.attribute)
            and known.issuperset(node.input)
        ):
            known |= set(node.output)
            roles |= dict.fromkeys((name for name in node.output if name), "derived")
    return {name: role for name, role in roles.items() if name not in inputs}


_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def _is_weight(count: int, dtype: str, uses: list[tuple[str, int, bool]]) -> bool:
    bits = BITS.get(dtype, 0)
    is_float = "float" in dtype
    for kind, place, is_scale in uses:
        if place in _SCALES.get(kind, ()) or is_scale or dtype in {"bool", "string", "unknown"}:
            continue
        if place in _WEIGHT_PLACES.get(kind, ()) and (is_float or bits <= 8):
            return True
        if dtype == "int32" and place in _INT32_PLACES.get(kind, ()):
            return True
        if count > 1 and (is_float or bits <= 8):
            return True
    return False


def _quantization(
    graph: Any, values: dict[str, float | None], shapes: dict[str, tuple[Shape | None, str]]
) -> dict[str, tuple[float | None, int | None, bool]]:
    """Return scale, zero point and whether they are per channel, of each tensor behind or before a quantizer."""
    found: dict[str, tuple[float | None, int | None, bool]] = {}
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or len(node.input) < 2:
            continue
        shape = shapes.get(node.input[1], (None, ""))[0]
        zero = values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else 0
        name = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
        found.setdefault(name, (values.get(node.input[1]), None if zero is None else int(zero), bool(shape) and shape != (1,)))
    return found


def _first_value(tensor: Any) -> float | None:
    from onnx import external_data_helper, numpy_helper

    if external_data_helper.uses_external_data(tensor) or tensor.data_type in {0, 8}:
        return None
    try:
        value = numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # fewer values than its shape says: only shape inference would need them
        return None
    return float(value.ravel()[0].real) if value.size else None


def _roots(graph: Any, tensors: dict[str, TensorDescription]) -> dict[str, frozenset[str]]:
    """Return the weights that each constant or derived tensor comes from."""
    roots = {name: frozenset({name}) for name, each in tensors.items() if each.role == "weight"}
    for node in graph.node:
        if _folds(node, tensors):
            found = frozenset[str]().union(*(roots.get(name, frozenset()) for name in node.input))
            roots |= dict.fromkeys(node.output, found)
    return roots


def _union(node: Any, roots: dict[str, frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*(roots.get(name, frozenset()) for name in node.input))


def _folds(node: Any, tensors: dict[str, TensorDescription]) -> bool:
    return bool(node.output) and all(tensors[name].role == "derived" for name in node.output if name)


def _kind(node: Any) -> str:
    return str(node.op_type) if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"


def _shape(kind: Any) -> tuple[Shape | None, str]:
    tensor = kind.tensor_type
    if kind.WhichOneof("value") != "tensor_type":
        return None, "unknown"
    if not tensor.HasField("shape"):
        return None, _dtype(tensor.elem_type)
    sizes = tuple(each.dim_value if each.HasField("dim_value") and each.dim_value >= 0 else None for each in tensor.shape.dim)
    return sizes, _dtype(tensor.elem_type)


def _declared(kind: Any) -> tuple[int | str, ...]:
    """Return the shape of an input or output with its open dimensions by name; of one that is no tensor, nothing."""
    dimensions = kind.tensor_type.shape.dim
    return tuple(each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in dimensions)


def _dtype(number: int) -> str:
    import onnx

    names: dict[int, str] = {value: name for name, value in onnx.TensorProto.DataType.items()}
    name = names.get(number, "unknown").lower()
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def _metadata(model: Any) -> dict[str, str]:
    opsets = ", ".join(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import)
    found = {"producer": f"{model.producer_name} {model.producer_version}".strip(), "ir version": str(model.ir_version)}
    found |= {"opset": opsets, "graph": model.graph.name, "description": model.doc_string}
    found |= {each.key: each.value for each in model.metadata_props}
    return {key: value for key, value in found.items() if value}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
