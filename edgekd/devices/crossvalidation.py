"""How well coefficients predict an architecture that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.fitting import Array, Fit, Group, Settings, fit_groups, log_deviation, log_latency

CANDIDATES = (Settings(0.25, 0.05), Settings(0.4, 0.05), Settings(0.4, 0.1), Settings(0.7, 0.05), Settings(1.0, 0.04))
"""Among which cross-validation chooses, for each family."""
CONFIDENCE = 0.9
_ROUNDS = 2


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the measurements of a group, each by a fit without its architecture.

    Attributes:
        log_ms: Logarithms of what was predicted.
        errors: Predicted minus measured logarithms.
        deviations: Standard deviations that the fit gives its predictions.
    """

    log_ms: Array
    errors: Array
    deviations: Array

    @property
    def relative(self) -> Array:
        """Errors as a share of the measured latency."""
        return np.exp(self.errors) - 1


def leave_models_out(groups: Sequence[Group], settings: Sequence[Settings] | Settings, fit: Fit) -> list[HeldOut]:
    """Predict every measurement by a fit of all groups without any measurement of its model.

    Args:
        groups: All of them.
        settings: As for :func:`~edgekd.devices.fitting.fit_groups`.
        fit: Of all groups, to begin from.
    """
    found = [HeldOut(*(np.zeros(len(group.models)) for _ in range(3))) for group in groups]
    for model in sorted({model for group in groups for model in group.models}):
        families = {group.family for group in groups if model in group.models}
        chosen = [index for index, group in enumerate(groups) if group.family in families]
        part = Fit(fit.families, fit.means, fit.coefficients[chosen], fit.deviations[chosen], fit.noise[chosen])
        own = settings if isinstance(settings, Settings) else [settings[index] for index in chosen]
        without = fit_groups([groups[index] for index in chosen], own, start=part, without_model=model, rounds=_ROUNDS)
        for place, index in enumerate(chosen):
            _fill(found[index], groups[index], model, without, place)
    return found


def choose_settings(groups: Sequence[Group]) -> tuple[list[Settings], Fit, list[HeldOut]]:
    """Return for each group the settings that predict held-out architectures of its family best, and the fit with them."""
    errors: dict[Settings, list[HeldOut]] = {}
    for each in CANDIDATES:
        errors[each] = leave_models_out(groups, each, fit_groups(groups, each))
    best = {}
    for family in {group.family for group in groups}:
        own = [index for index, group in enumerate(groups) if group.family == family]
        best[family] = min(CANDIDATES, key=lambda each: float(np.mean(
            np.concatenate([np.minimum(np.abs(errors[each][index].errors), 1.0) for index in own])
        )))  # fmt: skip
    settings = [best[group.family] for group in groups]
    fit = fit_groups(groups, settings)
    return settings, fit, leave_models_out(groups, settings, fit)


def quantile(standardized: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return how many standard deviations an interval must reach, for :data:`CONFIDENCE`.

    It is the conformal quantile of the held-out errors, divided by their standard deviations, of a group. A small group's
    is joined with those of its family, so that they count as many as its own.

    Args:
        standardized: Of the group; absolute values.
        others: Of the family.
    """
    if len(standardized) >= _ENOUGH or not len(others):
        return conformal(standardized)
    own, family = conformal(standardized), conformal(others)
    share = len(standardized) / _ENOUGH
    return share * max(own, 0.5 * family) + (1 - share) * max(own, family)


def conformal(values: NDArray[np.float64]) -> float:
    """Return the value below which a further one is with a probability of :data:`CONFIDENCE`, whatever their distribution."""
    rank = int(np.ceil((len(values) + 1) * CONFIDENCE))
    return float(np.sort(values)[min(rank, len(values)) - 1]) if len(values) else float("inf")


def _fill(held: HeldOut, group: Group, model: str, fit: Fit, place: int) -> None:
    mine = np.array([each == model for each in group.models])
    if not mine.any():
        return
    features, coefficients = group.features[mine], fit.coefficients[place]
    predicted = log_latency(features, coefficients)
    held.log_ms[mine] = predicted
    held.errors[mine] = predicted - group.log_ms[mine]
    held.deviations[mine] = np.hypot(log_deviation(features, coefficients, fit.deviations[place]), fit.noise[place])


_ENOUGH = 30
"""Held-out errors from which a group's own quantile is trusted alone."""
