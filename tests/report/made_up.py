"""A run that was never run: real forms of the report over made-up figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact
from edgekd.benchmark.stages import Latency
from edgekd.data.dataset import Dataset
from edgekd.distill.control import Control, paired_difference
from edgekd.distill.teacher import Member, Teacher
from edgekd.distill.training_stage import TrainedModel
from edgekd.flavours import ArtifactName
from edgekd.models.spec import Cost
from edgekd.models.tensors import classifier
from edgekd.per_class import PerClass
from edgekd.progress import Silent
from edgekd.recipe import Recipe, TeacherMember
from edgekd.report.publish import publish
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file
from edgekd.tasks.classification import Metric, proportion
from edgekd.verify import Parity, Verified, check_gates
from edgekd.workspace import open_workspace

N = 359


def term(name: str, weight: float, *, chosen: bool = True, temperature: float | None = None, ratio: float | None = None,
         layers: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:  # fmt: skip
    """Return the facts of one term, as a training leaves them."""
    return {
        "name": name, "weight": weight, "weight_chosen": chosen, "gradient_ratio": ratio, "temperature": temperature,
        "temperature_chosen": chosen and temperature is not None, "layers": [list(pair) for pair in layers],
    }  # fmt: skip


def facts(scheme: str, *terms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the facts of a training, as :class:`~edgekd.distill.training_stage.TrainedModel` has them."""
    alpha = None if scheme in {"online", "temporal"} else 1.0
    return {
        "scheme": scheme, "alpha": alpha, "terms": list(terms), "precision": "fp32", "layout": "channels_last", "epochs": 30,
        "soft_targets": None, "kept": "student", "warnings": [], **changes,
    }  # fmt: skip


def curve(start: float, end: float, **more: float) -> tuple[dict[str, float], ...]:
    """Return the history of a training whose validation accuracy rises from ``start`` to ``end``."""
    rise = 1 - np.exp(-np.arange(30) / 6)
    other = {key: start + (value - start) * rise for key, value in more.items()}
    return tuple(
        {"loss": float(1 - each), "validation": float(start + (end - start) * each)}
        | {f"validation {key.replace('_', '-')}": float(values[index]) for key, values in other.items()}
        for index, each in enumerate(rise)
    )


def some_control(only_distilled: int, only_alone: int) -> Control:
    """Return a control beside a student that is right on 345 of 359 samples."""
    both = 345 - only_distilled
    outcomes = np.repeat([0, 1, 2, 3], [both, only_distilled, only_alone, N - both - only_distilled - only_alone])
    distilled, alone = np.isin(outcomes, [0, 1]), np.isin(outcomes, [0, 2])
    gain, interval, discordant = paired_difference(distilled, alone)
    return Control(proportion("top1", int(alone.sum()), N), gain, interval, discordant, curve(0.2, float(alone.mean())))


def made_up_report(
    data: Dataset, folder: Path, recipe: Recipe, told: dict[str, Any], control: Control | None = None,
    history: tuple[dict[str, float], ...] = curve(0.2, 0.96), label_order: Sequence[dict[str, Any]] = (),
    classes: dict[ArtifactName, PerClass] | None = None,
) -> Report:  # fmt: skip
    """Publish a run of ``recipe`` on the digits, whose training left the facts ``told``, into ``folder``."""
    spec = classifier("zoo:shallow_cnn", data.inputs, data.classes)
    source = TeacherMember(model="zoo:digits_teacher")
    big = Cost(1_100_000, 9_000_000, 4_400_000)
    member = Member(source, spec, None, None, folder, "digest", big, curve(0.3, 0.99))
    checked = {
        "metric": {"name": "top1", "value": 0.99, "ci95": [0.97, 1.0], "n": 288}, "calibration_error": 0.01, "chance": 0.1,
        "probe": {"name": "top1", "value": 0.95, "ci95": [0.92, 0.97], "n": 288}, "label_order": list(label_order),
    }  # fmt: skip
    teacher = Teacher((member,), "mean_logits", proportion("top1", 354, N), False, checked)
    metric = proportion("top1", 345, N)
    student = TrainedModel(spec, folder, "digest", folder, Cost(9_000, 300_000, 36_000), metric, history, told)
    with open_workspace(folder, Silent()) as workspace:
        verified, latency = {}, {}
        for name in recipe.export.artifacts:
            verified[name] = _verified(name, folder / "stages", metric)
            latency[name] = _latency(name)
        taught = teacher if recipe.distill.has_teacher else None
        gates = check_gates(recipe, taught, student, verified, classes)
        return publish(recipe, data, taught, student, verified, gates, latency, 2, workspace, control=control, classes=classes)


def _verified(name: ArtifactName, folder: Path, metric: Metric) -> Verified:
    path = folder / name
    path.write_bytes(bytes(12_000 if "int8" in name else 38_000))
    given = {
        "name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8], "layout": "NCHW", "meaning": "image", "scale": None,
        "value_range": [0.0, 1.0], "mean": [0.5], "std": [0.5], "zero_point": None,
    }  # fmt: skip
    back = {
        "name": "logits", "dtype": "float32", "shape": ["batch", 10], "layout": "NC", "meaning": "logits", "scale": None,
        "zero_point": None,
    }  # fmt: skip
    kind = name.partition("-")[2]
    shares = {f"{each}_weights": float(each == kind) for each in ("int8", "int4", "fp16", "fp32")} | {
        "int8_ops": float(kind == "int8")
    }
    return Verified(Artifact(name, path, sha256_file(path)), [given], [back], metric, Parity(1e-5, 1e-6, 1.0, N), shares)


def _latency(name: ArtifactName) -> Latency:
    p50 = 0.02 if "int8" in name else 0.05
    return {target: {"kind": "measured", "p50_ms": p50 * share, "p90_ms": 1.3 * p50 * share}
            for target, share in (("host:1", 1.0), ("host:all", 0.7))}  # fmt: skip
