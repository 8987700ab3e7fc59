"""Inspect a model file: read it in a child process, and say what it costs and where it runs."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.errors import ExportError, ModelError, ResourceError, UsageError
from edgekd.inspect.delegates import Verdict, judge
from edgekd.inspect.graph import GraphDescription, OperatorDescription, TensorDescription, graph_from_json
from edgekd.inspect.integer import DEQUANTIZERS, QUANTIZERS, fuse
from edgekd.inspect.memory import PeakMemory, peak_memory
from edgekd.names import did_you_mean
from edgekd.safe.child import run_in_child
from edgekd.safe.model_files import check_file

FORMATS = {".onnx": "onnx", ".tflite": "tflite"}
_TIMEOUT_S = 300.0
_MEMORY_BYTES = 8 << 30
_PASSING = QUANTIZERS | DEQUANTIZERS | {"Cast", "CAST"}
_TRANSPOSES = frozenset({"Transpose", "TRANSPOSE"})


@dataclass(frozen=True)
class Layout:
    """What a file does to bring values into another form.

    Attributes:
        transposes: Number of transposes.
        border_transposes: Names of those whose input is an input of the graph, or whose output is one of its outputs. Casts
            and quantizers in between are looked through. They are there because the network was made for another layout of
            images than the app hands over.
        quantize, dequantize: Number of operators from floats to integers, and back; those on constants alone as well.
    """

    transposes: int
    border_transposes: tuple[str, ...]
    quantize: int
    dequantize: int


@dataclass(frozen=True)
class Inspection:
    """Everything that is told about a file.

    Attributes:
        path, size_bytes: The file; its bytes, without weights it keeps in other files.
        graph: As stored.
        fused: With quantized operators fused, as runtimes see it.
        parameters: Numbers stored as weights, each place once. Batch norms that are folded into convolutions are gone, and
            tables of a front end are counted.
        macs: Multiply-accumulates for a batch of 1; those of operators in ``unknown_macs`` are not in it.
        weight_bytes: Bytes of those weights.
        unknown_macs: Names of operators of unknown cost.
        census: As of :func:`edgekd.census.tally`: ``{"weight_bytes": {dtype: bytes}, "integer_operators", "float_operators"}``.
        peak: Of activations.
        layout: Of its transposes and quantizers.
        verdicts: Of each runtime.
    """

    path: Path
    size_bytes: int
    graph: GraphDescription
    fused: GraphDescription
    parameters: int
    macs: int
    weight_bytes: int
    unknown_macs: tuple[str, ...]
    census: dict[str, Any]
    peak: PeakMemory
    layout: Layout
    verdicts: tuple[Verdict, ...]

    @property
    def operators(self) -> Counter[str]:
        """How many operators of each kind the file has, without those on constants alone."""
        return Counter(each.kind for each in self.graph.operators if not self.graph.is_folded(each))

    @property
    def folded(self) -> Counter[str]:
        """How many operators of each kind work on constants alone: they run once, before the first sample."""
        return Counter(each.kind for each in self.graph.operators if self.graph.is_folded(each))

    def layers(self) -> list[OperatorDescription]:
        """Return the operators that have weights or multiply-accumulates, in order of execution."""
        return [each for each in self.fused.operators if each.weight_bytes or each.macs or each.macs is None]


def inspect_file(path: Path) -> Inspection:
    """Inspect an ONNX or TFLite file, by its ending.

    Raises:
        UsageError: There is no such file, it is empty or cut off, or its ending is another.
        ModelError: It is broken, or keeps weights outside its folder.
        ResourceError: Reading it takes too much time or memory.
    """
    _check_readable(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        close = did_you_mean(path.suffix.lower(), FORMATS)
        raise UsageError(
            f"{path} ends in '{path.suffix}', allowed: {', '.join(FORMATS)}{close}", "name an .onnx or .tflite file"
        )
    found = _read(path, kind)
    graph = graph_from_json(found["graph"])
    fused = fuse(graph)
    stored = {each.storage: each for each in graph.tensors.values() if each.role == "weight"}
    return Inspection(
        path, path.stat().st_size, graph, fused,
        sum(each.elements or 0 for each in stored.values()),
        sum(each.macs or 0 for each in graph.operators),
        sum(each.bytes or 0 for each in stored.values()),
        tuple(each.name for each in graph.operators if each.macs is None),
        found["census"], peak_memory(fused), layout(graph), tuple(judge(fused)),
    )  # fmt: skip


def on_device(inspection: Inspection, runtimes: tuple[str, ...]) -> Inspection:
    """Return an inspection with the verdicts of ``runtimes`` alone, by their ids."""
    return replace(inspection, verdicts=tuple(each for each in inspection.verdicts if each.runtime.id in runtimes))


def _check_readable(path: Path) -> None:
    try:
        check_file(path)
        if path.is_file():  # opening a pipe would wait for whoever writes to it
            path.open("rb").close()
            return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name an .onnx or .tflite file") from None
    raise UsageError(f"{path} is no plain file", "name an .onnx or .tflite file")


def _read(path: Path, kind: str) -> dict[str, Any]:
    """Describe the file in a child process; what its libraries print is kept where that fails."""
    with tempfile.NamedTemporaryFile(prefix="edgekd-inspect-", suffix=".log", delete=False) as log:
        log_path = Path(log.name)
    try:
        found: dict[str, Any] = run_in_child(
            "edgekd.inspect.inspection:describe_file", {"path": str(path), "kind": kind},
            log=log_path, timeout_s=_TIMEOUT_S, threads=1,
        )  # fmt: skip
    except ExportError as error:  # it crashed, or raised what its reader did not foresee: the log tells
        raise ModelError(f"{path} cannot be read: {error.message}", f"the reader's output is in {log_path}") from None
    except ResourceError as error:
        raise ResourceError(
            f"{path} cannot be read in {_MEMORY_BYTES >> 30} GiB of memory and {_TIMEOUT_S / 60:.0f} minutes",
            f"{error.message}; the reader's output is in {log_path}",
        ) from None
    except BaseException:
        log_path.unlink(missing_ok=True)
        raise
    log_path.unlink(missing_ok=True)
    return found


def describe_file(path: str, kind: str) -> dict[str, Any]:
    """Return the graph and the census of a file as plain data. Runs in a child process, in limited memory.

    Args:
        path: The file.
        kind: ``onnx`` or ``tflite``.
    """
    _limit_memory()
    from edgekd.census import tally

    if kind == "onnx":
        from edgekd.inspect.onnx import describe_onnx as describe
    else:
        from edgekd.inspect.tflite import describe_tflite as describe
    graph = describe(path)
    return {"graph": graph, "census": tally(path, kind)}


def _limit_memory() -> None:
    """Make a file that asks for too much memory fail in this process, rather than the machine."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def layout(graph: GraphDescription) -> Layout:
    """Return the transposes and quantizers of a graph as it is stored."""
    after, before = set(graph.inputs), set(graph.outputs)
    for operator in graph.operators:
        if operator.kind in _PASSING and operator.inputs and operator.inputs[0] in after:
            after |= set(operator.outputs)
    for operator in reversed(graph.operators):
        if operator.kind in _PASSING and operator.inputs and before & set(operator.outputs):
            before.add(operator.inputs[0])
    transposes = [each for each in graph.operators if each.kind in _TRANSPOSES]
    at_borders = tuple(each.name for each in transposes if after & set(each.inputs[:1]) or before & set(each.outputs))
    kinds = Counter(each.kind for each in graph.operators)
    return Layout(
        len(transposes), at_borders, sum(kinds[kind] for kind in QUANTIZERS), sum(kinds[kind] for kind in DEQUANTIZERS)
    )


def to_json(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as plain data, the form that ``edgekd inspect --json`` prints for each file.

    ``path, format, size_bytes, subgraphs``; ``inputs, outputs`` (name, shape with open dimensions by name, shape of a batch
    of 1, dtype, scale, zero_point); ``metadata``; ``operators, folded_operators`` (numbers by kind); ``parameters, macs,
    unknown_macs, weight_bytes``; ``precision`` (``weight_bytes`` by dtype, ``integer_operators, float_operators``);
    ``peak_activations`` (``bytes``, the ``operator`` where it is reached, ``unknown_tensors``: with any, ``bytes`` is too
    low); ``layout`` (``transposes, border_transposes, quantize, dequantize``); ``layers`` (every operator: ``name, kind,
    macs, weight_bytes, output_shape, dtype``, quantized ones fused); ``runtimes`` (``id, name, version, source, operators,
    delegated, delegated_partitions, fallback_partitions, refusals, notes``).
    """
    graph, fused = inspection.graph, inspection.fused
    return {
        "path": str(inspection.path), "format": graph.format, "size_bytes": inspection.size_bytes,
        "inputs": [_described(graph.tensors[name]) for name in graph.inputs],
        "outputs": [_described(graph.tensors[name]) for name in graph.outputs],
        "metadata": graph.metadata, "operators": dict(inspection.operators.most_common()),
        "folded_operators": dict(inspection.folded.most_common()), "subgraphs": graph.subgraphs,
        "parameters": inspection.parameters, "macs": inspection.macs, "unknown_macs": list(inspection.unknown_macs),
        "weight_bytes": inspection.weight_bytes, "precision": inspection.census,
        "peak_activations": {
            "bytes": inspection.peak.bytes, "operator": inspection.peak.operator, "unknown_tensors": inspection.peak.unknown,
        },
        "layout": asdict(inspection.layout) | {"border_transposes": list(inspection.layout.border_transposes)},
        "layers": [
            {"name": each.name, "kind": each.kind, "macs": each.macs, "weight_bytes": each.weight_bytes, **_output(fused, each)}
            for each in fused.operators
        ],
        "runtimes": [_verdict(each) for each in inspection.verdicts],
    }  # fmt: skip


def _described(tensor: TensorDescription) -> dict[str, Any]:
    declared = None if tensor.declared is None else list(tensor.declared)
    return {"name": tensor.name, "shape": declared, "shape_of_batch_1": None if tensor.shape is None else list(tensor.shape),
            "dtype": tensor.dtype, "scale": tensor.scale, "zero_point": tensor.zero_point}  # fmt: skip


def _output(graph: GraphDescription, operator: OperatorDescription) -> dict[str, Any]:
    tensor = graph.tensors.get(operator.outputs[0]) if operator.outputs else None
    if tensor is None:
        return {"output_shape": None, "dtype": None}
    return {"output_shape": None if tensor.shape is None else list(tensor.shape), "dtype": tensor.dtype}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    runtime = verdict.runtime
    return {
        "id": runtime.id, "name": runtime.name, "version": runtime.version, "source": runtime.source,
        "operators": verdict.operators, "delegated": verdict.delegated,
        "delegated_partitions": verdict.delegated_partitions, "fallback_partitions": verdict.fallback_partitions,
        "refusals": [
            {"kind": each.kind, "reason": each.reason, "what": each.what, "names": list(each.names), "fix": each.fix or None}
            for each in verdict.refusals
        ],
        "notes": list(verdict.notes),
    }  # fmt: skip
