"""What a run measured, as values and as ``report.json`` (schema 1)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import __version__
from edgekd.artifacts import file_name, files_beside
from edgekd.benchmark.stages import Latency
from edgekd.benchmark.target_stage import OnTarget
from edgekd.devices.profiles import usable_cores
from edgekd.distill.control import Control
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import TrainedModel
from edgekd.flavours import ArtifactName
from edgekd.parity import Parity
from edgekd.per_class import PerClass
from edgekd.prune.sparse_proof import FileZeros
from edgekd.quantize.qat.simulation import Simulation
from edgekd.recipe import Recipe
from edgekd.report.distillation import method
from edgekd.tasks.classification import Metric
from edgekd.verify import Gate, Verified
from edgekd.versions import library_versions, source_digest

SCHEMA = 1


@dataclass(frozen=True)
class MeasuredArtifact:
    """One file of the report.

    Attributes:
        verified: What is true of the file.
        latency: By target.
        folder: ``artifacts``, or ``rejected`` if it missed a gate.
        size_bytes: Of the file.
        per_class: What each class lost.
        zeros: Its weights that are zero, if some were to be.
    """

    verified: Verified
    latency: Latency
    folder: str
    size_bytes: int
    per_class: PerClass | None = None
    zeros: FileZeros | None = None

    @property
    def name(self) -> ArtifactName:
        """For example ``tflite-int8``."""
        return self.verified.artifact.name

    @property
    def relative_path(self) -> str:
        """Path under the run folder."""
        return f"{self.folder}/{file_name(self.name)}"

    @property
    def files(self) -> dict[str, Path]:
        """The file and those that belong to it: where its stage left each, by path under the run folder."""
        artifact = self.verified.artifact
        names = (file_name(self.name), *files_beside(self.name))
        return {f"{self.folder}/{name}": path for name, path in zip(names, (artifact.path, *artifact.beside), strict=True)}


@dataclass(frozen=True)
class Report:
    """The result of a run.

    Attributes:
        recipe: What was asked for.
        folder: The run folder.
        teacher: What the student imitated; ``None`` where peers or the student itself taught.
        student: The network in the files.
        artifacts: Every file, in the order of the recipe.
        gates: Every promise, kept or not.
        counts: Images in the train, validation and test splits.
        threads: CPU threads that training used.
        redone: Stages that did their work in this run; the others were replayed.
        control: The student trained alone, if the recipe asked for it.
        targets: What is known of the files on every target.
    """

    recipe: Recipe
    folder: Path
    teacher: Teacher | None
    student: TrainedModel
    artifacts: tuple[MeasuredArtifact, ...]
    gates: tuple[Gate, ...]
    counts: dict[str, int]
    threads: int
    redone: tuple[str, ...]
    control: Control | None
    targets: tuple[OnTarget, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def html(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"

    @property
    def reference_bytes(self) -> int:
        """What ratios of size are to: the teacher's float32 size, or without one the student's own."""
        return (self.student if self.teacher is None else self.teacher).cost.size_bytes

    def path(self, name: ArtifactName) -> Path:
        """Return where the file of artifact ``name`` is.

        Raises:
            KeyError: The recipe did not ask for it.
        """
        return {each.name: self.folder / each.relative_path for each in self.artifacts}[name]

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``report.json`` has it."""
        student = _network(self.student)
        student["method"] = method(self.teacher, self.student.facts)
        student["compression_ratio"] = self.reference_bytes / self.student.cost.size_bytes
        return {
            "schema": SCHEMA,
            "status": "ok" if self.ok else "gate-missed",
            "name": self.recipe.name,
            "task": self.recipe.task,
            "seed": self.recipe.seed,
            "teacher": None if self.teacher is None else _teacher(self.teacher),
            "student": student,
            "distillation": self.student.facts,
            "quantization_aware_training": None if self.student.simulation is None else _simulation(self.student.simulation),
            **({} if self.student.pruning is None else {"pruning": self.student.pruning.to_json()}),
            "control": None if self.control is None else _control(self.control),
            "artifacts": [_artifact(each) for each in self.artifacts],
            "gates": [
                {"name": gate.name, "artifact": gate.artifact, "limit": gate.limit, "value": gate.value, "passed": gate.passed}
                for gate in self.gates
            ],
            "targets": [each.to_json() for each in self.targets],
            "data": {"source": self.recipe.data.source, **self.counts},
            "environment": {
                "edgekd": __version__,
                "source_sha256": source_digest(),
                "versions": library_versions(),
                "platform": platform.platform(),
                "machine": platform.machine(),
                "cpu": cpu_name(),
                "cores": usable_cores(),
                "training_threads": self.threads,
            },
        }


def _metric(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "value": metric.value, "ci95": list(metric.ci95), "n": metric.n}


def _network(model: TrainedModel | Teacher) -> dict[str, Any]:
    return {
        "name": model.name, "params": model.cost.params, "macs": model.cost.macs,
        "size_bytes": model.cost.size_bytes, "metric": _metric(model.metric),
    }  # fmt: skip


def _teacher(teacher: Teacher) -> dict[str, Any]:
    members = [
        {
            "model": each.source.model,
            "weight": each.source.weight,
            "trained_here": each.spec is not None,
            "notes": list(each.notes),
        }
        for each in teacher.members
    ]
    combined = teacher.combine if len(members) > 1 else None
    return {**_network(teacher), "validation": teacher.checked, "members": members, "combine": combined}


def _control(control: Control) -> dict[str, Any]:
    return {
        "metric": _metric(control.metric), "gain": control.gain, "ci95": list(control.ci95),
        "discordant": list(control.discordant),
    }  # fmt: skip


def _simulation(simulation: Simulation) -> dict[str, Any]:
    return {
        "before": _metric(simulation.before), "simulated": _metric(simulation.metric), "history": list(simulation.history),
        "training": simulation.facts,
    }  # fmt: skip


def _artifact(each: MeasuredArtifact) -> dict[str, Any]:
    verified = each.verified
    return {
        "path": each.relative_path,
        "format": verified.artifact.format,
        "precision": verified.artifact.precision,
        "flavour": verified.artifact.flavour or None,
        "activations": verified.artifact.activations,
        "quantization": verified.artifact.quantization,
        "size_bytes": each.size_bytes,
        "sha256": verified.artifact.sha256,
        "inputs": verified.inputs,
        "outputs": verified.outputs,
        "metric": _metric(verified.metric),
        "parity": _parity(verified.parity),
        "simulated_parity": None if verified.simulated is None else _parity(verified.simulated),
        "dtypes": verified.dtypes,
        "per_class": None if each.per_class is None else each.per_class.to_json(),
        **({} if each.zeros is None else {"zeros": each.zeros.to_json()}),
        "latency": each.latency,
    }  # fmt: skip


def _parity(parity: Parity) -> dict[str, Any]:
    return {
        "max_abs_error": parity.max_abs_error, "relative_error": parity.relative_error,
        "agreement": parity.agreement, "n": parity.n, "mean_abs_error": parity.mean_abs_error,
        "sqnr_db": parity.sqnr_db, "gain": parity.gain, "offset": parity.offset, "extreme_error": parity.extreme_error,
    }  # fmt: skip


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
