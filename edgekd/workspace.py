"""The run folder: its lock, the journal of finished stages, and their content keys.

::

    OUT/stages/lock              held by the kernel for the living run, so a killed one never blocks the next
    OUT/stages/journal.jsonl     one line per finished stage, synced; a torn last line is ignored
    OUT/stages/NAME-KEY/         what the stage wrote, and its checkpoints while it runs

A stage's key hashes everything its result depends on. Running a recipe again replays the journal:
a stage whose key is there, with every file unharmed, is not run again.

Under ``torchrun`` all processes go through the same stages. The main one alone locks, works and writes, and tells the others
what came out; of trainings, every process does its part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from edgekd.errors import FolderInUse, UsageError
from edgekd.launcher import launched_count
from edgekd.progress import Listener, Silent
from edgekd.safe import stop
from edgekd.safe.files import disk_errors, remove_temporaries, sha256_file, write_json
from edgekd.versions import library_versions, source_digest

if TYPE_CHECKING:
    from edgekd.distill.processes import Processes

_KEY_LENGTH = 16


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left.

    Attributes:
        folder: Where its files are.
        files: ``{name: sha256}`` of every file, relative to ``folder``.
        result: What the stage's function returned: JSON.
        seconds: How long the work took when it was done.
    """

    folder: Path
    files: dict[str, str]
    result: dict[str, Any]
    seconds: float

    def path(self, name: str) -> Path:
        """Return the path of the file ``name`` of this stage."""
        return self.folder / name


@dataclass
class Workspace:
    """An open run folder. Make one with :func:`open_workspace`.

    Attributes:
        folder: The run folder, ``OUT``.
        listener: Who is told of progress.
        redone: Names of stages that had to do their work in this run, in order.
        processes: Those that run the recipe together; ``None``: this one alone.
    """

    folder: Path
    listener: Listener
    redone: list[str] = field(default_factory=list)
    processes: Processes | None = None
    _journal: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def stages(self) -> Path:
        """The folder of the stages."""
        return self.folder / "stages"

    @property
    def log(self) -> Path:
        """The file that collects what third-party libraries print."""
        return self.stages / "log.txt"

    @property
    def follows(self) -> bool:
        """Whether another process is the main one, so that this one must not write."""
        return self.processes is not None and not self.processes.is_main

    def stage(
        self,
        name: str,
        what: str,
        inputs: dict[str, Any],
        work: Callable[[Path], dict[str, Any]],
        describe: Callable[[dict[str, Any]], str],
        together: bool = False,
    ) -> StageResult:
        """Return the result of stage ``name``, doing the work only if it was never finished with these inputs.

        Args:
            name: Short name, unique within a pipeline.
            what: One line on what the stage does.
            inputs: Everything the result depends on, besides library versions and edgekd's source: JSON.
            work: Gets the stage's folder, which may hold checkpoints of a killed run; leaves its files
                there and returns a JSON result.
            describe: Turns the result into one line.
            together: Every process of the run does ``work``, and the main one's result counts; the others must leave no
                files. Otherwise the main one does it alone.

        Raises:
            OtherFailed: Another process of the run failed.
        """
        stop.check_stop()
        if self.processes is not None:
            self.processes.check_others()
            if self.follows:
                return self._follow(name, work, self.processes)
        key = stage_key(name, inputs)
        folder = self.stages / f"{name}-{key}"
        self.listener.stage_started(name, what)
        entry = self._journal.get((name, key))
        reused = entry is not None and _unharmed(folder, entry["files"])
        if entry is None or not reused:
            self.redone.append(name)
            started = time.monotonic()
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            if together and self.processes is not None:
                self.processes.broadcast({"work": key})
            result = work(folder)
            files = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
            entry = {
                "stage": name,
                "key": key,
                "files": files,
                "result": result,
                "seconds": round(time.monotonic() - started, 3),
            }
            self._append(entry)
        if self.processes is not None:
            self.processes.broadcast({"entry": entry, "reused": reused})
        # Through JSON both ways, so that a replayed result and a fresh one are the same values.
        done = StageResult(folder, entry["files"], json.loads(json.dumps(entry["result"])), entry["seconds"])
        self.listener.stage_finished(name, describe(done.result), done.seconds, reused)
        return done

    def _follow(self, name: str, work: Callable[[Path], dict[str, Any]], processes: Processes) -> StageResult:
        """Do what the main process says it does, and return what it says came out."""
        told = processes.broadcast()
        if "work" in told:
            work(self.stages / f"{name}-{told['work']}")
            told = processes.broadcast()
        entry = told["entry"]
        if entry["stage"] != name:
            raise UsageError(
                f"process {processes.rank} is at stage {name}, the main one at {entry['stage']}",
                "start every process with the same recipe, edgekd and libraries",
            )
        if not told["reused"]:
            self.redone.append(name)
        return StageResult(self.stages / f"{name}-{entry['key']}", entry["files"], entry["result"], entry["seconds"])

    def _append(self, entry: dict[str, Any]) -> None:
        journal = self.stages / "journal.jsonl"
        with disk_errors(journal), journal.open("ab") as file:
            # A torn line of a killed run must not swallow this one: start on a fresh line.
            file.write(b"\n" + json.dumps(entry, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._journal[entry["stage"], entry["key"]] = entry


def stage_key(name: str, inputs: dict[str, Any]) -> str:
    """Return the content key of stage ``name`` with ``inputs``."""
    everything = {"stage": name, "inputs": inputs, "versions": library_versions(), "source": source_digest()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True, allow_nan=False).encode()).hexdigest()[:_KEY_LENGTH]


def _unharmed(folder: Path, files: dict[str, str]) -> bool:
    return all((folder / name).is_file() and sha256_file(folder / name) == digest for name, digest in files.items())


@contextmanager
def open_workspace(folder: Path, listener: Listener) -> Iterator[Workspace]:
    """Open ``folder`` as a run folder, alone.

    Of several processes that a launcher started, the main one opens it, and the others follow without a word. If one fails,
    all end with its exit code.

    Raises:
        FolderInUse: Another live run holds it.
        UsageError: It is a file, cannot be written, or holds something that is not an edgekd run.
        ResourceError: The disk is full.
        OtherFailed: Another process of the run failed.
    """
    if launched_count() == 1:
        with _open_alone(folder, listener) as workspace:
            yield workspace
        return
    from edgekd.distill.processes import join_processes

    processes = join_processes()
    try:
        if processes.is_main:
            with _open_alone(folder, listener) as workspace:
                workspace.processes = processes
                processes.broadcast("open")
                yield workspace
                processes.broadcast("closed")
        else:
            processes.broadcast()
            yield Workspace(folder, Silent(), processes=processes)
            processes.broadcast()
    except BaseException as error:
        cause = processes.failed(error)
        if cause is error:
            raise
        raise cause from None


@contextmanager
def _open_alone(folder: Path, listener: Listener) -> Iterator[Workspace]:
    stages = folder / "stages"
    with disk_errors(folder), contextlib.suppress(FileNotFoundError):
        folder.stat()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", "choose another folder with --out")
    if folder.is_dir() and not stages.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no edgekd run", "choose a new or empty folder with --out")
    with disk_errors(folder):
        stages.mkdir(parents=True, exist_ok=True)
        lock = FileLock(stages / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(
                f"{folder} is in use by {_holder(stages)}", "wait for that run to end, or choose another folder with --out"
            ) from None
    try:
        write_json(
            stages / "holder.json",
            {"pid": os.getpid(), "host": platform.node(), "started": time.strftime("%Y-%m-%d %H:%M:%S")},
        )
        remove_temporaries(folder)
        yield Workspace(folder, listener, _journal=_read_journal(stages / "journal.jsonl"))
    finally:
        lock.release()


def _holder(stages: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads((stages / "holder.json").read_text())
        return f"another run (process {holder['pid']} on {holder['host']}, started {holder['started']})"
    return "another run"


def _read_journal(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return finished stages by (name, key). A line that is no whole entry was torn by a kill: its stage is redone."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                entry["files"].items(), entry["result"], entry["seconds"]
                entries[entry["stage"], entry["key"]] = entry
    return entries
