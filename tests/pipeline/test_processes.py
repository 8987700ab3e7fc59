"""A recipe run by two processes gives what one process gives, to rounding."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.distill.launched import launch

pytestmark = pytest.mark.slow

# Small steps of plain SGD, in which rounding errors of float32 do not grow: AdamW divides gradients by their size, also those
# that are nothing but rounding. tests/distill/test_processes.py has the same in float64.
QUICK = [
    *(f"{each}.train.{what}" for each in ("teacher", "distill") for what in ("optimizer=sgd", "learning_rate=1e-3")),
    "threads=1", "teacher.check=false", "teacher.train.epochs=3", "distill.train.epochs=4", "data.augment.crop_padding=0",
    "export.artifacts=[onnx-fp32]",
]  # fmt: skip


def _entries(run: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "stages/journal.jsonl").read_text().splitlines() if line]
    return {each["stage"]: each for each in lines}


def _weights(run: Path, entry: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(run / "stages" / f"{entry['stage']}-{entry['key']}" / "weights.safetensors")
    return weights


def _run(run: Path, count: int) -> dict[str, dict[str, Any]]:
    done = launch(["-m", "edgekd", "compress", "digits", "--out", str(run), *QUICK], count)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("gates: 3 of 3 passed") == 1
    assert done.stderr.count("read digits") == 1
    return _entries(run)


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    runs = {"teacher": tmp_path / "all", "distill": tmp_path / "student"}
    one = _run(tmp_path / "one", 1)
    # The student is compared on the same teacher, of which no bit differs: that of the first run, which is not trained again.
    shutil.copytree(tmp_path / "one", runs["distill"])
    journal = runs["distill"] / "stages/journal.jsonl"
    kept = [each for each in one.values() if each["stage"] in ("data", "teacher", "teacher-check")]
    journal.write_text("".join(f"{json.dumps(each)}\n" for each in kept))
    shutil.rmtree(runs["distill"] / "stages" / f"distill-{one['distill']['key']}")
    for stage, run in runs.items():
        two = _run(run, 2)
        assert two["distill"]["seconds"] != one["distill"]["seconds"]
        losses = [[epoch["loss"] for epoch in entries[stage]["result"]["history"]] for entries in (one, two)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        terms = [[term["weight"] for term in entries[stage]["result"]["facts"]["terms"]] for entries in (one, two)]
        np.testing.assert_allclose(terms[1], terms[0], rtol=1e-2)
        first, second = _weights(tmp_path / "one", one[stage]), _weights(run, two[stage])
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(second[name], first[name], rtol=1e-2, atol=1e-3, err_msg=name)
        manifests = [json.loads((each / "manifest.json").read_text())["files"] for each in (tmp_path / "one", run)]
        assert [each["path"] for each in manifests[0]] == [each["path"] for each in manifests[1]]


def test_a_batch_that_does_not_divide_is_told_once(tmp_path: Path) -> None:
    run = ["-m", "edgekd", "compress", "digits", "--out", str(tmp_path / "run"), *QUICK, "teacher.train.batch_size=63"]
    done = launch(run)
    assert done.returncode != 0
    assert done.stderr.count("error: a batch of 63 samples does not divide among 2 processes") == 1
    assert "edgekd/pipeline.py" not in done.stderr  # no traceback of ours
