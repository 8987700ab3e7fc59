"""What each runtime of phones and boards makes of a graph: which operators it takes, and into how many parts the graph falls.

A runtime that hands operators to an accelerator, a delegate or execution provider, runs those it takes there and the
others on the CPU. The graph is cut where it changes sides: partitions are found as LiteRT's partitioner finds them, and
ONNX Runtime's much alike. It starts on the side of the first operator, takes every operator of that side whose inputs are
there, until none is left, and changes sides. So a partition is a largest set of operators on one side that can run
without waiting for the other side; operators off to a side of the graph do not cut it. Operators on constants alone are
computed once, before the first sample, and belong to no partition.

What a runtime takes is data, in ``delegates.toml``: each table names its source and the version it describes. An operator
that a table does not name is unknown; it counts as left on the CPU, because nobody can count on it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgekd.inspect.graph import GraphDescription, OperatorDescription, TensorDescription
from edgekd.inspect.integer import DEQUANTIZERS, QUANTIZERS


@dataclass(frozen=True)
class Runtime:
    """What a runtime takes, as its table in ``delegates.toml`` describes; the fields are explained at its top."""

    id: str
    name: str
    format: str
    source: str
    version: str
    max_rank: int
    takes: Mapping[str, frozenset[str]]
    open_inputs: str
    dtypes: frozenset[str] = frozenset()
    hybrid: frozenset[str] | None = None
    integer: frozenset[str] | None = None
    refuses: frozenset[str] = frozenset()
    per_tensor: frozenset[str] = frozenset()
    constant: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    zero_points: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scale_ratio: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scale_product: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    symmetric: bool = False
    note: str = ""
    remarks: Mapping[str, str] = field(default_factory=dict)
    fix: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """Every operator that the table names."""
        return self.refuses.union(*self.takes.values())


@dataclass(frozen=True)
class Refusal:
    """Operators of one kind that a runtime leaves to the CPU for one reason.

    Attributes:
        kind: Of the operators.
        reason: ``unknown``, ``refused``, a dtype, ``hybrid``, ``rank``, ``shape``, ``constant``, ``zero-point``, ``scale``,
            ``per-channel``.
        what: The reason in words.
        names: Of the operators.
        fix: What to do about it; empty: nothing known.
    """

    kind: str
    reason: str
    what: str
    names: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Verdict:
    """What a runtime makes of a graph.

    Attributes:
        runtime: The runtime.
        operators: Number of operators, without those on constants alone.
        delegated: How many of them it takes.
        delegated_partitions, fallback_partitions: Parts of the graph on either side.
        refusals: What it leaves to the CPU; the most operators first.
        notes: What else there is to know about this graph.
    """

    runtime: Runtime
    operators: int
    delegated: int
    delegated_partitions: int
    fallback_partitions: int
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]


@cache
def runtimes() -> tuple[Runtime, ...]:
    """Return every runtime of ``delegates.toml``."""
    content = tomllib.loads(Path(__file__).with_name("delegates.toml").read_text(encoding="utf-8"))
    return tuple(_runtime(each) for each in content["runtime"])


def _runtime(table: dict[str, Any]) -> Runtime:
    sets = {key: frozenset(table[key]) for key in ("dtypes", "hybrid", "integer", "refuses", "per_tensor") if key in table}
    takes = {dtype: frozenset(names) for dtype, names in table["takes"].items()}
    tuples = ("constant", "zero_points", "scale_ratio", "scale_product")
    tables = {key: {kind: tuple(each) for kind, each in table.get(key, {}).items()} for key in tuples}
    return Runtime(**table | sets | tables | {"takes": takes})


def judge(graph: GraphDescription) -> list[Verdict]:
    """Return what each runtime of the file's format makes of a graph whose quantized operators are fused.

    See :func:`edgekd.inspect.integer.fuse`.
    """
    return [_judge(graph, runtime) for runtime in runtimes() if runtime.format == graph.format]


def _judge(graph: GraphDescription, runtime: Runtime) -> Verdict:
    operators = [each for each in graph.operators if not graph.is_folded(each)]
    reasons = [_reason(each, graph, runtime) for each in operators]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for operator, reason in zip(operators, reasons, strict=True):
        if reason is not None:
            grouped.setdefault((operator.kind, *reason), []).append(operator.name)
    refusals = [Refusal(*key, tuple(names), _fix(runtime, *key[:2])) for key, names in grouped.items()]
    taken = [reason is None for reason in reasons]
    sides = [side for side, _ in partitions(operators, taken)]
    notes = [runtime.note] if runtime.note and refusals else []
    if runtime.open_inputs and any(
        isinstance(size, str) for name in graph.inputs for size in graph.tensors[name].declared or ()
    ):
        notes.append(f"inputs have open dimensions: {runtime.open_inputs}")
    dtypes = {each.dtype for operator in operators for each in graph.activations((*operator.inputs, *operator.outputs))}
    notes += dict.fromkeys(text for dtype, text in runtime.remarks.items() if dtype in dtypes)
    real = _in_float(operators, graph, runtime)
    if real:
        shown = ", ".join(f"{kind} x{count}" for kind, count in real.most_common())
        notes.append(f"no integer kernels, so in float between two conversions: {shown}")
    refusals.sort(key=lambda each: -len(each.names))
    return Verdict(runtime, len(operators), sum(taken), sides.count(True), sides.count(False), tuple(refusals), tuple(notes))


def _in_float(operators: list[OperatorDescription], graph: GraphDescription, runtime: Runtime) -> Counter[str]:
    """Return the fused operators, by kind, that a runtime has no integer kernel for; its own integer kinds are left out."""
    if runtime.integer is None:
        return Counter()
    return Counter(
        each.kind for each in operators
        if each.kind not in runtime.integer | QUANTIZERS | DEQUANTIZERS and "." not in each.kind
        and not each.kind.startswith(("QLinear", "Dynamic")) and not each.kind.endswith("Integer")
        and any(tensor.dtype in {"int8", "uint8"} and tensor.scale for tensor in graph.activations(each.inputs))
    )  # fmt: skip


def _reason(operator: OperatorDescription, graph: GraphDescription, runtime: Runtime) -> tuple[str, str] | None:
    """Return why a runtime does not take an operator, as a key and in words; ``None``: it does."""
    if operator.kind in runtime.refuses:
        return "refused", "not taken"
    if operator.kind not in runtime.known:
        return "unknown", "unknown"
    activations = [*graph.activations(operator.inputs), *graph.activations(operator.outputs)]
    for each in activations:
        if not _takes(runtime, operator.kind, each.dtype):
            return each.dtype, f"not in {each.dtype}"
    return (
        _weights_reason(operator, graph, runtime, activations)
        or _shape_reason(runtime, activations)
        or _scale_reason(operator, graph, runtime)
    )


def _takes(runtime: Runtime, kind: str, dtype: str) -> bool:
    return kind in runtime.takes.get(dtype, ()) or (dtype in runtime.dtypes and kind in runtime.takes.get("any", ()))


def _weights_reason(
    operator: OperatorDescription, graph: GraphDescription, runtime: Runtime, activations: list[TensorDescription]
) -> tuple[str, str] | None:
    for place in runtime.constant.get(operator.kind, ()):
        name = operator.inputs[place] if place < len(operator.inputs) else ""
        if name and graph.tensors[name].role == "activation":
            return "constant", f"input {place} must be stored, and is computed"
    weights = [graph.tensors[name] for name in operator.inputs if name and graph.tensors[name].role == "weight"]
    integer = [each for each in weights if each.dtype in {"int8", "uint8", "int4", "uint4", "int2"}]
    real = any("float" in each.dtype for each in activations)
    if runtime.hybrid is not None and operator.kind not in runtime.hybrid and integer and real:
        return "hybrid", f"not with {integer[0].dtype} weights and float activations"
    if operator.kind in runtime.per_tensor and any(each.per_channel for each in integer):
        return "per-channel", "not with a scale for each channel"
    return None


def _shape_reason(runtime: Runtime, activations: list[TensorDescription]) -> tuple[str, str] | None:
    for each in activations:
        if each.shape is None or None in each.shape:
            return "shape", "its shape is not fixed"
        if len(each.shape) > runtime.max_rank:
            return "rank", f"of {len(each.shape)} dimensions"
    return None


def _scale_reason(operator: OperatorDescription, graph: GraphDescription, runtime: Runtime) -> tuple[str, str] | None:
    given = [graph.tensors.get(name) for name in operator.inputs]
    touched = [each for each in (*given, *(graph.tensors.get(name) for name in operator.outputs)) if each is not None]
    if runtime.symmetric and any(each.zero_point for each in touched):
        return "zero-point", "a zero point is not 0"
    for place in runtime.zero_points.get(operator.kind, ()):
        tensor = given[place] if place < len(given) else None
        if tensor is not None and tensor.zero_point:
            return "zero-point", f"the zero point of input {place} is not 0"
    out = graph.tensors.get(operator.outputs[0]) if operator.outputs else None
    scales = [each.scale for each in given if each is not None and each.scale]
    if out is None or not out.scale or len(scales) < 2:
        return None
    ratio, product = runtime.scale_ratio.get(operator.kind), runtime.scale_product.get(operator.kind)
    if ratio and not all(ratio[0] <= each / out.scale < ratio[1] for each in scales):
        return "scale", "its scales are too far apart"
    if product and not product[0] <= scales[0] * scales[1] / out.scale < product[1]:
        return "scale", "its scales are too far apart"
    return None


def _fix(runtime: Runtime, kind: str, reason: str) -> str:
    """Return advice: for a reason that has to do with the kind itself, by kind first; for others, by reason first."""
    order = (kind, reason) if reason in _OF_THE_KIND or "int" in reason else (reason, kind)
    return next((runtime.fix[key] for key in order if key in runtime.fix), _FIXES.get(reason, ""))


_OF_THE_KIND = {"unknown", "refused"}
_FIXES = {
    "shape": "export with fixed shapes",
    "float64": "export in float32",
    "int64": "use int32",
    "hybrid": "quantize activations as well, or ship fp32 or fp16",
    "constant": "store this input as a constant",
    "rank": "use fewer dimensions",
}
"""Advice by reason, where a table has none of its own."""


def partitions(operators: list[OperatorDescription], taken: list[bool]) -> list[tuple[bool, list[int]]]:
    """Return the partitions in the order they run, as the module describes them: the side, and the operators by index.

    Args:
        operators: In order of execution.
        taken: For each, whether the runtime takes it: its side.
    """
    made_by = {name: index for index, operator in enumerate(operators) for name in operator.outputs if name}
    waiting = [{made_by[name] for name in each.inputs if name in made_by} - {index} for index, each in enumerate(operators)]
    readers: list[list[int]] = [[] for _ in operators]
    ready: dict[bool, list[int]] = {True: [], False: []}
    for index, sources in enumerate(waiting):
        for source in sources:
            readers[source].append(index)
        if not sources:
            ready[taken[index]].append(index)
    side, found = bool(operators) and taken[0], []
    while ready[True] or ready[False]:
        if not ready[side]:
            side = not side
        part: list[int] = []
        while ready[side]:
            index = ready[side].pop()
            part.append(index)
            for reader in readers[index]:
                waiting[reader].discard(index)
                if not waiting[reader]:
                    ready[taken[reader]].append(reader)
        found.append((side, sorted(part)))
        side = not side
    return found
