"""Verification: every artifact, run in its own runtime on the whole test split, against the PyTorch student."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact
from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import TrainedModel
from edgekd.gates import check_gates_possible
from edgekd.recipe import ArtifactName, Gates, Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.tasks.classification import Metric, agreement, top1
from edgekd.workspace import Workspace

_INT4_SHARE = 0.5
"""Weights in int4 among those in int4 and int8: a file called int4 has most of them in 4 bits."""


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from the PyTorch student on the test split.

    Attributes:
        max_abs_error: Largest difference of any output.
        relative_error: That, as a share of the range of the PyTorch student's outputs.
        agreement: Share of samples with the same top-1 class.
        n: Number of samples.
    """

    max_abs_error: float
    relative_error: float
    agreement: float
    n: int


@dataclass(frozen=True)
class Verified:
    """What is true of an artifact, measured in its own runtime.

    Attributes:
        artifact: The file.
        inputs, outputs: What it takes and gives, as in ``report.json``.
        metric: On the test split.
        parity: Against the PyTorch student.
        dtypes: Census of the file, see :func:`edgekd.census.census`.
    """

    artifact: Artifact
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    metric: Metric
    parity: Parity
    dtypes: dict[str, float]


@dataclass(frozen=True)
class Gate:
    """A promise of the recipe: ``name`` says which artifact and what, ``limit`` what was promised."""

    name: str
    artifact: ArtifactName
    limit: float
    value: float
    passed: bool


def verify(
    data: Dataset, student: TrainedModel, artifacts: dict[ArtifactName, Artifact], workspace: Workspace
) -> dict[ArtifactName, Verified]:
    """Judge every artifact in a child process of its own, so a file that crashes its runtime is named, not fatal.

    Raises:
        ExportError: A file does not load or run in its runtime.
    """
    return {name: _verify(artifact, data, student, workspace) for name, artifact in artifacts.items()}


def _verify(artifact: Artifact, data: Dataset, student: TrainedModel, workspace: Workspace) -> Verified:
    test = data.splits.test

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            indices, logits = Path(scratch, "indices.npy"), Path(scratch, "logits.npy")
            np.save(indices, test, allow_pickle=False)
            described = run_in_child(
                "edgekd.evaluate:evaluate_file",
                {
                    "path": str(artifact.path), "kind": artifact.format, "spec": student.spec.to_json(),
                    "raw": {key: {"path": str(each.path), "full_scale": each.full_scale} for key, each in data.raw.items()},
                    "indices": str(indices), "out": str(logits),
                },
                log=workspace.log,
            )  # fmt: skip
            outputs = np.load(logits, allow_pickle=False)
        reference = np.load(student.test_logits, allow_pickle=False)
        worst = float(np.abs(outputs - reference).max())
        parity = Parity(worst, worst / float(np.ptp(reference)), agreement(outputs, reference), len(test))
        return {**described, "metric": asdict(top1(outputs, data.labels[test])), "parity": asdict(parity)}

    inputs = {"artifact": artifact.sha256, "data": data.digest, "student": student.digest}
    what = f"{len(test):,} test samples in {artifact.runtime}"
    result = workspace.stage(f"verify-{artifact.name}", what, inputs, work, _describe).result
    metric = result["metric"]
    return Verified(
        artifact, result["inputs"], result["outputs"],
        Metric(metric["name"], metric["value"], tuple(metric["ci95"]), metric["n"]),
        Parity(**result["parity"]), result["dtypes"],
    )  # fmt: skip


def _describe(result: dict[str, Any]) -> str:
    return f"top-1 {result['metric']['value']:.2%}, agrees with PyTorch on {result['parity']['agreement']:.2%}"


def check_gates(
    recipe: Recipe, teacher: Teacher | None, student: TrainedModel, verified: dict[ArtifactName, Verified]
) -> list[Gate]:
    """Return every gate of the recipe for every artifact, passed or not.

    Raises:
        UsageError: A drop from the teacher is limited, and there is none.
    """
    check_gates_possible(recipe)
    return [gate for each in verified.values() for gate in _gates(recipe.gates, teacher, student, each)]


def _gates(limits: Gates, teacher: Teacher | None, student: TrainedModel, each: Verified) -> list[Gate]:
    name, precision = each.artifact.name, each.artifact.precision
    gates = []

    def at_most(what: str, limit: float, value: float) -> None:
        gates.append(Gate(f"{name} {what}", name, limit, value, value <= limit + 1e-9))

    def at_least(what: str, limit: float, value: float) -> None:
        gates.append(Gate(f"{name} {what}", name, limit, value, value >= limit - 1e-9))

    if precision == "fp32":
        at_most("max error / output range", limits.fp32_max_error, each.parity.relative_error)
    elif precision == "fp16":
        at_most("max error / output range", limits.fp16_max_error, each.parity.relative_error)
        at_least("top-1 agreement", limits.fp16_agreement, each.parity.agreement)
        at_least("16-bit share of weight bytes", limits.int8_weight_share, each.dtypes["fp16_weights"])
    else:
        at_least("top-1 agreement", limits.int8_agreement, each.parity.agreement)
        at_most("metric drop in points", limits.int8_max_drop, 100 * (student.metric.value - each.metric.value))
        int8, int4 = each.dtypes["int8_weights"], 2 * each.dtypes["int4_weights"]  # as if each weight in 4 bits had 8
        what = "int8 and int4" if precision == "int4" else "int8"
        share = (int8 + int4) / (1 + int4 / 2)
        at_least(f"{what} share of weight bytes", limits.int8_weight_share, share)
        if precision == "int4":
            at_least("int4 share of weights in integers", _INT4_SHARE, int4 / max(int8 + int4, 1e-9))
    if limits.max_teacher_drop is not None and teacher is not None:
        at_most("drop from teacher in points", limits.max_teacher_drop, 100 * (teacher.metric.value - each.metric.value))
    if limits.max_size_kib is not None:
        at_most("size in KiB", limits.max_size_kib, each.artifact.path.stat().st_size / 1024)
    return gates
