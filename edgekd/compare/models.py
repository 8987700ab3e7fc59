"""Two models on the same samples: how far apart they are in numbers, in opinions, and in what they get right."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.compare.layers import LayerReport, compare_layers
from edgekd.compare.sides import Asked, Side, ask, open_side, recipe_of
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.control import paired_difference
from edgekd.extremes import COUNT, extreme_samples
from edgekd.parity import cosine, measure_parity, relative
from edgekd.progress import Listener, Silent
from edgekd.recipe import Gates
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import Metric, proportion, top1
from edgekd.workspace import Workspace, open_workspace

_MOSTLY = 0.5


@dataclass(frozen=True)
class Limits:
    """What B may differ from A; ``None``: by the precision of the two, the recipe's defaults for such files.

    Attributes:
        max_error: Largest difference of any output, as a share of the range of A's outputs, on real and on extreme inputs.
            Without a number, files with int8 weights are not limited.
        min_agreement: Share of samples with the same top-1 class.
        max_drop: Points of the task metric that B may lose to A.
    """

    max_error: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Distance:
    """How far B's outputs are from A's on some inputs.

    Attributes:
        n: Inputs compared.
        max_abs_error, mean_abs_error: Of any output, and of all.
        max_relative_error, mean_relative_error: Those as shares of the range of A's outputs.
        cosine: Of all outputs as one vector.
        sqnr_db, gain, offset: See :class:`edgekd.parity.Parity`.
        agreement: Share of inputs with the same top-1 class, with its 95 % Wilson interval.
        not_finite: Inputs left out because A, or B, gives NaN or infinity: how many of each.
    """

    n: int
    max_abs_error: float
    mean_abs_error: float
    max_relative_error: float
    mean_relative_error: float
    cosine: float
    sqnr_db: float
    gain: float
    offset: float
    agreement: Metric
    not_finite: tuple[int, int]


@dataclass(frozen=True)
class Limit:
    """One thing that was limited, and what came of it."""

    name: str
    limit: float
    value: float
    passed: bool

    @property
    def text(self) -> str:
        """What, how much and how much was allowed, in one line."""
        return f"{self.name}: {self.value:.4g}, limit {self.limit:.4g}"


@dataclass(frozen=True)
class Comparison:
    """What was found of two models.

    Attributes:
        a, b: The models.
        source: Of the data.
        compared: ``logits``, or ``probabilities`` where one of them gives nothing else.
        samples, extremes: Distance on the test split and on extreme inputs; ``None`` where nothing is finite.
        metrics: Of A and B on the test split.
        drop: Points that B loses to A.
        drop_ci95: 95 % interval of ``drop`` in points, paired.
        discordant: Samples that only A, and only B, has right.
        limits: What was limited.
        layers: Which layer differs first, see :func:`edgekd.compare.layers.compare_layers`; ``None``: not looked.
    """

    a: Side
    b: Side
    source: str
    compared: str
    samples: Distance
    extremes: Distance | None
    metrics: tuple[Metric, Metric]
    drop: float
    drop_ci95: tuple[float, float]
    discordant: tuple[int, int]
    limits: tuple[Limit, ...]
    layers: LayerReport | None = None

    @property
    def ok(self) -> bool:
        """Whether every limit was kept."""
        return all(each.passed for each in self.limits)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, as ``edgekd verify --json`` prints it."""
        return {
            "status": "ok" if self.ok else "gate-missed",
            "data": self.source,
            "models": [_model(side, metric) for side, metric in zip((self.a, self.b), self.metrics, strict=True)],
            "compared": self.compared,
            "samples": asdict(self.samples),
            "extremes": None if self.extremes is None else asdict(self.extremes),
            "difference": {"drop": self.drop, "ci95": list(self.drop_ci95), "discordant": list(self.discordant)},
            "limits": [asdict(each) for each in self.limits],
            "layers": None if self.layers is None else self.layers.to_json(),
        }


def _model(side: Side, metric: Metric) -> dict[str, Any]:
    cost = side.member.cost
    return {
        "reference": side.asked.reference, "weights": side.asked.weights, "metric": asdict(metric), "notes": list(side.notes),
        "dtypes": side.dtypes, "params": cost.params, "size_bytes": cost.size_bytes,
    }  # fmt: skip


def compare_models(
    a: str, b: str, data: str | None = None, overrides: Sequence[str] = (), *,
    weights: tuple[str | None, str | None] = (None, None), labels: tuple[str | None, str | None] = (None, None),
    limits: Limits | None = None, layers: bool = False, allow_code: bool = False, listener: Listener | None = None,
) -> Comparison:  # fmt: skip
    """Compare two models of any framework on the same data.

    Args:
        a, b: Model references, or paths of .onnx and .tflite files. A is what B should equal.
        data: Source of the data, as ``data.source`` of a recipe; ``None``: that of the run that a file is from.
        overrides: ``key=value``: ``data.*`` and ``seed`` as in a recipe; ``a.*`` and ``b.*`` of the models, as ``teacher.*``
            there.
        weights: Files of trained weights of A and B.
        labels: Files of class names of A and B.
        limits: What B may differ.
        layers: Look for the layer that differs first even if every limit is kept; it is looked for if one is not.
        allow_code: Whether a Keras file may hold code of its own.
        listener: Who is told of progress; nobody by default.

    Raises:
        EdgekdError: See :mod:`edgekd.errors`. A missed limit does not raise: ``ok`` is false.
    """
    own = {side: [each[2:] for each in overrides if each.startswith(f"{side}.")] for side in "ab"}
    shared = [each for each in overrides if not each.startswith(("a.", "b."))]
    sides = [
        ask(name, weights[index], labels[index], own[role], f"model {role}")
        for index, (name, role) in enumerate(zip((a, b), "ab", strict=True))
    ]
    recipe = recipe_of(sides[0], sides[1], data, shared)
    with (
        tempfile.TemporaryDirectory(prefix="edgekd-verify-") as folder,
        stop_signals(),
        open_workspace(Path(folder, "run"), listener or Silent()) as workspace,
    ):
        loaded = load_data(recipe, workspace)
        extremes = extreme_samples(loaded, Path(folder))
        first = open_side("a", sides[0], recipe, loaded, extremes, COUNT, allow_code, workspace)
        second = open_side("b", sides[1], recipe, loaded, extremes, COUNT, allow_code, workspace, first)
        return compare_sides(first, second, recipe.data.source, loaded, limits or Limits(), layers, allow_code, workspace)


def compare_sides(
    a: Side, b: Side, source: str, data: Dataset, limits: Limits, layers: bool, allow_code: bool, workspace: Workspace
) -> Comparison:
    """Compare two opened models, and layer by layer where a limit is missed.

    Args:
        a, b: The models.
        source: Of the data.
        data: What they were run on.
        limits: What B may differ.
        layers: Compare layer by layer even if every limit is kept.
        allow_code: Whether a Keras file may hold code of its own.
        workspace: Its listener is told, its log gets what runtimes print.
    """
    found = judge(a, b, source, data.labels[data.splits.test], limits)
    if not layers and found.ok:
        return found
    workspace.listener.stage_started("layers", f"{a.asked.reference} and {b.asked.reference}")
    started = time.monotonic()
    compared = compare_layers(a, b, coarser(a, b), data, allow_code, workspace)
    workspace.listener.stage_finished("layers", f"{len(compared.layers)} pairs", time.monotonic() - started, False)
    return replace(found, layers=compared)


def judge(a: Side, b: Side, source: str, truth: NDArray[np.int64], limits: Limits) -> Comparison:
    """Compare what two opened models said.

    Args:
        a, b: The models.
        source: Of the data.
        truth: Classes of the test split.
        limits: What B may differ.
    """
    probable = a.probabilities or b.probabilities
    scale = _softmax if probable else np.asarray
    samples = _distance(scale(a.logits), scale(b.logits))
    assert samples is not None
    extremes = _distance(scale(a.extremes), scale(b.extremes))
    metrics = top1(a.logits, truth), top1(b.logits, truth)
    drop, interval, discordant = paired_difference(a.logits.argmax(1) == truth, b.logits.argmax(1) == truth)
    return Comparison(
        a, b, source, "probabilities" if probable else "logits", samples, extremes, metrics, drop, interval, discordant,
        _limited(limits, coarser(a, b), samples, extremes, drop, _nan_in_b_alone(a, b)),
    )  # fmt: skip


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # rows that are not finite stay so
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return shares


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> Distance | None:
    sane_a, sane_b = np.isfinite(a).all(1), np.isfinite(b).all(1)
    first, second = a[sane_a & sane_b], b[sane_a & sane_b]
    if not len(first):
        return None
    parity = measure_parity(second, first)
    same = int((first.argmax(1) == second.argmax(1)).sum())
    return Distance(
        len(first), parity.max_abs_error, parity.mean_abs_error, parity.relative_error, relative(parity.mean_abs_error, first),
        cosine(second, first), parity.sqnr_db, parity.gain, parity.offset, proportion("agreement", same, len(first)),
        (int((~sane_a).sum()), int((~sane_b).sum())),
    )  # fmt: skip


def coarser(a: Side, b: Side) -> str:
    """Return the coarsest precision of the two: ``int8``, which int4 counts as, ``fp16`` or ``fp32``."""
    for name, kinds in (("int8", ("int8_weights", "int4_weights")), ("fp16", ("fp16_weights",))):
        if any(each.dtypes is not None and sum(each.dtypes[kind] for kind in kinds) > _MOSTLY for each in (a, b)):
            return name
    return "fp32"


def _nan_in_b_alone(a: Side, b: Side) -> int:
    return int((np.isfinite(a.extremes).all(1) & ~np.isfinite(b.extremes).all(1)).sum())


def _limited(
    limits: Limits, precision: str, samples: Distance, extremes: Distance | None, drop: float, alone: int
) -> tuple[Limit, ...]:
    usual = Gates()
    max_error = {"fp32": usual.fp32_max_error, "fp16": usual.fp16_max_error}.get(precision)
    agreement = usual.int8_agreement if precision == "int8" else usual.fp16_agreement
    max_error = limits.max_error if limits.max_error is not None else max_error
    agreement = limits.min_agreement if limits.min_agreement is not None else agreement
    most = limits.max_drop if limits.max_drop is not None else usual.int8_max_drop
    found = []
    if max_error is not None:
        for name, each in (("", samples), (" on extreme inputs", extremes)):
            if each is not None:
                value = each.max_relative_error
                found.append(Limit(f"max error{name} / output range", max_error, value, value <= max_error + 1e-9))
    share = samples.agreement.value
    found += [
        Limit("top-1 agreement", agreement, share, share >= agreement - 1e-9),
        Limit("metric drop in points", most, drop, drop <= most + 1e-9),
    ]
    found.append(Limit("extreme inputs where only B gives NaN or infinity", 0, alone, alone == 0))
    return tuple(found)


__all__ = ["Asked", "Comparison", "Distance", "Limit", "Limits", "Side", "compare_models", "compare_sides", "judge"]
