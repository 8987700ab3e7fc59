"""What ONNX Runtime's quantizer must be told of the tensors and nodes of a float32 file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.quantize.range_file import Ranges, check_known


def fold_onnx(model: str, out: Path) -> None:
    """Write ``model`` with batch norms folded into convolutions to ``out``, so that one scale covers both."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(model, out, skip_symbolic_shape=True)


def activations_of(model: Any) -> set[str]:
    """Return the names of the float tensors that a model, with the types of its tensors inferred, computes or is given."""
    from onnx import TensorProto

    constants = {each.name for each in model.graph.initializer}
    described = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    floats = {each.name for each in described if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats - constants


def nodes_of_layers(path: str, folded: Any, layers: Iterable[str]) -> list[str]:
    """Return the names of the nodes of ``folded`` that do what the nodes ``layers`` of the file do; unnamed ones get one.

    Folding may rename a node, or let one do the work of two: then it still gives the tensor of one of them.

    Raises:
        ExportError: The file has no node of such a name.
    """
    import onnx

    wanted, model = set(layers), onnx.load(path, load_external_data=False)
    check_known(path, "layer", wanted, {node.name for node in model.graph.node})
    given = {name for node in model.graph.node if node.name in wanted for name in node.output}
    found = []
    for index, node in enumerate(folded.graph.node):
        if (node.name and node.name in wanted) or given & set(node.output):
            node.name = node.name or f"node_{index}"
            found.append(node.name)
    return found


def overrides_of(path: str, folded: Any, ranges: Mapping[str, tuple[float, float]]) -> dict[str, list[dict[str, Any]]]:
    """Return ``ranges`` as ONNX Runtime's ``TensorQuantOverrides``, those of tensors that folding left.

    The quantizer drops a ReLU or clip and lets the range of what it gives stand for it, so that must not reach further.

    Raises:
        ExportError: The file has no tensor of such a name.
    """
    import onnx

    known, graph = activations_of(folded), onnx.load(path, load_external_data=False).graph
    before = {name for node in graph.node for name in node.output}
    check_known(path, "tensor", ranges, known | before | {each.name for each in graph.input})
    bounds = _bounds(folded)
    made = {}
    for name in sorted(known & set(ranges)):
        least, largest = bounds.get(name, (-np.inf, np.inf))
        low, high = max(ranges[name][0], least), min(ranges[name][1], largest)
        made[name] = [{"rmin": np.array(min(low, 0), np.float32), "rmax": np.array(max(high, 0), np.float32)}]
    return made


def _bounds(model: Any) -> Ranges:
    """Return what ReLUs and clips give at least and at most, by tensor."""
    from onnx import numpy_helper

    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    found: Ranges = {}
    for node in model.graph.node:
        if node.op_type == "Relu":
            found[node.output[0]] = (0.0, np.inf)
        elif node.op_type == "Clip":
            low, high = ([*node.input, "", ""])[1:3]
            found[node.output[0]] = (float(constants.get(low, -np.inf)), float(constants.get(high, np.inf)))
    return found
