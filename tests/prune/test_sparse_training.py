"""Weights that are zero stay exactly zero through whatever is trained and rounded after."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.batch import Batch
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.trainer import Augmentations, train
from edgekd.errors import Interrupted
from edgekd.models.spec import build
from edgekd.progress import Silent
from edgekd.prune.sparse_masks import keep_zeros
from edgekd.prune.sparse_stage import zero_model
from edgekd.prune.sparsity import check_pattern, parse_sparsity
from edgekd.quantize.qat.graph import rounded_weights
from edgekd.quantize.qat.stage import simulated
from edgekd.quantize.weights.folding import Layer
from edgekd.quantize.weights.rounding import learn_rounding
from edgekd.recipe import Augment, Training
from edgekd.safe.stop import stop_signals
from tests.digits_data import digits_data
from tests.distill.lessons import student_of

ADAMW = Training(epochs=2, batch_size=64, learning_rate=5e-3, layout="channels_last", precision="fp32", weight_decay=0.05)
MANY = ADAMW.model_copy(update={"ema": 0.9, "early_stopping": 2, "clip_norm": 1.0})
SGD = ADAMW.model_copy(update={"optimizer": "sgd", "learning_rate": 0.05})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(1)
    return digits_data(tmp_path_factory.mktemp("digits"))


def _sparse(data: Dataset, sparsity: str) -> tuple[Student, tuple[str, ...]]:
    """Return a student with zeros, the layers that have them, and nothing that keeps them yet."""
    student = student_of(data)
    made = zero_model(student.module, student.spec, parse_sparsity(sparsity))
    return student, tuple(made.layers)


class _Stopped(Lesson):
    """Gets SIGINT in its step ``stop_at``."""

    def __init__(self, student: Student, stop_at: int | None) -> None:
        super().__init__({"student": student})
        self.steps, self.stop_at = 0, stop_at

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self.steps += 1
        if self.steps == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return super().forward(batch)


def _trained(data: Dataset, folder: Path, training: Training, stop_at: int | None = None) -> dict[str, Tensor]:
    student, layers = _sparse(data, "2:4")
    lesson = _Stopped(Student(keep_zeros(student.module, layers), student.spec), stop_at)
    with stop_signals():
        train(lesson, data, training, Augmentations(Augment(), 7), 7, folder, Silent(), join_processes())
    return student.module.state_dict()


@pytest.mark.parametrize("training", [ADAMW, MANY, SGD], ids=["adamw", "with everything", "sgd"])
def test_training_keeps_them_and_resumes_to_the_same_bits(data: Dataset, tmp_path: Path, training: Training) -> None:
    start, layers = _sparse(data, "2:4")
    before = {name: each.clone() for name, each in start.module.state_dict().items()}
    whole = _trained(data, tmp_path / "whole", training)
    for layer in layers:
        old, new = before[f"{layer}.weight"], whole[f"{layer}.weight"]
        assert bool((new[old == 0] == 0).all()) and bool((new[old != 0] != 0).all())
        assert check_pattern(new, (2, 4)) == (new.numel() // 2, 0)
        assert not torch.equal(old, new)
    with pytest.raises(Interrupted):
        _trained(data, tmp_path / "parts", training, stop_at=20)
    resumed = _trained(data, tmp_path / "parts", training)
    assert all(torch.equal(resumed[name], each) for name, each in whole.items())


def test_without_being_kept_they_are_lost(data: Dataset, tmp_path: Path) -> None:
    """The test above can fail."""
    student, layers = _sparse(data, "2:4")
    lesson = Lesson({"student": student})
    train(
        lesson,
        data,
        ADAMW.model_copy(update={"epochs": 1}),
        Augmentations(Augment(), 7),
        7,
        tmp_path,
        Silent(),
        join_processes(),
    )
    assert all(check_pattern(student.module.state_dict()[f"{each}.weight"], (2, 4))[1] > 0 for each in layers)


def test_simulated_rounding_keeps_them(data: Dataset) -> None:
    student, layers = _sparse(data, "0.7")
    zero = {each: student.module.state_dict()[f"{each}.weight"] == 0 for each in layers}
    network = keep_zeros(simulated(student.module, student.spec, data, data.splits.train[:32]), layers)
    network.train()
    optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], lr=1e-2, weight_decay=0.1)
    images = torch.from_numpy(data.batch(data.splits.train[:64])["image"])
    labels = torch.from_numpy(data.labels[data.splits.train[:64]])
    before = {each: network.get_parameter(f"{each}.weight").detach().clone() for each in layers}
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    rounded = rounded_weights(network)  # type: ignore[arg-type]
    for layer, mask in zero.items():
        trained = network.get_parameter(f"{layer}.weight").detach()
        assert bool((trained[mask] == 0).all()) and bool((rounded[f"{layer}.weight"][mask] == 0).all())
        assert not torch.equal(trained, before[layer])


def test_learned_rounding_keeps_them() -> None:
    """A step of a weight on a weaker copy of an input would mend what rounding did to the weight on the input itself."""
    torch.manual_seed(0)
    module = nn.Linear(16, 8, bias=False)
    with torch.no_grad():
        module.weight[:, :8] = 0
    inputs = torch.randn(64, 8)
    learned = learn_rounding(Layer("it", module), torch.cat([0.4 * inputs, inputs], 1), seed=0)
    assert bool((learned[:, :8] == 0).all()) and bool((learned[:, 8:] != 0).any())


def test_names_of_layers_are_those_of_the_network(data: Dataset) -> None:
    with pytest.raises(AttributeError):
        keep_zeros(build(student_of(data).spec), ("nowhere",))
