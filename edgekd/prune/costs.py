"""What a network costs at any widths of its groups: multiply-accumulates, parameters, bytes, predicted latency.

The operators of one forward pass are written down with the shapes of what they read and write. Then each group is cut once,
to see which sizes follow it; they do so in proportion, so the cost at any widths is arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.devices.kernels import kernels_of
from edgekd.devices.latency import RUNTIMES, Prediction, predict
from edgekd.devices.profiles import Profile
from edgekd.errors import ModelError, UsageError
from edgekd.inspect import macs as formulas
from edgekd.inspect.graph import GraphDescription, OperatorDescription, Role, TensorDescription
from edgekd.models.spec import call, example_inputs
from edgekd.models.tensors import ModelSpec
from edgekd.prune.groups import ChannelGroup, kept_channels
from edgekd.prune.record import cut_modules

_KINDS = {
    "convolution": "Conv", "addmm": "Gemm", "mm": "MatMul", "bmm": "MatMul", "baddbmm": "MatMul", "relu": "Relu",
    "relu_": "Relu", "hardtanh": "Clip", "hardtanh_": "Clip", "clamp": "Clip", "clamp_min": "Relu", "mean": "ReduceMean",
    "native_batch_norm": "BatchNormalization", "_native_batch_norm_legit_no_training": "BatchNormalization",
    "max_pool2d_with_indices": "MaxPool", "avg_pool2d": "AveragePool", "_adaptive_avg_pool2d": "GlobalAveragePool",
    "cat": "Concat", "slice": "Slice", "select": "Slice", "constant_pad_nd": "Pad", "permute": "Transpose",
    "transpose": "Transpose", "embedding": "Gather", "upsample_nearest2d": "Resize", "upsample_bilinear2d": "Resize",
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "t", "expand"), "Reshape"),
}  # fmt: skip
"""Operators of PyTorch by the names that ONNX has for them; others are elementwise to a device."""
_SAME = frozenset({"detach", "alias", "clone", "_to_copy", "lift_fresh"})
"""Operators whose output is their input; whether they run at all may depend on a width."""


@dataclass(frozen=True)
class DeviceTime:
    """What latency is predicted for.

    Attributes:
        profile: The device.
        runtime, threads, precision: As of :func:`edgekd.devices.latency.predict`.
    """

    profile: Profile
    runtime: str
    threads: int
    precision: str


@dataclass(frozen=True)
class Amounts:
    """What a network costs: ``macs``, ``params`` and ``bytes`` as of :class:`edgekd.models.spec.Cost`."""

    macs: int
    params: int
    bytes: int


_Slopes = dict[int, dict[int, dict[str, int]]]
"""For each sized thing, for each axis that shrinks, by how much for one unit of a group."""


class WidthCosts:
    """The costs of a network as a function of how many units of each group are left.

    Args:
        model: The network, not cut.
        spec: How it is called.
        groups: What can be cut.

    Raises:
        ModelError: It takes other steps when it is cut.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, groups: tuple[ChannelGroup, ...]) -> None:
        self.groups = {each.name: each for each in groups}
        self.graph = graph_of(model, spec)
        self._tensors = list(self.graph.tensors.values())
        self._stored = _stored(model)
        shapes, stored = [_shape(each) for each in self._tensors], [shape for shape, _, _ in self._stored]
        self._slopes: _Slopes = {}
        self._stored_slopes: _Slopes = {}
        for group in groups:
            narrower = copy.deepcopy(model)
            kept, attributes = kept_channels([group], {group.name: list(range(group.units - 1))})
            cut_modules(narrower, kept, attributes)
            found = graph_of(narrower, spec)
            if [each.kind for each in found.operators] != [each.kind for each in self.graph.operators]:
                raise ModelError(f"{spec.reference} takes other steps when {group.name} is narrower, so its cost is not known")
            _learn(self._slopes, group.name, shapes, [_shape(each) for each in found.tensors.values()])
            _learn(self._stored_slopes, group.name, stored, [shape for shape, _, _ in _stored(narrower)])

    def touched(self, name: str) -> frozenset[str]:
        """Return the groups whose savings depend on the width of group ``name``: they share an operator or a weight."""
        index = {each.name: position for position, each in enumerate(self._tensors)}
        found = set[str]()
        for operator in self.graph.operators:
            near = set[str]()
            for each in (*operator.inputs, *operator.outputs):
                for axis in self._slopes.get(index[each], {}).values():
                    near |= set(axis)
            if name in near:
                found |= near
        return frozenset(found)

    def amounts(self, units: Mapping[str, int]) -> Amounts:
        """Return what the network costs with ``units`` left of groups; all of those left out."""
        gone = self._gone(units)
        params = size = 0
        for position, (shape, is_parameter, width) in enumerate(self._stored):
            count = 1
            for each in _narrowed(shape, self._stored_slopes.get(position), gone):
                count *= each
            params += count if is_parameter else 0
            size += count * width
        shapes = {
            each.name: _narrowed(_shape(each), self._slopes.get(position), gone) for position, each in enumerate(self._tensors)
        }
        return Amounts(sum(_macs(each, shapes) for each in self.graph.operators), params, size)

    def latency(self, units: Mapping[str, int], time: DeviceTime) -> Prediction:
        """Return the predicted latency with ``units`` left of groups.

        Raises:
            ModelError: Nothing like it was measured.
        """
        gone = self._gone(units)
        tensors = {
            each.name: replace(each, shape=_narrowed(_shape(each), self._slopes.get(position), gone))
            for position, each in enumerate(self._tensors)
        }
        return predicted(_with_macs(replace(self.graph, tensors=tensors)), time)

    def _gone(self, units: Mapping[str, int]) -> dict[str, int]:
        return {name: self.groups[name].units - count for name, count in units.items()}


def predicted(graph: GraphDescription, time: DeviceTime) -> Prediction:
    """Return the predicted latency of a graph.

    Raises:
        ModelError: Nothing like it was measured.
    """
    found = predict(kernels_of(graph), time.profile, time.runtime, time.threads, time.precision)
    if found is None:
        raise ModelError(
            f"the latency of {time.runtime} in {time.precision} on {time.profile.name} is not predicted: nothing like it was "
            "measured", "prune for macs instead, or calibrate the profile",
        )  # fmt: skip
    return found


def graph_of(model: nn.Module, spec: ModelSpec) -> GraphDescription:
    """Return the operators of a forward pass of one sample, named as ONNX does."""
    recorder, inputs = _Recorder(model), example_inputs(spec)
    with torch.no_grad(), recorder:
        outputs = call(model.eval(), spec, inputs)
    tensors = {each.name: each for each in recorder.tensors}
    names = tuple(recorder.name(each) for each in outputs.values())
    return _with_macs(GraphDescription("onnx", tensors, tuple(recorder.operators), (), names, {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator of PyTorch that runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[TensorDescription] = []
        self.operators: list[OperatorDescription] = []
        self._names: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no two tensors have one id
        self._weights = {id(each) for each in (*model.parameters(), *model.buffers())}
        self._roles: dict[str, Role] = {}

    def name(self, tensor: Tensor) -> str:
        known = self._names.get(id(tensor))
        return known if known is not None else self._add(tensor, "weight" if id(tensor) in self._weights else "activation")

    def _add(self, tensor: Tensor, role: Role) -> str:
        name = f"t{len(self.tensors)}"
        self._names[id(tensor)], self._roles[name] = name, role
        self._alive.append(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.tensors.append(TensorDescription(name, tuple(tensor.shape), dtype, tensor.nbytes, role, name))
        return name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in torch.utils._pytree.tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        inputs = tuple(self.name(each) for each in given)
        returned = func(*args, **(kwargs or {}))
        first = next((each for each in torch.utils._pytree.tree_leaves(returned) if isinstance(each, Tensor)), None)
        if first is None:
            return returned
        base = func.__name__.partition(".")[0]
        if base in _SAME and len(inputs) == 1 and first.shape == given[0].shape:
            self._names[id(first)] = inputs[0]
            self._alive.append(first)
            return returned
        constant = all(self._roles[each] in ("weight", "derived") for each in inputs)
        kind = _KINDS.get(base, base)
        if kind == "Conv" and args[6]:
            kind = "ConvTranspose"
        if base == "addmm":  # the bias comes first in PyTorch, last in ONNX
            inputs = (*inputs[1:3], inputs[0])
        output = self._add(first, "derived" if constant else "activation")
        self.operators.append(OperatorDescription(f"{kind}_{len(self.operators)}", kind, inputs, (output,), None, 0))
        return returned


def _with_macs(graph: GraphDescription) -> GraphDescription:
    shapes = {name: _shape(each) for name, each in graph.tensors.items()}
    return replace(graph, operators=tuple(replace(each, macs=_macs(each, shapes)) for each in graph.operators))


def _macs(operator: OperatorDescription, shapes: Mapping[str, tuple[int, ...]]) -> int:
    out = shapes[operator.outputs[0]]
    count: int | None = 0
    if operator.kind == "Conv":
        count = formulas.convolution(out, shapes[operator.inputs[1]])
    elif operator.kind == "ConvTranspose":
        count = formulas.transposed_convolution(shapes[operator.inputs[0]], shapes[operator.inputs[1]])
    elif operator.kind in ("Gemm", "MatMul"):
        count = formulas.matmul(out, shapes[operator.inputs[0]])
    assert count is not None
    return count


def _stored(model: nn.Module) -> list[tuple[tuple[int, ...], bool, int]]:
    """Return shape, whether it is a parameter, and bytes of a value, of all that ``model`` stores; each parameter once."""
    parameters = {id(each) for each in model.parameters()}
    found, seen = [], set[int]()
    for value in model.state_dict(keep_vars=True).values():
        counts = id(value) in parameters and id(value) not in seen
        seen.add(id(value))
        found.append((tuple(value.shape), counts, value.element_size()))
    return found


def _learn(slopes: _Slopes, group: str, before: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> None:
    for position, (wide, narrow) in enumerate(zip(before, after, strict=True)):
        for axis, (size, smaller) in enumerate(zip(wide, narrow, strict=True)):
            if size != smaller:
                slopes.setdefault(position, {}).setdefault(axis, {})[group] = size - smaller


def _narrowed(
    shape: tuple[int, ...], slopes: Mapping[int, Mapping[str, int]] | None, gone: Mapping[str, int]
) -> tuple[int, ...]:  # fmt: skip
    if not slopes:
        return shape
    return tuple(
        size - sum(slope * gone.get(group, 0) for group, slope in slopes.get(axis, {}).items())
        for axis, size in enumerate(shape)
    )


def _shape(tensor: TensorDescription) -> tuple[int, ...]:
    assert tensor.shape is not None
    return tuple(each or 0 for each in tensor.shape)


def device_time(profile: Profile, artifacts: Iterable[str] = ()) -> DeviceTime:
    """Return what latency on a device means here: of the first artifact its profile names, on its fast cores.

    Args:
        profile: The device.
        artifacts: Of the recipe, where there is one: of these the one that the profile names first.

    Raises:
        UsageError: None of them runs on its CPU, and nothing else is predicted.
    """
    from edgekd.devices.profiles import fast_clusters, usable_cores

    wanted = set(artifacts)
    able = [each for each in profile.artifacts or ("tflite-fp32", "onnx-fp32") if _runtime(profile, each) in RUNTIMES]
    first = next((each for each in able if each in wanted), able[0] if able else None)
    if first is None:
        runtimes = ", ".join(sorted(set(profile.runtimes.values())))
        raise UsageError(
            f"latency on {profile.name} is not predicted: {runtimes} computes elsewhere than on the CPU",
            "prune for macs, for example macs=0.5x",
        )
    cores = sum(each.count for each in fast_clusters(profile)) or usable_cores()
    threads = max((cores if each == "all" else each) for each in profile.threads)
    precision = "int8" if first.partition("-")[2].startswith("int8") else "fp32"
    return DeviceTime(profile, _runtime(profile, first), threads, precision)


def _runtime(profile: Profile, artifact: str) -> str:
    return profile.runtimes.get(artifact.partition("-")[0], "")
