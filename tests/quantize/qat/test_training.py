"""Training under rounding: it resumes to the same bits, and it mends what rounding broke."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.trainer import Augmentations, predict, train
from edgekd.errors import Interrupted
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.progress import Silent
from edgekd.quantize.calibration import calibration_order
from edgekd.quantize.qat.stage import simulated
from edgekd.recipe import Augment, Training
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import top1
from tests.digits_data import digits_data

FLOAT = Training(epochs=6, batch_size=32, learning_rate=1e-2, layout="channels_last", precision="fp32")
ROUNDED = Training(
    epochs=2, batch_size=64, learning_rate=1e-3, schedule="cosine", layout="channels_last", precision="fp32", weight_decay=0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a network that knows the digits, in floating point."""
    torch.manual_seed(1)
    student = Student(build(_spec(data)), _spec(data))
    _train(data, tmp_path_factory.mktemp("float"), Lesson({"student": student}), FLOAT)
    return dict(student.module.state_dict())


def _spec(data: Dataset) -> ModelSpec:
    return classifier("zoo:shallow_cnn", data.inputs, data.classes)


def _train(data: Dataset, folder: Path, lesson: Lesson, training: Training = ROUNDED) -> None:
    with stop_signals():
        train(lesson, data, training, Augmentations(Augment(crop_padding=1), 7), 7, folder, Silent(), join_processes())


def _rounded(data: Dataset, weights: dict[str, Tensor]) -> Student:
    spec = _spec(data)
    model = build(spec)
    model.load_state_dict(weights)
    return Student(simulated(model, spec, data, calibration_order(data.splits.train, data.labels, 0)[:64]), spec)


class _Stopped(Lesson):
    """Gets SIGINT in its eleventh step, in the first epoch."""

    steps = 0

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self.steps += 1
        if self.steps == 11:
            signal.raise_signal(signal.SIGINT)
        return super().forward(batch)


def test_a_stopped_training_resumes_to_the_same_bits(data: Dataset, trained: dict[str, Tensor], tmp_path: Path) -> None:
    whole = Lesson({"student": _rounded(data, trained)})
    before = {name: each.clone() for name, each in whole.state_dict().items()}
    _train(data, tmp_path / "whole", whole)
    with pytest.raises(Interrupted):
        _train(data, tmp_path / "parts", _Stopped({"student": _rounded(data, trained)}))
    resumed = Lesson({"student": _rounded(data, trained)})
    _train(data, tmp_path / "parts", resumed)
    state = whole.state_dict()
    assert all(torch.equal(state[name], each) for name, each in resumed.state_dict().items())
    moved = {name for name, each in state.items() if not torch.equal(each, before[name])}
    assert "networks.student.fake_quantizers.linear.growth" in moved
    assert "networks.student.classifier.weight" in moved


def _with_spread_channels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the same function whose channels of the first two layers differ three hundredfold in size."""
    state = {name: each.clone() for name, each in weights.items()}
    for layer, channels in ((0, 8), (1, 16)):
        factors = torch.logspace(0, 2.5, channels)
        for name in ("weight", "bias"):
            state[f"features.{layer}.1.{name}"] *= factors
        state[f"features.{layer + 1}.0.weight"] /= factors.reshape(1, -1, 1, 1)
    return state


def test_training_mends_what_rounding_breaks(data: Dataset, trained: dict[str, Tensor], tmp_path: Path) -> None:
    held_out = data.splits.validation

    def accuracy(module: nn.Module) -> float:
        return top1(predict(module, _spec(data), data, held_out), data.labels[held_out]).value

    spread = _with_spread_channels(trained)
    model = build(_spec(data))
    model.load_state_dict(spread)
    exact = accuracy(model)
    student = _rounded(data, spread)
    broken = accuracy(student.module)
    training = ROUNDED.model_copy(update={"epochs": 6})
    _train(data, tmp_path, Lesson({"student": student}), training)
    mended = accuracy(student.module)
    assert exact > 0.85
    assert broken < exact - 0.15
    assert mended > exact - 0.1
