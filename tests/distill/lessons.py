"""Small students and batches for tests of lessons."""

import numpy as np
import torch

from edgekd.data.dataset import Dataset
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Student
from edgekd.distill.trainer import tensors
from edgekd.models.spec import build
from edgekd.models.tensors import classifier


def student_of(data: Dataset, seed: int = 0, model: str = "zoo:shallow_cnn") -> Student:
    """Return a fresh network for ``data``."""
    spec = classifier(model, data.inputs, data.classes)
    torch.manual_seed(seed)
    return Student(build(spec).train(), spec)


def batch_of(data: Dataset, start: int = 0, size: int = 32, epoch: int = 0, progress: float = 0.0) -> Batch:
    """Return training samples ``start`` to ``start + size``, not augmented."""
    indices = data.splits.train[start : start + size]
    inputs = tensors(data.batch(indices))
    return Batch(np.asarray(indices), epoch, progress, epoch, inputs, torch.from_numpy(data.labels[indices]))
