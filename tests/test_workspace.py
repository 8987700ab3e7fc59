"""The run folder: replay, harm, torn journals, and the lock."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import FolderInUse, UsageError
from edgekd.progress import Silent
from edgekd.safe.files import write_text
from edgekd.workspace import StageResult, Workspace, open_workspace


class _Work:
    def __init__(self) -> None:
        self.done = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.done += 1
        write_text(folder / "result.txt", "made")
        return {"pair": (1, 2), "share": 0.1}


def _stage(workspace: Workspace, work: _Work, inputs: dict[str, Any] | None = None) -> StageResult:
    return workspace.stage("make", "makes it", inputs or {"x": 1}, work, str)


def test_a_finished_stage_is_replayed_to_the_same_result(tmp_path: Path) -> None:
    work = _Work()
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        first = _stage(workspace, work)
        assert workspace.redone == ["make"]
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        assert _stage(workspace, work) == first
        assert workspace.redone == []
    assert (work.done, first.result) == (1, {"pair": [1, 2], "share": 0.1})
    assert first.path("result.txt").read_text() == "made"


def test_other_inputs_are_another_stage_and_going_back_is_free(tmp_path: Path) -> None:
    work = _Work()
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        for inputs in ({"x": 1}, {"x": 2}, {"x": 1}, {"x": 2}):
            _stage(workspace, work, inputs)
    assert work.done == 2


@pytest.mark.parametrize("harm", ["deleted", "changed"])
def test_a_harmed_file_is_made_again(tmp_path: Path, harm: str) -> None:
    work = _Work()
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        path = _stage(workspace, work).path("result.txt")
        if harm == "deleted":
            path.unlink()
        else:
            path.write_text("mad")
        assert _stage(workspace, work).path("result.txt").read_text() == "made"
    assert work.done == 2


def test_a_failed_stage_is_not_in_the_journal(tmp_path: Path) -> None:
    def fail(_folder: Path) -> dict[str, Any]:
        raise RuntimeError

    with open_workspace(tmp_path / "out", Silent()) as workspace, pytest.raises(RuntimeError):
        workspace.stage("make", "", {}, fail, str)
    assert not (tmp_path / "out" / "stages" / "journal.jsonl").exists()


def test_a_journal_cut_anywhere_loses_at_most_its_last_stage(tmp_path: Path) -> None:
    work = _Work()
    with open_workspace(tmp_path / "out", Silent()) as workspace:
        _stage(workspace, work, {"x": 1})
        _stage(workspace, work, {"x": 2})
    journal = tmp_path / "out" / "stages" / "journal.jsonl"
    content = journal.read_bytes()
    first_end = content.index(b"}\n") + 1
    for length in range(0, len(content), 7):
        journal.write_bytes(content[:length])
        work.done = 0
        with open_workspace(tmp_path / "out", Silent()) as workspace:
            _stage(workspace, work, {"x": 1})
            _stage(workspace, work, {"x": 2})
        assert work.done == (2 if length < first_end else 1 if length < len(content) - 1 else 0)
        with open_workspace(tmp_path / "out", Silent()) as workspace:
            _stage(workspace, work, {"x": 1})
            _stage(workspace, work, {"x": 2})
            assert workspace.redone == []


HOLD = """
import sys, time
from pathlib import Path
from edgekd.progress import Silent
from edgekd.workspace import open_workspace
with open_workspace(Path(sys.argv[1]), Silent()):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_run_at_a_time_and_a_killed_one_frees_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(FolderInUse, match=rf"in use by another run \(process {holder.pid} on "),
            open_workspace(out, Silent()),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with open_workspace(out, Silent()):
        assert json.loads((out / "stages" / "holder.json").read_text())["pid"] != holder.pid


def test_folders_that_are_no_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a").write_text("x")
    for name in ("file", "foreign"):
        with pytest.raises(UsageError), open_workspace(tmp_path / name, Silent()):
            pass
    assert [each.name for each in (tmp_path / "foreign").iterdir()] == ["a"]
    (tmp_path / "empty").mkdir()
    with open_workspace(tmp_path / "empty", Silent()):
        pass
