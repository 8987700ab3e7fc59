"""TFLite in fewer bits: int8 (per-channel symmetric weights, activations static and asymmetric, or dynamic), fp16 weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.quantize.logarithms import tensors_feeding_logarithms
from edgekd.quantize.range_file import check_known, read_ranges
from edgekd.safe.files import write_bytes


def quantize_tflite(
    model: str, calibration: str, out: str, bits: int = 8, float_io: bool = False,
    ranges: str | None = None, keep: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write the int8 form of the float32 TFLite file ``model`` to ``out``. Runs in a child process.

    What feeds a logarithm computes in float, see :mod:`edgekd.quantize.logarithms`.

    Args:
        model: Path of the float32 file; its images are NHWC.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write.
        bits: Of activations, inputs and outputs: 8, asymmetric, or 16, symmetric.
        float_io: Whether inputs and outputs stay floating point.
        ranges: File of ranges of tensors of ``model``, see :func:`edgekd.quantize.range_file.read_ranges`; a tensor that it
            does not name gets the least and the largest value of the calibration samples. Where an operator must give the
            scale that it takes, as a pooling does, the range of what it takes holds for both.
        keep: Layers that compute in float, weights and all: names of the tensors that operators give.

    Raises:
        ExportError: ``ranges`` or ``keep`` name what the file does not have.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe, recipe_manager

    samples = tflite_samples(calibration)
    (signature,) = Interpreter(model).get_signature_list()
    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe.static_wi8_ai8() if bits == 8 else recipe.static_wi8_ai16())
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT) if float_io else ():
        rules.add_quantization_config(".*", border, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)
    content = Path(model).read_bytes()
    given = read_ranges(ranges) if ranges is not None else {}
    check_known(model, "tensor", given, tensor_names(content))
    check_known(model, "layer", keep, tensor_names(content))
    _keep_in_float(rules, [name for name in tensors_feeding_logarithms(content) if name not in keep], weights=8)
    _keep_in_float(rules, [*keep, *_inputs_of(content, keep)], weights=None)
    flavour = rules.get_quantization_recipe()
    # A list, because the calibrator goes over it twice.
    count = len(next(iter(samples.values())))
    rows = [{name: np.ascontiguousarray(each[i : i + 1]) for name, each in samples.items()} for i in range(count)]
    found = _calibrate(model, {signature: rows[:1]}, rules)
    if not set(found) <= set(given):
        found = _calibrate(model, {signature: rows}, rules)
    for name in set(found) & set(given):
        low, high = given[name]
        found[name] = {"min": np.full_like(found[name]["min"], low), "max": np.full_like(found[name]["max"], high)}
    quantized = quantizer.Quantizer(model, flavour).quantize(found)
    write_bytes(Path(out), bytes(quantized.quantized_model))
    return {}


def _calibrate(model: str, samples: dict[str, list[dict[str, Any]]], rules: Any) -> dict[str, Any]:
    """Return the least and the largest value of every activation, by name.

    The true ones: the quantizer's default, a moving average over samples, depends on their order and cuts off the strongest
    outputs.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    found = calibrator.Calibrator(model, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    found.calibrate(samples, rules)
    return dict(found.get_model_qsvs())


def _keep_in_float(rules: Any, tensors: Sequence[str], weights: int | None) -> None:
    """Let the operators that give ``tensors`` compute in float, with constants of ``weights`` bits where they can have them."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    if not tensors:
        return
    # An operator is known by the names of its outputs, joined by semicolons.
    pattern = f"^(?:{'|'.join(map(re.escape, tensors))});*$"
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    rules.add_quantization_config(pattern, everything, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL") if weights is not None else ():
        rules.add_weight_only_config(pattern, qtyping.TFLOperationName[name], num_bits=weights)


def quantize_tflite_dynamic(model: str, out: str) -> dict[str, Any]:
    """Write ``model`` with int8 weights and embeddings to ``out``; activations are quantized by the range that each
    has as it runs. Runs in a child process.

    Args:
        model: Path of the float32 file.
        out: Path of the file to write.
    """
    from ai_edge_quantizer import quantizer, recipe

    quantized = quantizer.Quantizer(model, recipe.dynamic_wi8_afp32()).quantize()
    write_bytes(Path(out), bytes(quantized.quantized_model))
    return {}


def store_tflite_weights(model: str, out: str, bits: int) -> dict[str, Any]:
    """Write ``model`` with weights of ``bits`` bits, 8 or 4, to ``out``; it computes in float32. Runs in a child process.

    Args:
        model: Path of the float32 file.
        out: Path of the file to write.
        bits: 8 or 4.
    """
    from ai_edge_quantizer import quantizer, recipe

    rules = recipe.weight_only_wi8_afp32() if bits == 8 else recipe.weight_only_wi4_afp32()
    write_bytes(Path(out), bytes(quantizer.Quantizer(model, rules).quantize().quantized_model))
    return {}


def cast_tflite_fp16(model: str, out: str) -> dict[str, Any]:
    """Write ``model`` with 16-bit float weights to ``out``; it computes in float32. Runs in a child process."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    work = quantizer.Quantizer(model)
    work.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
        ),
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )
    write_bytes(Path(out), bytes(work.quantize().quantized_model))
    return {}


def _inputs_of(content: bytes, layers: Sequence[str]) -> list[str]:
    """Return the inputs of a TFLite file that only ``layers`` read: they stay in float with them."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    reading = {
        name: [operator for operator in graph.operators if index in operator.inputs]
        for index, name in enumerate(names) if index in graph.inputs
    }  # fmt: skip
    return [
        name for name, operators in reading.items()
        if operators and all(names[output] in layers for each in operators for output in each.outputs)
    ]  # fmt: skip


def tensor_names(content: bytes) -> set[str]:
    """Return the names of all tensors of a TFLite file, constants too."""
    from ai_edge_litert import schema_py_generated as schema

    return {tensor.name.decode() for tensor in schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors}


def tflite_samples(calibration: str) -> dict[str, NDArray[Any]]:
    """Return the samples of a calibration file as TFLite takes them, images in NHWC."""
    with np.load(calibration, allow_pickle=False) as archive:
        return {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in archive.items()}
