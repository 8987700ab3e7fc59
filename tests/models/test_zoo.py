"""The zoo: published parameter and MAC counts, and what holds for every network of it."""

import importlib
from pathlib import Path

import pytest
import torch

from edgekd.errors import ModelError
from edgekd.models.catalog import ZOO
from edgekd.models.spec import build, call, cost, load, save_weights
from edgekd.models.tensors import ModelSpec, classifier, image_input, spec_from_json


def _spec(name: str, size: int = 32, channels: int = 3, classes: int = 10) -> ModelSpec:
    labels = tuple(map(str, range(classes)))
    return classifier(f"zoo:{name}", (image_input((size, size, channels), (0.0,) * channels, (1.0,) * channels),), labels)


@pytest.mark.parametrize(
    ("name", "size", "channels", "params", "macs"),
    [
        # MLPerf Tiny: 78,666 with 2 x 240 batch-norm statistics; 12.5 M MACs.
        ("resnet8", 32, 3, 78_666 - 480, 12.5e6),
        # He et al., 2016, Table 6: 0.27 M and 0.85 M parameters.
        ("resnet20", 32, 3, 269_722, 40.6e6),
        ("resnet56", 32, 3, 853_018, 125.5e6),
        ("shallow_cnn", 8, 1, 5_026, 78_576),
        ("digits_teacher", 8, 1, 288_170, 2_379_008),
    ],
)
def test_costs_are_the_published_ones(name: str, size: int, channels: int, params: int, macs: float) -> None:
    spec = _spec(name, size, channels)
    counted = cost(build(spec), spec)
    assert counted.params == params
    assert counted.macs == pytest.approx(macs, rel=0.005)


@pytest.mark.parametrize("name", ZOO)
def test_every_network_builds_saves_and_loads_to_the_same_outputs(name: str, tmp_path: Path) -> None:
    spec = _spec(name, classes=3)
    torch.manual_seed(0)
    model = build(spec)
    save_weights(model, tmp_path / "weights.safetensors")
    again = load(spec_from_json(spec.to_json()), tmp_path / "weights.safetensors")
    inputs = {"image": torch.randn(4, 3, 32, 32)}
    first, second = call(model, spec, inputs)["logits"], call(again, spec, inputs)["logits"]
    assert first.shape == (4, 3)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ZOO)
def test_every_factory_has_a_docstring_with_its_counts(name: str) -> None:
    module, _, function = ZOO[name].factory.partition(":")
    assert "parameters" in (getattr(importlib.import_module(module), function).__doc__ or "")


def test_a_network_that_gives_other_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.models.cnn.shallow_cnn", lambda channels, classes: torch.nn.Flatten())
    with pytest.raises(ModelError, match=r"shape \(3072,\), expected \(10,\)"):
        build(_spec("shallow_cnn"))
