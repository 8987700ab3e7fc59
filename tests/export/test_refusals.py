"""Networks that a format cannot hold: one line that names the operator or the branch, its module and its source."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import ExportError
from edgekd.models.spec import build, save_weights
from edgekd.models.tensors import TensorSpec, classifier
from edgekd.safe.child import run_in_child

pytestmark = pytest.mark.slow

FEATURES = TensorSpec("features", "float32", (4,), "NC", "features")
SOURCE = """
import torch
from torch import nn

class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Network(nn.Module):
    def __init__(self, features, classes, kind):
        super().__init__()
        self.first, self.bessel, self.kind = nn.Linear(features, classes), Bessel(), kind

    def forward(self, x):
        y = self.first(x)
        if self.kind == "operator":
            return self.bessel(y)
        if self.kind == "branch":
            return y if y.sum() > 0 else -y
        if self.kind == "size":
            return y + y[y > 0].sum()
        return y * 2 if x.shape[0] == 2 else y

def make(features, classes, kind):
    return Network(features, classes, kind)
"""
LINES = {name: 1 + SOURCE[: SOURCE.index(text)].count("\n") for name, text in (
    ("operator", "return torch.special"), ("branch", "return y if"), ("size", "return y + y[")
)}  # fmt: skip
EXPORTERS = {"ONNX": "edgekd.export.onnx:export_onnx", "TFLite": "edgekd.export.tflite:export_tflite"}


def refusals(folder: str) -> dict[str, dict[str, Any]]:
    """Export every kind of network to every format and return what was said. Runs in a child process."""
    said: dict[str, dict[str, Any]] = {}
    source = Path(folder, "odd.py")
    source.write_text(SOURCE)
    for form, reference in EXPORTERS.items():
        module, _, function = reference.partition(":")
        for kind in ("operator", "branch", "size", "samples"):
            spec = classifier(f"python:{source}:make", (FEATURES,), ("a", "b"), {"kind": kind})
            save_weights(build(spec), Path(folder, "weights.safetensors"))
            arguments = (spec.to_json(), str(Path(folder, "weights.safetensors")), str(Path(folder, f"{kind}.{form}")))
            try:
                getattr(importlib.import_module(module), function)(*arguments)
            except ExportError as error:
                said[f"{form} {kind}"] = {"message": error.message, "hint": error.hint}
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("refusals")
    return folder, run_in_child("tests.export.test_refusals:refusals", {"folder": str(folder)}, log=folder / "log")


def _one_line(said: tuple[Path, dict[str, dict[str, Any]]], form: str, kind: str) -> tuple[str, str]:
    """Return the message, and the place that it must name."""
    folder, found = said
    assert "\n" not in found[f"{form} {kind}"]["message"]
    assert found[f"{form} {kind}"]["hint"]
    assert not (folder / f"{kind}.{form}").exists()
    return found[f"{form} {kind}"]["message"], f"{folder / 'odd.py'}:{LINES.get(kind)}"


@pytest.mark.parametrize("form", EXPORTERS)
def test_an_operator_that_is_not_there_is_named_with_its_module_and_line(
    said: tuple[Path, dict[str, dict[str, Any]]], form: str
) -> None:
    message, place = _one_line(said, form, "operator")
    assert f"cannot become {form}: it has no operator for" in message
    assert "bessel_j0, used by bessel (Bessel)" in message
    assert message.endswith(f"at {place}")


@pytest.mark.parametrize("form", EXPORTERS)
def test_a_branch_that_depends_on_values_is_named_with_its_line(
    said: tuple[Path, dict[str, dict[str, Any]]], form: str
) -> None:
    message, place = _one_line(said, form, "branch")
    assert "which way it goes depends on the values of its inputs, in the network itself (Network)" in message
    assert message.endswith(f"at {place}")


def test_a_size_that_tflite_cannot_hold_is_named_with_its_line(said: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    message, place = _one_line(said, "TFLite", "size")
    assert "the size of a tensor depends on the values of its inputs" in message
    assert message.endswith(f"at {place}")
    assert "ONNX size" not in said[1]  # ONNX has sizes that are found as it runs


def test_a_network_for_one_number_of_samples_is_no_onnx_for_any(said: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    assert "depends on the number of samples, here 2" in _one_line(said, "ONNX", "samples")[0]
    assert "TFLite samples" not in said[1]  # TFLite files are for one sample
