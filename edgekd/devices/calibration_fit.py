"""Fit one key to the measurements of a calibration: costs that lean on what was believed before, or one factor for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekd.devices.coefficients import shared_coefficients
from edgekd.devices.crossvalidation import conformal
from edgekd.devices.features import Counting, features_of
from edgekd.devices.fitting import (
    PRIOR,
    Array,
    Fit,
    Group,
    Settings,
    design,
    fit_groups,
    log_deviation,
    log_latency,
)
from edgekd.devices.kernels import Kernel
from edgekd.devices.latency import nearest_families, published_costs
from edgekd.devices.latency_table import Family, Key, family_of
from edgekd.devices.profiles import Profile

CANDIDATES = tuple(Settings(spread, 0.04) for spread in (0.3, 0.6, 1.0, 1.5))
COUNTINGS = tuple(Counting(*each, apart=True) for each in ((1, 1), (8, 1), (16, 1), (16, 16)))
"""Among which leave-one-out chooses."""
_FACTOR_NOISE = 0.1
_FACTOR_SPREAD = 0.5
_ROUNDS = 3


@dataclass(frozen=True)
class KeyFit:
    """Coefficients of a key, and how good they are.

    Attributes:
        key: Which.
        method: ``coefficients``: one for each feature; ``factor``: those of before times one number.
        coefficients, deviations, noise, reach: As of :class:`~edgekd.devices.coefficients.FittedKey`.
        counting: How the work is counted that coefficients are for.
        before: Mean relative error of what would have been predicted without calibrating; ``None``: nothing would have been.
        after: Mean relative error of models that were left out of the fit.
        factor_error: The same, of one factor.
    """

    key: Key
    method: Literal["coefficients", "factor"]
    coefficients: Array
    deviations: Array
    noise: float
    reach: float
    counting: Counting
    before: float | None
    after: float
    factor_error: float


Measured = tuple[str, Sequence[Kernel], float, float]
"""Name of a model, its kernels, its latency in ms, and how much it counts, 0 to 1."""


@dataclass(frozen=True)
class _Way:
    """A way to fit: to which features, from which prior, and with which settings; ``None``: one factor."""

    group: Group
    counting: Counting
    prior: Array
    settings: Settings | None


def fit_key(key: Key, measured: Sequence[Measured], profile: Profile, runtime: str) -> KeyFit:
    """Fit a key, and say how far the error fell.

    Each way to fit predicts every model by a fit without it; the best way is taken. The error that is told is that of choosing
    as well: for each model, the way is chosen by the others.

    Args:
        key: Which.
        measured: Three models at least.
        profile: The device.
        runtime: As of :func:`~edgekd.devices.latency.predict`.
    """
    priors, before = _priors(key, measured, profile, runtime)
    ways = [
        _Way(_group(key, measured, counting), counting, prior, settings)
        for counting in COUNTINGS for prior in priors for settings in (None, *CANDIDATES)
    ]  # fmt: skip
    left_out = [_left_out(way) for way in ways]
    errors = np.array([each[0] for each in left_out])
    best = int(np.argmin(np.abs(errors).mean(1)))
    chosen = ways[best]
    coefficients, deviations, noise = _fitted(chosen)
    others = [_best_without(errors, index) for index in range(len(measured))]
    own = np.array([errors[way, index] for index, way in enumerate(others)])
    expected = np.array([left_out[way][1][index] for index, way in enumerate(others)])
    factors = [float(_relative(errors[index]).mean()) for index, way in enumerate(ways) if way.settings is None]
    return KeyFit(
        key, "factor" if chosen.settings is None else "coefficients", coefficients, deviations, noise,
        conformal(np.abs(own) / expected), chosen.counting, before, float(_relative(own).mean()), min(factors),
    )  # fmt: skip


def _group(key: Key, measured: Sequence[Measured], counting: Counting) -> Group:
    family = family_of(key)
    names, kernels, milliseconds, weights = zip(*measured, strict=True)
    features = np.array([design(features_of(each, counting), family.runtime) for each in kernels])
    return Group(key, family, names, features, np.log(milliseconds), np.array(weights))


def _priors(
    key: Key, measured: Sequence[Measured], profile: Profile, runtime: str
) -> tuple[list[Array], float | None]:  # fmt: skip
    """Return what may be believed before, as logarithms of coefficients, and the error of what would have been predicted."""
    threads = key.thread_count
    assert threads is not None
    known = [published_costs(kernels, profile, runtime, threads, key.precision) for _, kernels, _, _ in measured]
    if known[0] is not None:
        errors = np.array([
            log_latency(design(features_of(kernels), found[1]), found[0]) - np.log(milliseconds)
            for found, (_, kernels, milliseconds, _) in zip(known, measured, strict=True) if found is not None
        ])  # fmt: skip
        return [known[0][0], PRIOR], float(_relative(errors).mean())
    means = shared_coefficients().scaling.families
    families = (Family(name, "cpu", key.precision, threads > 1) for name in nearest_families(runtime))
    return [*[means[each] for each in families if each in means][:1], PRIOR], None


def _left_out(way: _Way) -> tuple[Array, Array]:
    """Return errors of logarithms, each of a model by a fit without it, and the standard deviations that the fits give."""
    group = way.group
    errors, deviations = np.zeros(len(group.models)), np.zeros(len(group.models))
    for model in set(group.models):
        coefficients, spreads, noise = _fitted(way, model)
        mine = np.array([each == model for each in group.models])
        errors[mine] = log_latency(group.features[mine], coefficients) - group.log_ms[mine]
        deviations[mine] = np.hypot(log_deviation(group.features[mine], coefficients, spreads), noise)
    return errors, deviations


def _fitted(way: _Way, without: str | None = None) -> tuple[Array, Array, float]:
    """Return coefficients as logarithms, their standard deviations, and the noise of a measurement."""
    group = way.group
    used = np.array([model != without for model in group.models])
    ratio = (group.log_ms - log_latency(group.features, way.prior))[used]
    start = way.prior + np.median(ratio)
    if way.settings is None:
        return start, np.full(len(start), _FACTOR_SPREAD), _FACTOR_NOISE
    fit = Fit((group.family,), way.prior[None], start[None], np.zeros((1, len(start))), np.zeros(1))
    for _ in range(_ROUNDS):
        fit = fit_groups([group], way.settings, start=fit, without_model=without, rounds=0)
    return fit.coefficients[0], fit.deviations[0], float(fit.noise[0])


def _best_without(errors: Array, index: int) -> int:
    """Return the way whose errors are the smallest over all models but one."""
    return int(np.argmin(np.abs(np.delete(errors, index, 1)).mean(1)))


def _relative(errors: Array) -> Array:
    """Return errors of logarithms as shares of the measured latency, without their sign."""
    found: Array = np.abs(np.exp(errors) - 1)
    return found
