"""A trained network that has every kind of operator which quantizers treat in a way of its own, as float32 files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import build, save_weights
from edgekd.models.tensors import ModelSpec, classifier
from tests.digits_data import digits_data
from tests.quantize.networks import REFERENCE


@dataclass(frozen=True)
class Exported:
    """A network, its data and its float32 files ``fp32.onnx``, ``fp32.tflite``, with ``calibration.npz``, in ``folder``."""

    spec: ModelSpec
    model: nn.Module
    weights: Path
    data: Dataset
    folder: Path

    def path(self, kind: str) -> str:
        return str(self.folder / f"fp32.{kind}")

    @property
    def calibration(self) -> str:
        return str(self.folder / "calibration.npz")

    @property
    def images(self) -> NDArray[np.float32]:
        """Those of ``calibration.npz``."""
        with np.load(self.calibration) as archive:
            return np.asarray(archive["image"])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The network of :mod:`tests.quantize.networks`, trained on the digits for a moment; its files are not made yet."""
    folder = tmp_path_factory.mktemp("branching")
    data = digits_data(folder / "data")
    spec = classifier(REFERENCE, data.inputs, data.classes)
    torch.manual_seed(0)
    model = build(spec).train()
    images = torch.from_numpy(np.ascontiguousarray(data.batch(data.splits.train)["image"]))
    labels = torch.from_numpy(data.labels[data.splits.train])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(6):
        for part in torch.split(torch.randperm(len(images)), 96):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()
    save_weights(model, folder / "w.safetensors")
    np.savez(folder / "calibration.npz", image=images[:100].numpy())
    return Exported(spec, model, folder / "w.safetensors", data, folder)


@pytest.fixture(scope="session")
def exported(trained: Exported) -> Exported:
    """The same network with its float32 files."""
    export_onnx(trained.spec.to_json(), str(trained.weights), trained.path("onnx"))
    export_tflite(trained.spec.to_json(), str(trained.weights), trained.path("tflite"))
    return trained
