"""Int8 for TensorRT: symmetric ranges with zero point 0, weights per channel, QDQ around what has integer kernels there.

TensorRT reads explicit quantization: it computes in int8 where an operator stands between DequantizeLinear and QuantizeLinear,
and refuses zero points other than 0. Biases stay in floating point, as it wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.quantize.onnx import quantize_static_onnx

_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "MaxPool")


def quantize_onnx_tensorrt(
    model: str, calibration: str, out: str, ranges: str | None = None, keep: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Write the symmetric int8 form of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    Args:
        model: Path of the float32 file.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write.
        ranges: File of ranges of tensors of ``model``, see :func:`edgekd.quantize.range_file.read_ranges`; each is widened
            to be symmetric about 0.
        keep: Names of nodes that compute in float, weights and all.

    Raises:
        ExportError: ``ranges`` or ``keep`` name what the file does not have.
    """
    from onnxruntime.quantization import QuantType

    quantize_static_onnx(
        model, calibration, out, ranges, keep, activation_type=QuantType.QInt8, op_types_to_quantize=list(_OPERATORS),
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    return {}
