"""What to expect of a device: each statement follows from its profile."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.devices import explain as module
from edgekd.devices.explain import Basis, Expectation, explain, prediction_basis, transports
from edgekd.devices.profiles import Profile, load_profile, profile_folder, profile_names
from edgekd.errors import UsageError


def _about(name: str, about: str) -> list[Expectation]:
    return [each for each in explain(load_profile(name)) if each.about == about]


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_device_is_explained(name: str) -> None:
    profile = load_profile(name)
    found = explain(profile)
    about = {each.about for each in found}
    assert {"file", "prediction", "reach"} <= about
    if name != "host":
        assert {"cores", "int8", "fp16", "threads", "memory", "pruning"} <= about
        # What is not derived from the profile alone tells what it stands on.
        assert all(each.source for each in found if each.about in {"cores", "int8", "fp16", "threads", "memory", "gpu", "npu"})
    assert all(each.text and "\n" not in each.text and "None" not in each.text.replace("None published", "") for each in found
               if each.about != "reach")  # fmt: skip


def test_int8_gains_little_without_dot_product_and_says_what_was_published() -> None:
    first, *published = _about("pi4", "int8")
    assert "gains little: A72 has no dot product" in first.text
    assert "at best 2 times fp32" in first.text
    figures = [each for each in load_profile("pi4").published if each.what == "int8_speedup"]
    assert len(published) == len(figures) >= 3
    for said, figure in zip(published, figures, strict=True):
        assert f"{figure.value:g} times as fast as fp32 (median of {figure.models})" in said.text
        assert said.source == figure.source
    first, *_ = _about("pi5", "int8")
    assert "at best 4 times fp32" in first.text
    assert "gains little" not in first.text


def test_a_loss_is_called_slower() -> None:
    assert any("0.78 times as fast as fp32, that is slower" in each.text for each in _about("jetson_agx_xavier", "int8"))


def test_figures_of_another_device_are_said_to_be_of_it() -> None:
    # Zero 2 W has the cores of 3B+; Xavier NX those of AGX Xavier; nothing published has the cores of Pixel 6.
    assert all("On Raspberry Pi 3 Model B+, which has the same cores," in each.text for each in _about("pi_zero2w", "int8")[1:])
    assert all(
        "On NVIDIA Jetson AGX Xavier, which has the same cores," in each.text for each in _about("jetson_xavier_nx", "int8")[1:]
    )
    told = _about("pixel6", "threads")[0].text
    assert told.startswith("None published of this device. On Raspberry Pi 5, 4 threads were")


def test_threads_seldom_scale() -> None:
    told = _about("pi4", "threads")
    assert any("4 threads were 1.73 times as fast as one, not 4, with ncnn" in each.text for each in told)
    assert "Use the 4 fast cores" in _about("pixel6", "threads")[-1].text
    assert not any("little" in each.text for each in _about("pi5", "threads"))


def test_16_bits_need_arithmetic() -> None:
    assert "has no fp16 arithmetic" in _about("pi3bplus", "fp16")[0].text
    assert "at best 2 times fp32" in _about("pi5", "fp16")[0].text


def test_memory_is_told_as_measured_and_an_estimate_as_about() -> None:
    assert _about("pi4", "memory")[0].text.startswith("One core copies 2.33 GB/s, of the 12.8")
    assert "10 MB takes 4.3 ms" in _about("pi4", "memory")[0].text
    assert _about("pixel6", "memory")[0].text.startswith("One core copies about ")
    assert "Rated for 34.1 GB/s" in _about("iphone12", "memory")[0].text
    assert any(each.text.startswith("512 MB") for each in _about("pi_zero2w", "memory"))


def test_peaks_follow_from_clusters() -> None:
    assert "20.0 GFLOP/s in fp32 on one core, 80.0 on the 4 fast ones" in _about("pixel3", "cores")[0].text
    assert "14.4 GFLOP/s in fp32 on one core, 57.6 on all" in _about("pi4", "cores")[0].text


def test_a_device_of_little_cores_alone_uses_them_all() -> None:
    pi = load_profile("pi3bplus")
    little = replace(pi, clusters=tuple(replace(each, role="little") for each in pi.clusters))
    told = explain(little)
    assert any("44.8 on all" in each.text for each in told)
    assert not any("fast cores" in each.text for each in told)


@pytest.mark.parametrize(
    ("name", "ways", "command"),
    [
        ("host", ("local",), "--on host"),
        ("pi4", ("ssh", "emulated"), "--on pi4 --via ssh://USER@HOST"),
        ("pixel6", ("adb", "emulated"), "--on pixel6 --via adb"),
        ("iphone15", (), "None of edgekd's transports"),
    ],
)
def test_how_it_is_reached(name: str, ways: tuple[str, ...], command: str) -> None:
    assert transports(load_profile(name)) == ways
    assert command in _about(name, "reach")[0].text


def test_what_to_ship_is_the_first_file() -> None:
    for name in ("pi4", "jetson_nano", "pixel8"):
        assert _about(name, "file")[0].text.startswith(f"Ship {load_profile(name).artifacts[0]}: ")
    assert "TensorRT 8.2.1" in _about("jetson_nano", "file")[0].text


def test_power_modes_are_those_of_the_profile() -> None:
    told = _about("jetson_tx2", "power")
    assert [each.text.partition(":")[0] for each in told] == [
        "MAXN",
        "MAXQ",
        "MAXP_CORE_ALL",
        "MAXP_CORE_ARM",
        "MAXP_CORE_DENVER",
    ]
    assert [re.search(r"nvpmodel -m (\d)", each.text)[1] for each in told] == list("01234")  # type: ignore[index]
    assert "set-fixed-performance-mode-enabled" in _about("pixel6", "power")[0].text
    assert any("get_throttled" in each.text for each in _about("pi4", "know"))


def _with_coefficients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Profile:
    profile = load_profile("pi4")
    (tmp_path / "coefficients").mkdir()
    (tmp_path / "coefficients" / "pi4.toml").write_text(text)
    monkeypatch.setattr(module, "profile_folder", lambda: tmp_path)
    return profile


def test_predictions_tell_their_basis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (
        '[[fit]]\nbasis = "transferred"\nrows = 7\n[[fit]]\nbasis = "fitted"\nrows = 40\n[[fit]]\nbasis = "fitted"\nrows = 24\n'
    )
    assert prediction_basis(_with_coefficients(monkeypatch, tmp_path, text)) == Basis("fitted", 64)
    assert str(Basis("fitted", 1064)) == "fitted, 1,064 published rows"


def test_without_coefficients_there_is_the_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = load_profile("pi4")
    monkeypatch.setattr(module, "profile_folder", lambda: tmp_path)
    assert prediction_basis(profile) == Basis("specification only", 0)
    assert prediction_basis(load_profile("host")) == Basis("measured", 0)


def test_broken_coefficients_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*pi4\.toml"):
        prediction_basis(_with_coefficients(monkeypatch, tmp_path, "basis = "))


def test_the_coefficients_are_beside_the_profiles() -> None:
    assert (profile_folder() / "cores.toml").is_file()
