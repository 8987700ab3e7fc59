"""Verification: every artifact, run in its own runtime on the whole test split, against the PyTorch student.

Sixty-four extreme inputs are run beside it (:mod:`edgekd.extremes`): what photographs do not show.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.artifacts import Artifact
from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import TEST_LOGITS, Teacher
from edgekd.distill.trainer import predict
from edgekd.distill.training_stage import TrainedModel
from edgekd.errors import ExportError
from edgekd.extremes import COUNT as EXTREMES
from edgekd.extremes import extreme_samples
from edgekd.flavours import FLAVOURS, ArtifactName
from edgekd.gates import check_gates_possible
from edgekd.models.spec import load
from edgekd.parity import Parity, measure_parity
from edgekd.recipe import Gates, Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors, sha256_file
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import Workspace

if TYPE_CHECKING:
    from edgekd.per_class import PerClass

_EXTREME_LENIENCE = 10
"""How much larger the error of 16-bit weights may be on inputs that no data has: a logarithm of silence magnifies it."""
_INT4_SHARE = 0.5
"""Weights in int4 among those in int4 and int8: a file called int4 has most of them in 4 bits."""

__all__ = ["Gate", "Parity", "Verified", "check_gates", "sample_set", "verify"]


@dataclass(frozen=True)
class Verified:
    """What is true of an artifact, measured in its own runtime.

    Attributes:
        artifact: The file.
        inputs, outputs: What it takes and gives, as in ``report.json``.
        metric: On the test split.
        parity: Against the PyTorch student.
        dtypes: Census of the file, see :func:`edgekd.census.census`.
        logits: ``float32 [n, classes]`` file of its outputs on the test split.
        simulated: Against the student with the rounding that quantization-aware training simulated; ``None``: it did not
            simulate this file.
    """

    artifact: Artifact
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    metric: Metric
    parity: Parity
    dtypes: dict[str, float]
    logits: Path | None = None
    simulated: Parity | None = None


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
        ExportError: A file does not load or run in its runtime, is not the one that was made, has other outputs than the
            student, or gives NaN; or the student has other classes than the data.
    """
    labels = student.spec.outputs[0].labels
    if labels != data.classes:
        raise ExportError(
            f"the student's classes are not the data's: {_first_other(labels or (), data.classes)}",
            "a file whose labels are wrong is worse than none: train the student on this data",
        )
    return {name: _verify(artifact, data, student, workspace) for name, artifact in artifacts.items()}


def _first_other(labels: tuple[str, ...], classes: tuple[str, ...]) -> str:
    for index, (found, expected) in enumerate(zip(labels, classes, strict=False)):
        if found != expected:
            return f"output {index} is '{found}', class {index} is '{expected}'"
    return f"{len(labels)} labels, {len(classes)} classes"


def _verify(artifact: Artifact, data: Dataset, student: TrainedModel, workspace: Workspace) -> Verified:
    test = data.splits.test
    simulation = student.simulation if FLAVOURS[artifact.name].simulated and artifact.activations == "static" else None
    if not artifact.path.is_file() or sha256_file(artifact.path) != artifact.sha256:
        raise ExportError(f"{artifact.path} is not the file that was made: its SHA-256 is another", "run again to make it anew")

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            extremes = extreme_samples(data, Path(scratch))
            every = np.arange(EXTREMES, dtype=np.int64)
            described = run_in_child(
                "edgekd.evaluate:evaluate_file",
                {
                    "path": str(artifact.path), "kind": artifact.format, "spec": student.spec.to_json(),
                    "sets": [
                        sample_set(data, test, Path(scratch, "test.npy"), folder / TEST_LOGITS),
                        sample_set(extremes, every, Path(scratch, "every.npy"), Path(scratch, "extreme_logits.npy")),
                    ],
                },
                log=workspace.log,
            )  # fmt: skip
            outputs = np.load(folder / TEST_LOGITS, allow_pickle=False)
            at_extremes = np.load(Path(scratch, "extreme_logits.npy"), allow_pickle=False)
            reference = np.load(student.test_logits, allow_pickle=False)
            there = predict(load(student.spec, student.weights), student.spec, extremes, every)
        _check_outputs(artifact, outputs, reference, "test samples")
        sane = np.isfinite(there).all(1)
        _check_outputs(artifact, at_extremes[sane], there[sane], "extreme inputs")
        parity = measure_parity(outputs, reference, (at_extremes[sane], there[sane]) if sane.any() else None)
        metric = asdict(top1(outputs, data.labels[test]))
        result = {**described, "metric": metric, "parity": asdict(parity), "simulated": None}
        if simulation is not None:
            result["simulated"] = asdict(measure_parity(outputs, np.load(simulation.test_logits, allow_pickle=False)))
        return result

    inputs = {"artifact": artifact.sha256, "data": data.digest, "student": student.digest}
    if simulation is not None:
        inputs["simulation"] = simulation.digest
    stage = workspace.stage(
        f"verify-{artifact.name}", f"{len(test):,} test samples in {artifact.runtime}", inputs, work, _describe
    )
    result = stage.result
    metric = result["metric"]
    return Verified(
        artifact, result["inputs"], result["outputs"],
        Metric(metric["name"], metric["value"], tuple(metric["ci95"]), metric["n"]),
        Parity(**result["parity"]), result["dtypes"], stage.path(TEST_LOGITS),
        None if result["simulated"] is None else Parity(**result["simulated"]),
    )  # fmt: skip


def sample_set(data: Dataset, indices: NDArray[np.int64], listed: Path, out: Path) -> dict[str, Any]:
    """Return samples as :func:`edgekd.evaluate.run_sets` takes them; writes their ``indices`` to ``listed``."""
    np.save(listed, indices, allow_pickle=False)
    raw = {name: {"path": str(each.path), "full_scale": each.full_scale} for name, each in data.raw.items()}
    return {"raw": raw, "indices": str(listed), "out": str(out)}


def _check_outputs(artifact: Artifact, outputs: NDArray[np.float32], reference: NDArray[np.float32], where: str) -> None:
    if outputs.shape != reference.shape:
        raise ExportError(f"{artifact.path} gives outputs of shape {outputs.shape}, the student {reference.shape}")
    bad = int((~np.isfinite(outputs)).any(1).sum())
    if bad:
        raise ExportError(
            f"{artifact.path} gives NaN or infinity on {bad} of {len(outputs)} {where}",
            "a 16-bit float ends at 65,504: look for larger weights, or leave this file out of export.artifacts",
        )


def _describe(result: dict[str, Any]) -> str:
    simulated = "" if result["simulated"] is None else f", with its simulation on {result['simulated']['agreement']:.2%}"
    return f"top-1 {result['metric']['value']:.2%}, agrees with PyTorch on {result['parity']['agreement']:.2%}{simulated}"


def check_gates(
    recipe: Recipe, teacher: Teacher | None, student: TrainedModel, verified: dict[ArtifactName, Verified],
    classes: Mapping[ArtifactName, PerClass] | None = None,
) -> list[Gate]:  # fmt: skip
    """Return every gate of the recipe for every artifact, passed or not.

    Args:
        recipe: Its gates.
        teacher: What the student imitated, if anything.
        student: What the artifacts were made from.
        verified: What is true of them.
        classes: What each lost per class, see :func:`edgekd.per_class.cost_per_class`; needed for ``gates.max_class_drop``.

    Raises:
        UsageError: A drop from the teacher is limited, and there is none.
    """
    check_gates_possible(recipe)
    return [gate for each in verified.values() for gate in _gates(recipe.gates, teacher, student, each, classes or {})]


def _gates(
    limits: Gates, teacher: Teacher | None, student: TrainedModel, each: Verified, classes: Mapping[ArtifactName, PerClass]
) -> list[Gate]:
    name, precision = each.artifact.name, each.artifact.precision
    gates = []

    def at_most(what: str, limit: float, value: float) -> None:
        gates.append(Gate(f"{name} {what}", name, limit, value, value <= limit + 1e-9))

    def at_least(what: str, limit: float, value: float) -> None:
        gates.append(Gate(f"{name} {what}", name, limit, value, value >= limit - 1e-9))

    parity = each.parity
    if precision.startswith("int"):
        if each.simulated is None:
            at_least("top-1 agreement", limits.int8_agreement, parity.agreement)
        else:
            parity = each.simulated  # what the student was trained to be in integers
            at_least("top-1 agreement with its simulation", limits.qat_agreement, parity.agreement)
        at_most("metric drop in points", limits.int8_max_drop, 100 * (_undamaged(student) - each.metric.value))
        int8, int4 = each.dtypes["int8_weights"], 2 * each.dtypes["int4_weights"]  # as if each weight in 4 bits had 8
        what = "int8 and int4" if precision == "int4" else "int8"
        at_least(f"{what} share of weight bytes", limits.int8_weight_share, (int8 + int4) / (1 + int4 / 2))
        if precision == "int4":
            at_least("int4 share of weights in integers", _INT4_SHARE, int4 / max(int8 + int4, 1e-9))
        at_least("signal to noise of the worst output in dB", limits.int8_sqnr_db, parity.sqnr_db)
        at_most("change of scale of the outputs", limits.int8_gain_error, abs(parity.gain - 1))
        at_most("offset of the outputs / output range", limits.int8_max_offset, abs(parity.offset))
    else:
        limit = limits.fp32_max_error if precision == "fp32" else limits.fp16_max_error
        at_most("max error / output range", limit, parity.relative_error)
        if parity.extreme_error is not None:
            lenience = _EXTREME_LENIENCE if precision == "fp16" else 1
            at_most("max error on extreme inputs / output range", lenience * limit, parity.extreme_error)
        if precision == "fp16":
            at_least("top-1 agreement", limits.fp16_agreement, parity.agreement)
        at_least(f"{precision} share of weight bytes", limits.float_weight_share, each.dtypes[f"{precision}_weights"])
    if limits.max_teacher_drop is not None and teacher is not None:
        at_most("drop from teacher in points", limits.max_teacher_drop, 100 * (teacher.metric.value - each.metric.value))
    if limits.max_class_drop is not None:
        worst = classes[name].ranked[0]
        at_most(f"drop of class '{worst.name}' in points", limits.max_class_drop, worst.drop or 0.0)
    if limits.max_size_kib is not None:
        at_most("size in KiB", limits.max_size_kib, each.artifact.path.stat().st_size / 1024)
    return gates


def _undamaged(student: TrainedModel) -> float:
    """Return the student's metric, or that from before quantization-aware training, if the training did harm."""
    return max(student.metric.value, student.simulation.before.value if student.simulation is not None else 0.0)
