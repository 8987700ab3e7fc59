"""The layers of real float files of both formats, and a search that runs on them in their runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.inspect.inspection import inspect_file
from edgekd.models.spec import call
from edgekd.quantize.layers import Layer, Layers, layers_from_json, list_layers
from edgekd.quantize.mixed_file import search_file
from edgekd.quantize.range_file import write_ranges
from tests.quantize.conftest import Exported
from tests.quantize.judging import Judged
from tests.quantize.networks import Branching


def _layers(exported: Exported, kind: str) -> Layers:
    listed = layers_from_json(list_layers(exported.path(kind), kind))
    assert layers_from_json(listed.to_json()) == listed
    return listed


def _heavy(layers: Layers) -> list[Layer]:
    return [each for each in layers.layers if each.macs]


@pytest.mark.slow
def test_both_formats_have_the_same_layers_with_the_work_that_inspect_counts(exported: Exported) -> None:
    found = {kind: _layers(exported, kind) for kind in ("onnx", "tflite")}
    assert [each.macs for each in _heavy(found["onnx"])] == [each.macs for each in _heavy(found["tflite"])]
    for kind, layers in found.items():
        assert sum(each.macs for each in layers.layers) == inspect_file(Path(exported.path(kind))).macs
        assert all(each.quantizable for each in _heavy(layers))
        assert layers.maker(layers.outputs[0]) == _heavy(layers)[-1]
        assert layers.readers(layers.inputs[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_spread_is_that_of_the_folded_depthwise_weights(exported: Exported, kind: str) -> None:
    network = exported.model
    assert isinstance(network, Branching)
    convolution, norm = network.depthwise[0], network.depthwise[1]
    assert isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d) and norm.running_var is not None
    weights = convolution.weight * (norm.weight / torch.sqrt(norm.running_var + norm.eps)).reshape(-1, 1, 1, 1)
    sizes = weights.detach().abs().sum((1, 2, 3)).numpy()
    spreads = [each.spread for each in _heavy(_layers(exported, kind))]
    assert spreads[3] == pytest.approx(sizes.max() / np.median(sizes), rel=1e-4)
    # LiteRT's converter makes a depthwise convolution of the first one too, for images of one channel.
    assert [*spreads[kind == "tflite" : 3], *spreads[4:]] == [1.0] * (len(spreads) - 1 - (kind == "tflite"))


@pytest.mark.slow
def test_a_search_on_a_real_file_reaches_a_goal_that_plain_int8_misses(exported: Exported, tmp_path: Path) -> None:
    """As the child process runs it, on digits in ONNX Runtime; its file is made again and judged by other means."""
    judged = Judged("onnx", exported.folder, {"image": exported.images}, _logits(exported))
    plain = judged.quality({}, ())
    data = exported.data
    indices = np.arange(100, dtype=np.int64)
    np.savez(tmp_path / "calibration.npz", image=exported.images[:1])
    for name in ("base", "observed"):
        write_ranges(judged.observed(), tmp_path / f"{name}.json")
    np.save(tmp_path / "indices.npy", indices)
    np.save(tmp_path / "labels.npy", data.labels[indices])
    with torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(data.batch(indices)["image"]))
        np.save(tmp_path / "logits.npy", call(exported.model, exported.spec, {"image": images})["logits"].numpy())
    raw = {name: {"path": str(each.path), "full_scale": each.full_scale} for name, each in data.raw.items()}
    samples: dict[str, Any] = {"raw": raw, "indices": str(tmp_path / "indices.npy"), "out": str(tmp_path / "outputs.npy")}
    goal = {"max_drop": 100.0, "sqnr_db": plain.sqnr_db + 6}
    found = search_file(
        exported.path("onnx"), "onnx", "edgekd.quantize.onnx:quantize_onnx", {}, [], exported.spec.to_json(), samples, goal,
        str(tmp_path),
    )  # fmt: skip
    assert found["facts"]["holds"] and found["keep"]
    assert found["facts"]["quality"]["sqnr_db"] >= goal["sqnr_db"] > found["facts"]["plain"]["sqnr_db"]
    assert set(found["keep"]) < set(_layers(exported, "onnx").names)
    again = judged.quality({name: (low, high) for name, (low, high) in found["ranges"].items()}, tuple(found["keep"]))
    assert again.sqnr_db > plain.sqnr_db + 3


def _logits(exported: Exported) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        half = torch.from_numpy(exported.images[len(exported.images) // 2 :])
        logits: np.ndarray[Any, Any] = call(exported.model, exported.spec, {"image": half})["logits"].numpy()
    return logits
