"""Predictions from the shipped coefficients: intervals, basis, words, and what cannot be asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.cli.devices_predict import command
from edgekd.devices.coefficients import (
    DeviceCoefficients,
    coefficients_folder,
    device_coefficients,
    shared_coefficients,
    shipped_coefficients,
    write_device,
    write_shared,
)  # fmt: skip
from edgekd.devices.file_latency import nearest_on_accelerators, predict_file
from edgekd.devices.kernels import Kernel
from edgekd.devices.latency import RUNTIMES, Prediction, predict, runtime_of_format
from edgekd.devices.profiles import load_profile, profile_names
from edgekd.errors import EdgekdError, UsageError
from tests.inspect.onnx_files import qdq


def _network(width: int = 32, size: int = 56, layers: int = 8) -> list[Kernel]:
    values = width * size * size
    return [Kernel(f"k{i}", "pointwise", width * values, width * width, values, values, 1, 1, width) for i in range(layers)]


def _predict(kernels: list[Kernel], device: str = "pi4", runtime: str = "litert", **options: Any) -> Prediction:
    arguments: dict[str, Any] = {"threads": 4, "precision": "fp32"} | options
    found = predict(kernels, load_profile(device), runtime, **arguments)
    assert found is not None
    return found


@pytest.mark.parametrize("device", [name for name in profile_names() if name != "host"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_intervals_contain_their_prediction_and_layers_add_up(device: str, runtime: str) -> None:
    for threads in (1, 4):
        for precision in ("fp32", "int8"):
            found = _predict(_network(), device, runtime, threads=threads, precision=precision)
            assert 0 < found.low_ms < found.p50_ms < found.high_ms
            assert sum(each.ms for each in found.layers) == pytest.approx(found.p50_ms, rel=1e-4)
            assert found.basis in ("fitted", "transferred", "specification only") and found.from_what


def test_the_host_is_measured_not_predicted() -> None:
    assert predict(_network(), load_profile("host"), "onnxruntime", 1, "fp32") is None


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 256), st.integers(4, 112), st.integers(1, 30), st.sampled_from(["pi4", "pixel6", "jetson_agx_orin"]))
def test_a_wider_or_deeper_or_larger_network_is_never_faster(width: int, size: int, layers: int, device: str) -> None:
    base = _predict(_network(width, size, layers), device).p50_ms
    assert _predict(_network(width + 8, size, layers), device).p50_ms >= base
    assert _predict(_network(width, size + 4, layers), device).p50_ms >= base
    assert _predict(_network(width, size, layers + 1), device).p50_ms >= base


def test_the_words_tell_what_was_measured() -> None:
    fitted = _predict(_network(), "pi4")
    assert fitted.basis == "fitted" and "rpi4b" in fitted.from_what and "rows of" in fitted.from_what
    other = _predict(_network(), "pi4", "onnxruntime")
    assert other.basis == "transferred" and "no measurement of onnxruntime" in other.from_what
    assert other.high_ms / other.p50_ms > fitted.high_ms / fitted.p50_ms
    assert _predict(_network(), "pixel8").basis == "specification only"
    assert "same" in _predict(_network(), "pi5").from_what or "A76 cores" in _predict(_network(), "pi5").from_what


def test_fitted_intervals_are_narrower_than_rough_ones() -> None:
    fitted, rough = _predict(_network(), "pi4", "tflite"), _predict(_network(), "pixel8", "tflite")
    assert (fitted.basis, rough.basis) == ("fitted", "specification only")
    assert 2 * fitted.high_ms / fitted.p50_ms < rough.high_ms / rough.p50_ms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("ncn", 4, "fp32"), "no runtime 'ncn'.*did you mean 'ncnn'"), (("ncnn", 0, "fp32"), "threads is 0"),
     (("ncnn", 4, "int9"), "no precision 'int9'")],
)  # fmt: skip
def test_what_there_is_not_is_named(arguments: tuple[str, int, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predict(_network(), load_profile("pi4"), *arguments)
    with pytest.raises(UsageError, match="without operators"):
        predict([], load_profile("pi4"), "ncnn", 1, "fp32")


def test_formats_that_a_device_does_not_run_on_its_cpu_are_named() -> None:
    assert runtime_of_format(load_profile("pi4"), "tflite") == "litert"
    with pytest.raises(UsageError, match=r"tensorrt on .* is not predicted"):
        runtime_of_format(load_profile("jetson_agx_orin"), "onnx")
    with pytest.raises(UsageError, match="takes no keras files"):
        runtime_of_format(load_profile("pi4"), "keras")


def test_accelerators_name_a_measured_network() -> None:
    found = nearest_on_accelerators(tuple(_network()), load_profile("galaxy_s24"), "int8")
    assert found and all(each.ms > 0 and "int8" in each.where for each in found)
    assert nearest_on_accelerators(tuple(_network()), load_profile("pi4"), "int8") == ()


def test_written_files_are_read_as_they_were(tmp_path: Path) -> None:
    found = device_coefficients("pi4")
    write_device(tmp_path / "a.toml", "pi4", found)
    assert (tmp_path / "a.toml").read_bytes() == (coefficients_folder() / "pi4.toml").read_bytes()
    write_shared(tmp_path / "families.toml", shared_coefficients())
    assert (tmp_path / "families.toml").read_bytes() == (coefficients_folder() / "families.toml").read_bytes()
    assert device_coefficients("nothing") == DeviceCoefficients((), ())


def test_a_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.devices.coefficients.coefficients_folder", lambda: tmp_path)
    for content in ("schema = 99\n", "schema = 1\nfeatures = ['other']\n", "not toml"):
        (tmp_path / "odd.toml").write_text(content)
        shipped_coefficients.cache_clear()
        with pytest.raises(UsageError, match=r"odd\.toml"):
            device_coefficients("odd")


def test_a_file_is_predicted_by_the_command(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    found = predict_file(path, load_profile("pi4"), threads=1)
    assert found.precision == "int8" and found.prediction is not None
    plain = CliRunner().invoke(command, [str(path), "--on", "pi4", "--layers"], catch_exceptions=False)
    assert "9 of 10 between" in plain.output and "MACs" in plain.output
    answer = CliRunner().invoke(command, [str(path), "--on", "pi4", "--threads", "1", "--json"], catch_exceptions=False)
    content = json.loads(answer.output)["files"][0]
    assert content["prediction"]["p50_ms"] == pytest.approx(found.prediction.p50_ms)
    with pytest.raises(EdgekdError, match="pi9"):
        CliRunner().invoke(command, [str(path), "--on", "pi9"], catch_exceptions=False)
