"""Hugging Face datasets: ``hf:ID_OR_DIR``, or ``hf:ID:CONFIG`` where a data set has several configurations.

A folder is one that ``save_to_disk`` made, or holds parquet, csv or json files; anything else is looked up on the Hub, and kept
in the cache of ``datasets``. Code of a data set is never run. Nothing is written into a folder.

- Samples are in ``data.input_column``, in the only image or sound column, or in a text column: the one with a usual name, or
  the only one.
- Labels are in ``data.label_column``, in the only ``ClassLabel`` column, or in a column with a usual name.
- Splits ``train``, ``validation`` (``valid``, ``val``, ``dev``) and ``test`` are taken as they are; others are not used. A data
  set of one split is split by seed.

Images and sounds are decoded as those of folders are. Rows come from Arrow files, batch by batch, so memory stays flat; only
while it opens them does ``datasets`` map the files, which touches one page of every batch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.data.bad_samples import check_bad
from edgekd.data.cache import (
    PART_NAMES,
    PARTS_BY_NAME,
    TEXTS,
    TRAIN,
    UNASSIGNED,
    Advanced,
    Preview,
    SampleWriter,
    write_lines,
)
from edgekd.data.classes import sort_classes
from edgekd.data.hub_columns import find_input_column, find_label_column
from edgekd.data.images import ImageWriter, decode_image, image_size_of, kept_shape
from edgekd.data.sounds import FULL_SCALE, Sound, SoundWriter, decode_sound, kept_length, kept_rate
from edgekd.errors import DataError, UsageError
from edgekd.names import did_you_mean
from edgekd.safe import stop
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors

if TYPE_CHECKING:
    from edgekd.recipe import Data

_MOST_SHOWN = 70
_OFTEN = 256


@dataclass(frozen=True)
class _Split:
    """One split: where it belongs, its Arrow files in order, and its number of rows."""

    name: str
    part: int
    files: tuple[Path, ...]
    rows: int


@dataclass(frozen=True)
class _Content:
    """An opened data set.

    Attributes:
        splits: In the order train, validation, test.
        kind: ``image``, ``text`` or ``waveform``.
        input, label: Columns of samples and labels.
        classes: Names of a ``ClassLabel``, or ``None`` where labels are values.
    """

    splits: tuple[_Split, ...]
    kind: str
    input: str
    label: str
    classes: tuple[str, ...] | None


def fingerprint(options: Data) -> dict[str, Any]:
    """Return what tells that the data changed: a folder's files with sizes and times, or the revision on the Hub."""
    folder = _folder(options)
    if folder is not None:
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                status = path.stat()
                digest.update(json.dumps([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns]).encode())
        found: Any = digest.hexdigest()
    else:
        with _open(options, None) as content:
            # The folder of a cached data set is named after its revision.
            found = [
                [each.name, each.rows, *(f"{path.parent.name}/{path.name}" for path in each.files)] for each in content.splits
            ]
    return {
        "data": found, "columns": [options.input_column, options.label_column], "image_size": options.image_size,
        "sample_rate": options.sample_rate, "seconds": options.seconds, "skip_bad": options.skip_bad,
    }  # fmt: skip


def preview(options: Data) -> Preview:
    """Return classes, counts and three samples, decoding no others. A data set on the Hub is downloaded first."""
    counts: dict[str, int] = {}
    samples: list[str] = []
    values: list[Any] = []
    with _open(options, None) as found:
        for split in found.splits:
            for row, label in enumerate(_labels(split, found.label)):
                name = _label(label, found.classes)
                if name is None:
                    check_bad([f"{split.name}[{row}] (has no label)"], found.kind, options)
                    continue
                counts[name] = counts.get(name, 0) + 1
        for row, (value, label) in enumerate(_rows(found.splits[0], found)):
            if len(samples) == 3:
                break
            samples.append(
                f"{found.splits[0].name}[{row}], {_shown(value, found.kind)}: {_label(label, found.classes) or 'no label'}"
            )
            values.append(value)
        shape, rate = _kept(values, found.kind, options)
        parts = {PART_NAMES[each.part]: each.rows for each in found.splits if each.part != UNASSIGNED}
        classes = list(found.classes) if found.classes is not None else sort_classes(counts, f"column '{found.label}'")
    ordered = tuple(counts.get(each, 0) for each in classes)
    return Preview(found.kind, tuple(classes), ordered, parts, tuple(samples), shape, rate)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Decode every row into ``cache``.

    Raises:
        DataError: The data set cannot be opened, columns are not as expected, or samples cannot be used (unless ``skip_bad``).
        UsageError: ``datasets`` is not installed.
        ResourceError: The disk is full.
    """
    bad: list[str] = []
    with ExitStack() as stack:
        found = stack.enter_context(_open(options, cache))
        names: dict[str, int] = {name: index for index, name in enumerate(found.classes or ())}
        total = sum(split.rows for split in found.splits)
        samples = stack.enter_context(SampleWriter(cache))
        images = stack.enter_context(ImageWriter(cache))
        sounds = stack.enter_context(SoundWriter(cache, options))

        def decode(value: Any, where: str) -> str | None:
            """Write an image or sound; return why it cannot be, or nothing."""
            content = _bytes(value)
            if isinstance(content, str):
                return content
            decoded = decode_image(content, options.image_size) if found.kind == "image" else decode_sound(content)
            if isinstance(decoded, str):
                return decoded
            if isinstance(decoded, Sound):
                sounds.append(decoded, where)
            else:
                images.append(*decoded, where)
            return None

        def texts() -> Iterator[str]:
            for split in found.splits:
                for row, (value, label) in enumerate(_rows(split, found)):
                    where = f"{split.name}[{row}]"
                    name = _label(label, found.classes)
                    if name is None:
                        problem: str | None = "has no label"
                    elif found.kind == "text":
                        problem = None if isinstance(value, str) and value.strip() else "has no text"
                    else:
                        problem = decode(value, where)
                    if problem is not None:
                        bad.append(f"{where} ({problem})")
                    elif name is not None:
                        samples.append(names.setdefault(name, len(names)), split.part, where)
                        yield str(value) if found.kind == "text" else ""
                    if (row + 1) % _OFTEN == 0:
                        stop.check_stop()
                        advanced(len(samples) + len(bad), total, f"{len(bad)} bad" if bad else "")
            check_bad(bad, found.kind, options)
            if not len(samples):
                raise DataError(f"{options.source} has no sample that can be used", "check data.input_column")

        if found.kind == "text":
            write_lines(cache / TEXTS, texts())
        else:
            for _ in texts():
                pass
        classes = list(found.classes) if found.classes is not None else sort_classes(names, f"column '{found.label}'")
        place = {name: index for index, name in enumerate(classes)}
        samples.relabel([place[name] for name in names])
        count = len(samples)
    shapes = {"image": lambda: images.shape, "waveform": lambda: sounds.shape, "text": lambda: [count]}
    scales = {"image": 255, "waveform": FULL_SCALE}
    result = {
        "kind": found.kind, "classes": classes, "shape": shapes[found.kind](), "full_scale": scales.get(found.kind),
        "skipped": bad,
    }  # fmt: skip
    return result | ({"sample_rate": sounds.rate} if found.kind == "waveform" else {})


def _folder(options: Data) -> Path | None:
    """Return the folder that the source names, if it is one."""
    name = options.source.partition(":")[2]
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read data folder {path}: {getattr(error, 'strerror', None) or error}", "check data.source"
        ) from None
    if exists:
        raise DataError(f"data folder {path} is a file, not a folder", "name the folder; csv:FILE and tsv:FILE read one file")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"data folder {path} does not exist" + did_you_mean(path.name, siblings),
            f"paths are relative to the current folder, {Path.cwd()}",
        )
    return None


@contextmanager
def _open(options: Data, cache: Path | None) -> Iterator[_Content]:
    """Open the data set; files that ``datasets`` makes of a folder are temporary.

    Args:
        options: The recipe's data section.
        cache: Where temporary files go; ``None``: where the system has them.
    """
    datasets = _quiet_datasets()
    folder = _folder(options)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
        name, _, config = options.source.partition(":")[2].partition(":")
        try:
            if folder is None:
                made = datasets.load_dataset(name, config or None)
            elif (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                made = datasets.load_from_disk(str(folder))
            else:
                # An absolute path: a relative one that looks like an ID may be looked up on the Hub.
                made = datasets.load_dataset(str(folder.absolute()), cache_dir=scratch)
        # Its loaders raise what their many parsers raise; whatever it is, the data set cannot be opened.
        except Exception as error:
            with disk_errors(Path(scratch)):
                raise _refused(error, options, folder) from error
        content = _content(made if isinstance(made, dict) else {"train": made}, options)
        del made  # its memory maps would stay resident
        yield content


def _quiet_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UsageError("hf: data needs datasets, not installed here", "pip install 'edgekd[hub]'") from None
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # failures are told once, by the error below
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return datasets


def _refused(error: Exception, options: Data, folder: Path | None) -> Exception:
    """Return the error that one line tells: the system's own where there is one, else what the loader says first."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    full = next((each for each in causes if isinstance(each, OSError) and each.errno == errno.ENOSPC), None)
    if full is not None:
        return full
    told = causes[-1] if folder is not None else error
    reason = (str(told).strip() or type(told).__name__).splitlines()[0][:300]
    if folder is not None:
        return DataError(
            f"data folder {folder} cannot be read by datasets: {reason}",
            "expected are files that save_to_disk made, or parquet, csv or json files",
        )
    if any(isinstance(each, ConnectionError) or "Connect" in type(each).__name__ for each in causes):
        return DataError(
            f"{options.source} is no folder here, and the Hub cannot be reached: {reason}",
            "name a folder, or connect to the network",
        )
    return DataError(
        f"{options.source} cannot be loaded from the Hub: {reason}", "check the name; hf:ID:CONFIG names a configuration"
    )


def _content(made: dict[str, Any], options: Data) -> _Content:
    """Find splits and columns."""
    source = options.source
    used = {name: each for name, each in made.items() if name in PARTS_BY_NAME}
    if len(made) == 1:
        used = made
    parts = {name: UNASSIGNED if len(made) == 1 else PARTS_BY_NAME[name] for name in used}
    if len(set(parts.values())) < len(parts):
        raise DataError(f"{source} has two splits of one kind: {', '.join(parts)}", "keep one of them")
    if not used or (len(made) > 1 and TRAIN not in parts.values()):
        raise DataError(f"{source} has no train split; its splits: {', '.join(made)}", "splits are train, validation and test")
    splits = []
    for name in sorted(used, key=lambda each: parts[each]):
        files = tuple(Path(each["filename"]) for each in used[name].cache_files)
        splits.append(_Split(name, parts[name], files, len(used[name])))
    features = next(iter(used.values())).features
    for name, each in used.items():
        if each.features != features:
            raise DataError(f"{source}: split {name} has other columns than {next(iter(used))}", "give all splits the same")
    label = find_label_column(features, options)
    kind, column = find_input_column({name: each for name, each in features.items() if name != label}, options)
    names = getattr(features[label], "names", None)
    return _Content(tuple(splits), kind, column, label, tuple(names) if names else None)


def _rows(split: _Split, found: _Content) -> Iterator[tuple[Any, Any]]:
    """Yield sample and label of every row as ``datasets`` stores them."""
    for batch in _batches(split, in_place=False):
        for value, label in zip(batch.column(found.input), batch.column(found.label), strict=True):
            yield value.as_py(), label.as_py()


def _labels(split: _Split, column: str) -> Iterator[Any]:
    """Yield the label of every row, touching nothing else of the files."""
    for batch in _batches(split, in_place=True):
        yield from batch.column(column).to_pylist()


def _batches(split: _Split, in_place: bool) -> Iterator[Any]:
    """Yield Arrow record batches of a split.

    Args:
        split: The split.
        in_place: Through a memory map: for small parts of them, as every page that is touched counts as resident memory.
            Otherwise whole batches are read.
    """
    import pyarrow  # type: ignore[import-untyped]

    for path in split.files:
        with (
            pyarrow.memory_map(str(path)) if in_place else pyarrow.OSFile(str(path)) as file,
            pyarrow.ipc.open_stream(file) as batches,
        ):
            yield from batches


def _label(value: Any, classes: tuple[str, ...] | None) -> str | None:
    """Return the name of a class, or ``None`` where there is no label; ``datasets`` writes -1 for that."""
    if classes is not None and isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else None
    text = "" if value is None else str(value).strip()
    return text or None


def _bytes(value: Any) -> io.BytesIO | str:
    """Return the file that an image or sound column holds or names, or why there is none."""
    if not isinstance(value, dict) or (value.get("bytes") is None and not value.get("path")):
        return "is empty"
    if value["bytes"] is not None:
        return io.BytesIO(value["bytes"])
    try:
        return io.BytesIO(Path(value["path"]).read_bytes())
    except OSError as error:
        return f"cannot read {value['path']}: {error.strerror}"


def _kept(values: list[Any], kind: str, options: Data) -> tuple[tuple[int, ...] | None, int | None]:
    """Return the shape that samples like these are brought to, and the rate of sounds."""
    if kind == "text":
        return (options.max_tokens,), None
    files = [each for each in map(_bytes, values) if not isinstance(each, str)]
    if kind == "image":
        return kept_shape(files, options.image_size), None
    rate = kept_rate([each.rate for each in map(decode_sound, files) if isinstance(each, Sound)], options)
    return ((kept_length(rate, options.seconds),) if rate is not None else None), rate


def _shown(value: Any, kind: str) -> str:
    if kind == "text":
        text = str(value).strip()
        return f"'{text[:_MOST_SHOWN]}...'" if len(text) > _MOST_SHOWN else f"'{text}'"
    content = _bytes(value)
    if isinstance(content, str):
        return content
    if kind == "image":
        return image_size_of(content)
    sound = decode_sound(content)
    return sound if isinstance(sound, str) else f"{len(sound.values) / sound.rate:.2f} s at {sound.rate:,} Hz"
