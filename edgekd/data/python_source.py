"""Your own code: ``python:FILE.py:FUNCTION`` or ``python:package.module:FUNCTION``.

The function takes no arguments. It yields ``(sample, label)``, or ``(sample, label, split)`` with a split of ``train``,
``validation`` or ``test``; or it returns a mapping from splits to iterables of ``(sample, label)``. A label is a word or an
integer. A sample is

- a ``str``: a text;
- a ``uint8`` array ``[height, width]`` or ``[height, width, 1 to 4]``: an image;
- another array ``[d]``: features; or, where ``data.sample_rate`` is set, a sound at that rate, floats from -1 to 1 or
  ``int16``.

Samples are taken one by one, so memory stays flat if the function is a generator. It runs twice: for the plan, which counts,
and for the run. A run folder notices when the code changes, or a Python file beside it; it does not see what files the code
reads, so use a new folder when those change. What the code itself raises keeps its traceback. What it prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.arrays import WHITE, to_features
from edgekd.data.cache import (
    PART_NAMES,
    PARTS_BY_NAME,
    TEXTS,
    UNASSIGNED,
    Advanced,
    ArrayFile,
    Preview,
    SampleWriter,
    write_lines,
)
from edgekd.data.classes import sort_classes
from edgekd.data.sounds import FULL_SCALE, Sound, fit_sound, kept_length
from edgekd.errors import DataError
from edgekd.safe import stop
from edgekd.safe.user_code import code_digest, load_function

if TYPE_CHECKING:
    from edgekd.recipe import Data

_OFTEN = 256
_MOST_SHOWN = 70


def fingerprint(options: Data) -> dict[str, Any]:
    """Return a SHA-256 of the code, and what decides how its samples are taken."""
    return {
        "code": code_digest(_reference(options)), "source": options.source, "sample_rate": options.sample_rate,
        "seconds": options.seconds,
    }  # fmt: skip


def preview(options: Data) -> Preview:
    """Return classes, counts and three samples. Runs the code, and forgets its samples.

    Raises:
        DataError: A sample or label is not as expected.
        UsageError: There is no such function.
    """
    counts: dict[str, int] = {}
    parts: dict[str, int] = {}
    shown: list[str] = []
    kind, shape = "", ()
    for index, (sample, label, part) in enumerate(_samples(options)):
        if not kind:
            kind = _kind(sample, options, _where(options, index))
            shape = (options.max_tokens,) if kind == "text" else _stored(sample, kind, options, _where(options, index)).shape
        counts[label] = counts.get(label, 0) + 1
        if part != UNASSIGNED:
            parts[PART_NAMES[part]] = parts.get(PART_NAMES[part], 0) + 1
        if len(shown) < 3:
            shown.append(f"{index}, {_described(sample)}: {label}")
    classes = sort_classes(counts, options.source)
    rate = options.sample_rate if kind == "waveform" else None
    return Preview(kind, tuple(classes), tuple(counts[each] for each in classes), parts, tuple(shown), shape, rate)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Write what the code yields to ``cache``.

    Raises:
        DataError: A sample or label is not as expected.
        ResourceError: The disk is full.
    """
    samples = _samples(options)
    first, label, part = next(samples)
    kind = _kind(first, options, _where(options, 0))
    found: dict[str, int] = {}
    shape: tuple[int, ...] = ()

    with SampleWriter(cache) as writer:

        def values() -> Iterator[Any]:
            yield take(first, label, part)
            for sample, each_label, each_part in samples:
                yield take(sample, each_label, each_part)

        def take(sample: Any, label: str, part: int) -> Any:
            index = len(writer)
            where = _where(options, index)
            if _kind(sample, options, where) != kind:
                raise DataError(
                    f"{where} is {_described(sample)}, the first is {_described(first)}", "yield samples of one kind only"
                )
            writer.append(found.setdefault(label, len(found)), part, str(index))
            if index % _OFTEN == 0:
                stop.check_stop()
                advanced(index, 0, f"{index:,} samples")
            return sample if kind == "text" else _stored(sample, kind, options, where)

        if kind == "text":
            write_lines(cache / TEXTS, values())
        else:
            rows = values()
            row = next(rows)
            shape = row.shape
            with ArrayFile(cache / f"{kind}.npy", row.dtype, shape) as file:
                file.append(row[np.newaxis])
                for row in rows:
                    if row.shape != shape:
                        raise DataError(
                            f"{_where(options, len(writer) - 1)} has shape {list(row.shape)}, the first has {list(shape)}",
                            "yield samples of one shape",
                        )
                    file.append(row[np.newaxis])
        classes = sort_classes(found, options.source)
        place = {name: index for index, name in enumerate(classes)}
        writer.relabel([place[name] for name in found])
        count = len(writer)
    scales = {"image": WHITE, "waveform": FULL_SCALE}
    result = {"kind": kind, "classes": classes, "shape": [count, *shape], "full_scale": scales.get(kind), "skipped": []}
    return result | ({"sample_rate": options.sample_rate} if kind == "waveform" else {})


def _reference(options: Data) -> str:
    return options.source.partition(":")[2]


def _where(options: Data, index: int) -> str:
    return f"{options.source}: sample {index}"


def _samples(options: Data) -> Iterator[tuple[Any, str, int]]:
    """Yield sample, label and split of everything the code yields; its prints go to stderr, for stdout is for data.

    Raises:
        DataError: It yields something else.
    """
    reference = _reference(options)
    with contextlib.redirect_stdout(sys.stderr):
        made = load_function(reference)()
    if not isinstance(made, Mapping):
        yield from _checked(made, options, 0, None)
        return
    count = 0
    for name, iterable in made.items():
        if name not in PARTS_BY_NAME:
            raise DataError(f"{options.source}: there is no split '{name}'", "splits are train, validation and test")
        for each in _checked(iterable, options, count, PARTS_BY_NAME[name]):
            yield each
            count += 1
    if not count:
        raise DataError(f"{options.source} yields no samples", "yield (sample, label)")


def _checked(made: Any, options: Data, first: int, given: int | None) -> Iterator[tuple[Any, str, int]]:
    if made is None or isinstance(made, str | bytes) or not hasattr(made, "__iter__"):
        raise DataError(
            f"{options.source}: the function returns {_type(made)}, nothing to iterate over",
            "yield (sample, label), or return a mapping from split names to iterables",
        )
    iterator = iter(made)
    index = first
    while True:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                item = next(iterator)
            except StopIteration:
                break
        where = _where(options, index)
        if not isinstance(item, tuple | list) or len(item) not in ({2} if given is not None else {2, 3}):
            raise DataError(f"{where} is {_type(item)}, expected is (sample, label) or (sample, label, split)", "yield a tuple")
        part = UNASSIGNED if given is None else given
        if len(item) == 3:
            if not isinstance(item[2], str) or item[2] not in PARTS_BY_NAME:
                raise DataError(f"{where} has split {item[2]!r}", "splits are 'train', 'validation' and 'test'")
            part = PARTS_BY_NAME[item[2]]
        label = item[1]
        if isinstance(label, np.ndarray) and label.shape == ():
            label = label[()]
        if (
            isinstance(label, bool | np.bool_)
            or not isinstance(label, str | int | np.integer)
            or not str(label).strip()
            or not _is_unicode(str(label))
        ):
            raise DataError(f"{where} has label {str(label)[:40]!r} of {_type(label)}", "a label is a word or an integer")
        yield item[0], str(label).strip(), part
        index += 1
    if index == first and given is None:
        raise DataError(f"{options.source} yields no samples", "yield (sample, label)")


def _kind(sample: Any, options: Data, where: str) -> str:
    if isinstance(sample, str):
        if not sample.strip() or not _is_unicode(sample):
            raise DataError(f"{where} is no text: {sample[:40]!r}", "leave it out, or decode it as UTF-8")
        return "text"
    if isinstance(sample, np.ndarray) and sample.size and sample.dtype.kind in "biuf":
        is_image = sample.dtype == np.uint8 and (sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] in {1, 2, 3, 4}))
        if is_image:
            return "image"
        if sample.ndim == 1:
            return "features" if options.sample_rate is None else "waveform"
    raise DataError(
        f"{where} is {_described(sample)}",
        "a sample is a str, a uint8 array [height, width] or [height, width, channels], or a 1-D array of numbers",
    )


def _stored(sample: NDArray[Any], kind: str, options: Data, where: str) -> NDArray[Any]:
    """Return a sample as a row of the cache."""
    if kind == "image":
        return sample if sample.ndim == 3 else sample[..., np.newaxis]
    if kind == "features":
        made: NDArray[np.float32] = to_features(sample[np.newaxis], where)[0]
        return made
    assert options.sample_rate is not None
    if sample.dtype == np.int16:
        values = sample / FULL_SCALE
    else:
        values = sample.astype(np.float64)
        if sample.dtype.kind != "f" or not np.isfinite(values).all() or np.abs(values).max() > 1:
            raise DataError(
                f"{where} is {_described(sample)} from {values.min():g} to {values.max():g}",
                "sounds are int16, or floats from -1 to 1; without data.sample_rate they are features",
            )
    length = kept_length(options.sample_rate, options.seconds)
    return fit_sound(Sound(options.sample_rate, values), options.sample_rate, length)


def _is_unicode(text: str) -> bool:
    """Whether ``text`` can be written: bytes that were decoded with ``surrogateescape`` cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _described(sample: Any) -> str:
    if isinstance(sample, np.ndarray):
        return f"{sample.dtype.name} {list(sample.shape)}"
    if isinstance(sample, str):
        text = sample.strip()
        return f"'{text[:_MOST_SHOWN]}...'" if len(text) > _MOST_SHOWN else f"'{text}'"
    return _type(sample)


def _type(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
