"""The ranges that a network learned, carried to the tensors of an exported file: they are found by their numbers.

Exporters name, fold and reorder as they like. On the same samples a tensor of the file holds the same numbers as its value in
the graph, perhaps in another order, and that is how it is known.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.artifacts import Artifact
from edgekd.data.dataset import Dataset
from edgekd.distill.trainer import tensors
from edgekd.distill.training_stage import TrainedModel
from edgekd.models.spec import load
from edgekd.models.trace import trace
from edgekd.quantize.qat.graph import values_at
from edgekd.quantize.range_file import Ranges
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import Workspace

PROBES = 4
"""Samples that tell values apart."""
_CLOSE = 1e-4
"""Largest difference of equal values, as a share of their range: float32 sums in another order."""


def learned_stage(source: Artifact, student: TrainedModel, data: Dataset, workspace: Workspace) -> Ranges:
    """Return what :func:`learned_ranges` finds, as a stage of the run."""
    assert student.simulation is not None

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            return {"ranges": learned_ranges(source, student, data, Path(scratch), workspace.log)}

    inputs = {"model": source.sha256, "student": student.digest, "simulation": student.simulation.digest, "data": data.digest}
    stage = workspace.stage(f"learned-{source.format}", "ranges that training learned, found in the file", inputs, work, _found)
    return {name: (low, high) for name, (low, high) in stage.result["ranges"].items()}


def _found(result: dict[str, Any]) -> str:
    return f"{len(result['ranges'])} tensors"


def learned_ranges(source: Artifact, student: TrainedModel, data: Dataset, scratch: Path, log: Path) -> Ranges:
    """Return the ranges of a float32 file's tensors that quantization-aware training learned, by the tensors' names.

    Args:
        source: The float32 file, ONNX or TFLite.
        student: With its simulation.
        data: Of the run.
        scratch: A folder that is removed afterwards.
        log: File that gets what runtimes print.
    """
    assert student.simulation is not None
    learned = json.loads(student.simulation.ranges.read_text())
    probes = data.batch(data.splits.train[:PROBES])
    graph = trace(load(student.spec, student.weights), student.spec)
    batch = tensors(probes, layout="contiguous")
    values = values_at(graph, list(learned), tuple(batch[each.name] for each in student.spec.inputs))
    images = {each.name for each in student.spec.inputs if each.layout == "NCHW" and source.format == "tflite"}
    given = {name: each.transpose(0, 2, 3, 1) if name in images else each for name, each in probes.items()}
    np.savez(scratch / "probes.npz", allow_pickle=False, **given)
    found = run_in_child(
        "edgekd.quantize.qat.file_ranges:capture_with_inputs",
        {"path": str(source.path), "kind": source.format, "inputs": str(scratch / "probes.npz"), "out": str(scratch)},
        log=log,
    )["tensors"]  # fmt: skip
    in_file = {name: np.load(file, allow_pickle=False) for name, file in found.items()}
    matches = match_values({name: each.numpy() for name, each in values.items()}, in_file)
    return {tensor: tuple(learned[value]) for tensor, value in matches.items()}


def capture_with_inputs(path: str, kind: str, inputs: str, out: str) -> dict[str, Any]:
    """Run a file on samples and write its inputs and what its layers give to the folder ``out``. Runs in a child process.

    Args:
        path: The float32 file.
        kind: ``onnx`` or ``tflite``.
        inputs: ``.npz`` file of real numbers for every input by name, in the layout of the file.
        out: A folder.

    Returns:
        ``tensors``: for every tensor of the file by name a ``.npy`` file of its values, ``float32 [n, ...]``.
    """
    from edgekd.compare.activations import capture_file

    found = {each["name"]: each["file"] for each in capture_file(path, kind, inputs, out)}
    with np.load(inputs, allow_pickle=False) as archive:
        for name, tensor in _input_tensors(path, kind).items():
            file = Path(out, f"input_{name}.npy")
            np.save(file, archive[name].astype(np.float32), allow_pickle=False)
            found[tensor] = str(file)
    return {"tensors": found}


def _input_tensors(path: str, kind: str) -> dict[str, str]:
    """Return the tensor of each input by the input's name, which TFLite has in its signature."""
    if kind == "onnx":
        import onnx

        graph = onnx.load(path).graph
        constants = {each.name for each in graph.initializer}
        return {each.name: each.name for each in graph.input if each.name not in constants}
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    tensors_of = model.subgraphs[0].tensors
    return {each.name.decode(): tensors_of[each.tensorIndex].name.decode() for each in model.signatureDefs[0].inputs}


def match_values(values: Mapping[str, NDArray[Any]], tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return for each tensor the value that has the same numbers for every sample, in whatever order; tensors without one
    are left out.

    Args:
        values: Of the graph by name, ``[n, ...]``.
        tensors: Of the file by name, ``[n, ...]``, for the same samples.
    """
    known = {name: _sorted(each) for name, each in values.items()}
    found = {}
    for tensor, numbers in tensors.items():
        looked_for = _sorted(numbers)
        distances = {
            name: float(np.abs(each - looked_for).max(initial=0))
            for name, each in known.items() if each.shape == looked_for.shape
        }  # fmt: skip
        nearest = min(distances, key=lambda name: distances[name], default=None)
        if nearest is not None and distances[nearest] <= _CLOSE * np.ptp(known[nearest]):
            found[tensor] = nearest
    return found


def _sorted(numbers: NDArray[Any]) -> NDArray[np.float32]:
    return np.sort(numbers.reshape(len(numbers), -1).astype(np.float32), axis=1)
