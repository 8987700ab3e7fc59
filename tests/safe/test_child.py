"""Child processes: results, errors, crashes, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.errors import DataError, ExportError, Interrupted, ResourceError
from edgekd.safe import stop
from edgekd.safe.child import machine_memory, run_in_child

HERE = "tests.safe.child_functions:"


def test_results_come_back_and_chatter_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = {"a": 1, "b": [None, 2.5, "é"], "c": {"d": True}}
    assert run_in_child(HERE + "echo", values, log=tmp_path / "log") == values
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "log").read_text()
    assert "chatter on stdout" in log
    assert "chatter on stderr" in log


def test_large_results_and_arguments(tmp_path: Path) -> None:
    assert len(run_in_child(HERE + "big", {}, log=tmp_path / "log")) == 5_000_000
    sent = {"text": "y" * 3_000_000}
    assert run_in_child(HERE + "echo", sent, log=tmp_path / "log") == sent


def test_edgekd_errors_keep_their_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data is bad") as error:
        run_in_child(HERE + "fail_as_edgekd", {}, log=tmp_path / "log")
    assert error.value.hint == "mend it"


def test_other_errors_name_themselves_and_the_log_has_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="KeyError: 'a bug in a library'") as error:
        run_in_child(HERE + "fail_otherwise", {}, log=tmp_path / "log")
    assert str(tmp_path / "log") in str(error.value)
    assert "Traceback" in (tmp_path / "log").read_text()


def test_crashes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="SIGSEGV"):
        run_in_child(HERE + "send_itself", {"number": int(signal.SIGSEGV)}, log=tmp_path / "log")
    with pytest.raises(ResourceError, match="out of memory"):
        run_in_child(HERE + "send_itself", {"number": int(signal.SIGKILL)}, log=tmp_path / "log")
    with pytest.raises(ResourceError, match="out of memory"):
        run_in_child(HERE + "run_out_of_memory", {}, log=tmp_path / "log")


def test_a_child_that_hangs_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="took longer than 1 s"):
        run_in_child(HERE + "sleep", {"pid_file": str(tmp_path / "pid")}, log=tmp_path / "log", timeout_s=1.0)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_a_stop_signal_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_received", int(signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        run_in_child(HERE + "sleep", {}, log=tmp_path / "log")
    assert stopped.value.exit_code == 143


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux only")
@pytest.mark.parametrize("library", ["python", "torch", "c++"])
def test_a_child_that_eats_memory_is_stopped(tmp_path: Path, library: str) -> None:
    assert run_in_child(HERE + "allocate", {"count": 1 << 20, "library": library}, log=tmp_path / "log", memory_bytes=2 << 30)
    with pytest.raises(ResourceError, match="out of memory") as error:
        run_in_child(HERE + "allocate", {"count": 4 << 30, "library": library}, log=tmp_path / "log", memory_bytes=2 << 30)
    assert error.value.exit_code == 6
    assert "\n" not in error.value.message


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux only")
def test_a_child_may_have_what_the_machine_has() -> None:
    found = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")).split()[1])
    assert machine_memory() == pytest.approx(max(found * 1024, 8 << 30), rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_no_orphan_outlives_a_killed_parent(tmp_path: Path) -> None:
    code = "import sys; from tests.safe.child_functions import parent_of_a_sleeper; parent_of_a_sleeper(*sys.argv[1:])"
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(pid_file), str(tmp_path / "log")])
    while not (pid_file.is_file() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    assert _gone(int(pid_file.read_text()))


def _gone(pid: int) -> bool:
    """Whether the process ends; waits for it for up to a minute."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
            status = Path(f"/proc/{pid}/stat")
            if status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False
