"""One real run, shared by every test that looks at what a run leaves."""

import pytest

import edgekd
from edgekd.report.report import Report

QUICK = ["teacher.train.epochs=12", "distill.train.epochs=30", "benchmark.runs=20", "benchmark.warmup=2"]
"""Overrides that make the digits recipe a matter of seconds and still good enough for its gates."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A finished run of the digits recipe. Tests must not change its folder."""
    return edgekd.compress("digits", tmp_path_factory.mktemp("finished") / "out", QUICK)
