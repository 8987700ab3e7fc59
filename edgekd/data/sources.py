"""Where data comes from: the grammar of ``data.source``, and the module that reads each kind.

Every module has three functions of the recipe's ``data`` section:

- ``fingerprint(options)``: what tells that the data changed, as JSON, without decoding it;
- ``preview(options)``: a :class:`~edgekd.data.cache.Preview`, for ``edgekd plan``;
- ``write_cache(cache, options, advanced)``: writes the files that :mod:`edgekd.data.cache` describes, and returns
  ``{"kind", "classes", "shape", "full_scale", "skipped"}``, with ``sample_rate`` for waveforms.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgekd.data.cache import Advanced, Preview
from edgekd.errors import DataError
from edgekd.names import did_you_mean

if TYPE_CHECKING:
    from edgekd.recipe import Data


class SourceModule(Protocol):
    """What a source's module offers."""

    def fingerprint(self, options: Data) -> dict[str, Any]:
        """Return what tells that the data changed."""

    def preview(self, options: Data) -> Preview:
        """Return classes, counts and three samples."""

    def write_cache(self, cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
        """Read everything into ``cache``."""


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how it is written, what it holds, and its module."""

    grammar: str
    holds: str
    module: str


SOURCES: dict[str, SourceKind] = {
    "digits": SourceKind("digits", "scikit-learn's handwritten digits", "edgekd.data.digits"),
    "folder": SourceKind("folder:PATH", "images in PATH/CLASS/ or PATH/{train,test}/CLASS/", "edgekd.data.folder"),
    "npz": SourceKind("npz:FILE", "NumPy arrays: images or features, and labels", "edgekd.data.npz"),
    "idx": SourceKind("idx:FOLDER", "MNIST's files, gzipped or not", "edgekd.data.idx"),
    "csv": SourceKind(
        "csv:PATH", "a file, or a folder with train.csv and test.csv: text or numbers, and labels", "edgekd.data.tables"
    ),
    "tsv": SourceKind("tsv:PATH", "the same, separated by tabs", "edgekd.data.tables"),
    "hf": SourceKind("hf:ID_OR_DIR", "a Hugging Face data set: images, text or sounds", "edgekd.data.hub"),
    "audio-folder": SourceKind(
        "audio-folder:PATH", "sounds (.wav) in PATH/CLASS/ or PATH/{train,test}/CLASS/", "edgekd.data.audio_folder"
    ),
    "python": SourceKind("python:FILE.py:FUNCTION", "your own function; runs its code", "edgekd.data.python_source"),
}


def check_source(value: str) -> str:
    """Return ``value`` if it is well written.

    Raises:
        ValueError: It is not; the message says what is allowed.
    """
    kind, colon, rest = value.partition(":")
    known = SOURCES.get(kind)
    if known is None or (":" not in known.grammar and colon):
        allowed = ", ".join(each.grammar for each in SOURCES.values())
        raise ValueError(f"'{value}' is no data source, allowed: {allowed}{did_you_mean(kind, list(SOURCES))}")
    if ":" in known.grammar and not rest:
        raise ValueError(f"'{value}' names nothing after '{kind}:', allowed: {known.grammar}")
    if kind == "python" and not (rest.rpartition(":")[0] and rest.rpartition(":")[2].isidentifier()):
        raise ValueError(f"'{value}' names no function, allowed: {known.grammar} or python:package.module:FUNCTION")
    return value


def source_module(options: Data) -> SourceModule:
    """Return the module that reads the recipe's source."""
    return cast(SourceModule, importlib.import_module(SOURCES[options.source.partition(":")[0]].module))


def source_path(options: Data, what: str = "data folder") -> Path:
    """Return the path that a source names; ``~`` of an unknown user stays as it is.

    Raises:
        DataError: There is nothing at that path, or it cannot be read.
    """
    path = Path(os.path.expanduser(options.source.partition(":")[2]))  # noqa: PTH111 - Path.expanduser raises
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{what} {path} does not exist" + did_you_mean(path.name, siblings),
            f"paths are relative to the current folder, {Path.cwd()}",
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror}", "check data.source") from error
    return path
