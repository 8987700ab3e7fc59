"""The training loop: its schedule, that it learns, and that stopping anywhere changes nothing."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.losses import cross_entropy
from edgekd.distill.trainer import one_cycle, predict, step_seed, train
from edgekd.errors import Interrupted, ModelError
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.progress import Silent
from edgekd.recipe import Augment, Training
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import top1
from tests.digits_data import digits_data

TRAINING = Training(epochs=3, batch_size=64, learning_rate=5e-3)
AUGMENT = Augment(crop_padding=1, flip=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(2)
    return digits_data(tmp_path_factory.mktemp("digits"))


def _spec(data: Dataset) -> ModelSpec:
    return classifier("zoo:shallow_cnn", data.inputs, data.classes)


def _loss(_inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return cross_entropy(outputs["logits"], target)


def _fresh(spec: ModelSpec) -> nn.Module:
    torch.manual_seed(1)
    return build(spec)


def _train(data: Dataset, folder: Path, training: Training = TRAINING, stop_at: int | None = None) -> nn.Module:
    """Train from scratch or checkpoint; with ``stop_at``, get SIGINT after that many steps."""
    spec = _spec(data)
    model = _fresh(spec)
    steps = 0

    def loss(inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            signal.raise_signal(signal.SIGINT)
        return _loss(inputs, outputs, target)

    with stop_signals():
        train(model, spec, data, training, AUGMENT, loss, 7, folder, Silent())
    return model


def _equal(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_one_cycle_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=50)
    for step in range(50):
        assert one_cycle(step, 50, 0.02) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < 49:
            reference.step()


@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_one_cycle_stays_within_its_peak_for_very_short_runs(total: int) -> None:
    assert all(0 < one_cycle(step, total, 0.1) <= 0.1 for step in range(total))


def test_step_seeds_differ() -> None:
    assert len({step_seed(0, epoch, step) for epoch in range(20) for step in range(50)}) == 1000


def test_training_learns(data: Dataset, tmp_path: Path) -> None:
    model = _train(data, tmp_path, Training(epochs=8, batch_size=32, learning_rate=1e-2))
    held_out = data.splits.validation
    assert top1(predict(model, _spec(data), data, held_out), data.labels[held_out]).value > 0.8


@pytest.mark.parametrize("stop_at", [1, 5, 16, 17, 40])
def test_a_stopped_training_resumes_to_the_same_bits(data: Dataset, tmp_path: Path, stop_at: int) -> None:
    whole = _train(data, tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        _train(data, tmp_path / "parts", stop_at=stop_at)
    assert stopped.value.exit_code == 130
    assert (tmp_path / "parts" / "checkpoint.safetensors").is_file()
    assert _equal(_train(data, tmp_path / "parts"), whole)


def test_bfloat16_trains_and_repeats(data: Dataset, tmp_path: Path) -> None:
    training = Training(epochs=1, batch_size=128, precision="bf16")
    assert _equal(_train(data, tmp_path / "a", training), _train(data, tmp_path / "b", training))


def test_divergence_is_an_error_with_advice(data: Dataset, tmp_path: Path) -> None:
    def broken(_inputs: dict[str, Tensor], outputs: dict[str, Tensor], _target: Tensor) -> Tensor:
        return outputs["logits"].sum() * float("nan")

    with pytest.raises(ModelError, match=r"diverged.*epoch 1 of 3") as error:
        train(_fresh(_spec(data)), _spec(data), data, TRAINING, AUGMENT, broken, 7, tmp_path, Silent())
    assert "learning_rate" in str(error.value)
