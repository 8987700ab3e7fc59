"""Children that stay: batches of arrays there and back, errors, crashes, hangs, and nothing left behind."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from edgekd.errors import EdgekdError, ExportError, Interrupted, ModelError, ResourceError
from edgekd.safe import stop
from edgekd.safe.worker import Worker

HERE = "tests.safe.worker_functions:"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(HERE + "open_echo", {"a": [1, None, "é"]}, log=tmp_path_factory.mktemp("worker") / "log")


def test_arguments_arrive_and_chatter_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(HERE + "open_echo", {"a": 1, "b": "é"}, log=tmp_path / "log") as worker:
        assert worker.description["given"] == {"a": 1, "b": "é"}
        assert worker.description["pid"] != os.getpid()
    assert capfd.readouterr() == ("", "")
    assert "chatter on stdout" in (tmp_path / "log").read_text()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st_numpy.arrays(
            st.sampled_from(["f4", "f2", "f8", "i1", "u1", "i4", "i8", "bool", ">i4"]),
            st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        ),
        max_size=3,
    )
)
def test_arrays_come_back_bit_for_bit(echo: Worker, arrays: dict[str, np.ndarray]) -> None:
    back = echo(arrays)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


def test_large_and_not_contiguous_arrays(echo: Worker) -> None:
    large = np.arange(6_000_000, dtype=np.float32).reshape(2, 3, -1)
    assert np.array_equal(echo({"x": large})["x"], large)
    assert np.array_equal(echo({"x": large[:, ::-1, ::1000]})["x"], large[:, ::-1, ::1000])


def test_it_is_opened_once_and_keeps_what_it_knows(tmp_path: Path) -> None:
    with Worker(HERE + "open_counter", {"start": 10}, log=tmp_path / "log") as worker:
        assert [int(worker({"x": np.ones(3)})["calls"]) for _ in range(3)] == [11, 12, 13]
        assert worker({"x": np.ones(3), "y": np.ones(5)})["sum"].tolist() == [3, 5]


@pytest.mark.parametrize("when", ["open_and_fail", "open_then_fail"])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("edgekd", ModelError, "^this model cannot$"),
        ("library", ExportError, "KeyError: 'inside a library'"),
        ("memory", ResourceError, "out of memory"),
        ("crash", ExportError, "crashed \\(SIGSEGV\\)"),
        ("kernel", ResourceError, "killed, most likely out of memory"),
        ("exit", ExportError, "exit status 7"),
        ("hang", ResourceError, "gave no answer for 1 s"),
    ],
)
def test_every_way_to_fail_is_an_edgekd_error(
    when: str, kind: str, error: type[EdgekdError], message: str, tmp_path: Path
) -> None:
    timeout = 1.0 if kind == "hang" else 60.0
    if kind == "hang" and when == "open_then_fail":
        timeout = 2.0
        message = "gave no answer for 2 s"
    with (
        pytest.raises(error, match=message.strip("^$")) as raised,
        Worker(HERE + when, {"kind": kind}, log=tmp_path / "log", timeout_s=timeout) as worker,
    ):
        worker({"x": np.ones(2)})
    assert "\n" not in raised.value.message
    if kind == "library":
        assert "Traceback" in (tmp_path / "log").read_text()


def test_it_goes_on_after_a_batch_that_failed(tmp_path: Path) -> None:
    with Worker(HERE + "open_sometimes", {}, log=tmp_path / "log") as worker:
        for _ in range(2):
            with pytest.raises(ModelError, match="no negative sums"):
                worker({"x": -np.ones(2)})
            assert worker({"x": np.ones(2)})["x"].tolist() == [1, 1]


def test_objects_are_never_sent(tmp_path: Path) -> None:
    with (
        Worker(HERE + "open_objects", {}, log=tmp_path / "log") as worker,
        pytest.raises(ExportError, match="objects is of dtype object"),
    ):
        worker({"x": np.ones(1)})


def test_no_process_and_no_descriptor_is_left(tmp_path: Path) -> None:
    before = _descriptors()
    for kind in ("edgekd", "crash"):
        with pytest.raises(EdgekdError):
            Worker(HERE + "open_and_fail", {"kind": kind}, log=tmp_path / "log")
    with Worker(HERE + "open_echo", {}, log=tmp_path / "log") as worker:
        pid = worker.description["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    worker.close()  # twice does no harm
    assert _descriptors() == before


def _descriptors() -> set[str]:
    """Return what Linux says this process has open; nothing elsewhere."""
    folder = Path("/proc/self/fd")
    return {each.name for each in folder.iterdir()} if folder.is_dir() else set()


def test_a_stop_signal_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(HERE + "open_then_fail", {"kind": "hang"}, log=tmp_path / "log") as worker:
        monkeypatch.setattr(stop, "_received", int(signal.SIGTERM))
        with pytest.raises(Interrupted) as stopped:
            worker({"x": np.ones(1)})
    assert stopped.value.exit_code == 143
