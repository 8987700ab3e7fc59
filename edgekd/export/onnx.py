"""PyTorch to one self-contained ONNX file with a dynamic batch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from edgekd.errors import ExportError
from edgekd.export.onnx_layout import in_one_layout
from edgekd.export.refusals import plain_refusals
from edgekd.models.references import kind_of
from edgekd.models.spec import example_inputs, load
from edgekd.models.tensors import spec_from_json
from edgekd.safe.files import write_bytes


def export_onnx(spec: dict[str, Any], weights: str, out: str) -> dict[str, Any]:
    """Write the network of ``spec`` to ``out`` as float32 ONNX. Runs in a child process.

    Weights are inside the file; local paths, which the exporter puts into the metadata of every node, are not.

    Args:
        spec: A :class:`~edgekd.models.spec.ModelSpec` as plain data.
        weights: Its safetensors file.
        out: Path of the file to write.

    Raises:
        ExportError: An operator is not in ONNX, or what is computed depends on values or on the number of samples.
    """
    import onnx
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    described = spec_from_json(spec)
    model = load(described, Path(weights))
    # An example batch of 2, because torch.export bakes a dimension of 1 into the graph.
    inputs = example_inputs(described, batch=2)
    shapes: tuple[Any, ...] = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    if any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(model.forward).parameters.values()):
        shapes = (shapes,)  # forward(*inputs) is one parameter
    given = tuple(inputs.values())
    with plain_refusals(
        model, described.reference, "ONNX", lambda: torch.export.export(model, given, dynamic_shapes=shapes, strict=False)
    ):
        program = torch.onnx.export(
            model, given, dynamo=True, input_names=list(inputs), output_names=[output.name for output in described.outputs],
            dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    _check_batch(proto, described.reference)
    if kind_of(described.reference) == "keras":
        proto = in_one_layout(proto)
    proto.producer_name, proto.producer_version = "edgekd", ""
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(Path(out), proto.SerializeToString(deterministic=True))
    return {}


def _check_batch(model: Any, reference: str) -> None:
    """Refuse a network whose graph holds for the example's number of samples alone: the exporter does so without a word."""
    for each in model.graph.input:
        if not each.type.tensor_type.shape.dim[0].dim_param:
            size = each.type.tensor_type.shape.dim[0].dim_value
            raise ExportError(
                f"{reference} cannot become ONNX for any batch: what it computes depends on the number of samples, here {size}",
                "leave the first size of every shape open: -1 in reshape, and no decision by x.shape[0]",
            )
