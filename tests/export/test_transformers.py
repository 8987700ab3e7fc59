"""Students of transformers reach ONNX and TFLite with their inputs by name, and the same outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import build, call, save_weights
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input
from edgekd.runtimes import open_artifact

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow
TEXT = (
    TensorSpec("input_ids", "int32", (12,), "NC", "tokens", vocabulary=60),
    TensorSpec("attention_mask", "int32", (12,), "NC", "mask"),
)
SIZES: dict[str, Any] = {"num_labels": 3, "vocab_size": 60}


def _config(name: str) -> tuple[Any, tuple[TensorSpec, ...]]:
    if name == "bert":
        return transformers.BertConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            **SIZES,
        ), TEXT
    if name == "distilbert":
        return transformers.DistilBertConfig(
            dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16, **SIZES
        ), TEXT
    return transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        num_channels=3, num_labels=3,
    ), (image_input((16, 16, 3), (0.5,) * 3, (0.5,) * 3),)  # fmt: skip


def _inputs(spec: ModelSpec) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    if spec.inputs[0].meaning == "image":
        return {"image": random.normal(size=(4, 3, 16, 16)).astype(np.float32)}
    mask = (np.arange(12) < np.array([[12], [7], [3], [12]])).astype(np.int32)
    return {"input_ids": random.integers(0, 60, (4, 12)).astype(np.int32), "attention_mask": mask}


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit"])
def test_a_folder_of_transformers_exports(name: str, tmp_path: Path) -> None:
    config, inputs = _config(name)
    config.save_pretrained(tmp_path / "model")
    spec = classifier(f"hf:{tmp_path / 'model'}", inputs, ("a", "b", "c"))
    torch.manual_seed(0)
    model = build(spec).eval()
    weights = str(tmp_path / "w.safetensors")
    save_weights(model, Path(weights))
    given = _inputs(spec)
    with torch.no_grad():
        expected = call(model, spec, {name: torch.from_numpy(value) for name, value in given.items()})["logits"].numpy()
    assert np.ptp(expected, axis=0).min() > 0
    for kind, export in (("onnx", export_onnx), ("tflite", export_tflite)):
        out = str(tmp_path / f"m.{kind}")
        export(spec.to_json(), weights, out)
        run, found, _ = open_artifact(out, kind)
        assert sorted(each["name"] for each in found) == sorted(given)
        fed = {
            key: value.transpose(0, 2, 3, 1).copy() if value.ndim == 4 and kind == "tflite" else value
            for key, value in given.items()
        }
        np.testing.assert_allclose(run(fed)["logits"], expected, atol=1e-5)
