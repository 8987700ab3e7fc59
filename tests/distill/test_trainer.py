"""The training loop: that it learns, that stopping anywhere changes nothing, and what it does when a loss breaks."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.losses import kd
from edgekd.distill.processes import join_processes
from edgekd.distill.trainer import Augmentations, Trained, predict, step_seed, train
from edgekd.errors import Interrupted, ModelError
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.progress import Silent
from edgekd.recipe import Augment, Training
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import top1
from tests.digits_data import digits_data

TRAINING = Training(epochs=3, batch_size=64, learning_rate=5e-3, layout="channels_last", precision="fp32")
AUGMENT = Augment(crop_padding=1, flip=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(2)
    return digits_data(tmp_path_factory.mktemp("digits"))


def _spec(data: Dataset) -> ModelSpec:
    return classifier("zoo:shallow_cnn", data.inputs, data.classes)


def _fresh(data: Dataset) -> Student:
    torch.manual_seed(1)
    return Student(build(_spec(data)), _spec(data))


class Taught(Lesson):
    """Learns from labels, and from a teacher that always says class 0, by a weight that is chosen."""

    def __init__(self, student: Student, stop_at: int | None = None, breaks: bool = False) -> None:
        super().__init__({"student": student})
        self.adapter = nn.Linear(10, 10)  # trains with the student, as the adapters of feature losses do
        self.steps, self.stop_at, self.breaks = 0, stop_at, breaks

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self.steps += 1
        if self.steps == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        logits = self.logits("student", batch)
        adapted = self.adapter(logits)
        teacher = torch.zeros_like(logits)
        teacher[:, 0] = 1
        soft = kd(adapted, teacher, 2.0)
        if self.breaks and self.steps == 5:
            soft = soft * float("nan")
        return {"cross_entropy": self.cross_entropy(logits, batch), "kd": soft}, {"kd": logits}

    def weighting(self) -> Weighting:
        return Weighting({"cross_entropy": 1.0, "kd": None}, {"kd": 0.1})


def _train(
    data: Dataset, folder: Path, training: Training = TRAINING, stop_at: int | None = None, lesson: Lesson | None = None
) -> tuple[Lesson, Trained]:
    """Train from scratch or checkpoint; with ``stop_at``, get SIGINT in that step."""
    taught = lesson or Taught(_fresh(data), stop_at)
    with stop_signals():
        trained = train(taught, data, training, Augmentations(AUGMENT, 7), 7, folder, Silent(), join_processes())
    return taught, trained


def _equal(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_step_seeds_differ() -> None:
    assert len({step_seed(0, epoch, step) for epoch in range(20) for step in range(50)}) == 1000


def test_training_learns(data: Dataset, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 8, "batch_size": 32, "learning_rate": 1e-2})
    student = _fresh(data)
    _, trained = _train(data, tmp_path, training, lesson=Lesson({"student": student}))
    held_out = data.splits.validation
    reached = top1(predict(student.module, student.spec, data, held_out), data.labels[held_out]).value
    assert reached > 0.8
    assert trained.history[-1]["validation"] == reached
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]


SGD = TRAINING.model_copy(update={"optimizer": "sgd", "learning_rate": 0.05})
MANY = TRAINING.model_copy(update={"ema": 0.9, "early_stopping": 2, "clip_norm": 1.0, "mixup": 0.3, "schedule": "cosine"})


@pytest.mark.parametrize("stop_at", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("training", [TRAINING, SGD, MANY], ids=["plain", "sgd", "with everything"])
def test_a_stopped_training_resumes_to_the_same_bits(data: Dataset, tmp_path: Path, training: Training, stop_at: int) -> None:
    whole, told = _train(data, tmp_path / "whole", training)
    with pytest.raises(Interrupted) as stopped:
        _train(data, tmp_path / "parts", training, stop_at=stop_at)
    assert stopped.value.exit_code == 130
    assert (tmp_path / "parts" / "checkpoint.safetensors").is_file()
    resumed, told_after = _train(data, tmp_path / "parts", training)
    assert _equal(resumed, whole)
    assert told_after == told


def test_bfloat16_trains_and_repeats(data: Dataset, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 1, "batch_size": 128, "precision": "bf16"})
    assert _equal(_train(data, tmp_path / "a", training)[0], _train(data, tmp_path / "b", training)[0])


def test_a_term_that_becomes_nan_is_named_and_its_batch_is_kept(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"diverged: kd became NaN or infinite in epoch 1 of 3, step 5") as error:
        _train(data, tmp_path, lesson=Taught(_fresh(data), breaks=True))
    assert "learning_rate" in str(error.value)
    with np.load(tmp_path / "bad_batch.npz", allow_pickle=False) as saved:
        assert set(saved["indices"]) <= set(data.splits.train)
        assert saved["input_image"].shape == (64, 1, 8, 8)
        np.testing.assert_array_equal(saved["target"], data.labels[saved["indices"]])


def test_weights_are_an_average_over_the_last_steps(data: Dataset, tmp_path: Path) -> None:
    """Against an average taken by hand after every step."""
    decay, expected = 0.8, dict[str, Tensor]()

    class Watched(Lesson):
        def after_step(self) -> None:
            for name, each in self.networks["student"].named_parameters():
                before = expected.get(name)
                value = each.detach().clone()
                expected[name] = value if before is None else decay * before + (1 - decay) * value

    student = _fresh(data)
    _train(data, tmp_path, TRAINING.model_copy(update={"ema": decay}), lesson=Watched({"student": student}))
    for name, each in student.module.named_parameters():
        torch.testing.assert_close(each, expected[name])


def test_early_stopping_ends_with_the_best_weights(data: Dataset, tmp_path: Path) -> None:
    # A learning rate that destroys what was learnt: some epoch before the last is the best.
    training = TRAINING.model_copy(update={"epochs": 30, "early_stopping": 2, "learning_rate": 1.0, "schedule": "cosine"})
    student = _fresh(data)
    _, trained = _train(data, tmp_path, training, lesson=Lesson({"student": student}))
    reached = [each["validation"] for each in trained.history]
    assert len(reached) < 30
    assert reached.index(max(reached)) == len(reached) - 3
    held_out = data.splits.validation
    assert top1(predict(student.module, student.spec, data, held_out), data.labels[held_out]).value == max(reached)


def test_gradients_are_clipped(data: Dataset, tmp_path: Path) -> None:
    norms = []

    class Watched(Lesson):
        def after_step(self) -> None:
            gradients = [each.grad.norm() for each in self.parameters() if each.grad is not None]
            norms.append(float(torch.stack(gradients).norm()))

    training = TRAINING.model_copy(update={"clip_norm": 0.05, "epochs": 1})
    _train(data, tmp_path, training, lesson=Watched({"student": _fresh(data)}))
    assert max(norms) <= 0.05 + 1e-6


@pytest.mark.parametrize("change", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_mixed_samples_have_mixed_targets(data: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    seen = []

    class Watched(Lesson):
        def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            seen.append(batch)
            return super().forward(batch)

    _train(data, tmp_path, TRAINING.model_copy(update={**change, "epochs": 1}), lesson=Watched({"student": _fresh(data)}))
    for batch in seen:
        assert batch.target.shape == (64, 10)
        torch.testing.assert_close(batch.target.sum(1), torch.ones(64))
        own = batch.target[torch.arange(64), torch.from_numpy(data.labels[batch.indices])]
        assert float(own.min()) >= 0
    assert any(0.02 < float(batch.target.max(1).values.min()) < 0.98 for batch in seen)


def test_a_wild_weight_given_by_hand_is_warned_about(data: Dataset, tmp_path: Path) -> None:
    class Wild(Taught):
        def weighting(self) -> Weighting:
            return Weighting({"cross_entropy": 1.0, "kd": 1e5}, {"kd": 3.0})

    _, trained = _train(data, tmp_path, TRAINING.model_copy(update={"epochs": 1, "clip_norm": 1.0}), lesson=Wild(_fresh(data)))
    assert len(trained.warnings) == 1
    assert "kd of weight 100000 has a gradient" in trained.warnings[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_to_the_same(data: Dataset, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 1})
    plain, told = _train(data, tmp_path / "plain", training)
    compiled, told_too = _train(data, tmp_path / "compiled", training.model_copy(update={"compile": True}))
    assert list(plain.state_dict()) == list(compiled.state_dict())
    assert told_too.history[0]["loss"] == pytest.approx(told.history[0]["loss"], rel=1e-3)
