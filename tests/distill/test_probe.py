"""Which way to train is tried out where it pays, kept in the journal, and not left to luck."""

from pathlib import Path

import pytest
import torch

from edgekd.data.dataset import Dataset
from edgekd.distill import probe
from edgekd.distill.probe import Way, settled
from edgekd.models.spec import call
from edgekd.models.tensors import classifier
from edgekd.progress import Silent
from edgekd.recipe import Training
from edgekd.workspace import open_workspace
from tests.digits_data import digits_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def _settled(data: Dataset, folder: Path, training: Training) -> tuple[str, str, list[str]]:
    spec = classifier("zoo:shallow_cnn", data.inputs, data.classes)
    with open_workspace(folder, Silent()) as workspace:
        found = settled(training, spec, data, 1, workspace)
        return found.precision, found.layout, workspace.redone


def test_a_short_training_is_not_worth_a_trial(data: Dataset, tmp_path: Path) -> None:
    assert _settled(data, tmp_path, Training()) == ("fp32", "channels_last", [])


def test_what_is_given_is_kept(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WORTH_MACS", 0.0)
    training = Training(precision="bf16", layout="contiguous")
    assert _settled(data, tmp_path, training) == ("bf16", "contiguous", [])


def test_a_long_training_is_tried_once_and_remembered(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WORTH_MACS", 0.0)
    precision, layout, redone = _settled(data, tmp_path, Training())
    assert redone == ["probe"]
    assert _settled(data, tmp_path, Training()) == (precision, layout, [])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"bf16": 0.5}, ("bf16", "channels_last")),
        ({"bf16": 0.95}, ("fp32", "channels_last")),  # faster, but not clearly
        ({"contiguous": 0.5}, ("fp32", "contiguous")),
        ({"bf16": 2.0, "contiguous": 3.0}, ("fp32", "channels_last")),
    ],
)
def test_the_clearly_fastest_way_wins(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], expected: tuple[str, str]
) -> None:
    def timed(way: Way, *_: object) -> float:
        return seconds.get(way.precision, 1.0) * seconds.get(way.layout, 1.0)

    monkeypatch.setattr(probe, "_WORTH_MACS", 0.0)
    monkeypatch.setattr(probe, "_seconds_per_step", timed)
    assert _settled(data, tmp_path, Training())[:2] == expected


def test_a_trial_trains_in_the_precision_it_says(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = call

    def watched(model: torch.nn.Module, *rest: object) -> dict[str, torch.Tensor]:
        found = real(model, *rest)  # type: ignore[arg-type]
        seen.append(found["logits"].dtype)
        return found

    monkeypatch.setattr(probe, "call", watched)
    spec = classifier("zoo:shallow_cnn", data.inputs, data.classes)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen.clear()
        assert probe._seconds_per_step(Way(precision, "channels_last"), Training(), spec, data, 1.0) > 0
        assert set(seen) == {dtype}
