"""Int8 for TensorRT: symmetric ranges with zero point 0, weights per channel, QDQ around what has integer kernels there.

TensorRT reads explicit quantization: it computes in int8 where an operator stands between DequantizeLinear and QuantizeLinear,
and refuses zero points other than 0. Biases stay in floating point, as it wants them.
"""

from __future__ import annotations

from typing import Any

from edgekd.quantize.onnx import quantize_static_onnx

_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "MaxPool")


def quantize_onnx_tensorrt(model: str, calibration: str, out: str) -> dict[str, Any]:
    """Write the symmetric int8 form of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    Args:
        model: Path of the float32 file.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write.
    """
    from onnxruntime.quantization import QuantType

    quantize_static_onnx(
        model, calibration, out, activation_type=QuantType.QInt8, op_types_to_quantize=list(_OPERATORS),
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    return {}
