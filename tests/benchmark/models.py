"""Tiny real model files, made in milliseconds, and a fast protocol."""

from pathlib import Path

import numpy as np
from onnx import helper

from edgekd.benchmark.on_device import Protocol
from tests.inspect.onnx_files import write

QUICK = Protocol(
    runs=5,
    seconds=0.01,
    blocks=1,
    warmup_runs=1,
    warmup_s=0.0,
    turn_s=0.01,
    canary_s=0.01,
    idle_s=0.01,
    most_s=30.0,
    state_s=0.1,
)


def onnx_model(path: Path, size: int = 16, batch: int | str = 1) -> Path:
    """Write one matrix product."""
    weights = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    return write(
        path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [batch, size]}, {"y": [batch, size]}, {"w": weights}
    )


def tflite_model(path: Path) -> Path:
    """Write one fully connected layer."""
    from ai_edge_litert import schema_py_generated as schema

    from tests.inspect.made_up import TfliteFile

    file = TfliteFile()
    x, y = file.tensor("x", (1, 16)), file.tensor("y", (1, 8))
    w = file.tensor("w", (8, 16), values=np.ones((8, 16), np.float32))
    b = file.tensor("b", (8,), values=np.arange(8, dtype=np.float32))
    file.operator("FULLY_CONNECTED", [x, w, b], [y], schema.FullyConnectedOptionsT())
    return file.write(path, [x], [y])
