"""Fit what each feature costs, for many groups of measurements at once, each leaning on those of its family.

A latency is a sum over features, each times a coefficient above zero. The logarithms of the coefficients are fitted to the
logarithms of latencies, so errors are relative ones and no coefficient is negative. A group has tens of measurements of few
architectures, too few for twenty coefficients: they lean on the mean of the group's family, whose coefficients differ by a
common factor that is the speed of the device, and that mean leans on rough costs of the operators of a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.features import FEATURES
from edgekd.devices.latency_table import Family, Key

Array = NDArray[np.float64]

PRIOR = np.log(1e-7 * np.array([
    1, 2, 1.2, 1.2, 6, 1.3, 2.5, 1.3, 4, 2.5, 4, 2, 4, 4, 6, 60, 3, 3.5, 40_000, 2,
]))  # fmt: skip
"""Logarithms of what features cost in relation to each other, in the order of FEATURES, before anything is measured.

Estimates: a value that is moved costs what a few multiply-accumulates cost, since a core multiplies 8 to 32 values in the
time in which it loads one or two; a kernel costs some microseconds to start.
"""
_ABSENT = 1e-6
"""In place of 0, so that the logarithm of a sum is smooth."""
_LONGEST_STEP = 1.0
NO_WINOGRAD = ("tflite", "tflite xnnpack", "onnxruntime")
"""Runtimes that compute 3x3 convolutions directly, by their source."""


@dataclass(frozen=True)
class Settings:
    """How much a group leans on its family.

    Attributes:
        spread: Standard deviation of the logarithm of a coefficient around that of the family.
        noise: Of the logarithm of a steady measurement.
    """

    spread: float = 0.4
    noise: float = 0.05


@dataclass(frozen=True)
class Group:
    """Measurements with one key.

    Attributes:
        key, family: Whose they are.
        models: Name of each one's model.
        features: ``[measurements, features]``, of the models.
        log_ms: Logarithms of the latencies.
        weights: 0 to 1, lower for unsteady measurements.
    """

    key: Key
    family: Family
    models: tuple[str, ...]
    features: Array
    log_ms: Array
    weights: Array


@dataclass(frozen=True)
class Fit:
    """Coefficients of all groups.

    Attributes:
        families: In the order of the rows of ``means``.
        means: ``[families, features]``: logarithms of the coefficients of each family, before a group's factor.
        coefficients: ``[groups, features]``: logarithms, of ms for one unit.
        deviations: ``[groups, features]``: standard deviations of those.
        noise: ``[groups]``: of the logarithm of a measurement.
    """

    families: tuple[Family, ...]
    means: Array
    coefficients: Array
    deviations: Array
    noise: Array

    def family_index(self, family: Family) -> int:
        """Return the row of a family."""
        return self.families.index(family)


@dataclass(frozen=True)
class _Problem:
    """Groups as dense arrays; missing measurements weigh nothing."""

    features: Array
    log_ms: Array
    weights: Array
    family: NDArray[np.intp]
    spread: Array
    noise: Array


def design(features: Array, runtime: str) -> Array:
    """Return features as a runtime sees them: of the two counts of 3x3 convolutions only its own is left.

    Args:
        features: ``[..., features]``.
        runtime: A family of runtimes.
    """
    seen = features.copy()
    seen[..., FEATURES.index("winograd_macs" if runtime in NO_WINOGRAD else "conv3x3_macs")] = 0
    return seen


def log_latency(features: Array, coefficients: Array) -> Array:
    """Return the logarithm of the latency in ms.

    Args:
        features: ``[..., features]``, as :func:`design` gives them.
        coefficients: Logarithms of coefficients, of a shape that broadcasts.
    """
    total: Array = np.log(((features + _ABSENT) * np.exp(coefficients)).sum(-1))
    return total


def log_deviation(features: Array, coefficients: Array, deviations: Array) -> Array:
    """Return the standard deviation of the logarithm of the predicted latency, from those of the coefficients."""
    parts = (features + _ABSENT) * np.exp(coefficients)
    shares = parts / parts.sum(-1, keepdims=True)
    found: Array = np.sqrt(((shares * deviations) ** 2).sum(-1))
    return found


def fit_groups(
    groups: Sequence[Group], settings: Settings | Sequence[Settings] = Settings(), *, start: Fit | None = None,
    without_model: str | None = None, rounds: int = 4,
) -> Fit:  # fmt: skip
    """Fit all groups.

    Args:
        groups: At least one.
        settings: Of all groups, or of each.
        start: A fit of the same groups, to begin from.
        without_model: Measurements of this model are left out.
        rounds: How often groups and the means of families are fitted in turn.
    """
    each = [settings] * len(groups) if isinstance(settings, Settings) else list(settings)
    families = start.families if start else tuple(sorted({group.family for group in groups}))
    problem = _problem(groups, each, families, without_model)
    means = start.means.copy() if start else np.repeat(PRIOR[None], len(families), 0)
    coefficients = start.coefficients.copy() if start else None
    for _ in range(rounds):
        coefficients = _solve(problem, means, coefficients, 6 if coefficients is None else 3)
        means = _family_means(problem, means, coefficients)
    assert coefficients is not None
    coefficients = _solve(problem, means, coefficients, 5)
    deviations = np.sqrt(np.diagonal(np.linalg.inv(_curvature(problem, coefficients)[0]), axis1=1, axis2=2))
    return Fit(families, means, coefficients, deviations, problem.noise)


def _problem(
    groups: Sequence[Group], settings: Sequence[Settings], families: tuple[Family, ...], without_model: str | None
) -> _Problem:  # fmt: skip
    most = max(len(group.models) for group in groups)
    features = np.full((len(groups), most, len(FEATURES)), _ABSENT)
    log_ms, weights = np.zeros((len(groups), most)), np.zeros((len(groups), most))
    for index, group in enumerate(groups):
        count = len(group.models)
        features[index, :count] += group.features
        log_ms[index, :count] = group.log_ms
        weights[index, :count] = group.weights * [model != without_model for model in group.models]
    return _Problem(
        features, log_ms, weights, np.array([families.index(group.family) for group in groups]),
        np.array([each.spread for each in settings]), np.array([each.noise for each in settings]),
    )  # fmt: skip


def _prior_precision(problem: _Problem) -> Array:
    """Return the precision of coefficients around their family: each by itself, and all by a factor that is nearly free."""
    count = problem.features.shape[2]
    own = 1 / problem.spread**2
    common = own**2 / (1 / _SCALE_SPREAD**2 + count * own)
    precision: Array = own[:, None, None] * np.eye(count) - common[:, None, None]
    return precision


def _curvature(problem: _Problem, coefficients: Array) -> tuple[Array, Array, Array]:
    """Return the matrix of second derivatives, the gradient of the measurements' part, and the prior's part of the matrix."""
    parts = problem.features * np.exp(coefficients)[:, None, :]
    total = parts.sum(2)
    shares = parts / total[..., None]
    residual = np.log(total) - problem.log_ms
    weights = problem.weights * np.minimum(1, _HUBER / np.maximum(np.abs(residual), 1e-9)) / problem.noise[:, None] ** 2
    prior = _prior_precision(problem)
    weighted = shares * weights[..., None]
    return weighted.transpose(0, 2, 1) @ shares + prior, (weighted * residual[..., None]).sum(1), prior


def _solve(problem: _Problem, means: Array, start: Array | None, steps: int) -> Array:
    prior = means[problem.family]
    prior = prior + _scales(problem, prior)[:, None]
    coefficients = prior.copy() if start is None else start
    for _ in range(steps):
        matrix, gradient, precision = _curvature(problem, coefficients)
        gradient = gradient + (precision @ (coefficients - prior)[..., None])[..., 0]
        step = np.linalg.solve(matrix, gradient[..., None])[..., 0]
        coefficients = coefficients - np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
    return coefficients


def _scales(problem: _Problem, prior: Array) -> Array:
    """Return the factor of each group, as the logarithm of the median of measured over predicted."""
    ratio = problem.log_ms - np.log((problem.features * np.exp(prior)[:, None, :]).sum(2))
    ratio[problem.weights == 0] = np.nan
    found = np.zeros(len(ratio))
    some = (problem.weights > 0).any(1)
    found[some] = np.nanmedian(ratio[some], 1)
    return found


def _family_means(problem: _Problem, means: Array, coefficients: Array) -> Array:
    found = means.copy()
    measured = (problem.weights > 0).any(1)
    for index in range(len(means)):
        own = coefficients[(problem.family == index) & measured]
        alike = own - (own - means[index]).mean(1, keepdims=True)
        found[index] = (alike.sum(0) + _ANCHOR * PRIOR) / (len(own) + _ANCHOR)
    return found


_SCALE_SPREAD = 1.0
"""Standard deviation of a group's factor around the median of its measurements, which is known well."""
_HUBER = 0.2
"""Logarithms of errors beyond this count linearly: published tables have slips."""
_ANCHOR = 1.0
"""How many groups the rough costs count as, in the mean of a family."""
