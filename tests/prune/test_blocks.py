"""Blocks that go as a whole: found by trying, worth what they do, and gone from the record on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.devices.profiles import load_profile
from edgekd.distill.layers import find_layers
from edgekd.errors import EdgekdError, ModelError, UsageError
from edgekd.models.spec import build, call, save_weights
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input
from edgekd.planning import plan
from edgekd.prune.blocks import find_blocks
from edgekd.prune.costs import device_time
from edgekd.prune.depth import Shallow, remove_blocks
from edgekd.prune.groups import random_inputs as noise_of
from edgekd.prune.prune import prune_model
from edgekd.prune.record import cut, with_record
from edgekd.prune.target import parse_target
from tests.models.zoo_specs import random_inputs, spec_for
from tests.prune.networks import NARROW, halved, lively, python_spec
from tests.prune.test_file import _call
from tests.prune.test_zoo import counted_macs, rebuild_elsewhere


def names(spec: ModelSpec) -> list[str]:
    return [each.name for each in find_blocks(spec).blocks]


def weight(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).get_parameter("weight").data


def outputs(model: nn.Module, spec: ModelSpec) -> Tensor:
    inputs = {name: each.float() if each.is_floating_point() else each for name, each in _inputs(spec).items()}
    with torch.no_grad():
        return call(model.eval(), spec, inputs)["logits"]


def _inputs(spec: ModelSpec) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return noise_of(spec)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shallow_cnn", "mlp"])
def test_blocks_of_the_zoo(name: str) -> None:
    """Those whose code has a shortcut that does nothing."""
    spec = spec_for(name, arguments=NARROW.get(name))
    expected = []
    for path, module in build(spec).named_modules():
        same = getattr(module, "shortcut", None)
        plain = getattr(module, "project", 0) is None and module.stride == 1 and not module.grown
        if same is True or plain or (isinstance(same, nn.Identity) and module.get_submodule("conv1").stride == (1, 1)):
            expected.append(path)
    assert names(spec) == expected


def test_layers_of_transformers_not_their_halves() -> None:
    for layers in (1, 3):
        assert names(spec_for("tiny_transformer", arguments={"layers": layers})) == [
            f"encoder.layer.{index}" for index in range(layers)
        ]


_BLOCK = """
class Block(nn.Module):
    def __init__(self, act=torch.relu, scale=1.0, project=False):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.act, self.scale, self.kind = act, scale, "block"
        self.project = nn.Conv2d(8, 8, 1) if project else nn.Identity()

    def forward(self, x, *more):
        return self.act(self.scale * self.project(x) + self.b(torch.relu(self.n(self.a(x)))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.make()

    def forward(self, x):
        return self.head(self.body(torch.relu(self.stem(x))).mean((2, 3)))

def make():
    return Net()

def same(x):
    return x
"""


@pytest.mark.parametrize(("inside", "body", "expected"), [
    ("self.x, self.y = Block(), Block()", "return self.y(self.x(x))", ["x", "y"]),
    ("self.x, self.y = Block(same), Block()", "return self.y(self.x(x))", ["x"]),  # what y takes is not rectified yet
    ("self.x, self.y = Block(scale=0.5), Block(project=True)", "return self.y(self.x(x))", []),
    ("self.x = Block()", "return self.x(self.x(x))", []),
    ("self.x = self.y = Block()", "return self.x(x)", []),
    ("self.x, self.y = Block(), Block()", "return self.y(self.x(x)) if self.x.kind == 'block' else x", ["y"]),
    ("self.stages = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block()))", "return self.stages(x)",
     ["stages.0.0", "stages.0.1", "stages.1.0"]),
    ("self.x = Block(torch.sigmoid)", "return self.x(x)", []),
])  # fmt: skip
def test_what_is_a_block(inside: str, body: str, expected: list[str], tmp_path: Path) -> None:
    code = f"{_BLOCK}\nclass Net(Net):\n    def make(self):\n        {inside}\n    def body(self, x):\n        {body}\n"
    spec = python_spec(tmp_path, code)
    assert names(spec) == expected
    if not expected:
        with pytest.raises(ModelError, match="has no block that can be removed") as caught:
            remove_blocks(build(spec), spec, 1)
        assert caught.value.exit_code == 3 and "\n" not in caught.value.message


def test_a_branch_of_zeros_changes_nothing() -> None:
    model, spec = lively("resnet20")
    with torch.no_grad():
        for value in model.get_submodule("stages.4.bn2").parameters():
            value.zero_()
    made = remove_blocks(model, spec, 1)
    assert [(each.block, each.worth) for each in made.removed] == [("stages.4", 0.0)]
    assert torch.equal(outputs(made.model, made.spec), outputs(model, spec))
    labelled = [(random_inputs(spec, 8), torch.arange(8) % 3)]
    found = remove_blocks(model, spec, 1, samples=labelled)
    assert found.measure == "loss" and {each.block: each.worth for each in found.blocks}["stages.4"] == 0.0


def test_what_is_left_is_measured_again(tmp_path: Path) -> None:
    """Either of two blocks that do the same can go, but not both; a third one, worth more at first, goes in its place."""
    spec = python_spec(tmp_path, """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.add = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x):
        return x + self.add(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.c, self.head = nn.Conv2d(3, 3, 1), Block(), Block(), Block(), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(self.stem(x)))).mean((2, 3)))

def make():
    return Net()
""")  # fmt: skip
    model = build(spec)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        weight(model, "stem")[0, 0] = 1  # the sample, and a constant
        model.get_submodule("stem").get_parameter("bias")[2] = 1
        weight(model, "a.add")[1, 0] = weight(model, "b.add")[1, 0] = 1
        weight(model, "c.add")[2, 2] = -4
        weight(model, "head").copy_(torch.tensor([[0.0, 2, 0], [0, -2, 0], [0, 0, 1]]))
    images = torch.ones(4, 3, 8, 8) * torch.tensor([1.0, -1, 1, -1])[:, None, None, None]
    made = remove_blocks(model, spec, 2, samples=[({"image": images}, torch.tensor([0, 1, 0, 1]))])

    def loss(right: float, wrong: float, third: float) -> float:
        return float(np.log(1 + np.exp(wrong - right) + np.exp(third - right)))

    whole, without_a = loss(4, -4, -3), loss(2, -2, -3)
    worth = {each.block: each.worth for each in made.blocks}
    assert worth == pytest.approx({"a": without_a - whole, "b": without_a - whole, "c": loss(4, -4, 1) - whole}, rel=1e-4)
    assert worth["b"] < worth["c"]
    assert [each.block for each in made.removed][1] == "c" and made.removed[0].block in ("a", "b")
    assert made.removed[1].worth_then == pytest.approx(loss(2, -2, 1) - without_a, rel=1e-4)


def test_what_goes_with_a_block() -> None:
    model, spec = lively("resnet20")
    made = remove_blocks(model, spec, 3, criterion="random", seed=1)
    assert made.measure == "random" and made.blocks == remove_blocks(model, spec, 3, criterion="random", seed=1).blocks
    gone = [each.block for each in made.removed]
    assert len(set(gone)) == 3 and made.spec.pruning is not None and made.spec.pruning["blocks"] == gone
    for each in made.blocks:
        assert each.params == sum(value.numel() for value in model.get_submodule(each.block).parameters())
    saved = counted_macs(model, spec) - counted_macs(made.model, made.spec)
    assert saved == sum(each.macs for each in made.removed) > 0
    left = set(made.model.state_dict())
    assert left == {key for key in model.state_dict() if not key.startswith(tuple(f"{each}." for each in gone))}


def test_budgets_refer_to_the_network_with_its_blocks() -> None:
    model, spec = lively("resnet20")
    shallow = remove_blocks(model, spec, 3)
    made = prune_model(model, spec, parse_target("macs=0.5x"), shallow=shallow)
    whole = counted_macs(model, spec)
    assert made.before.macs == whole and made.after.macs == counted_macs(made.model, made.spec)
    assert 0.4 * whole < made.after.macs <= 0.5 * whole
    # Blocks may keep the budget alone.
    assert prune_model(model, spec, parse_target("macs=0.7x"), shallow=shallow).after.macs == counted_macs(
        shallow.model, shallow.spec
    )
    kept = prune_model(
        shallow.model, shallow.spec, parse_target("latency=0.9x@pi4"), time=device_time(load_profile("pi4")), whole=1e6
    )
    assert kept.predicted is not None and kept.predicted[0] == kept.predicted[1]
    with pytest.raises(ModelError, match=r"macs=0\.01x asks for .* below what can be reached") as caught:
        prune_model(model, spec, parse_target("macs=0.01x"), shallow=shallow)
    assert caught.value.hint is not None
    advised = float(caught.value.hint.split()[2].rstrip("x,").removeprefix("macs="))
    assert advised < 0.4 < counted_macs(shallow.model, shallow.spec) / whole  # a share of the network with its blocks


def _tuples(folder: Path) -> ModelSpec:
    return python_spec(folder, """
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, hidden, mask=None, scale=1.0):
        inner = torch.relu(self.one(self.norm(hidden)))
        return hidden + scale * self.two(inner), inner

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layers, self.head = nn.Linear(3, 8), nn.ModuleList(Layer() for _ in range(3)), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.stem(x.flatten(2).transpose(1, 2))
        for layer in self.layers:
            hidden, _ = layer(hidden=hidden, mask=None, scale=0.5)
        return self.head(hidden.mean(1))

def make():
    return Net()
""")  # fmt: skip


def test_rebuilt_in_a_fresh_process(tmp_path: Path) -> None:
    lines, expected = [], {}
    tuples = _tuples(tmp_path)
    for name, (model, spec), count, target in (
        ("resnet20", lively("resnet20"), 3, "macs=0.4x"), ("tiny_transformer", lively("tiny_transformer"), 1, "macs=0.4x"),
        ("tuples", (build(tuples), tuples), 2, None),
    ):  # fmt: skip
        shallow = remove_blocks(model, spec, count)
        made = prune_model(model, spec, None if target is None else parse_target(target), shallow=shallow)
        record = made.spec.pruning
        assert record is not None and len(record["blocks"]) == count
        assert bool(record["tuples"]) == (name == "tuples") and set(record["tuples"].values()) <= {2}
        assert bool(record["modules"]) == (target is not None)
        inputs = {key: each.float() if each.is_floating_point() else each for key, each in _inputs(spec).items()}
        save_weights(made.model, tmp_path / f"{name}.safetensors")
        np.savez(tmp_path / f"{name}.npz", **{key: each.numpy() for key, each in inputs.items()})  # type: ignore[arg-type]
        expected[name] = outputs(made.model, made.spec).numpy()
        lines.append(json.dumps({
            "spec": made.spec.to_json(), "weights": str(tmp_path / f"{name}.safetensors"),
            "inputs": str(tmp_path / f"{name}.npz"), "out": str(tmp_path / f"{name}.npy"),
        }))  # fmt: skip
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    rebuild_elsewhere(tmp_path / "all.jsonl")
    for name, found in expected.items():
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), found), name


def test_records_add_up() -> None:
    """Channels, blocks that have lost some of them, and channels again: one record, which takes the whole network there."""
    model, spec = lively("resnet20")
    once = prune_model(model, spec, parse_target("macs=0.8x"), multiple=4)
    assert once.spec.pruning is not None
    twice = remove_blocks(once.model, once.spec, 2)
    cut_before = [each for each in once.spec.pruning["modules"] if each.startswith(f"{twice.removed[0].block}.")]
    thrice = prune_model(twice.model, twice.spec, parse_target("macs=0.8x"), multiple=4)
    four = remove_blocks(thrice.model, thrice.spec, 1)
    assert cut_before and four.spec.pruning is not None
    assert four.spec.pruning["blocks"] == [each.block for each in (*twice.removed, *four.removed)]
    assert not any(each in four.spec.pruning["modules"] for each in cut_before)
    whole = copy.deepcopy(model)
    cut(whole, four.spec.pruning)
    assert torch.equal(outputs(whole, spec), outputs(four.model, four.spec))


def test_old_records_are_read() -> None:
    _, spec, made = halved("resnet8")
    assert made.spec.pruning is not None and made.spec.pruning["blocks"] == []
    old = with_record(spec, {name: each for name, each in made.spec.pruning.items() if name not in ("blocks", "tuples")})
    shallow = remove_blocks(build(old), old, 1)
    assert shallow.spec.pruning is not None and shallow.spec.pruning["blocks"] == ["stages.0"]
    build(shallow.spec).load_state_dict(shallow.model.state_dict())


@pytest.mark.parametrize("damage", [
    {"blocks": "stages.0"}, {"blocks": [""]}, {"blocks": [3]}, {"blocks": ["stages.0", "stages.0"]}, {"blocks": ["nowhere"]},
    {"blocks": ["stages.0", "stages.0.conv1"]}, {"blocks": ["stages.0"], "tuples": {"stages.0": 0}},
    {"blocks": ["stages.0"], "tuples": {"stages.1": 2}}, {"blocks": ["stages.0"], "tuples": []}, {"blocks": ["stages.3"]},
])  # fmt: skip
def test_broken_records(damage: dict[str, Any]) -> None:
    model, spec = lively("resnet20")
    record = remove_blocks(model, spec, 1, criterion="random").spec.pruning
    assert record is not None
    with pytest.raises(EdgekdError) as caught:
        build(with_record(spec, {**record, **damage}))
    assert caught.value.exit_code in (2, 3) and "\n" not in caught.value.message


def test_stages_and_layers_are_still_found() -> None:
    """Distillation from inner layers goes on with what is left."""
    spec = spec_for("tiny_transformer", arguments={"layers": 3})
    shallow = remove_blocks(build(spec), spec, 1, criterion="random")
    left = [f"encoder.layer.{index}" for index in range(3) if f"encoder.layer.{index}" != shallow.removed[0].block]
    assert [each.name for each in find_layers(shallow.model, shallow.spec)] == [*left, "classifier:input"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    torch.manual_seed(0)
    save_weights(build(spec_for("resnet8", classes=10, size=8, channels=1)), file)
    return file


def test_on_the_command_line(weights: Path, tmp_path: Path) -> None:
    shape = ("--weights", str(weights), "--shape", "1,8,8", "--classes", "10")
    code, printed = _call("zoo:resnet8", *shape, "--blocks", "1", "--on", "pi4", "--out", str(tmp_path / "one"), "--json")
    found = json.loads(printed)
    (row,) = found["blocks"]["blocks"]
    assert code == 0 and found["target"] is None and (row["block"], row["order"]) == ("stages.0", 1)
    assert found["before"]["macs"] - found["after"]["macs"] == row["macs"] > 0 < row["predicted_ms"]
    record = json.loads((tmp_path / "one" / "prune.json").read_text())
    assert record["blocks"] == ["stages.0"] and record["modules"] == {}
    _, printed = _call("zoo:resnet8", *shape, "--blocks", "1", "--to", "params=0.5x", "--out", str(tmp_path / "two"))
    assert "1 of 1 blocks removed" in printed and "no. 1" in printed
    with pytest.raises(ModelError, match="has 1 blocks that can be removed, 2 were asked for") as caught:
        _call("zoo:resnet8", *shape, "--blocks", "2", "--out", str(tmp_path / "three"))
    assert caught.value.exit_code == 3 and caught.value.hint == "ask for at most 1"
    with pytest.raises(UsageError, match="--multiple is for cuts of channels"):
        _call("zoo:resnet8", *shape, "--blocks", "1", "--multiple", "4", "--out", str(tmp_path / "three"))
    assert not (tmp_path / "three" / "prune.json").exists()


def test_in_a_recipe() -> None:
    stages = {each.name: each.what for each in plan("digits", ["prune.blocks=2", "prune.target=macs=0.5x"]).stages}
    assert stages["blocks"].startswith("2 whole blocks") and "macs=0.5x" in stages["prune"] and "10 epochs" in stages["recover"]
    assert "blocks" not in {each.name for each in plan("digits", ["prune.target=macs=0.5x"]).stages}
    with pytest.raises(UsageError, match="all blocks go in the first step"):
        plan("digits", ["prune.blocks=2", "prune.steps=2"])


def test_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = (
        TensorSpec("input_ids", "int32", (8,), "NC", "tokens", vocabulary=20),
        TensorSpec("attention_mask", "int32", (8,), "NC", "mask"),
    )
    size = {"num_labels": 3, "vocab_size": 20, "max_position_embeddings": 8}
    for name, config, inputs, layers in (
        ("bert", transformers.BertConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, **size
        ), text, "model.bert.encoder.layer.{}"),
        ("swin", transformers.SwinConfig(
            image_size=16, patch_size=2, embed_dim=8, depths=[3], num_heads=[2], window_size=4, num_labels=3
        ), (image_input((16, 16, 3), (0.5,) * 3, (0.5,) * 3),), "model.swin.encoder.layers.0.blocks.{}"),
    ):  # fmt: skip
        config.save_pretrained(tmp_path / name)
        spec = classifier(f"hf:{tmp_path / name}", inputs, ("a", "b", "c"))
        torch.manual_seed(0)
        model = build(spec)
        assert names(spec) == [layers.format(index) for index in range(3)]
        shallow = remove_blocks(model, spec, 2, criterion="random")
        again = build(shallow.spec)
        again.load_state_dict(shallow.model.state_dict())
        assert torch.equal(outputs(again, shallow.spec), outputs(shallow.model, shallow.spec))
        assert not torch.equal(outputs(again, shallow.spec), outputs(model, spec))


def _exported(made: Shallow, folder: Path) -> dict[str, Any]:
    """Return the logits of 8 samples from each file of a network."""
    from edgekd.export.onnx import export_onnx
    from edgekd.export.tflite import export_tflite
    from edgekd.quantize.onnx import quantize_onnx
    from edgekd.quantize.tflite import quantize_tflite
    from edgekd.runtimes import open_artifact

    save_weights(made.model, folder / "w.safetensors")
    given = {name: each.numpy() for name, each in random_inputs(made.spec, 8).items()}
    np.savez(folder / "calibration.npz", **given)  # type: ignore[arg-type]
    for kind, export in (("onnx", export_onnx), ("tflite", export_tflite)):
        export(made.spec.to_json(), str(folder / "w.safetensors"), str(folder / f"fp32.{kind}"))
    calibration = str(folder / "calibration.npz")
    quantize_onnx(str(folder / "fp32.onnx"), calibration, str(folder / "int8.onnx"))
    quantize_tflite(str(folder / "fp32.tflite"), calibration, str(folder / "int8.tflite"), float_io=True)
    found = {}
    for file in sorted(folder.glob("*.onnx")) + sorted(folder.glob("*.tflite")):
        run, _, _ = open_artifact(str(file), file.suffix[1:])
        last = file.suffix == ".tflite"
        fed = {name: each.transpose(0, 2, 3, 1).copy() if each.ndim == 4 and last else each for name, each in given.items()}
        found[file.name] = run(fed)["logits"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("resnet20", 3), ("tiny_transformer", 1)])
def test_in_files(name: str, count: int, tmp_path: Path) -> None:
    model, spec = lively(name)
    made = remove_blocks(model, spec, count)
    with torch.no_grad():
        expected = call(made.model, made.spec, random_inputs(spec, 8))["logits"].numpy()
    found = _exported(made, tmp_path)
    assert sorted(found) == ["fp32.onnx", "fp32.tflite", "int8.onnx", "int8.tflite"]
    for file, values in found.items():
        error = np.abs(values - expected).max() / np.abs(expected).max()
        assert error < (1e-5 if file.startswith("fp32") else 0.15), (file, error)
