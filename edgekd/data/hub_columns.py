"""Which columns of a Hugging Face data set hold samples and labels: by their type, then by their name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.data.classes import LABEL_NAMES, TEXT_NAMES
from edgekd.errors import DataError
from edgekd.names import did_you_mean

if TYPE_CHECKING:
    from edgekd.recipe import Data

_KINDS = {"Image": "image", "Audio": "waveform"}


def find_label_column(features: Any, options: Data) -> str:
    """Return the name of the column of labels.

    Args:
        features: Columns by name: a ``datasets.Features``.
        options: The recipe's data section.

    Raises:
        DataError: There is none, or it is not clear which it is.
    """
    if options.label_column is not None:
        return _given(features, options.label_column, options, "label_column")
    named = [name for name, each in features.items() if type(each).__name__ == "ClassLabel"]
    if len(named) == 1:
        return str(named[0])
    lowered = {name.lower(): name for name in (named or features)}
    found = next((lowered[name] for name in LABEL_NAMES if name in lowered), None)
    if found is None:
        raise DataError(
            f"{options.source}: which column holds the labels is not clear: {', '.join(features)}",
            "name it with data.label_column",
        )
    if type(features[found]).__name__ not in {"Value", "ClassLabel"}:
        raise DataError(f"{options.source}: column '{found}' is no label: {features[found]}", "name one with data.label_column")
    return str(found)


def find_input_column(features: dict[str, Any], options: Data) -> tuple[str, str]:
    """Return kind and name of the column of samples.

    Args:
        features: Columns by name, without the labels.
        options: The recipe's data section.

    Raises:
        DataError: There is none, or it is not clear which it is.
    """
    kinds = {name: _KINDS.get(type(each).__name__) for name, each in features.items()}
    kinds |= {name: "text" for name, each in features.items() if getattr(each, "dtype", None) in {"string", "large_string"}}
    if options.input_column is not None:
        name = _given(features, options.input_column, options, "input_column")
        kind = kinds[name]
        if kind is None:
            raise DataError(
                f"{options.source}: column '{name}' holds no images, sounds or texts: {features[name]}", "name another"
            )
        return kind, name
    for wanted in ("image", "waveform", "text"):
        able = [name for name, kind in kinds.items() if kind == wanted]
        usual = [name for name in able if name.lower() in TEXT_NAMES] if wanted == "text" else []
        chosen = usual if len(usual) == 1 else able
        if len(chosen) == 1:
            return wanted, chosen[0]
        if able:
            raise DataError(
                f"{options.source}: which column holds the samples is not clear: {', '.join(able)}",
                "name it with data.input_column",
            )
    raise DataError(
        f"{options.source} has no column of images, sounds or texts: {', '.join(features)}",
        "csv: and npz: read columns of numbers",
    )


def _given(features: Any, name: str, options: Data, option: str) -> str:
    if name not in features:
        raise DataError(
            f"{options.source} has no column '{name}'" + did_you_mean(name, list(features)),
            f"its columns: {', '.join(features)}; set data.{option}",
        )
    return name
