"""CSV and TSV files: a column of labels, and a column of text or columns of numbers.

``csv:PATH`` or ``tsv:PATH`` is one file, or a folder with ``train``, ``validation`` (``valid``, ``val``, ``dev``) and ``test``
files. CSV cells may be quoted; in TSV a quote is a character like others.

- The first row is a header if a cell of it is ``data.input_column``, ``data.label_column`` or a usual name, or if it is a word
  over numbers; otherwise columns are called 1, 2, ...
- Labels are in ``data.label_column``, in a column with a usual name, or in the last one.
- A column is numeric if more than half of the first 200 rows have a number there; a cell that is none is then a broken row.
- A text column is used alone; one with a usual name is text whatever is in it. Where there is none, all numeric columns are
  features, but ``id`` and pandas' nameless index.

Files are read twice, row by row: once to find the classes, once to write.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.data.cache import (
    PART_NAMES,
    PARTS_BY_NAME,
    TEXTS,
    TRAIN,
    UNASSIGNED,
    Advanced,
    ArrayFile,
    Preview,
    SampleWriter,
    write_lines,
)
from edgekd.data.classes import LABEL_NAMES, TEXT_NAMES, number, sort_classes
from edgekd.data.sources import source_path
from edgekd.errors import DataError
from edgekd.names import did_you_mean
from edgekd.safe import stop
from edgekd.safe.files import sha256_file

if TYPE_CHECKING:
    from edgekd.recipe import Data

_IDS = ("", "id", "unnamed: 0")
_MOST_CELL = 1 << 20
_LOOKED_AT = 200
_ROWS = 1_024
_GREATEST = float(np.finfo(np.float32).max)


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
    """Return classes, counts and three rows.

    Raises:
        DataError: See :func:`write_cache`.
    """
    counts: dict[str, int] = {}
    parts: dict[str, int] = {}
    samples: list[str] = []
    files = _files(options)
    layouts = _layouts(files, options)
    for path, part in files:
        for row in _rows(path, layouts[path], options):
            if row.problem is not None:
                if not options.skip_bad:
                    raise DataError(f"{row.where}: {row.problem}", "mend it, or leave such rows out with data.skip_bad=true")
                continue
            counts[row.label] = counts.get(row.label, 0) + 1
            if part != UNASSIGNED:
                parts[PART_NAMES[part]] = parts.get(PART_NAMES[part], 0) + 1
            if len(samples) < 3:
                samples.append(f"{row.where}, {_shown(row.value)}: {row.label}")
    if not counts:
        raise DataError(f"{files[0][0]} has no rows that can be used", "add rows, or check data.source")
    classes = sort_classes(counts, f"{files[0][0]}, column '{_label_name(layouts[files[0][0]])}',")
    layout = layouts[files[0][0]]
    kind, shape = ("text", (options.max_tokens,)) if layout.is_text else ("features", (len(layout.inputs),))
    return Preview(kind, tuple(classes), tuple(counts[each] for each in classes), parts, tuple(samples), shape)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Read every row into ``cache``: texts, or rows of float32.

    Raises:
        DataError: A row is broken (unless ``skip_bad``), a file is not UTF-8, or its columns are not as expected.
    """
    found = preview(options)
    place = {name: index for index, name in enumerate(found.classes)}
    skipped: list[str] = []
    total = sum(found.counts)
    files = _files(options)
    layouts = _layouts(files, options)
    columns = len(layouts[files[0][0]].inputs)

    with SampleWriter(cache) as samples:

        def values() -> Iterator[str | tuple[float, ...]]:
            for path, part in files:
                for row in _rows(path, layouts[path], options):
                    if row.problem is not None:
                        skipped.append(f"{row.where} ({row.problem})")
                        continue
                    samples.append(place[row.label], part, row.where)
                    if len(samples) % _ROWS == 0:
                        stop.check_stop()
                        advanced(len(samples), total, f"{len(skipped)} bad" if skipped else "")
                    yield row.value

        if found.kind == "text":
            write_lines(cache / TEXTS, (str(each) for each in values()))
        else:
            with ArrayFile(cache / "features.npy", np.float32, (columns,)) as file:
                waiting = values()
                while rows := list(islice(waiting, _ROWS)):
                    file.append(np.asarray(rows, np.float32))
        shape = [len(samples)] if found.kind == "text" else [len(samples), columns]
    return {"kind": found.kind, "classes": list(found.classes), "shape": shape, "full_scale": None, "skipped": skipped}


def _shown(value: str | tuple[float, ...]) -> str:
    text = value if isinstance(value, str) else ", ".join(f"{each:g}" for each in value[:8]) + ", ..." * (len(value) > 8)
    return f"{text[:70]}..." if len(text) > 70 else text


def _files(options: Data) -> list[tuple[Path, int]]:
    """Return every file and the split it is."""
    kind = options.source.partition(":")[0]
    path = source_path(options, "data file")
    if path.is_file():
        return [(path, UNASSIGNED)]
    found = [(each, PARTS_BY_NAME[each.stem]) for each in sorted(path.glob(f"*.{kind}")) if each.stem in PARTS_BY_NAME]
    if not any(part == TRAIN for _, part in found):
        raise DataError(f"data folder {path} has no train.{kind}", f"name one file, or add train.{kind} beside test.{kind}")
    found.sort(key=lambda each: each[1])
    twice = next((pair for pair in pairwise(found) if pair[0][1] == pair[1][1]), None)
    if twice is not None:
        (first, _), (second, _) = twice
        raise DataError(f"data folder {path} has two files of one split: {first.name} and {second.name}", "keep one of them")
    return found


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row that is not empty."""
    csv.field_size_limit(_MOST_CELL)
    line = 0
    try:
        with path.open("rb") as raw:
            lines = _lines(raw, path)
            if delimiter == ",":
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            else:
                reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, cells
    except csv.Error as error:
        raise DataError(
            f"{path}:{line + 1}: the row that begins here is no CSV: {error}", "mend it; a quote inside quotes is written twice"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read data file {path}: {error.strerror}", "check data.source") from error


def _lines(raw: Any, path: Path) -> Iterator[str]:
    for count, line in enumerate(raw, 1):
        try:
            text = line.decode("utf-8-sig" if count == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{count}: is not UTF-8 text (byte 0x{line[error.start]:02x} at {error.start + 1})",
                f"convert it, for example with: iconv -f latin1 -t utf-8 {path.name}",
            ) from None
        if "\0" in text:
            raise DataError(f"{path}:{count}: holds a NUL character", "save the file as plain UTF-8 text")
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
    has_header = _is_header([cell.strip() for cell in first], rest, options)
    if has_header and not rest:
        raise DataError(f"{path} has no rows below its header that fit it", "add rows, or check the separator")
    names = tuple(cell.strip() for cell in first) if has_header else tuple(str(index + 1) for index in range(len(first)))
    body = rest if has_header else [first, *rest]
    label = _named(path, names, options.label_column, LABEL_NAMES, "label_column")
    label = len(names) - 1 if label is None else label
    given = _named(path, names, options.input_column, TEXT_NAMES if has_header else (), "input_column")
    if given == label:
        raise DataError(f"{path}: column '{names[label]}' cannot be both sample and label", "set data.label_column")
    numeric = [
        index for index in range(len(names))
        if index != label and 2 * sum(number(cells[index]) is not None for cells in body) > len(body)
    ]  # fmt: skip
    texts = [index for index in range(len(names)) if index != label and index not in numeric]
    if given is not None:
        return _Columns(names, has_header, label, (given,), given in texts or names[given].lower() in TEXT_NAMES)
    if not texts:
        used = tuple(index for index in numeric if not has_header or names[index].lower() not in _IDS)
        if not used:
            raise DataError(f"{path} has no column of samples beside the labels", "name one with data.input_column")
        return _Columns(names, has_header, label, used, False)
    if len(texts) == 1:
        return _Columns(names, has_header, label, (texts[0],), True)
    listed = ", ".join(f"'{names[index]}'" for index in texts)
    raise DataError(f"{path}: which column holds the text is not clear: {listed}", "name it with data.input_column")


def _layouts(files: list[tuple[Path, int]], options: Data) -> dict[Path, _Columns]:
    """Return the layout of every file.

    Raises:
        DataError: They differ.
    """
    found = {path: _columns(path, options) for path, _ in files}
    (first, expected), *others = found.items()
    for path, layout in others:
        if layout != expected:
            raise DataError(
                f"{path} and {first} differ in their columns: {_described(layout)}; {_described(expected)}",
                "give both the same columns in the same order, with a header in both or in none",
            )
    return found


def _described(columns: _Columns) -> str:
    inputs = ", ".join(f"'{columns.names[index]}'" for index in columns.inputs[:5]) + ", ..." * (len(columns.inputs) > 5)
    header = "a header" if columns.has_header else "no header"
    return f"{header}, {'text' if columns.is_text else 'numbers'} in {inputs}, labels in '{_label_name(columns)}'"


def _label_name(columns: _Columns) -> str:
    return columns.names[columns.label]


def _is_header(first: list[str], rest: list[list[str]], options: Data) -> bool:
    if len(set(first)) < len(first):
        return False
    if {options.input_column, options.label_column} & set(first):
        return True
    if any(number(cell) is not None for cell in first):
        return False
    below = [{cells[index].strip() for cells in rest} for index in range(len(first))]
    # A usual name that is also a value below it is a class of that name in a file without a header.
    if any(cell.lower() in {*LABEL_NAMES, *TEXT_NAMES} and cell not in below[index] for index, cell in enumerate(first)):
        return True
    # A column of numbers under a word: the word is its name. Words over words: rows of text.
    return bool(rest) and any(
        2 * sum(number(cells[index]) is not None for cells in rest) > len(rest) for index in range(len(first))
    )


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


def _rows(path: Path, columns: _Columns, options: Data) -> Iterator[_Row]:
    delimiter = "," if options.source.startswith("csv:") else "\t"
    for place, (line, cells) in enumerate(_cells(path, delimiter)):
        if place == 0 and columns.has_header:
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
            numbers = [number(cells[index]) for index in columns.inputs]
            bad = next((i for i, each in zip(columns.inputs, numbers, strict=True) if not _fits(each)), None)
            if bad is not None:
                problem = f"column '{columns.names[bad]}' is '{cells[bad].strip()[:40]}', no finite 32-bit number"
                yield _Row(where, label, "", problem)
            else:
                yield _Row(where, label, tuple(each for each in numbers if each is not None), None)


def _fits(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(value) <= _GREATEST
