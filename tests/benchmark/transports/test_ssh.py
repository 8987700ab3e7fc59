"""The ssh transport against a real ``sshd``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from edgekd.benchmark.transports.remote import RemoteTransport
from edgekd.benchmark.transports.ssh import parse_ssh_url, ssh_transport
from edgekd.errors import DeviceError, Interrupted, UsageError
from edgekd.safe import stop
from tests.benchmark.transports import cutting_proxy
from tests.benchmark.transports.hostile import BATCHES, FIXED, echoed
from tests.benchmark.transports.leftovers import eventually, processes_with, sockets
from tests.benchmark.transports.sshd import SSHD, Server, free_port, make_key, running_sshd

needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here: apt-get install openssh-server")
SLEEP = ["python3", "-c", "import subprocess; subprocess.run(['sleep', '600'])"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteTransport]:
    """A device of its own, so that others find nothing of it."""
    folder = tmp_path_factory.mktemp("sshd") / "server"
    with running_sshd(folder) as server, ssh_transport(server.url, ssh_options=server.options) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_socket_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if "device" in request.fixturenames:
        request.getfixturevalue("device")
    before = sockets()
    yield
    assert eventually(lambda: sockets() <= before)


@needs_sshd
def test_a_program_runs_in_the_folder(device: RemoteTransport) -> None:
    ended = device.run(
        ["python3", "-c", "import os, sys; print(os.getcwd()); print('e', file=sys.stderr); sys.exit(7)"], timeout_s=60
    )
    assert (ended.code, ended.stdout, ended.stderr) == (7, device.folder.encode() + b"\n", b"e\n")


@needs_sshd
@pytest.mark.parametrize("code", [1, 126, 255])
def test_exit_statuses_of_programs_are_no_lost_connections(device: RemoteTransport, code: int) -> None:
    assert device.run(["sh", "-c", f"exit {code}"], timeout_s=60).code == code


@needs_sshd
def test_a_missing_program_is_127(device: RemoteTransport) -> None:
    assert device.run(["no-such-program", "x"], timeout_s=60).code == 127


@needs_sshd
def test_input_is_passed_byte_by_byte(device: RemoteTransport) -> None:
    content = bytes(range(256)) * 300
    assert device.run(["cat"], timeout_s=60, stdin=content).stdout == content
    assert device.run(["cat"], timeout_s=60).stdout == b""


@needs_sshd
def test_hostile_strings_arrive_as_one_argument_each(device: RemoteTransport) -> None:
    assert echoed(device, FIXED) == list(FIXED)


@needs_sshd
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES)
def test_any_strings_arrive_as_one_argument_each(device: RemoteTransport, strings: list[str]) -> None:
    assert echoed(device, strings) == strings


@needs_sshd
def test_a_null_character_is_refused(device: RemoteTransport) -> None:
    with pytest.raises(DeviceError, match="null character"):
        device.run(["echo", "a\0b"], timeout_s=60)


@needs_sshd
@pytest.mark.parametrize("name", ["-rf * ü 🦊", "it's $(id)\n.bin"])
def test_files_arrive_whole_and_come_back(device: RemoteTransport, tmp_path: Path, name: str) -> None:
    content = bytes(range(256)) * 4096 + b"\r\n\0"
    (tmp_path / "here").write_bytes(content)
    device.push(tmp_path / "here", name)
    assert name in os.listdir(device.folder)  # noqa: PTH208 - the device is this machine
    device.pull(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    (tmp_path / "here").write_bytes(b"")
    device.push(tmp_path / "here", name)
    device.pull(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


@needs_sshd
def test_a_program_may_be_pushed(device: RemoteTransport, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tool").chmod(0o755)
    device.push(tmp_path / "tool", "tool")
    assert device.run(["./tool"], timeout_s=60).stdout == b"ran\n"


@needs_sshd
@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\0"])
def test_names_outside_the_folder_are_refused(device: RemoteTransport, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(DeviceError, match="no file name"):
        device.push(tmp_path / "x", name)
    with pytest.raises(DeviceError, match="no file name"):
        device.pull(name, tmp_path / "back")


@needs_sshd
def test_a_missing_file_is_told(device: RemoteTransport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot read 'nothing'"):
        device.pull("nothing", tmp_path / "back")
    assert not list(tmp_path.iterdir())


@needs_sshd
def test_connections_are_shared(server: Server) -> None:
    before = (server.folder / "sshd.log").read_text().count("Accepted publickey")
    with ssh_transport(server.url, ssh_options=server.options) as device:
        for _ in range(3):
            device.run(["true"], timeout_s=60)
    assert (server.folder / "sshd.log").read_text().count("Accepted publickey") == before + 1


@needs_sshd
def test_without_sharing_it_works_too(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with ssh_transport(server.url, ssh_options=server.options) as device:
        assert device.run(["echo", "x"], timeout_s=60).stdout == b"x\n"
    assert not list(long.iterdir())


@needs_sshd
def test_a_server_that_refuses_shared_sessions_works_too(tmp_path: Path) -> None:
    with running_sshd(tmp_path / "server", MaxSessions="1") as server:
        with ssh_transport(server.url, ssh_options=server.options) as device:
            assert device.run(["echo", "x"], timeout_s=60).stdout == b"x\n"
        assert not list(server.temp.iterdir())


@needs_sshd
def test_settings_of_the_user_that_would_break_it_are_overruled(server: Server) -> None:
    options = server.configure(
        RemoteCommand="cat", RequestTTY="force", LocalForward=f"{server.port} 127.0.0.1:1", ControlMaster="no"
    )
    with ssh_transport(server.url, ssh_options=options) as device:
        assert device.run(["echo", "x"], timeout_s=60).stdout == b"x\n"


@needs_sshd
def test_chatter_of_a_login_shell_harms_nothing(tmp_path: Path) -> None:
    greeting = tmp_path / "greeting"
    greeting.write_text("echo welcome; echo 'have a lot of fun' >&2\n")
    command = f"sh -c '. {greeting}; eval \"$SSH_ORIGINAL_COMMAND\"'"
    with running_sshd(tmp_path / "server", ForceCommand=command) as server:
        with ssh_transport(server.url, ssh_options=server.options) as device:
            assert device.run(["echo", "x"], timeout_s=60).stdout == b"x\n"
            (tmp_path / "here").write_bytes(b"content")
            device.push(tmp_path / "here", "there")
            device.pull("there", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == b"content"
        assert not list(server.temp.iterdir())


# What goes wrong


@needs_sshd
def test_a_program_that_hangs_is_stopped_with_its_children(server: Server) -> None:
    with ssh_transport(server.url, ssh_options=server.options) as device:
        with pytest.raises(DeviceError, match=r"'python3' took longer than 1 s and was stopped"):
            device.run(SLEEP, timeout_s=1)
        assert eventually(lambda: not [each for each in processes_with("600") if each in processes_with(str(server.temp))])
        assert device.run(["echo", "alive"], timeout_s=60).stdout == b"alive\n"


@needs_sshd
def test_a_stop_signal_ends_the_program_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_received", None)  # and so again after the test
    with stop.stop_signals(), pytest.raises(Interrupted), ssh_transport(server.url, ssh_options=server.options) as device:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        device.run(SLEEP, timeout_s=60)
    assert not list(server.temp.iterdir())
    assert eventually(lambda: not processes_with(f"TMPDIR={server.temp}"))


KILLED = """
import sys
from edgekd.benchmark.transports.ssh import ssh_transport
with ssh_transport(sys.argv[1], ssh_options=sys.argv[2:], grace_s=1) as device:
    print("ready", flush=True)
    device.run(["python3", "-c", "import subprocess; subprocess.run(['sleep', '600'])"], timeout_s=600)
"""


@needs_sshd
def test_a_killed_edgekd_leaves_nothing(tmp_path: Path) -> None:
    with running_sshd(tmp_path / "server") as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, *server.options], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert eventually(lambda: bool(list(server.temp.glob("*/run-*"))))
        process.kill()
        process.wait()
        process.stdout.close()
        assert eventually(lambda: not list(server.temp.iterdir()))
        assert eventually(lambda: not processes_with(f"TMPDIR={server.temp}"))
        assert eventually(lambda: not processes_with(str(server.folder / "ssh_config")))


@needs_sshd
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_lost_connection_is_resumed(server: Server, tmp_path: Path, direction: str) -> None:
    size, most = 24 << 20, 16 << 20
    command = f"{sys.executable} {cutting_proxy.__file__} {server.port} {most} {tmp_path / 'log'}"
    content = os.urandom(size)
    (tmp_path / "here").write_bytes(content)
    with ssh_transport(server.url, ssh_options=server.configure(ProxyCommand=command)) as device:
        if direction == "push":
            device.push(tmp_path / "here", "there")
            assert Path(device.folder, "there").read_bytes() == content
        else:
            Path(device.folder, "there").write_bytes(content)
            device.pull("there", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == content
    first, second = (int((tmp_path / f"log.{number}").read_text().split("\n")[-2]) for number in (1, 2))
    assert most < first < size, "it was lost on the way"
    assert second < size - most / 2, "what had arrived was not sent again"
    assert eventually(lambda: not list(server.temp.iterdir()))


def kill_connections(server: Server) -> None:
    for each in connections(server):
        os.kill(each, signal.SIGKILL)


def connections(server: Server) -> list[int]:
    """Return the ``sshd`` processes of connections of a server."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(each) for each in children.split()]


@needs_sshd
def test_a_connection_lost_while_a_program_runs_is_told(server: Server) -> None:
    with (
        pytest.raises(DeviceError, match="the connection was lost while 'python3' ran") as caught,
        ssh_transport(server.url, ssh_options=server.options, grace_s=1) as device,
    ):
        threading.Timer(1.0, kill_connections, [server]).start()
        device.run(SLEEP, timeout_s=60)
    assert caught.value.exit_code == 5
    assert eventually(lambda: not list(server.temp.iterdir()))
    assert eventually(lambda: not processes_with(f"TMPDIR={server.temp}"))


@needs_sshd
def test_a_dead_device_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with (
        running_sshd(tmp_path / "server") as server,
        pytest.raises(DeviceError, match=r"cannot be reached: .*refused"),
        ssh_transport(server.url, ssh_options=server.options, grace_s=1) as device,
    ):
        alive = connections(server)
        server.process.kill()
        server.process.wait()
        for each in alive:
            os.kill(each, signal.SIGKILL)
        device.push(tmp_path / "x", "x")
    assert eventually(lambda: not list(server.temp.iterdir()))


@needs_sshd
def test_a_device_without_room(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    blocks_of_512 = 1000
    command = f"sh -c 'ulimit -f {blocks_of_512}; eval \"$SSH_ORIGINAL_COMMAND\"'"
    with running_sshd(tmp_path / "server", ForceCommand=command) as server:
        with (
            pytest.raises(DeviceError, match="the device failed to copy"),
            ssh_transport(server.url, ssh_options=server.options) as device,
        ):
            device.push(tmp_path / "large", "large")
        assert not list(server.temp.iterdir())


@needs_sshd
def test_an_unreachable_host(server: Server) -> None:
    with pytest.raises(DeviceError, match=r"cannot be reached.*refused"), ssh_transport(f"ssh://me@127.0.0.1:{free_port()}"):
        pass
    with pytest.raises(DeviceError, match="cannot be reached"), ssh_transport("ssh://no-such-host.invalid"):
        pass
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        address = f"ssh://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeviceError, match=r"cannot be reached.*timed out"), ssh_transport(address, connect_timeout_s=1):
            pass
        assert time.monotonic() - started < 50  # the limit of a keeper that says nothing


@needs_sshd
def test_a_wrong_key(server: Server, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    options = server.configure(IdentityFile=tmp_path / "other")
    with pytest.raises(DeviceError, match="does not accept your key") as caught, ssh_transport(server.url, ssh_options=options):
        pass
    assert "ssh-copy-id -p" in str(caught.value.hint)


@needs_sshd
def test_host_keys_that_are_unknown_or_changed(server: Server, tmp_path: Path) -> None:
    options = server.configure(UserKnownHostsFile="/dev/null")
    with pytest.raises(DeviceError, match="host key is not known"), ssh_transport(server.url, ssh_options=options):
        pass
    make_key(tmp_path / "other")
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'other.pub').read_text()}")
    options = server.configure(UserKnownHostsFile=tmp_path / "known")
    with pytest.raises(DeviceError, match="host key is not the one") as caught, ssh_transport(server.url, ssh_options=options):
        pass
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in str(caught.value.hint)


def test_no_ssh_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="no program 'ssh' on this machine"), ssh_transport("ssh://host"):
        pass


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ssh://pi@raspberrypi", ("pi", "raspberrypi", None)),
        ("ssh://raspberrypi.local:2222", (None, "raspberrypi.local", 2222)),
        ("ssh://u.s-er@10.0.0.7:22/", ("u.s-er", "10.0.0.7", 22)),
        ("ssh://pi@[fe80::1%eth0]:22", ("pi", "fe80::1%eth0", 22)),
    ],
)
def test_addresses(url: str, found: tuple[str | None, str, int | None]) -> None:
    assert parse_ssh_url(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "ssh://", "ssh://-oProxyCommand=id", "ssh://me@-oProxyCommand=id", "ssh://-l@host", "ssh://host:0", "ssh://host:65536", "ssh://host:x",
        "ssh://host:", "ssh://a b", "ssh://host/path", "ssh://me:secret@host", "ssh://h;id", "ssh://$(id)", "ssh://host\n", "ssh://hôst",
        "ssh://@host", "ssh://a@b@c", "ssh://[::1", "ssh://host?x", "SSH://host", "ssh:host", "", "ssh://[-x]", "ssh://h`id`",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a device"):
        parse_ssh_url(url)
