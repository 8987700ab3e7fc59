"""Coefficients: devices whose truth is known are recovered, new architectures and devices are predicted."""

from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.devices.crossvalidation import CONFIDENCE, conformal, leave_models_out, quantile
from edgekd.devices.features import FEATURES
from edgekd.devices.fitting import PRIOR, Array, Group, Settings, design, fit_groups, log_deviation, log_latency
from edgekd.devices.latency_table import Family, Key, family_of, read_latencies, runtime_family
from edgekd.devices.model_table import published_models
from edgekd.devices.other_devices import after_one_factor, leave_devices_out, threads_gain
from edgekd.devices.published_devices import Speed
from edgekd.devices.transfer import fit_scaling, scaled
from edgekd.errors import DataError

FAMILY = Family("ncnn", "cpu", "fp32", False)


def _truth(scale: float, seed: int, spread: float = 0.3) -> Array:
    return PRIOR + log(scale) + np.random.default_rng(seed).normal(0, spread, len(FEATURES))


def _group(device: str, truth: Array, noise: float = 0.0, threads: str = "1", skip: int = 1, seed: int = 0) -> Group:
    models = list(published_models())[::skip]
    features = design(np.stack([published_models()[model] for model in models]), "ncnn")
    exact = log_latency(features, truth)
    measured = exact + np.random.default_rng(seed).normal(0, noise, len(models))
    family = Family("ncnn", "cpu", "fp32", threads != "1")
    key = Key(device, "ncnn", "cpu", threads, "fp32")
    return Group(key, family, tuple(name for name, _ in models), features, measured, np.ones(len(models)))


def test_a_device_is_recovered_from_exact_latencies() -> None:
    truth = _truth(3.0, 1)
    group = _group("board", truth)
    fit = fit_groups([group], Settings(1.0, 0.01))
    np.testing.assert_allclose(log_latency(group.features, fit.coefficients[0]), group.log_ms, atol=0.02)
    strong = FEATURES.index("pointwise_macs")
    assert fit.coefficients[0, strong] == pytest.approx(truth[strong], abs=0.1)


def test_new_architectures_are_predicted_from_noisy_latencies_and_intervals_hold() -> None:
    groups = [_group(f"board{seed}", _truth(1.0 + seed, seed), 0.05, skip=4, seed=seed) for seed in range(3)]
    fit = fit_groups(groups, Settings(0.4, 0.05))
    held = leave_models_out(groups, Settings(0.4, 0.05), fit)
    errors = np.concatenate([np.abs(each.relative) for each in held])
    assert errors.mean() < 0.1
    inside = []
    for each in held:
        standardized = np.abs(each.errors) / each.deviations
        inside += [standardized[i] <= quantile(np.delete(standardized, i), np.zeros(0)) for i in range(len(standardized))]
    assert 0.8 < np.mean(inside) <= 1


def test_an_outlier_moves_little() -> None:
    truth = _truth(1.0, 5)
    clean = _group("board", truth, 0.02, skip=4)
    spoiled = Group(clean.key, clean.family, clean.models, clean.features, clean.log_ms.copy(), clean.weights)
    spoiled.log_ms[3] += log(10)
    others = np.arange(len(clean.models)) != 3
    fit = fit_groups([spoiled], Settings(0.4, 0.05))
    errors = log_latency(clean.features, fit.coefficients[0]) - clean.log_ms
    assert np.abs(errors[others]).mean() < 0.08


def test_a_group_of_few_models_leans_on_its_family() -> None:
    full = [_group(f"board{seed}", _truth(1.0, 7, 0.4) + 0.3 * seed, seed=seed) for seed in range(4)]
    small = _group("new", _truth(1.0, 7, 0.4) + log(5), skip=40)
    assert len(small.models) < 6
    fit = fit_groups([*full, small], Settings(0.4, 0.03))
    alone = fit_groups([small], Settings(0.4, 0.03))
    wanted = full[0].log_ms + log(5)
    with_family = np.abs(log_latency(full[0].features, fit.coefficients[4]) - wanted).mean()
    assert with_family < 0.1
    assert with_family < 0.7 * np.abs(log_latency(full[0].features, alone.coefficients[0]) - wanted).mean()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 5))
def test_a_device_that_is_slower_by_a_factor_is_predicted_slower_by_it(factor: float, seed: int) -> None:
    group = _group("board", _truth(1.0, seed), 0.05, skip=8, seed=seed)
    slower = Group(group.key, group.family, group.models, group.features, group.log_ms + log(factor), group.weights)
    first, second = fit_groups([group]), fit_groups([slower])
    ratio = log_latency(group.features, second.coefficients[0]) - log_latency(group.features, first.coefficients[0])
    np.testing.assert_allclose(ratio, log(factor), atol=0.02)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(FEATURES) - 1), st.floats(1.0, 1e8), st.integers(0, 20))
def test_more_of_anything_never_takes_less(feature: int, amount: float, model: int) -> None:
    features = list(published_models().values())[model * 7]
    coefficients = _truth(1.0, model)
    more = features.copy()
    more[feature] += amount
    assert log_latency(more, coefficients) >= log_latency(features, coefficients)
    assert log_deviation(more, coefficients, np.full(len(FEATURES), 0.3)) <= 0.3 + 1e-9


def test_only_one_count_of_3x3_convolutions_is_left() -> None:
    features = np.ones((2, len(FEATURES)))
    for runtime, absent in (("ncnn", "conv3x3_macs"), ("tflite", "winograd_macs"), ("onnxruntime", "winograd_macs")):
        seen = design(features, runtime)
        assert [name for name, value in zip(FEATURES, seen[0], strict=True) if value == 0] == [absent]
    assert features.all()


def test_a_device_is_predicted_from_one_with_its_cores_at_another_clock() -> None:
    truth = _truth(1.0, 3)
    groups = [_group("a", truth), _group("b", truth - log(2)), _group("c", truth + 1.0)]
    speeds = {"a": Speed("A72", 1.0), "b": Speed("A72", 2.0), "c": Speed("A53", 1.0)}
    fit = fit_groups(groups, Settings(0.4, 0.03))
    found = {groups[each.group].key.device: each for each in leave_devices_out(groups, fit, speeds)}
    assert found["a"].transferred and found["b"].transferred and not found["c"].transferred
    assert np.abs(found["b"].errors).mean() < 0.15
    assert np.abs(after_one_factor(groups[2], found["c"].errors)).mean() < 0.05
    known = scaled(fit_scaling(groups, fit, speeds), FAMILY, Speed("A72", 4.0), 1)
    assert known is not None and known[1]
    assert np.mean(log_latency(groups[0].features, known[0]) - groups[0].log_ms) == pytest.approx(-log(4), abs=0.2)
    assert scaled(fit_scaling(groups, fit, speeds), Family("ncnn", "cpu", "int8", False), Speed("A72", 1.0), 1) is None


def test_what_threads_gain_is_seen_between_groups_of_a_device() -> None:
    truth = _truth(1.0, 3)
    groups = [_group("a", truth), _group("a", truth - log(3), threads="4")]
    assert threads_gain(groups)[0] == pytest.approx(log(3))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=20, max_size=200))
def test_the_conformal_quantile_is_reached_by_enough(values: list[float]) -> None:
    found = conformal(np.array(values))
    assert found in values
    assert np.mean(np.array(values) <= found) >= min(CONFIDENCE, 1)


def test_names_of_runtimes_and_keys() -> None:
    assert runtime_family("TFLite 2.18.0", "cpu xnnpack") == runtime_family("XNNPACK end2end-bench") == "tflite xnnpack"
    assert runtime_family("TFLite (2018)", "cpu") == "tflite" and runtime_family("Paddle-Lite v2.11") == "paddle-lite"
    assert family_of(Key("d", "TFLite", "cpu ruy", "all?", "fp32")) == Family("tflite", "cpu", "fp32", True)
    assert family_of(Key("d", "ncnn", "vulkan gpu: X", "4", "fp16")) == Family("ncnn", "gpu", "fp16", False)
    assert Key("d", "QNN", "NPU", "", "int8").processor == Key("d", "TFLite", "nnapi", "", "fp32").processor == "npu"


_HEADER = "device_id,soc,runtime,delegate,threads,precision,model,input,latency_ms,metric_note,source_repo_or_title\n"


def test_a_table_is_read_with_its_setup_and_spread(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(_HEADER + 'b,S,TFLite,cpu ruy,all?,fp32,m,1x1,12,"mean; p50=10.0 p90=20.0; system=box-v1; x",source\n')
    (row,) = read_latencies(path)
    assert row.key.setup == "box-v1" and row.ms == 12 and row.spread == pytest.approx(log(2))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "has no column device_id"), (_HEADER + "b,S,r,cpu,1,fp32,m,1x1,no,,s\n", "row 2: latency_ms is 'no'"),
     (_HEADER + "b,S,r,cpu,1,fp32,m,1x1,-1,,s\n", "row 2"), (_HEADER + "b,S,r,cpu,1,fp32,m,1x1,nan,,s\n", "row 2")],
)  # fmt: skip
def test_a_broken_table_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_latencies(path)
    with pytest.raises(DataError, match="cannot read"):
        read_latencies(tmp_path / "none.csv")
