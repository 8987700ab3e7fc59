"""Every network of the zoo is cut to half, rebuilt elsewhere, and counted by others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.models.catalog import ZOO
from edgekd.models.spec import call, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.prune.prune import prune_model
from edgekd.prune.target import parse_target
from tests.models.zoo_specs import random_inputs
from tests.prune.networks import CNNS, halved, lively


def counted_macs(model: nn.Module, spec: ModelSpec) -> int:
    """Count multiply-accumulates of convolutions and dense layers from their own shapes, one forward pass."""
    total = 0

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            places = output.shape[2] * output.shape[3]
            total += places * module.out_channels * (module.in_channels // module.groups) * kernel
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    handles = [each.register_forward_hook(look) for each in model.modules()]
    with torch.no_grad():
        call(model, spec, random_inputs(spec, 1))
    for each in handles:
        each.remove()
    return total


_LARGE = ("mobilenet_v3_large", "efficientnet_lite0")


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.slow) if each in _LARGE else each for each in CNNS])
def test_half_the_macs(name: str) -> None:
    model, spec, made = halved(name)
    inputs = random_inputs(spec, 3)
    with torch.no_grad():
        whole = call(lively(name)[0], spec, inputs)["logits"]
    assert made.before.macs and made.after.macs
    assert 0.3 < made.after.macs / made.before.macs <= 0.5
    with torch.no_grad():
        assert torch.equal(call(model, spec, inputs)["logits"], whole)  # the network that was given stays whole
        left = call(made.model, made.spec, inputs)["logits"]
    assert left.shape == whole.shape and bool(torch.isfinite(left).all()) and not torch.equal(left, whole)
    if name != "ds_cnn":  # its front end multiplies too, by constants that belong to no layer
        assert counted_macs(model, spec) == made.before.macs
        assert counted_macs(made.model, made.spec) == made.after.macs
    for row in made.widths():
        assert row["after"] == row["before"] or row["after"] % 8 == 0


def test_the_front_end_stays() -> None:
    _, spec, made = halved("ds_cnn")
    assert spec.pruning is None and made.spec.pruning is not None
    assert not any(name.startswith(("log_mel", "normalise")) for name in made.spec.pruning["modules"])
    assert "out" not in made.spec.pruning["modules"].get("network.classifier", {})


_ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from edgekd.models.spec import call, load
from edgekd.models.tensors import spec_from_json
torch.set_num_threads(int(sys.argv[2]))
for line in Path(sys.argv[1]).read_text().splitlines():
    told = json.loads(line)
    spec = spec_from_json(told["spec"])
    given = {name: torch.from_numpy(each) for name, each in np.load(told["inputs"]).items()}
    with torch.no_grad():
        np.save(told["out"], call(load(spec, Path(told["weights"])), spec, given)["logits"].numpy())
"""


def rebuild_elsewhere(listed: Path) -> None:
    """Build the networks that a file lists, a line each, in a fresh process, and leave what they give."""
    # Sums are split among threads, whose number another test may have set: bits compare at the same one.
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", _ELSEWHERE, str(listed), threads], check=True)


_SMALL = tuple(each for each in ZOO if each not in _LARGE)


@pytest.mark.parametrize("names", [_SMALL, pytest.param(_LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_rebuilt_in_a_fresh_process(names: tuple[str, ...], tmp_path: Path) -> None:
    lines, expected = [], {}
    for name in names:
        _, spec, made = halved(name)
        inputs = random_inputs(spec, 2)
        save_weights(made.model, tmp_path / f"{name}.safetensors")
        np.savez(tmp_path / f"{name}.npz", **{key: each.numpy() for key, each in inputs.items()})  # type: ignore[arg-type]
        with torch.no_grad():
            expected[name] = call(made.model, made.spec, inputs)["logits"].numpy()
        lines.append(json.dumps({
            "spec": made.spec.to_json(), "weights": str(tmp_path / f"{name}.safetensors"),
            "inputs": str(tmp_path / f"{name}.npz"), "out": str(tmp_path / f"{name}.npy"),
        }))  # fmt: skip
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    rebuild_elsewhere(tmp_path / "all.jsonl")
    for name in names:
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small"])  # small networks: see test_conversion
def test_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    import onnxruntime

    from edgekd.export.onnx import export_onnx

    _, spec, made = halved(name)
    save_weights(made.model, tmp_path / "pruned.safetensors")
    export_onnx(made.spec.to_json(), str(tmp_path / "pruned.safetensors"), str(tmp_path / "net.onnx"))
    inputs = random_inputs(spec, 4)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {key: each.numpy() for key, each in inputs.items()})
    with torch.no_grad():
        expected = call(made.model, made.spec, inputs)["logits"].numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    parameters = sum(each.numel() for each in made.model.parameters())
    assert (tmp_path / "net.onnx").stat().st_size < 4 * parameters + 200_000


def test_half_of_a_transformer() -> None:
    model, spec = lively("tiny_transformer")
    made = prune_model(model, spec, parse_target("ratio=0.5"), scope="layer")
    left = {row["layer"]: (row["after"], row["kind"]) for row in made.widths()}
    assert left["encoder.layer.0.attention.self.query"] == (1, "heads")
    assert left["encoder.layer.1.intermediate.dense"] == (256, "channels")
    assert made.model.get_submodule("encoder.layer.0.attention.self").heads == 1
    # The hidden size, which layer norms average over, stays as it is.
    assert made.model.get_submodule("embeddings.word_embeddings").weight.shape[1] == 128  # type: ignore[index]
    assert "LayerNorm" in " ".join(made.found.refused.values())
