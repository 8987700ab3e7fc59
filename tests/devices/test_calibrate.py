"""Calibration: known costs are found again, one's own file goes first, and what cannot be trusted is refused."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekd.benchmark.measurements import DeviceBenchmark, Measurement
from edgekd.benchmark.statistics import Turn, judge, summarise_turns
from edgekd.cli.devices import command as devices
from edgekd.devices import calibrate as calibration
from edgekd.devices import file_latency
from edgekd.devices.calibrate import Sample, as_fitted, calibrate, fitted_keys, samples_of
from edgekd.devices.calibration_models import (
    CALIBRATION_MODELS,
    CalibrationFile,
    CalibrationModel,
    cache_folder,
    calibration_files,
)
from edgekd.devices.coefficients import (
    DeviceCoefficients,
    device_coefficients,
    read_device,
    shipped_coefficients,
    write_device,
)
from edgekd.devices.explain import prediction_basis
from edgekd.devices.features import FEATURES, PLAIN, Counting, features_of
from edgekd.devices.file_latency import predict_file
from edgekd.devices.fitting import PRIOR, design, log_deviation, log_latency
from edgekd.devices.kernels import Kernel, Kind, kernels_of
from edgekd.devices.latency import predict, published_costs
from edgekd.devices.profiles import load_profile, user_file
from edgekd.errors import DeviceError, UsageError
from edgekd.inspect.inspection import inspect_file
from tests.benchmark.models import onnx_model

KINDS: tuple[Kind, ...] = ("pointwise", "conv3x3", "conv", "depthwise", "pool", "elementwise", "movement")


def _network(random: np.random.Generator) -> list[Kernel]:
    """A network of some kinds of kernels, heavier in one of them."""
    weights = random.dirichlet(np.full(len(KINDS), 0.6))
    kernels = []
    for index in range(int(random.integers(6, 50))):
        kind = KINDS[random.choice(len(KINDS), p=weights)]
        width, size = int(random.choice([16, 32, 64, 128])), int(random.choice([8, 16, 28, 56]))
        values, taps = width * size * size, {"conv3x3": 9, "conv": 25, "depthwise": 9}.get(kind, 1)
        each = {"pointwise": width, "conv3x3": width * 9, "conv": width * 25, "depthwise": 9}.get(kind, 0)
        kernels.append(
            Kernel(
                f"k{index}", kind, each * values, each * width if each else 0, values, values, 1, 3 if taps == 9 else 1, width
            )
        )
    return kernels


def _file(model: str, precision: Any = "fp32", path: Path = Path("x.onnx")) -> CalibrationFile:
    return CalibrationFile(model, "onnx", precision, path)


def _samples(
    networks: Sequence[list[Kernel]], coefficients: np.ndarray[Any, Any], noise: float, random: np.random.Generator,
    counting: Counting = PLAIN,
) -> list[Sample]:  # fmt: skip
    found = []
    for index, each in enumerate(networks):
        seen = design(features_of(each, counting), "onnxruntime")
        log_ms = float(log_latency(seen, coefficients) + random.normal(0, noise))
        found.append(Sample(_file(f"m{index}"), 1, float(np.exp(log_ms)), noise, tuple(each)))
    return found


@pytest.fixture(scope="module", params=["host", "pi4"])
def fitted(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """A device that is twenty times as fast as expected, whose kernels cost other shares, and what calibrating finds."""
    random = np.random.default_rng(3)
    profile = load_profile(request.param)
    networks = [_network(random) for _ in range(17)]
    known = published_costs(networks[0], profile, "onnxruntime", 1, "fp32")
    prior = PRIOR if known is None else known[0]
    truth = prior - np.log(20) + random.normal(0, 0.5, len(prior))
    (found,) = fitted_keys(_samples(networks, truth, 0.01, random), profile, ("onnxruntime",))
    return profile, truth, found


def test_known_costs_are_found_again(fitted: tuple[Any, Any, Any]) -> None:
    profile, truth, found = fitted
    random = np.random.default_rng(4)
    unseen = [design(features_of(_network(random), found.fit.counting), "onnxruntime") for _ in range(40)]
    errors = np.array([log_latency(each, found.fit.coefficients) - log_latency(each, truth) for each in unseen])
    assert np.abs(errors).mean() < 0.06
    assert found.fit.method == "coefficients" and found.models == 17
    assert found.fit.after < 0.1 and found.fit.after < found.fit.factor_error
    if profile.id == "host":
        assert found.fit.before is None and "nothing was predicted" in found.text()
    else:
        assert found.fit.before > 5 and f"off by {found.fit.after:.0%} (leave-one-out over 17 models)" in found.text()


def test_the_told_error_is_that_of_unseen_models(fitted: tuple[Any, Any, Any]) -> None:
    _, truth, found = fitted
    random = np.random.default_rng(5)
    unseen = [design(features_of(_network(random), found.fit.counting), "onnxruntime") for _ in range(200)]
    errors = np.array([log_latency(each, found.fit.coefficients) - log_latency(each, truth) for each in unseen])
    told = found.fit.after
    assert told / 6 < np.abs(np.exp(errors) - 1).mean() < told * 3
    reach = [
        found.fit.reach * np.hypot(log_deviation(each, found.fit.coefficients, found.fit.deviations), found.fit.noise)
        for each in unseen
    ]  # fmt: skip
    assert (np.abs(errors) <= reach).mean() > 0.75


def test_one_factor_is_taken_where_it_is_better() -> None:
    random = np.random.default_rng(6)
    profile = load_profile("pi4")
    networks = [_network(random) for _ in range(4)]
    known = published_costs(networks[0], profile, "onnxruntime", 1, "fp32")
    assert known is not None
    (found,) = fitted_keys(_samples(networks, known[0] + np.log(3), 0.0, random), profile, ("onnxruntime",))
    assert found.fit.method == "factor" and found.fit.after < 0.01 and found.fit.before == pytest.approx(2 / 3, abs=0.05)
    assert "by one factor" in found.text()


def test_two_models_are_too_few() -> None:
    random = np.random.default_rng(7)
    samples = _samples([_network(random) for _ in range(2)], PRIOR, 0.0, random)
    assert fitted_keys(samples, load_profile("host"), ("onnxruntime", "litert")) == []


def test_work_is_counted_as_a_runtime_does_it() -> None:
    convolution = Kernel("k", "conv3x3", 24 * 24 * 9 * 100, 24 * 24 * 9, 2400, 2400, 1, 3, 24)
    macs = FEATURES.index("conv3x3_macs")
    counted = [features_of([convolution], each)[macs] for each in (Counting(), Counting(8), Counting(16), Counting(16, 16))]
    assert counted == [24 * 24 * 900, 24 * 24 * 900, 32 * 24 * 900, 32 * 32 * 900]
    image = replace(convolution, kind="conv", macs=3 * 24 * 9 * 100)
    assert features_of([image], Counting(16, 16))[FEATURES.index("conv_macs")] == 3 * 32 * 900  # 3 inputs stay 3
    depthwise = replace(convolution, kind="depthwise", macs=24 * 900)
    assert features_of([depthwise], Counting(16, 16))[FEATURES.index("depthwise_macs")] == 32 * 900
    activation = Kernel("k", "elementwise", 0, 0, 100, 100, apart=True)
    assert features_of([activation])[FEATURES.index("elementwise_values")] == 200
    assert features_of([activation], Counting(apart=True))[FEATURES.index("normalization_values")] == 200


def _measured(path: Path, threads: int, milliseconds: Sequence[float]) -> Measurement:
    """A measurement with one turn for each block."""
    turns = [Turn(index, 0, float(index), (each,) * 10, 10, each) for index, each in enumerate(milliseconds)]
    return Measurement(
        path.name, path, "onnx", "0" * 64, 1, threads, summarise_turns(turns), judge(turns, turns, []), None, None, None, None,
        None, None, None, None, None, tuple(turns),
    )  # fmt: skip


def _device(
    time_ms: Callable[[Path, int], Sequence[float]], failed: Sequence[Path] = (), **environment: Any
) -> Callable[..., DeviceBenchmark]:  # fmt: skip
    def benchmark(files: Sequence[Path], *_: Any, threads: Sequence[int], **__: Any) -> DeviceBenchmark:
        found = [_measured(each, count, time_ms(each, count)) for count in threads for each in files if each not in failed]
        told = {"model": "Board \x1b[31m of a test", "runtimes": {"onnxruntime": "9.9\x1b[2J"}, "load": [0.5], **environment}
        gone = tuple((each.name, count, "out of memory") for count in threads for each in failed)
        return DeviceBenchmark("host", "fake", "python", None, told, tuple(found), (), gone, (), None)

    return benchmark


@pytest.fixture(autouse=True)
def inspected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that inspects a file takes longer than everything else here."""
    monkeypatch.setattr(calibration, "inspect_file", _inspect)
    monkeypatch.setattr(file_latency, "inspect_file", _inspect)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[CalibrationFile]:
    """Matrix products of some sizes."""
    folder = tmp_path_factory.mktemp("files")
    return [_file(f"m{size}", path=onnx_model(folder / f"m{size}.onnx", size)) for size in (16, 64, 128, 256)]


_inspect = cache(inspect_file)


def _size(path: Path) -> int:
    return int(path.stem.removeprefix("m"))


class _Nowhere(nullcontext[None]):
    name, folder = "fake", ""


def test_a_calibrated_device_predicts(
    files: list[CalibrationFile], monkeypatch: pytest.MonkeyPatch, nothing_calibrated: Path
) -> None:  # fmt: skip
    assert predict_file(files[0].path, load_profile("host"), threads=1).prediction is None
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda path, _: [2e-7 * _size(path) ** 2 + 1e-3] * 3))
    found = calibrate(load_profile("host"), _Nowhere(), threads=[1], files=files)  # type: ignore[arg-type]
    assert str(prediction_basis(load_profile("host"))).startswith("calibrated 20")
    assert found.path == nothing_calibrated / "edgekd" / "devices" / "host.toml" and found.path.is_file()
    assert "\x1b" not in found.device and found.load == 0.5 and json.loads(json.dumps(found.to_json()))["keys"]
    for each in files:
        prediction = predict_file(each.path, load_profile("host"), threads=1).prediction
        assert prediction is not None and prediction.basis == "fitted"
        assert prediction.low_ms < 2e-7 * _size(each.path) ** 2 + 1e-3 < prediction.high_ms
        assert "calibrated on this device on 20" in prediction.from_what and "over 4 models" in prediction.from_what
        assert "onnxruntime 9.9" in prediction.from_what
    several = predict_file(files[0].path, load_profile("host"), threads=4).prediction
    assert several is not None and several.basis == "transferred" and "scaled to 4 threads" in several.from_what


def test_another_calibration_keeps_what_it_did_not_measure(
    files: list[CalibrationFile], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda _, count: [1.0 / count] * 3))
    for threads in ([1], [2], [2]):
        calibrate(load_profile("host"), _Nowhere(), threads=threads, files=files)  # type: ignore[arg-type]
    assert [each.key.threads for each in device_coefficients("host").fitted] == ["2", "1"]


def test_ones_own_calibration_goes_first(tmp_path: Path) -> None:
    kernels = [Kernel("k", "pointwise", 10**7, 10**4, 10**5, 10**5, 1, 1, 32)]
    profile = load_profile("pi4")
    before = predict(kernels, profile, "litert", 4, "fp32")
    published = [
        each for each in shipped_coefficients("pi4").fitted if each.key.threads == "4" and each.key.precision == "fp32"
    ]
    assert before is not None and before.basis == "fitted" and published
    key = replace(published[0].key, device="pi4", runtime="litert xnnpack", delegate="cpu", setup="mine")
    mine = replace(published[0], key=key, coefficients=published[0].coefficients * 0 + np.log(1e-6), calibrated="2026-01-02")
    write_device(user_file("pi4"), "pi4", DeviceCoefficients((mine,), ()))
    found = predict(kernels, profile, "litert", 4, "fp32")
    assert found is not None and found.p50_ms != before.p50_ms
    assert found.from_what.startswith("calibrated on this device on 2026-01-02 over")
    other = predict(kernels, profile, "litert", 4, "int8")
    assert other is not None and "calibrated" not in other.from_what
    assert published_costs(kernels, profile, "litert", 4, "fp32") is not None


@pytest.mark.parametrize("content", [
    "schema = 1\n[[fitted]]\n", "schema = 1\nfitted = [{device = 1}]", "schema = 2\n", "no toml", "schema = 1\nfeatures = []\n", "\x00",
    "schema = 1\n[[fitted]]\ncounting = { outputs = 0 }\n",
])  # fmt: skip
def test_a_broken_file_of_ones_own_is_one_line(content: str) -> None:
    user_file("pi4").parent.mkdir(parents=True)
    user_file("pi4").write_text(content)
    with pytest.raises(UsageError, match=r"pi4\.toml"):
        device_coefficients("pi4")
    with pytest.raises(UsageError, match=r"pi4\.toml"):
        calibrate(load_profile("pi4"), _Nowhere())  # type: ignore[arg-type]


def test_noise_is_refused_and_failures_are_said(files: list[CalibrationFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda *_: [1.0, 1.5, 1.6]))
    with pytest.raises(DeviceError, match="too noisy to calibrate: the same file differs by 50%") as error:
        calibrate(load_profile("host"), _Nowhere(), threads=[1], files=files)  # type: ignore[arg-type]
    assert error.value.exit_code == 5 and not user_file("host").exists()
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda *_: [1.0], [files[0].path]))
    found = calibrate(load_profile("host"), _Nowhere(), threads=[1], files=files)  # type: ignore[arg-type]
    assert found.left_out == ("m16.onnx, 1 threads: out of memory",) and found.keys[0].models == 3
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda *_: [1.0], [each.path for each in files[:2]]))
    with pytest.raises(DeviceError, match="fewer than 3 models could be measured"):
        calibrate(load_profile("host"), _Nowhere(), threads=[1], files=files)  # type: ignore[arg-type]


def test_an_unreachable_device_is_refused_before_models_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(_Nowhere):
        def __enter__(self) -> None:
            raise DeviceError("gone")

    monkeypatch.setattr(calibration, "calibration_files", lambda *_, **__: pytest.fail("made"))
    with pytest.raises(DeviceError, match="gone"):
        calibrate(load_profile("host"), Gone())  # type: ignore[arg-type]


def test_an_unsteady_model_weighs_less(files: list[CalibrationFile]) -> None:
    device = _device(lambda path, _: [1.0, 1.2, 1.3] if path == files[0].path else [1.0, 1.01, 1.4])
    samples, _ = samples_of(device([each.path for each in files], threads=[1]), files)
    assert [round(each.spread, 6) for each in samples] == [0.2, 0.01, 0.01, 0.01] and {each.ms for each in samples} == {1.0}
    weights = [calibration._weight(each) for each in samples]
    assert weights == [pytest.approx(1 / 16), 1, 1, 1]


def test_rounded_channels_are_found_out() -> None:
    random = np.random.default_rng(8)
    networks = [
        [replace(each, outputs=width, macs=each.macs * width // each.outputs) for each, width in zip(
            network, random.choice([4, 12, 20, 24, 40, 48], len(network)), strict=True
        )] for network in (_network(random) for _ in range(17))
    ]  # fmt: skip
    (found,) = fitted_keys(_samples(networks, PRIOR, 0.003, random, Counting(16)), load_profile("host"), ("onnxruntime",))
    assert found.fit.counting == Counting(16, apart=True)
    key = as_fitted(found, load_profile("host"), "a", _device(lambda *_: [1.0])([], threads=[]), "2026-01-02")
    write_device(user_file("host"), "host", DeviceCoefficients((key,), ()))
    for network in networks:
        prediction = predict(network, load_profile("host"), "onnxruntime", 1, "fp32")
        expected = float(np.exp(log_latency(design(features_of(network, Counting(16)), "onnxruntime"), PRIOR)))
        assert prediction is not None and prediction.p50_ms == pytest.approx(expected, rel=0.1)
        assert sum(each.ms for each in prediction.layers) == pytest.approx(prediction.p50_ms, rel=1e-4)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(devices, ["calibrate", "pi44"]).exception is not None
    with pytest.raises(UsageError, match=r"no device profile 'pi44'.*pi4"):
        run(devices, ["calibrate", "pi44"], catch_exceptions=False)
    with pytest.raises(UsageError, match="is another machine than this one"):
        run(devices, ["calibrate", "pi4"], catch_exceptions=False)
    with pytest.raises(UsageError, match="no way to a device"):
        run(devices, ["calibrate", "pi4", "--via", "smoke"], catch_exceptions=False)
    with pytest.raises(UsageError, match="cannot be reached"):
        run(devices, ["calibrate", "iphone15", "--via", "ssh://a@b"], catch_exceptions=False)
    assert run(devices, ["calibrate", "host", "--threads", "0"]).exit_code == 2
    broken = tmp_path / "notes.toml"
    broken.write_text("[recipe]\n")
    with pytest.raises(UsageError, match=r"notes\.toml was written by another version"):
        run(devices, ["calibrate", "host", "--out", str(broken)], catch_exceptions=False)


def test_the_command_says_how_far_the_error_fell(
    files: list[CalibrationFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setattr(calibration, "benchmark_files", _device(lambda path, _: [1e-4 * _size(path)] * 3))
    monkeypatch.setattr(calibration, "calibration_files", lambda *_, **__: files)
    out = tmp_path / "mine.toml"
    plain = CliRunner().invoke(devices, ["calibrate", "host", "--threads", "1", "--out", str(out)], catch_exceptions=False)
    assert plain.exit_code == 0 and "ONNX Runtime fp32, 1 thread: nothing was predicted, are off by" in plain.stdout
    assert f"kept in {out}" in plain.stdout and len(read_device(out).fitted) == 1 and not user_file("host").exists()
    data = CliRunner().invoke(devices, ["calibrate", "host", "--threads", "1", "--json"], catch_exceptions=False)
    assert json.loads(data.stdout)["keys"][0]["models"] == 4 and user_file("host").is_file()


def test_models_differ_and_have_a_folder_of_their_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert 14 <= len({each.name for each in CALIBRATION_MODELS}) == len(CALIBRATION_MODELS) <= 24
    assert cache_folder().parent == tmp_path / "edgekd" and cache_folder() == cache_folder()
    assert cache_folder(CALIBRATION_MODELS[:3]) != cache_folder()


@pytest.mark.slow
def test_three_models_are_made_and_calibrate_this_machine(tmp_path: Path) -> None:
    from edgekd.benchmark.transports.open import open_transport
    from tests.benchmark.models import QUICK

    host = load_profile("host")
    networks = [
        CalibrationModel("a", 16, (("conv3", 8, 1, 2), ("squeezed", 8, 2, 1))),
        CalibrationModel("b", 32, (("conv3", 8, 2, 1), ("branches", 16, 1, 1), ("maxpool", 0, 2, 1), ("depthwise5", 0, 1, 1))),
        CalibrationModel("c", 24, (("conv3", 8, 2, 1), ("residual", 16, 2, 1), ("avgpool", 0, 2, 1)), (16,)),
    ]
    made = calibration_files(["onnx", "tflite"], networks, tmp_path)
    stamps = {each.path: each.path.stat().st_mtime_ns for each in made}
    assert len(made) == 12 and calibration_files(["onnx", "tflite"], networks, tmp_path) == made
    assert stamps == {each.path: each.path.stat().st_mtime_ns for each in made}
    apart = {each.path.name for each in made if any(one.apart for one in kernels_of(inspect_file(each.path).fused))}
    assert apart == {"a.int8.tflite"}  # the hard swish, which ONNX Runtime computes like anything else
    protocol = replace(QUICK, runs=30, seconds=0.1)
    found = calibrate(host, open_transport("local", host), threads=[1], files=made, protocol=protocol)
    assert {(each.runtime, each.precision, each.models) for each in found.keys} == {
        (runtime, precision, 3) for runtime in ("onnxruntime", "litert") for precision in ("fp32", "int8")
    }
    for each in made:
        prediction = predict_file(each.path, host, threads=1)
        assert prediction.precision == each.precision and prediction.prediction is not None
        assert prediction.prediction.basis == "fitted" and 0 < prediction.prediction.p50_ms < 1000
