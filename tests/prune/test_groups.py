"""What can be cut is found by trying, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekd.errors import ModelError
from edgekd.models.spec import build
from edgekd.prune.groups import find_groups, mask
from tests.prune.networks import lively, python_spec


def test_shortcuts_without_parameters_stay() -> None:
    """torch-pruning does not see that channels move to the middle of the wider stage (option A of He et al.)."""
    model, spec = lively("resnet20")
    found = find_groups(model, spec)
    assert {each.name for each in found.groups} == {f"stages.{index}.conv1" for index in range(9)}
    assert "conv" in found.refused


def test_channels_that_are_mixed_up_stay(tmp_path: Path) -> None:
    """A reshape that deals channels to the two halves of the features in turn; torch-pruning takes neighbours."""
    spec = python_spec(tmp_path, """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)  # shuffled, as in ShuffleNet
        return self.head(torch.relu(self.second(x)).mean((2, 3)))

def make():
    return Net()
""")  # fmt: skip
    found = find_groups(build(spec), spec)
    assert [each.name for each in found.groups] == ["second"]
    assert "first" in found.refused and "head" in found.refused


def test_flattened_maps(tmp_path: Path) -> None:
    """A channel is as many columns of the next layer as it has pixels."""
    spec = python_spec(tmp_path, """
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 3))
""")  # fmt: skip
    found = find_groups(build(spec), spec)
    assert [each.name for each in found.groups] == ["0", "3"]
    (reader,) = found.groups[0].readers()
    assert len(reader.channels) == 512 and reader.roots.count(0) == 64


def test_concatenated_maps(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 16, 3)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))).mean((2, 3)))

def make():
    return Net()
""")  # fmt: skip
    from edgekd.prune.prune import prune_model
    from edgekd.prune.target import parse_target

    model = build(spec)
    found = find_groups(model, spec)
    assert {each.name: each.width for each in found.groups} == {"left": 8, "right": 16}
    made = prune_model(model, spec, parse_target("ratio=0.5"), multiple=4)
    assert made.model.get_submodule("norm").num_features == 12
    assert made.model.get_submodule("head").in_features == 12


@pytest.mark.parametrize(("body", "where"), [
    ("torch.from_numpy(self.head(self.conv(x).mean((2, 3))).detach().numpy())", "conv|head"),
    ("self.head(self.conv(x).detach().mean((2, 3)))", "conv"),
])  # fmt: skip
def test_no_graph(body: str, where: str, tmp_path: Path) -> None:
    spec = python_spec(tmp_path, f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return {body}

def make():
    return Net()
""")  # fmt: skip
    with pytest.raises(ModelError) as caught:
        find_groups(build(spec), spec)
    assert caught.value.exit_code == 3 and "\n" not in caught.value.message
    assert any(each in caught.value.message for each in where.split("|"))


def test_nothing_to_cut(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n")
    with pytest.raises(ModelError, match="has no channels that can be cut: 1: its channels are outputs of the network"):
        find_groups(build(spec), spec)


def test_the_network_is_not_touched() -> None:
    model, spec = lively("mobilenet_v3_small")
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = find_groups(model, spec)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    mask(model, found.groups[1], [0])
    assert not all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
