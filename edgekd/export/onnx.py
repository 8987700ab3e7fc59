"""PyTorch to one self-contained ONNX file with a dynamic batch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from edgekd.export.onnx_layout import in_one_layout
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
    program = torch.onnx.export(
        model,
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=[output.name for output in described.outputs],
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    if kind_of(described.reference) == "keras":
        proto = in_one_layout(proto)
    proto.producer_name, proto.producer_version = "edgekd", ""
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(Path(out), proto.SerializeToString(deterministic=True))
    return {}
