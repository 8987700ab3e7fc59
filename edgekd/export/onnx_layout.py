"""ONNX graphs of networks that think in NHWC, as those of Keras do, brought to the form that all other students have."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def in_one_layout(model: Any) -> Any:
    """Return an ONNX model of the same function without the transposes around each convolution.

    Each convolution of Keras on PyTorch stands between two transposes, and its batch norm is a subtraction, a product and a
    sum. ONNX Runtime's basic optimizations, which leave plain ONNX operators, take the transposes out and draw sums and
    products into the convolutions; subtractions are made sums first, because those it leaves. Quantizers need that: batch
    norms apart from their convolutions would be rounded one by one.

    Args:
        model: ``onnx.ModelProto`` in float32, weights inside.
    """
    import onnx
    import onnxruntime

    _sums_for_differences(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "optimized.onnx"))
        options.optimized_model_filepath = path
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        made = onnx.load(path)
    made.ir_version = model.ir_version
    used = {node.domain for node in made.graph.node}
    kept = [each for each in made.opset_import if each.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    return made


def _sums_for_differences(model: Any) -> None:
    """Turn ``x - constant`` into ``x + (-constant)`` wherever it stands in the graph."""
    from onnx import numpy_helper

    stored = {each.name: each for each in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Sub" and node.input[1] in stored and node.input[0] not in stored:
            values = numpy_helper.to_array(stored[node.input[1]])
            name = f"{node.input[1]}_negated_{index}"
            model.graph.initializer.append(numpy_helper.from_array(np.negative(values), name))
            node.op_type, node.input[1] = "Add", name
