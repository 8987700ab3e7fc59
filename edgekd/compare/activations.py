"""What every layer of a model gives on some samples, with the layers that feed it.

ONNX: every inner tensor becomes an output of a copy of the model. TFLite: LiteRT keeps all its tensors, and int8 ones are
dequantized by their own scale and zero point. PyTorch: forward hooks. What depends on constants alone, as dequantized weights
do, is no activation. Files are run in a child process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.models.black_box import as_input, open_model
from edgekd.runtimes import inner_name, open_tflite

if TYPE_CHECKING:
    from torch import Tensor, nn

Arrays = dict[str, NDArray[Any]]
BUDGET = 256 << 20
"""Bytes of activations that are looked at; large networks are seen on fewer samples, but on two at least."""
_FEWEST = 2
_FLOATS = {"float16", "float32", "float64"}


@dataclass(frozen=True)
class Activation:
    """What one layer gave.

    Attributes:
        name: Of the tensor, or of the module.
        operator: What made it: ``Conv``, ``CONV_2D``, ``Conv2d``.
        sources: Indices of the activations that it is computed from, empty for the model's inputs alone; ``None``: not told.
        file: ``.npy`` file of the values, ``float32 [n, ...]``.
    """

    name: str
    operator: str
    sources: tuple[int, ...] | None
    file: Path


def capture_file(path: str, kind: str, inputs: str, out: str) -> list[dict[str, Any]]:
    """Run a file on samples and write what its layers give to the folder ``out``. Runs in a child process.

    Args:
        path: The file.
        kind: ``onnx`` or ``tflite``.
        inputs: ``.npz`` file of real numbers for every input by name.
        out: A folder.

    Returns:
        For each activation in order of execution the fields of :class:`Activation`.
    """
    with np.load(inputs, allow_pickle=False) as archive:
        samples = dict(archive)
    graph, run = (_open_onnx if kind == "onnx" else _open_tflite)(path, Path(out))
    return _written(graph, _run(run, samples, [each.tensor for each in graph]), Path(out))


@dataclass(frozen=True)
class _Node:
    """A tensor in order of execution: its name in the file, what made it, and the tensors that this was made from."""

    tensor: str
    shown: str
    operator: str
    inputs: tuple[str, ...]


def _written(graph: list[_Node], values: Mapping[str, NDArray[np.float32]], out: Path) -> list[dict[str, Any]]:
    """Write the tensors that have values; those without are passed over on the way to their sources."""
    by_name = {each.tensor: each for each in graph}
    place = {each.tensor: index for index, each in enumerate(each for each in graph if each.tensor in values)}
    known: dict[str, tuple[int, ...]] = {}

    def sources(node: _Node) -> tuple[int, ...]:
        found: set[int] = set()
        for name in node.inputs:
            if name in place:
                found.add(place[name])
            elif name in by_name:
                found |= set(known[name])
        return tuple(sorted(found))

    written = []
    for each in graph:  # in order of execution, so that what feeds a node is known
        known[each.tensor] = sources(each)
        if each.tensor in values:
            file = out / f"{place[each.tensor]:05}.npy"
            np.save(file, values[each.tensor], allow_pickle=False)
            written.append({
                "name": each.shown, "operator": each.operator, "sources": list(known[each.tensor]), "file": str(file),
            })  # fmt: skip
    return written


def _run(run: Callable[[Arrays], Arrays], samples: Arrays, wanted: list[str]) -> dict[str, NDArray[np.float32]]:
    """Run sample after sample until the budget is used up, and return the tensors that have a row for each."""
    count = len(next(iter(samples.values())))
    rows: list[Arrays] = []
    used = 0
    for index in range(count):
        answer = run({name: values[index : index + 1] for name, values in samples.items()})
        rows.append({name: answer[name] for name in wanted if name in answer})
        used += sum(each.nbytes for each in rows[-1].values())
        if index + 1 >= _FEWEST and used / (index + 1) * (index + 2) > BUDGET:
            break
    kept = [name for name in rows[0] if all(len(row[name]) == 1 and row[name].shape == rows[0][name].shape for row in rows)]
    return {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in kept}


def _open_onnx(path: str, out: Path) -> tuple[list[_Node], Callable[[Arrays], Arrays]]:
    import onnx

    from edgekd.safe.model_files import check_onnx

    check_onnx(Path(path))
    model = onnx.load(path)
    given = {each.name for each in model.graph.input} - {each.name for each in model.graph.initializer}
    changing = set(given)
    graph = []
    for node in model.graph.node:
        if any(name in changing for name in node.input):
            changing |= set(node.output)
            inputs = tuple(name for name in node.input if name in changing and name not in given)
            graph += [_Node(name, name, node.op_type, inputs) for name in node.output if name]
    outputs = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=each.tensor) for each in graph if each.tensor not in outputs)
    watched = out / "watched.onnx"
    watched.write_bytes(model.SerializeToString())
    described, answer = open_model("onnx", str(watched), allow_code=False)
    floats = {each["name"] for each in described["outputs"] if each["dtype"] in _FLOATS}
    return graph, lambda arrays: {name: value for name, value in answer(arrays).items() if name in floats}


def _open_tflite(path: str, out: Path) -> tuple[list[_Node], Callable[[Arrays], Arrays]]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    body = model.subgraphs[0]
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    changing = {int(index) for index in body.inputs}
    scales: dict[str, tuple[float, int]] = {}
    graph = []
    for operator in body.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [int(index) for index in operator.inputs if int(index) in changing]
        if not inputs:
            continue
        changing |= {int(index) for index in operator.outputs}
        for index in map(int, operator.outputs):
            tensor = body.tensors[index]
            if tensor.type == schema.TensorType.FLOAT32 or _scale(tensor) is not None:
                scales[inner_name(index)] = _scale(tensor) or (1.0, 0)
                name = tensor.name.decode(errors="replace") if tensor.name else inner_name(index)
                graph.append(_Node(inner_name(index), name, kind, tuple(inner_name(each) for each in inputs)))
            else:
                graph.append(_Node(inner_name(index), "", kind, tuple(inner_name(each) for each in inputs)))
    seen = [int(each.tensor.partition(":")[2]) for each in graph if each.tensor in scales]
    run, described, _ = open_tflite(path, inner=[index for index in seen if len(body.tensors[index].shape) > 0])

    def answer(arrays: Arrays) -> Arrays:
        found = run({each["name"]: as_input(arrays[each["name"]], each, None) for each in described})
        return {
            name: (found[name].astype(np.float32) - np.float32(zero)) * np.float32(scale)
            for name, (scale, zero) in scales.items() if name in found
        }  # fmt: skip

    return graph, answer


def _scale(tensor: Any) -> tuple[float, int] | None:
    """Return scale and zero point of a quantized activation; ``None`` for other tensors."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def capture_module(module: nn.Module, run: Callable[[Arrays], Any], samples: Arrays, out: Path) -> list[Activation]:
    """Run a PyTorch module on samples and write what its submodules give to the folder ``out``.

    Args:
        module: The network, in evaluation mode.
        run: Calls it.
        samples: What ``run`` takes, one row per sample.
        out: A folder.
    """
    order: list[tuple[str, str]] = []
    caught: Arrays = {}
    calls: dict[str, int] = {}

    def watch(name: str, operator: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                calls[name] = calls.get(name, 0) + 1
                label = (name or "(output)") + (f"#{calls[name]}" if calls[name] > 1 else "")
                if label not in dict(order):
                    order.append((label, operator))
                # A copy: an activation in place would change it.
                caught[label] = tensor.detach().float().cpu().numpy().copy()

        return hook

    handles = [each.register_forward_hook(watch(name, type(each).__name__)) for name, each in module.named_modules()]

    def answer(arrays: Arrays) -> Arrays:
        caught.clear()
        calls.clear()
        run(arrays)
        return dict(caught)

    try:
        answer({name: values[:1] for name, values in samples.items()})
        values = _run(answer, samples, [name for name, _ in order])
    finally:
        for handle in handles:
            handle.remove()
    found: list[Activation] = []
    for name, operator in order:
        if name in values:
            file = out / f"{len(found):05}.npy"
            np.save(file, values[name], allow_pickle=False)
            found.append(Activation(name, operator, None, file))
    return found


def _tensors(output: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.ndim > 0:
            yield output
    elif isinstance(output, Mapping):
        for each in output.values():
            yield from _tensors(each)
    elif isinstance(output, list | tuple):
        for each in output:
            yield from _tensors(each)
