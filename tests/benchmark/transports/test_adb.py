"""The adb transport: Debian's ``adb`` client and server against a device-side daemon of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from edgekd.benchmark.transports.adb import adb_transport
from edgekd.benchmark.transports.remote import RemoteTransport
from edgekd.errors import DeviceError, UsageError
from tests.benchmark.transports.adb_daemon import Daemon
from tests.benchmark.transports.hostile import BATCHES, FIXED, echoed
from tests.benchmark.transports.leftovers import eventually, processes_with
from tests.benchmark.transports.sshd import free_port

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb here: apt-get install adb")
SLEEP = ["python3", "-c", "import subprocess; subprocess.run(['sleep', '600'])"]


@pytest.fixture(scope="module", autouse=True)
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An ``adb`` server of the tests on a port of its own: that of whoever runs the tests is not touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))  # where it keeps its key
        patch.setenv("TMPDIR", str(home))  # and its log
        patch.delenv("ANDROID_SERIAL", raising=False)
        patch.delenv("ADB_SERVER_SOCKET", raising=False)
        subprocess.run(["adb", "start-server"], check=True, stderr=subprocess.DEVNULL)
        yield
        subprocess.run(["adb", "kill-server"], check=True)


@pytest.fixture(autouse=True)
def no_devices(own_server: None) -> Iterator[None]:
    yield
    subprocess.run(["adb", "disconnect"], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(params=["new", "old"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteTransport]:
    (tmp_path / "root").mkdir()
    with (
        Daemon(tmp_path, shell_v2=request.param == "new") as daemon,
        adb_transport(daemon.serial, root=str(tmp_path / "root")) as opened,
    ):
        yield opened
    assert not list((tmp_path / "root").iterdir())


def test_a_program_runs_in_the_folder(device: RemoteTransport) -> None:
    program = "import os, sys; print(os.getcwd(), flush=True); print('e', file=sys.stderr); sys.exit(7)"
    ended = device.run(["python3", "-c", program], timeout_s=60)
    assert (ended.code, ended.stdout + ended.stderr) == (7, device.folder.encode() + b"\ne\n")
    assert device.run(["no-such-program", "x"], timeout_s=60).code == 127
    assert device.run(["sh", "-c", "exit 255"], timeout_s=60).code == 255
    assert device.run(["cat"], timeout_s=60, stdin=b"one\ntwo\n").stdout == b"one\ntwo\n"
    assert device.run(["cat"], timeout_s=60).stdout == b""


def test_hostile_strings_arrive_as_one_argument_each(device: RemoteTransport) -> None:
    assert echoed(device, FIXED) == list(FIXED)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES)
def test_any_strings_arrive_as_one_argument_each(device: RemoteTransport, strings: list[str]) -> None:
    assert echoed(device, strings) == strings


@pytest.mark.parametrize("name", ["it's $(id)\n.bin", "-rf ü *"])
def test_files_arrive_whole_and_come_back(device: RemoteTransport, tmp_path: Path, name: str) -> None:
    content = bytes(range(256)) * 4096 + b"\r\n\0"
    (tmp_path / "here").write_bytes(content)
    device.push(tmp_path / "here", name)
    assert [each.name for each in Path(device.folder).iterdir()] == [name]
    device.pull(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(DeviceError, match="cannot read 'nothing'"):
        device.pull("nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_program_that_hangs_is_stopped_with_its_children(device: RemoteTransport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'sh' took longer than 1 s and was stopped"):
        device.run(["sh", "-c", f"sleep 600; : {tmp_path}"], timeout_s=1)
    assert eventually(lambda: not processes_with(f"sleep 600; : {tmp_path}"))
    assert device.run(["echo", "alive"], timeout_s=60).stdout == b"alive\n"


def test_a_lost_connection_is_taken_up_again(tmp_path: Path) -> None:
    content = os.urandom(4 << 20)
    (tmp_path / "here").write_bytes(content)
    with Daemon(tmp_path, cut_after=2 << 20) as daemon:
        with adb_transport(daemon.serial, root=str(tmp_path / "root")) as device:
            device.push(tmp_path / "here", "there")
            assert daemon.cut_after is None, "the connection was not lost"
            assert Path(device.folder, "there").read_bytes() == content
        assert not list((tmp_path / "root").iterdir())


def test_a_connection_lost_while_a_program_runs_is_told(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        with (
            pytest.raises(DeviceError, match="the connection was lost while 'python3' ran") as caught,
            adb_transport(daemon.serial, root=str(tmp_path / "root"), grace_s=1) as device,
        ):
            threading.Timer(1.0, daemon.drop).start()
            device.run(SLEEP, timeout_s=60)
        assert caught.value.exit_code == 5
        assert eventually(lambda: not list((tmp_path / "root").iterdir()))
        assert eventually(lambda: not any(each.poll() is None for each in daemon.processes))


def test_a_dead_device_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with Daemon(tmp_path) as daemon:
        with (
            pytest.raises(DeviceError, match=rf"adb:{daemon.serial}: .*(reached|offline)") as caught,
            adb_transport(daemon.serial, root=str(tmp_path / "root"), grace_s=1) as device,
        ):
            daemon.stop_listening()
            device.push(tmp_path / "x", "x")
        assert caught.value.exit_code == 5
        assert eventually(lambda: not list((tmp_path / "root").iterdir()))


KILLED = """
import sys
from edgekd.benchmark.transports.adb import adb_transport
with adb_transport(sys.argv[1], root=sys.argv[2], grace_s=1) as device:
    print("ready", flush=True)
    device.run(["python3", "-c", "import subprocess; subprocess.run(['sleep', '600'])"], timeout_s=600)
"""


def test_a_killed_edgekd_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Daemon(tmp_path) as daemon:
        process = subprocess.Popen([sys.executable, "-c", KILLED, daemon.serial, str(root)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert eventually(lambda: bool(list(root.glob("*/run-*"))))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert eventually(lambda: not list(root.iterdir()))
        assert eventually(lambda: not any(each.poll() is None for each in daemon.processes))
        assert eventually(lambda: not processes_with(str(root)))


def test_the_only_device_needs_no_serial_number(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no device is connected"), adb_transport():
        pass
    with Daemon(tmp_path) as daemon, Daemon(tmp_path) as other:
        subprocess.run(["adb", "connect", daemon.serial], check=True, stdout=subprocess.DEVNULL)
        with adb_transport(root=str(tmp_path / "root")) as device:
            assert device.run(["echo", "x"], timeout_s=60).stdout == b"x\n"
        subprocess.run(["adb", "connect", other.serial], check=True, stdout=subprocess.DEVNULL)
        with pytest.raises(DeviceError, match="more than one device") as caught, adb_transport(root=str(tmp_path / "root")):
            pass
        assert daemon.serial in str(caught.value.hint) and other.serial in str(caught.value.hint)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="adb:emulator-5554: no such device is connected"), adb_transport("emulator-5554"):
        pass
    with pytest.raises(DeviceError, match="cannot be reached"), adb_transport(f"127.0.0.1:{free_port()}"):
        pass


def test_a_device_whose_owner_has_not_agreed(tmp_path: Path) -> None:
    with Daemon(tmp_path, authorized=False) as daemon:
        with pytest.raises(DeviceError, match="the device is unauthorized") as caught, adb_transport(daemon.serial):
            pass
        assert "Allow USB debugging" in str(caught.value.hint)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        pytest.raises(DeviceError, match="no folder can be made on it"),
        adb_transport(daemon.serial, root="/proc/none"),
    ):
        pass


def test_no_adb_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="no program 'adb' on this machine"), adb_transport():
        pass


@pytest.mark.parametrize("serial", [*(each for each in FIXED if not each.isalnum() or not each.isascii()), "-s", "a b", "x;id"])
def test_hostile_serial_numbers_are_refused(serial: str) -> None:
    with pytest.raises(UsageError, match="no serial number"):
        adb_transport(serial)


@pytest.mark.parametrize(
    "serial", ["emulator-5554", "192.168.1.5:5555", "0A1B2C3D", "adb-0A1B._adb-tls-connect._tcp", "[fe80::1%2]:5555"]
)
def test_serial_numbers(serial: str) -> None:
    assert adb_transport(serial).name == f"adb:{serial}"
