"""Int8 for ONNX Runtime, per-channel symmetric weights: static (QDQ, asymmetric 8-bit activations) or dynamic."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.quantize.logarithms import nodes_feeding_logarithms, store_constants_in_int8
from edgekd.safe.files import write_bytes


def quantize_onnx(model: str, calibration: str, out: str) -> dict[str, Any]:
    """Write the int8 form of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    What feeds a logarithm computes in float, see :mod:`edgekd.quantize.logarithms`.

    Args:
        model: Path of the float32 file.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write.
    """
    from onnxruntime.quantization import QuantType

    quantize_static_onnx(model, calibration, out, activation_type=QuantType.QUInt8)
    return {}


def quantize_static_onnx(model: str, calibration: str, out: str, **options: Any) -> None:
    """Write ``model`` in static int8 with weights per channel to ``out``; ``options`` are those of ONNX Runtime's quantizer."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with np.load(calibration, allow_pickle=False) as archive:
        samples = dict(archive)

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(range(len(next(iter(samples.values())))))

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            index = next(self.rest, None)
            return None if index is None else {name: array[index : index + 1] for name, array in samples.items()}

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded, quantized = Path(scratch, "folded.onnx"), Path(scratch, "int8.onnx")
        # Folds batch norm into convolutions, so that one scale covers both.
        quant_pre_process(model, folded, skip_symbolic_shape=True)
        whole = onnx.load(folded)
        kept = nodes_feeding_logarithms(whole)
        onnx.save(whole, folded)
        quantize_static(
            folded, quantized, Samples(), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=kept, **options,
        )  # fmt: skip
        proto = onnx.load(quantized)
    store_constants_in_int8(proto, kept)
    write_onnx(proto, out)


def quantize_onnx_dynamic(model: str, out: str) -> dict[str, Any]:
    """Write ``model`` with int8 weights and embeddings to ``out``; activations are quantized by the range that each
    has as it runs. Runs in a child process.

    Args:
        model: Path of the float32 file.
        out: Path of the file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded, quantized = Path(scratch, "folded.onnx"), Path(scratch, "int8.onnx")
        quant_pre_process(model, folded, skip_symbolic_shape=True)
        quantize_dynamic(folded, quantized, per_channel=True, weight_type=QuantType.QInt8)
        proto = onnx.load(quantized)
    write_onnx(proto, out)
    return {}


def write_onnx(proto: Any, out: str) -> None:
    """Check a model and write it to ``out``, always the same bytes, without what tells of the machine it was made on."""
    import onnx

    proto.producer_name, proto.producer_version = "edgekd", ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(Path(out), proto.SerializeToString(deterministic=True))
