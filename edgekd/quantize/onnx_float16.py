"""16-bit floating point for ONNX: weights and computation, with 32-bit inputs and outputs."""

from __future__ import annotations

from typing import Any

from edgekd.quantize.logarithms import nodes_feeding_logarithms
from edgekd.quantize.onnx import write_onnx


def cast_onnx_fp16(model: str, out: str) -> dict[str, Any]:
    """Write the 16-bit form of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    What feeds a logarithm stays in 32 bits: the power of a sound spans more than 16-bit numbers reach.

    Args:
        model: Path of the float32 file.
        out: Path of the file to write.
    """
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = onnx.load(model)
    kept = nodes_feeding_logarithms(whole)
    made = onnx_ir.from_proto(convert_float_to_float16(whole, keep_io_types=True, node_block_list=kept))
    TopologicalSortPass()(made)  # the casts come last in the list of nodes
    write_onnx(onnx_ir.to_proto(made), out)
    return {}
