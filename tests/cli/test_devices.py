"""``edgekd devices``: list, show, and a profile of one's own."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekd.cli.devices import command
from edgekd.devices.profiles import load_profile, profile_names
from edgekd.errors import UsageError


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_every_device_is_listed() -> None:
    shown = _run("list").output
    for name in profile_names():
        profile = load_profile(name)
        line = next(line for line in shown.splitlines() if line.startswith(f"{name} "))
        assert profile.name in line
        assert all(each.core in line for each in profile.clusters)
    assert "4 A72 1.8 GHz" in shown
    assert "512 MB" in shown


def test_the_list_in_json() -> None:
    content = {each["id"]: each for each in json.loads(_run("list", "--json").output)}
    assert set(content) == set(profile_names())
    assert content["pi5"]["dot_product"] is True
    assert content["pi4"]["clusters"] == [{"core": "A72", "count": 4, "ghz": 1.8, "role": "big"}]
    assert set(content["pi4"]["prediction"]) == {"basis", "rows"}


def test_a_device_is_shown_in_words() -> None:
    shown = _run("show", "pi4").output
    assert shown.startswith("pi4: Raspberry Pi 4 Model B, BCM2711\n")
    words = " ".join(shown.split())
    assert "gains little: A72 has no dot product of int8" in words
    assert "4 threads were 1.73 times as fast as one" in words
    assert "Ship tflite-int8" in words
    assert "--via ssh://USER@HOST" in words
    assert max(map(len, shown.splitlines())) <= 110


def test_a_device_is_shown_in_json() -> None:
    content = json.loads(_run("show", "jetson_nano", "--json").output)
    assert content["artifacts"] == ["onnx-fp16", "onnx-fp32"]
    assert content["sources"]["copy_gb_s"].startswith("measured: ")
    assert content["transports"] == ["ssh", "emulated"]
    assert {each["about"] for each in content["expect"]} >= {"int8", "threads", "power", "file"}


def test_an_unknown_device_is_one_line_and_exit_2() -> None:
    arguments = [sys.executable, "-m", "edgekd", "devices", "show", "rpi4"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: no device profile 'rpi4', allowed: galaxy_s21, ")
    assert first.endswith("did you mean 'pi4'?")
    assert hint.startswith("hint: ")


def test_an_unknown_command_is_named() -> None:
    shown = _run("shwo")
    assert shown.exit_code == 2
    assert "did you mean 'show'?" in shown.output


@pytest.mark.parametrize("name", ["predict", "calibrate"])
def test_a_command_of_another_file_is_shown_and_loads(name: str) -> None:
    assert name in _run("--help").output
    assert _run(name, "--help").exit_code == 0


def test_a_command_that_is_none_is_refused() -> None:
    assert "absent" not in _run("--help").output
    assert _run("absent").exit_code == 2


@pytest.mark.parametrize("like", [name for name in profile_names() if name != "host"])
def test_a_new_profile_loads_and_is_like_its_model(like: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert _run("new", "mine", "--out", str(path), "--like", like).exit_code == 0
    mine, model = load_profile(str(path)), load_profile(like)
    assert mine.id == "mine"
    for field in ("kind", "soc", "clusters", "dot_product", "copy_gb_s", "memory_bytes", "artifacts", "runtimes", "versions",
                  "threads", "power_modes", "channel_multiple", "memory_gb_s"):  # fmt: skip
        assert getattr(mine, field) == getattr(model, field)
    # Nothing of it is known of the new device.
    assert all(text.startswith("estimate: ") for text in mine.sources.values())
    assert not (mine.published or mine.published_as or mine.same_soc or mine.remarks)
    assert _run("show", str(path)).exit_code == 0


@pytest.mark.parametrize("kind", ["raspberry-pi", "jetson", "android", "ios"])
def test_a_new_profile_of_a_kind_has_a_comment_for_every_key(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    assert json.loads(_run("new", "board", "--out", str(path), "--kind", kind, "--json").output) == {"path": str(path)}
    assert load_profile(str(path)).kind == kind
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) < 200
    # A comment stands over each key of the top level, or over the one it belongs to.
    top = lines[: lines.index(next(line for line in lines if line.startswith("[")))]
    commented = sum(line.startswith("#") for line in top)
    assert commented >= len(tomllib.loads("\n".join(top))) - 3


def test_a_new_profile_is_written_here_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote my_board.toml" in _run("new", "my_board").output
    assert load_profile("my_board.toml").kind == "raspberry-pi"


def test_a_file_is_not_replaced_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("precious")
    with pytest.raises(UsageError, match="already there"):
        _run("new", "mine", "--out", str(path))
    assert path.read_text() == "precious"
    assert _run("new", "mine", "--out", str(path), "--force").exit_code == 0
    assert load_profile(str(path)).id == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["../evil"], "cannot be the id of a device"),
        (["a\nb"], "cannot be the id of a device"),
        (["x" * 65], "cannot be the id of a device"),
        (["pi4"], "'pi4' is a shipped device"),
        (["mine", "--like", "pi44"], "did you mean 'pi4'"),
        (["mine", "--like", "host"], "the host has no profile to start from"),
        (["mine", "--like", "pi4", "--kind", "jetson"], "--like pi4 is of kind raspberry-pi, not jetson"),
        (["mine", "--out", "/proc/no/mine.toml"], "cannot write /proc/no/mine.toml"),
    ],
)
def test_a_wrong_new_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        _run("new", *arguments)
    assert "\n" not in error.value.message
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from edgekd.cli.devices import command; "
        "assert CliRunner().invoke(command, ['list']).exit_code == 0; "
        "assert CliRunner().invoke(command, ['show', 'pi4']).exit_code == 0; "
        "print([name for name in ('torch', 'tensorflow', 'onnxruntime', 'onnx', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
