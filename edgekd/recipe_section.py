"""What all sections of a recipe share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from edgekd.data.sources import check_source
from edgekd.models.references import check_reference, check_student

_MOST_SAMPLES = 100_000


def _check_model(value: object) -> object:
    return check_reference(value) if isinstance(value, str) else value


def _check_student(value: object) -> object:
    return check_student(value) if isinstance(value, str) else value


def _check_arguments(value: object) -> object:
    for name, each in value.items() if isinstance(value, dict) else ():
        if not all(_is_plain(one) for one in (each if isinstance(each, list) else [each])):
            raise ValueError(f"argument '{name}' must be a number, text, true, false, null, or a list of those")
    return value


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _check_source(value: object) -> object:
    return check_source(value) if isinstance(value, str) else value


def _check_samples(value: object) -> object:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_SAMPLES):
        raise ValueError(f"{value!r} is neither auto nor a whole number from 1 to {_MOST_SAMPLES:,}")
    return value


def _check_kept(value: object) -> object:
    if value == "auto":
        return value
    names = list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(each, str) and each for each in names):
        raise ValueError(f"{value!r} is neither auto nor a list of names of layers")
    if len(set(names)) != len(names):
        raise ValueError("it names one layer twice; name each once")
    return tuple(names)


def number_or_auto(low: float, high: float) -> Callable[[object], object]:
    """Return a validator of ``auto`` or a number from ``low`` to ``high``."""

    def check(value: object) -> object:
        if value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{value!r} is neither auto nor a number from {low:g} to {high:g}")
        return float(value)

    return check


CalibrationSamples = Annotated[int | Literal["auto"], BeforeValidator(_check_samples)]
KeptLayers = Annotated[tuple[str, ...] | Literal["auto"], BeforeValidator(_check_kept)]
ModelReference = Annotated[str, BeforeValidator(_check_model)]
StudentReference = Annotated[str, BeforeValidator(_check_student)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_check_arguments)]
DataSource = Annotated[str, BeforeValidator(_check_source)]


class Section(BaseModel):
    """What all parts of a recipe share: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
