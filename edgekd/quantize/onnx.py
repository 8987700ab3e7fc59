"""Int8 for ONNX Runtime, per-channel symmetric weights: static (QDQ, asymmetric 8-bit activations) or dynamic."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.quantize.logarithms import nodes_feeding_logarithms, store_constants_in_int8
from edgekd.quantize.onnx_tensors import activations_of, fold_onnx, nodes_of_layers, overrides_of
from edgekd.quantize.range_file import read_ranges
from edgekd.safe.files import write_bytes


def quantize_onnx(
    model: str, calibration: str, out: str, ranges: str | None = None, keep: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Write the int8 form of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    What feeds a logarithm computes in float, see :mod:`edgekd.quantize.logarithms`.

    Args:
        model: Path of the float32 file.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write.
        ranges: File of ranges of tensors of ``model``, see :func:`edgekd.quantize.range_file.read_ranges`; a tensor that it
            does not name gets the least and the largest value of the calibration samples.
        keep: Names of nodes that compute in float, weights and all.

    Raises:
        ExportError: ``ranges`` or ``keep`` name what the file does not have.
    """
    from onnxruntime.quantization import QuantType

    quantize_static_onnx(model, calibration, out, ranges, keep, activation_type=QuantType.QUInt8)
    return {}


def quantize_static_onnx(
    model: str, calibration: str, out: str, ranges: str | None, keep: Sequence[str], **options: Any
) -> None:
    """Write ``model`` in static int8 with weights per channel to ``out``; ``options`` are those of ONNX Runtime's quantizer.

    The other arguments and errors are those of :func:`quantize_onnx`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    with np.load(calibration, allow_pickle=False) as archive:
        samples = dict(archive)
    given = read_ranges(ranges) if ranges is not None else {}

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, count: int) -> None:
            self.rest = iter(range(count))

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            index = next(self.rest, None)
            return None if index is None else {name: array[index : index + 1] for name, array in samples.items()}

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded, quantized = Path(scratch, "folded.onnx"), Path(scratch, "int8.onnx")
        fold_onnx(model, folded)
        whole = onnx.load(folded)
        kept = nodes_feeding_logarithms(whole)
        floating = nodes_of_layers(model, whole, keep)
        overrides = overrides_of(model, whole, given)
        onnx.save(whole, folded)
        # Where every range is given, the quantizer still wants to see a sample.
        count = 1 if activations_of(whole) <= set(overrides) else len(next(iter(samples.values())))
        extra = {**options.pop("extra_options", {}), "TensorQuantOverrides": overrides}
        quantize_static(
            folded, quantized, Samples(count), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=[*kept, *floating], extra_options=extra, **options,
        )  # fmt: skip
        proto = onnx.load(quantized)
    store_constants_in_int8(proto, [name for name in kept if name not in floating])
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

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded, quantized = Path(scratch, "folded.onnx"), Path(scratch, "int8.onnx")
        fold_onnx(model, folded)
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
