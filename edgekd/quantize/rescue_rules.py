"""Known killers of int8, as rules: how each is found in the float graph and in the ranges its tensors took, and what mends it.

The treatments of a finding come mildest first: first ranges, which cost nothing, then operators without arithmetic worth
mention in floating point, then layers. Whether one works is measured, see :mod:`edgekd.quantize.rescue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edgekd.quantize.layers import Layer, Layers
from edgekd.quantize.range_file import Ranges

Observed = Mapping[str, tuple[float, float]]
"""The least and the largest value that each tensor took over the calibration samples."""

_UNLIKE = 8.0
"""Ranges that differ by this factor are unlike: the narrower has 32 steps of the 256 left."""
_SPREAD = 8.0
"""The same for channels of a depthwise convolution."""
_MASKED = 10.0
"""A score this much below all others has no weight after softmax: e to the power of -10 is 0.00005."""
_WIDE = 64.0
"""A range of scores that is wider holds a mask."""
_TAILS = {"hard-swish": -3.0, "GELU": -4.0, "SiLU": -8.0}
"""Below these inputs the function gives 0, to 0.003."""
_GATES = {
    "Clip": "hard-swish", "HardSigmoid": "hard-swish", "RELU6": "hard-swish", "MINIMUM": "hard-swish",
    "RELU_0_TO_1": "hard-swish", "Sigmoid": "SiLU", "LOGISTIC": "SiLU", "Erf": "GELU",
}  # fmt: skip
_WHOLE = {"HardSwish": "hard-swish", "HARD_SWISH": "hard-swish", "Gelu": "GELU", "GELU": "GELU"}
_MULTIPLY, _ADD = {"Mul", "MUL"}, {"Add", "ADD"}
_CONCAT, _SOFTMAX = {"Concat", "CONCATENATION"}, {"Softmax", "SOFTMAX"}
_SHAPE = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Identity", "Cast",
    "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT", "BROADCAST_TO", "CAST",
}  # fmt: skip
_ELEMENTWISE = {
    *_MULTIPLY, *_ADD, *_GATES, *_SHAPE, "Div", "DIV", "Sub", "SUB", "Relu", "RELU", "MAXIMUM", "Neg", "NEG", "Tanh", "TANH",
}  # fmt: skip
_NORMALISING = {
    *_ELEMENTWISE, "ReduceMean", "MEAN", "SUM", "SQUARED_DIFFERENCE", "SQUARE", "Pow", "POW", "Sqrt", "SQRT", "RSQRT",
    "Reciprocal",
}  # fmt: skip


@dataclass(frozen=True)
class Treatment:
    """One means: ``what`` in words, ``ranges`` of tensors that are set, ``keep``: layers that compute in floating point."""

    what: str
    ranges: Ranges = field(default_factory=dict)
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A killer found in a network.

    Attributes:
        rule: Its name.
        why: What int8 does there.
        where: The layers it is about.
        treatments: Mildest first, at least one.
    """

    rule: str
    why: str
    where: tuple[str, ...]
    treatments: tuple[Treatment, ...]


@dataclass(frozen=True)
class Rule:
    """A known killer: ``find`` returns the layers it is about, none where it is not there, and treatments, mildest first."""

    name: str
    why: str
    find: Callable[[Layers, Observed], tuple[list[str], list[Treatment]]]


def find_killers(layers: Layers, observed: Observed) -> tuple[Finding, ...]:
    """Return what the rules find in a network.

    Args:
        layers: Of the float file.
        observed: Ranges of its tensors; of those it does not name nothing is found that needs a range.
    """
    found = []
    for rule in RULES:
        where, treatments = rule.find(layers, observed)
        if where and treatments:
            found.append(Finding(rule.name, rule.why, tuple(dict.fromkeys(where)), tuple(treatments)))
    return tuple(found)


def _in_order(layers: Layers, names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(each.name for each in layers.layers if each.name in wanted and each.quantizable)


def _width(observed: Observed, tensor: str) -> float:
    low, high = observed.get(tensor, (0.0, 0.0))
    return max(high, 0.0) - min(low, 0.0)


def _chain(layers: Layers, tensor: str) -> list[tuple[str, Layer | None]]:
    """Return a tensor and those before it, through operators on one activation, each with the operator that reads it."""
    found: list[tuple[str, Layer | None]] = [(tensor, None)]
    while True:
        maker = layers.maker(found[-1][0])
        if maker is None or len(maker.inputs) != 1 or maker.operator not in _ELEMENTWISE:
            return found
        found.append((maker.inputs[0], maker))


def _gated(layers: Layers) -> Iterable[tuple[str, str, list[Layer]]]:
    """Yield each activation that multiplies a tensor by a gate of itself: its kind, the tensor, and its operators."""
    for each in layers.layers:
        if each.operator in _WHOLE and each.inputs:
            yield _WHOLE[each.operator], each.inputs[0], [each]
        if each.operator not in _MULTIPLY or len(each.inputs) != 2:
            continue
        first, second = (_chain(layers, tensor) for tensor in each.inputs)
        common = next((tensor for tensor, _ in first if tensor in {other for other, _ in second}), None)
        if common is None:
            continue
        passed: list[Layer] = []
        for chain in (first, second):
            until = [tensor for tensor, _ in chain].index(common)
            passed += [maker for _, maker in chain[: until + 1] if maker is not None]
        kinds = {_GATES[maker.operator] for maker in passed if maker.operator in _GATES}
        for kind in sorted(kinds)[:1]:
            yield kind, common, [*passed, each]


def _self_gating(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    clipped: Ranges = {}
    operators: list[str] = []
    kinds = set()
    for kind, tensor, members in _gated(layers):
        kinds.add(kind)
        operators += [each.name for each in members]
        low, high = observed.get(tensor, (0.0, 0.0))
        if low < _TAILS[kind] and set(layers.readers(tensor)) <= set(members) and tensor not in layers.inputs:
            clipped[tensor] = (_TAILS[kind], max(high, 0.0))
    named = " and ".join(sorted(kinds))
    treatments = []
    if clipped:
        treatments.append(Treatment(f"ranges of what {named} reads end where it gives 0 below", clipped))
    keep = _in_order(layers, operators)
    if keep:
        treatments.append(Treatment(f"{named} in floating point", clipped, keep))
    return operators, treatments


def _mask_ranges(layers: Layers, observed: Observed, scores: str) -> Ranges:
    """Return ranges for masked scores and for what masks them, which leave steps for the scores themselves."""
    maker = layers.maker(scores)
    while maker is not None and maker.operator in _SHAPE and len(maker.inputs) == 1:
        maker = layers.maker(maker.inputs[0])
    if maker is None or not maker.inputs or any(tensor not in observed for tensor in (*maker.inputs, scores)):
        return {}
    plain = min(maker.inputs, key=lambda tensor: _width(observed, tensor))
    low, high = observed[plain]
    if observed[scores][0] >= low - _WIDE:
        return {}
    made: Ranges = dict.fromkeys((*maker.outputs, scores), (low - _MASKED, max(high, 0.0)))
    for tensor in maker.inputs:
        if tensor != plain:
            below = (low - high - _MASKED, max(observed[tensor][1], 0.0))
            made |= {each: below for each, _ in _shapes(layers, tensor)}
    return made


def _shapes(layers: Layers, tensor: str) -> list[tuple[str, Layer | None]]:
    """Return a tensor and those it is a mere reshaping of."""
    chain = _chain(layers, tensor)
    until = next((place for place, (_, by) in enumerate(chain) if by is not None and by.operator not in _SHAPE), len(chain))
    return chain[:until]


def _softmax(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    where, ranges = [], Ranges()
    keep: set[str] = set()
    for each in layers.layers:
        if each.operator in _SOFTMAX and each.inputs:
            where.append(each.name)
            ranges |= _mask_ranges(layers, observed, each.inputs[0])
            keep |= {each.name} | {before.name for before in _light_before(layers, each)}
    treatments = [Treatment("ranges of masked scores end just below the others", ranges)] if ranges else []
    kept = _in_order(layers, keep)
    if kept:
        treatments.append(Treatment("softmax and what scales and masks its input in floating point", ranges, kept))
    return where, treatments


def _light_before(layers: Layers, layer: Layer) -> list[Layer]:
    """Return the elementwise operators that lead to a layer, up to those that multiply matrices."""
    found: list[Layer] = []
    waiting = list(layer.inputs)
    while waiting:
        maker = layers.maker(waiting.pop())
        if maker is not None and maker.operator in _ELEMENTWISE and maker not in found:
            found.append(maker)
            waiting += maker.inputs
    return found


def _norms(layers: Layers) -> Iterable[tuple[str, list[Layer]]]:
    """Yield each layer norm: the tensor it reads and its operators, one or many."""
    for each in layers.layers:
        if each.operator == "LayerNormalization":
            yield each.inputs[0], [each]
        tensor = _centred(layers, each)
        if tensor is None:
            continue
        known, members = {tensor}, list[Layer]()
        for other in layers.layers:  # in order of execution, so what feeds an operator is known
            if other.operator in _NORMALISING and other.inputs and set(other.inputs) <= known:
                members.append(other)
                known |= set(other.outputs)
        if any(other.operator in {"Sqrt", "SQRT", "RSQRT"} for other in members):
            yield tensor, members


def _centred(layers: Layers, layer: Layer) -> str | None:
    """Return the tensor that an operator subtracts the mean of from; ``None`` if it does not do that."""
    if layer.operator not in {"SQUARED_DIFFERENCE", "Sub"} or len(layer.inputs) != 2:
        return None
    for tensor, other in (layer.inputs, layer.inputs[::-1]):
        means = [by for _, by in _chain_of_means(layers, other) if by is not None and tensor in by.inputs]
        if means:
            return tensor
    return None


def _chain_of_means(layers: Layers, tensor: str) -> list[tuple[str, Layer | None]]:
    found: list[tuple[str, Layer | None]] = [(tensor, None)]
    maker = layers.maker(tensor)
    while maker is not None and len(maker.inputs) == 1 and maker.operator in {*_SHAPE, "ReduceMean", "MEAN"}:
        found.append((maker.inputs[0], maker))
        if maker.operator in {"ReduceMean", "MEAN"}:
            break
        maker = layers.maker(maker.inputs[0])
    return found


def _layer_norm(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    members: list[str] = []
    sums: list[str] = []
    for tensor, operators in _norms(layers):
        members += [each.name for each in operators]
        maker = layers.maker(tensor)
        if maker is not None and maker.operator in _ADD:
            sums.append(maker.name)
    treatments = [Treatment("layer norms in floating point", {}, _in_order(layers, members))]
    if sums:
        keep = _in_order(layers, members + sums)
        treatments.append(Treatment("layer norms and the sums they read in floating point", {}, keep))
    return members, [each for each in treatments if each.keep]


def _unlike_concats(layers: Layers, observed: Observed) -> list[Layer]:
    found = []
    for each in layers.layers:
        widths = [_width(observed, tensor) for tensor in each.inputs if tensor in observed]
        if each.operator in _CONCAT and len(widths) > 1 and max(widths) > _UNLIKE * max(min(widths), 1e-12):
            found.append(each)
    return found


def _shape_after(layers: Layers, layer: Layer) -> tuple[list[Layer], bool]:
    """Return the reshaping operators behind a layer, and whether they lead to an output of the file and nothing else does."""
    found: list[Layer] = []
    waiting = list(layer.outputs)
    ends = True
    while waiting:
        tensor = waiting.pop()
        readers = layers.readers(tensor)
        ends = ends and (tensor in layers.outputs or bool(readers)) and all(each.operator in _SHAPE for each in readers)
        for each in readers:
            if each.operator in _SHAPE and each not in found:
                found.append(each)
                waiting += each.outputs
    return found, ends


def _concat(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    where: list[str] = []
    joined: list[str] = []
    for each in _unlike_concats(layers, observed):
        shapes, ends = _shape_after(layers, each)
        if not ends:
            given = [tensor for maker in (each, *shapes) for tensor in maker.outputs]
            readers = [reader.name for tensor in given for reader in layers.readers(tensor)]
            where.append(each.name)
            joined += [each.name, *(shape.name for shape in shapes), *readers]
    keep = _in_order(layers, joined)
    return where, [Treatment("the concatenation and what reads it in floating point", {}, keep)] if keep else []


def _mixed_head(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    where: list[str] = []
    kept: list[str] = []
    for each in _unlike_concats(layers, observed):
        shapes, ends = _shape_after(layers, each)
        if ends:
            where.append(each.name)
            kept += [each.name, *(shape.name for shape in shapes)]
    keep = _in_order(layers, kept)
    return where, [Treatment("the last concatenation and the output in floating point", {}, keep)] if keep else []


def _depthwise(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    where: list[str] = []
    kept: list[str] = []
    for each in layers.layers:
        if each.spread > _SPREAD:
            where.append(each.name)
            light = list(each.outputs)
            kept.append(each.name)
            while light:
                for reader in layers.readers(light.pop()):
                    kept.append(reader.name)
                    light += reader.outputs if reader.operator in _ELEMENTWISE else ()
    keep = _in_order(layers, kept)
    return where, [Treatment("the depthwise convolution and what reads it in floating point", {}, keep)] if keep else []


def _heavy(layers: Layers) -> list[int]:
    return [place for place, each in enumerate(layers.layers) if each.macs and each.quantizable]


def _first(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    heavy = _heavy(layers)
    if len(heavy) < 3:
        return [], []
    keep = _in_order(layers, (each.name for each in layers.layers[: heavy[0] + 1]))
    return [layers.layers[heavy[0]].name], [Treatment("the first layer in floating point", {}, keep)]


def _last(layers: Layers, observed: Observed) -> tuple[list[str], list[Treatment]]:
    heavy = _heavy(layers)
    if len(heavy) < 3:
        return [], []
    keep = _in_order(layers, (each.name for each in layers.layers[heavy[-1] :]))
    return [layers.layers[heavy[-1]].name], [Treatment("the last layer and the output in floating point", {}, keep)]


RULES = (
    Rule("softmax", "masks of -10,000 take the steps that scores need", _softmax),
    Rule("layer norm", "variances and their reciprocals span more than 256 steps tell apart", _layer_norm),
    Rule("self-gated activations", "hard-swish, SiLU and GELU give 0 for the half of their input that takes most steps",
         _self_gating),
    Rule("concat of unlike ranges", "one scale for all that is joined leaves the narrow ones a few steps", _concat),
    Rule("head of unlike ranges", "boxes and scores in one tensor share one scale", _mixed_head),
    Rule("depthwise with spread channels", "one scale for all channels leaves the small ones a few steps", _depthwise),
    Rule("first layer", "it sees the input, of which all else is made", _first),
    Rule("last layer", "its error is the output's", _last),
)  # fmt: skip
"""In the order in which they are told; none is tried without being found."""
