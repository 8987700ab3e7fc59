"""A finished run folder, checked against its own manifest and report.

First every file's hash; then every artifact is run again on the test split of the run's data and compared with what the
report says of it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.load import load_data
from edgekd.errors import DataError, UsageError
from edgekd.progress import Listener, Silent
from edgekd.recipe_file import load_recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import sha256_file
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import Metric, top1
from edgekd.verify import sample_set
from edgekd.workspace import open_workspace

_SHIPPED = ("artifacts", "rejected")
_CLOSE = 1e-9


@dataclass(frozen=True)
class FileState:
    """A file of the run folder: its path there, and ``whole``, ``altered``, ``truncated``, ``missing`` or ``extra``."""

    path: str
    state: str
    detail: str


@dataclass(frozen=True)
class Rerun:
    """An artifact that was run again: the reported share of right samples, and what came out now."""

    path: str
    reported: float
    metric: Metric
    same: bool


@dataclass(frozen=True)
class RunCheck:
    """What was found of a run folder.

    Attributes:
        folder: The run folder.
        files: Every file of its manifest, and what lies beside the artifacts without being in it.
        reruns: Every artifact that is whole, run again; empty where nothing was run.
        not_run: Why nothing was run, if nothing was.
    """

    folder: Path
    files: tuple[FileState, ...]
    reruns: tuple[Rerun, ...] = field(default=())
    not_run: str | None = None

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        found = [f"{each.path} is {each.state}: {each.detail}" for each in self.files if each.state != "whole"]
        found += [
            f"{each.path} gives top-1 {each.metric.value:.2%}, the report says {each.reported:.2%}"
            for each in self.reruns if not each.same
        ]  # fmt: skip
        return found

    def lines(self) -> list[str]:
        """Return what is right and what was done, one line each."""
        whole = sum(each.state == "whole" for each in self.files)
        found = [f"{self.folder}: {whole} of {len(self.files)} files are what the manifest says"]
        found += [
            f"  {each.path:<32} top-1 {each.metric.value:.2%} on {each.metric.n:,} samples"
            + (", as reported" if each.same else f", reported {each.reported:.2%}")
            for each in self.reruns
        ]
        return found + ([f"  artifacts were not run: {self.not_run}"] if self.not_run is not None else [])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, as ``edgekd verify --json`` prints it."""
        return {
            "status": "gate-missed" if self.problems else "ok", "folder": str(self.folder),
            "files": [asdict(each) for each in self.files], "reruns": [asdict(each) for each in self.reruns],
            "not_run": self.not_run, "problems": self.problems,
        }  # fmt: skip


def check_run(
    folder: Path, overrides: Sequence[str] = (), *, hashes_only: bool = False, listener: Listener | None = None
) -> RunCheck:
    """Check a run folder against its manifest, then run its artifacts again.

    Args:
        folder: The run folder.
        overrides: ``data.*`` changes of its recipe, for example ``data.source=folder:elsewhere`` where the data has moved.
        hashes_only: Run nothing.
        listener: Who is told of progress; nobody by default.

    Raises:
        UsageError: It is no run folder, or its manifest or report is broken.
    """
    for each in overrides:
        if not each.startswith("data."):
            raise UsageError(f"'{each}' changes nothing here, allowed: data.*", "for example data.source=folder:elsewhere")
    files = _check_files(folder)
    whole = {each.path for each in files if each.state == "whole"}
    if hashes_only:
        return RunCheck(folder, files, (), "--hashes-only")
    if not {"recipe.yaml", "report.json"} <= whole:
        return RunCheck(folder, files, (), "the recipe or the report is not what it was")
    report = _read(folder / "report.json", "artifacts", "format", "inputs", "outputs", "metric")
    wanted = [each for each in report["artifacts"] if each["path"] in whole]
    try:
        return RunCheck(folder, files, _run_again(folder, wanted, overrides, listener or Silent()))
    except DataError as error:
        return RunCheck(folder, files, (), f"its data cannot be loaded: {error.message}")


def _read(path: Path, key: str, *fields: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        for each in content[key]:
            for name in ("path", *fields):
                each[name]
    except OSError as error:
        raise UsageError(f"{path.parent} is no run folder: cannot read {path.name} ({error.strerror})",
                         "name the --out folder of a finished run, or two models") from None  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is broken: {type(error).__name__} {error}", "run the recipe again") from None
    return content


def _check_files(folder: Path) -> tuple[FileState, ...]:
    listed = _read(folder / "manifest.json", "files")["files"]
    found = []
    for each in listed:
        name = str(each["path"])
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"{folder / 'manifest.json'} lists {name}, outside the run folder", "do not trust this folder")
        found.append(_state(folder / name, name, each))
    names = {each.path for each in found}
    for place in _SHIPPED:
        for path in sorted((folder / place).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in names:
                found.append(FileState(name, "extra", "the manifest does not list it"))
    return tuple(found)


def _state(path: Path, name: str, listed: dict[str, Any]) -> FileState:
    if not path.is_file():
        return FileState(name, "missing", f"the manifest lists {listed.get('bytes')} bytes")
    size, digest = path.stat().st_size, sha256_file(path)
    if digest == listed.get("sha256"):
        return FileState(name, "whole", "")
    if isinstance(listed.get("bytes"), int) and size < listed["bytes"]:
        return FileState(name, "truncated", f"{size:,} of {listed['bytes']:,} bytes")
    return FileState(name, "altered", f"SHA-256 {digest[:12]}..., the manifest says {str(listed.get('sha256'))[:12]}...")


def _run_again(folder: Path, wanted: list[dict[str, Any]], overrides: Sequence[str], listener: Listener) -> tuple[Rerun, ...]:
    recipe = load_recipe(folder / "recipe.yaml", overrides)
    tokenizer = folder / "artifacts" / "tokenizer.json"
    if tokenizer.is_file() and recipe.data.tokenizer is None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"tokenizer": str(tokenizer)})})
    made = []
    with (
        tempfile.TemporaryDirectory(prefix="edgekd-verify-") as scratch,
        stop_signals(),
        open_workspace(Path(scratch, "run"), listener) as workspace,
    ):
        data = load_data(recipe, workspace)
        test = data.splits.test
        for index, each in enumerate(wanted):
            name, started = Path(each["path"]).name, time.monotonic()
            listener.stage_started(name, f"{len(test):,} test samples")
            out = Path(scratch, f"{index}.npy")
            run_in_child(
                "edgekd.evaluate:evaluate_described",
                {"path": str((folder / each["path"]).absolute()), "kind": each["format"], "inputs": each["inputs"],
                 "outputs": each["outputs"], "sets": [sample_set(data, test, Path(scratch, "test.npy"), out)]},
                log=workspace.log,
            )  # fmt: skip
            metric = top1(np.load(out, allow_pickle=False), data.labels[test])
            reported = each["metric"]
            same = metric.n == reported["n"] and abs(metric.value - reported["value"]) < _CLOSE
            made.append(Rerun(each["path"], reported["value"], metric, same))
            listener.stage_finished(name, f"top-1 {metric.value:.2%}", time.monotonic() - started, False)
    return tuple(made)
