"""How good a quantized file is: run in its runtime on validation samples, against the labels and the PyTorch student.

The test split is not looked at: what is chosen by its figures would not be judged by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import VALIDATION_LOGITS
from edgekd.distill.trainer import predict
from edgekd.distill.training_stage import TrainedModel
from edgekd.models.spec import load
from edgekd.models.tensors import ModelSpec
from edgekd.parity import measure_parity
from edgekd.quantize.calibration import calibration_order
from edgekd.safe.child import run_in_child
from edgekd.safe.files import disk_errors, save_array
from edgekd.tasks.classification import top1
from edgekd.verify import sample_set
from edgekd.workspace import Workspace

MOST_SAMPLES = 2048
"""Validation samples that candidates are run on, at most, evenly from every class."""


@dataclass(frozen=True)
class Quality:
    """What a file does on validation samples.

    Attributes:
        top1: Share of samples that it gets right.
        drop: How many points of accuracy that is less than the student in PyTorch.
        agreement: Share of samples to which it gives the student's class.
        sqnr_db: Signal to quantization noise of the worst output, in dB.
        n: Number of samples.
        gain: What the outputs are scaled by.
        offset: What is added to all outputs alike, as a share of their range.
    """

    top1: float
    drop: float
    agreement: float
    sqnr_db: float
    n: int
    gain: float = 1.0
    offset: float = 0.0

    @property
    def noise(self) -> float:
        """Standard error of ``drop`` in points, from the samples to which file and student give other classes."""
        return float(100 * np.sqrt(max(1 - self.agreement, 1 / self.n) / self.n))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """What files are judged against.

    Attributes:
        data: The samples and their labels.
        spec: Of the student.
        indices: Which samples.
        logits: The student's outputs for them in PyTorch, a file of ``float32 [n, classes]``.
    """

    data: Dataset
    spec: ModelSpec
    indices: NDArray[np.int64]
    logits: Path


def validation_reference(data: Dataset, student: TrainedModel, seed: int, workspace: Workspace) -> Reference:
    """Run the student in PyTorch on the validation split, or on :data:`MOST_SAMPLES` of it evenly from every class."""
    indices = np.sort(calibration_order(data.splits.validation, data.labels, seed)[:MOST_SAMPLES])

    def work(folder: Path) -> dict[str, Any]:
        logits = predict(load(student.spec, student.weights), student.spec, data, indices)
        with disk_errors(folder):
            save_array(folder / VALIDATION_LOGITS, logits)
        return {"top1": top1(logits, data.labels[indices]).value}

    inputs = {"student": student.digest, "data": data.digest, "samples": indices.tolist()}
    what = f"the student in PyTorch on {len(indices):,} validation samples, to compare int8 files with"
    stage = workspace.stage("validation", what, inputs, work, lambda result: f"top-1 {result['top1']:.2%}")
    return Reference(data, student.spec, indices, stage.path(VALIDATION_LOGITS))


def measure_quality(files: Sequence[Path], kind: str, reference: Reference, folder: Path, log: Path) -> list[Quality]:
    """Run files one after the other in a child process, and return how good each is; one that does not run is worthless.

    Args:
        files: Of one format.
        kind: Which: ``onnx`` or ``tflite``.
        reference: What they are judged against.
        folder: For what passes between processes.
        log: File that gets what the runtime prints.

    Raises:
        ExportError: A file lacks an input or output of the student, or the runtime crashed.
    """
    outs = [folder / f"validation-{index}.npy" for index in range(len(files))]
    samples = sample_set(reference.data, reference.indices, folder / "validation.npy", outs[0])
    each = [{"path": str(path), "sets": [{**samples, "out": str(out)}]} for path, out in zip(files, outs, strict=True)]
    arguments = {"files": each, "kind": kind, "spec": reference.spec.to_json()}
    refused = run_in_child("edgekd.evaluate:evaluate_files", arguments, log=log)["refused"]
    labels = reference.data.labels[reference.indices]
    expected = np.load(reference.logits, allow_pickle=False)
    return [
        quality(np.load(out, allow_pickle=False), expected, labels) if why is None else worthless(expected, labels)
        for out, why in zip(outs, refused, strict=True)
    ]


def quality(outputs: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64]) -> Quality:
    """Judge outputs, ``[n, classes]``, by those of the student and the labels.

    Outputs that are not all finite are worth nothing, whatever the others are.
    """
    if not np.isfinite(outputs).all():
        return worthless(reference, labels)
    right = top1(reference, labels).value
    parity, value = measure_parity(outputs, reference), top1(outputs, labels).value
    return Quality(value, 100 * (right - value), parity.agreement, parity.sqnr_db, len(labels), parity.gain, parity.offset)


def worthless(reference: NDArray[np.float32], labels: NDArray[np.int64]) -> Quality:
    """Return the quality of a file that gives nothing of use; arguments are those of :func:`quality`."""
    return Quality(0.0, 100 * top1(reference, labels).value, 0.0, -200.0, len(labels), 0.0)
