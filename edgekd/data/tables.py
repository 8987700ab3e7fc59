"""CSV and TSV files: a column of labels, and a column of text or columns of numbers.

``csv:PATH`` or ``tsv:PATH`` is one file, or a folder with ``train``, ``validation`` (``valid``, ``val``, ``dev``) and ``test``
files. The first row is a header, unless a cell of it is a number or it looks like the rows below it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.data.cache import (
    TEST,
    TEXTS,
    TRAIN,
    UNASSIGNED,
    VALIDATION,
    Advanced,
    ArrayFile,
    Preview,
    write_lines,
    write_samples,
)
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.names import did_you_mean
from edgekd.safe import stop
from edgekd.safe.files import sha256_file

if TYPE_CHECKING:
    from edgekd.recipe import Data

_PARTS = {"train": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "test": TEST}
_PART_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
_LABELS = ("label", "labels", "class", "target", "category", "sentiment", "y")
_INPUTS = ("text", "sentence", "review", "content", "document", "comment", "utterance", "question")
_MOST_CELL = 1 << 20
_MOST_CLASSES = 10_000
_LOOKED_AT = 200
_NAMED = 5
_ROWS = 1_024


@dataclass(frozen=True)
class _Columns:
    """How one file is laid out: its column names, whether they are in its first row, and which column is what."""

    names: tuple[str, ...]
    has_header: bool
    label: int
    inputs: tuple[int, ...]
    is_text: bool


@dataclass(frozen=True)
class _Row:
    """One good row, or what is wrong with it."""

    where: str
    label: str
    value: str | tuple[float, ...]
    problem: str | None


def fingerprint(options: Data) -> dict[str, Any]:
    """Return the SHA-256 of every file, and which columns are read."""
    files = {path.name: sha256_file(path) for path, _ in _files(options)}
    return {"files": files, "columns": [options.input_column, options.label_column], "skip_bad": options.skip_bad}


def preview(options: Data) -> Preview:
    """Return classes, counts and three rows."""
    counts: dict[str, int] = {}
    parts: dict[str, int] = {}
    samples = []
    is_text = True
    for path, part in _files(options):
        columns = _columns(path, options)
        is_text = columns.is_text
        for row in _rows(path, columns, options):
            if row.problem is not None:
                if not options.skip_bad:
                    raise DataError(
                        f"{row.where}: {row.problem}", "mend the row, or leave such rows out with data.skip_bad=true"
                    )
                continue
            counts[row.label] = counts.get(row.label, 0) + 1
            if part != UNASSIGNED:
                parts[_PART_NAMES[part]] = parts.get(_PART_NAMES[part], 0) + 1
            if len(samples) < 3:
                value = row.value if isinstance(row.value, str) else ", ".join(f"{each:g}" for each in row.value[:8])
                samples.append(f"{row.where}, {value[:70] + '...' if len(value) > 70 else value}: {row.label}")
    classes = _sorted_classes(counts)
    return Preview(
        "text" if is_text else "features", tuple(classes), tuple(counts[each] for each in classes), parts, tuple(samples)
    )


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Read every row into ``cache``: texts, or rows of float32.

    Raises:
        DataError: A row is broken (unless ``skip_bad``), a file is not UTF-8, or its columns are not as expected.
    """
    found = preview(options)
    place = {name: index for index, name in enumerate(found.classes)}
    labels: list[int] = []
    parts: list[int] = []
    ids: list[str] = []
    skipped: list[str] = []
    total = sum(found.counts)

    def values() -> Iterator[str | tuple[float, ...]]:
        for path, part in _files(options):
            for row in _rows(path, _columns(path, options), options):
                if row.problem is not None:
                    skipped.append(f"{row.where} ({row.problem})")
                    continue
                labels.append(place[row.label])
                parts.append(part)
                ids.append(row.where)
                if len(ids) % 10_000 == 0:
                    stop.check_stop()
                    advanced(len(ids), total, "")
                yield row.value

    if found.kind == "text":
        write_lines(cache / TEXTS, (str(each) for each in values()))
        shape: list[int] = [len(ids)]
    else:
        rows = values()
        first = next(rows)
        assert not isinstance(first, str)
        with ArrayFile(cache / "features.npy", np.float32, (len(first),)) as file:
            waiting: list[Any] = [first]
            for each in rows:
                waiting.append(each)
                if len(waiting) == _ROWS:
                    file.append(np.asarray(waiting, np.float32))
                    waiting = []
            if waiting:
                file.append(np.asarray(waiting, np.float32))
        shape = [len(ids), len(first)]
    write_samples(cache, labels, parts, ids)
    return {"kind": found.kind, "classes": list(found.classes), "shape": shape, "full_scale": None, "skipped": skipped}


def _files(options: Data) -> list[tuple[Path, int]]:
    """Return every file and the split it is."""
    kind = options.source.partition(":")[0]
    path = source_path(options, "data file")
    if path.is_file():
        return [(path, UNASSIGNED)]
    found = [(each, _PARTS[each.stem]) for each in sorted(path.glob(f"*.{kind}")) if each.stem in _PARTS]
    if not any(part == TRAIN for _, part in found):
        raise DataError(f"data folder {path} has no train.{kind}", f"name one file, or add train.{kind} beside test.{kind}")
    if len({part for _, part in found}) < len(found):
        raise DataError(
            f"data folder {path} has two files of one split: {', '.join(each.name for each, _ in found)}", "keep one"
        )
    return sorted(found, key=lambda each: each[1])


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row that is not empty."""
    csv.field_size_limit(_MOST_CELL)
    line = 0
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        with path.open("rb") as raw:
            reader = csv.reader(_lines(raw, path), delimiter=delimiter, quoting=quoting, strict=quoting == csv.QUOTE_MINIMAL)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, cells
    except csv.Error as error:
        raise DataError(f"{path}:{line + 1}: {error}", "mend the row; a quote inside quotes is written twice") from None
    except OSError as error:
        raise DataError(f"cannot read data file {path}: {error.strerror}", "check data.source") from error


def _lines(raw: Any, path: Path) -> Iterator[str]:
    for number, line in enumerate(raw, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: is not UTF-8 text (byte 0x{line[error.start]:02x} at {error.start + 1})",
                f"convert it, for example with: iconv -f latin1 -t utf-8 {path.name}",
            ) from None
        if "\0" in text:
            raise DataError(f"{path}:{number}: holds a NUL character", "save the file as plain UTF-8 text")
        yield text


def _columns(path: Path, options: Data) -> _Columns:
    """Find out how a file is laid out, from its first rows."""
    delimiter = "," if options.source.startswith("csv:") else "\t"
    some: list[list[str]] = []
    for _, cells in _cells(path, delimiter):
        some.append(cells)
        if len(some) > _LOOKED_AT:
            break
    if not some:
        raise DataError(f"{path} is empty", "add rows, or check data.source")
    first, rest = some[0], [cells for cells in some[1:] if len(cells) == len(some[0])]
    if len(first) < 2:
        raise DataError(
            f"{path}:1: has one column, expected are samples and labels",
            "check the separator: csv: is for commas, tsv: for tabs",
        )
    has_header = bool(rest) and _is_header(first, rest)
    names = tuple(cell.strip() for cell in first) if has_header else tuple(str(index + 1) for index in range(len(first)))
    body = rest if has_header else [first, *rest]
    label = _named(path, names, options.label_column, _LABELS, "label_column")
    label = len(names) - 1 if label is None else label
    given = _named(path, names, options.input_column, _INPUTS if has_header else (), "input_column")
    numeric = [
        index for index in range(len(names)) if index != label and all(_number(cells[index]) is not None for cells in body)
    ]
    others = [index for index in range(len(names)) if index != label and index not in numeric]
    if given is not None:
        return _Columns(names, has_header, label, (given,), given not in numeric)
    if not others:
        return _Columns(names, has_header, label, tuple(numeric), False)
    if len(others) == 1:
        return _Columns(names, has_header, label, (others[0],), True)
    listed = ", ".join(f"'{names[index]}'" for index in others)
    raise DataError(f"{path}: which column holds the text is not clear: {listed}", "name it with data.input_column")


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    if any(_number(cell) is not None for cell in first) or len({cell.strip() for cell in first}) < len(first):
        return False
    if any(cell.strip().lower() in {*_LABELS, *_INPUTS} for cell in first):
        return True
    # A column of numbers under a word: the word is its name. Words over words: rows of text.
    return any(all(_number(cells[index]) is not None for cells in rest) for index in range(len(first)))


def _named(path: Path, names: tuple[str, ...], wanted: str | None, usual: tuple[str, ...], option: str) -> int | None:
    if wanted is not None:
        if wanted not in names:
            raise DataError(
                f"{path} has no column '{wanted}'" + did_you_mean(wanted, list(names)),
                f"its columns: {', '.join(names[:20])}; set data.{option}",
            )
        return names.index(wanted)
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) for name in usual if name in lowered), None)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _rows(path: Path, columns: _Columns, options: Data) -> Iterator[_Row]:
    delimiter = "," if options.source.startswith("csv:") else "\t"
    for number, (line, cells) in enumerate(_cells(path, delimiter)):
        if number == 0 and columns.has_header:
            continue
        where = f"{path}:{line}"
        if len(cells) != len(columns.names):
            yield _Row(where, "", "", f"has {len(cells)} columns, expected are {len(columns.names)}")
            continue
        label = cells[columns.label].strip()
        if not label:
            yield _Row(where, "", "", "has an empty label")
        elif columns.is_text:
            text = cells[columns.inputs[0]].strip()
            yield _Row(where, label, text, None if text else "has an empty text")
        else:
            numbers = [_number(cells[index]) for index in columns.inputs]
            bad = next(
                (i for i, each in zip(columns.inputs, numbers, strict=True) if each is None or not math.isfinite(each)), None
            )
            if bad is not None:
                yield _Row(where, label, "", f"column '{columns.names[bad]}' is '{cells[bad][:40]}', no finite number")
            else:
                yield _Row(where, label, tuple(each for each in numbers if each is not None), None)


def _sorted_classes(counts: dict[str, int]) -> list[str]:
    """Return class names in order, numbers by their value."""
    if len(counts) > _MOST_CLASSES:
        raise DataError(f"the label column has {len(counts):,} different values, too many for classes", "set data.label_column")
    numbers = [_number(name) for name in counts]
    if all(each is not None for each in numbers):
        return sorted(counts, key=lambda name: float(name))
    return sorted(counts)
