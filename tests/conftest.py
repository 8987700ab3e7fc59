"""A real run, and real models, shared by the tests that look at them."""

import importlib.util
from pathlib import Path

import pytest

import edgekd
from edgekd.report.report import Report
from edgekd.safe.child import run_in_child
from tests.models.disguises import onnx_disguises

QUICK = ["teacher.train.epochs=12", "distill.train.epochs=30", "benchmark.runs=20", "benchmark.warmup=2"]
"""Overrides that make the digits recipe a matter of seconds and still good enough for its gates."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A finished run of the digits recipe. Tests must not change its folder."""
    return edgekd.compress("digits", tmp_path_factory.mktemp("finished") / "out", QUICK)


@pytest.fixture(scope="session")
def onnx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one digits classifier as ONNX files of many kinds, see :mod:`tests.models.disguises`."""
    folder = tmp_path_factory.mktemp("onnx_models")
    onnx_disguises(folder)
    return folder


@pytest.fixture(scope="session")
def framework_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classifier in Keras and TFLite, and hostile models of Keras and TensorFlow beside it."""
    if importlib.util.find_spec("tensorflow") is None:  # not imported: keras would run on it in this process
        pytest.skip("TensorFlow is not installed")
    folder = tmp_path_factory.mktemp("framework_models")
    run_in_child("tests.models.disguises:build_frameworks", {"folder": str(folder)}, log=folder / "log")
    run_in_child("tests.models.disguises:build_int8_tflite", {"folder": str(folder)}, log=folder / "log")
    return folder
