"""What a sparsity means, and which weights it takes, against rankings made one weight at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.errors import ModelError, RecipeError, UsageError
from edgekd.models.spec import build
from edgekd.planning import plan
from edgekd.prune.sparse_masks import eligible_layers, set_zeros, weight_of, zero_masks
from edgekd.prune.sparse_stage import zero_model
from edgekd.prune.sparsity import Sparsity, check_pattern, parse_sparsity, part_at
from edgekd.recipe_file import recipe_from_mapping
from tests.models.zoo_specs import spec_for
from tests.prune.networks import lively, python_spec

PATTERNS = [(1, 2), (2, 4), (1, 4), (3, 4), (2, 8)]


def test_what_is_a_sparsity() -> None:
    assert parse_sparsity("0.8") == parse_sparsity(0.8) == Sparsity(0.8)
    assert parse_sparsity("2:4") == parse_sparsity(" 2 : 4 ") == Sparsity(0.5, (2, 4))
    assert parse_sparsity("1:8").share == 1 - 1 / 8
    assert [str(parse_sparsity(each)) for each in ("2:4", ".75")] == ["2:4", "0.75"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.2", "is no sparsity"), ("0", "is no sparsity"), ("1", "is no sparsity"), ("-0.5", "is no sparsity"),
        ("nan", "is no sparsity"), ("half", "is no sparsity"), ("", "is no sparsity"), (True, "is no sparsity"),
        ("5:4", "has no zeros"), ("4:4", "has no zeros"), ("0:4", "leaves no weight"), ("2:128", "groups of more than 64"),
        ("2:4:8", "is no sparsity"), ("two:four", "is no sparsity"), ("80%", "is no sparsity"), ("9" * 500, "is no sparsity"),
    ],
)  # fmt: skip
def test_what_is_none(value: str | float, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_sparsity(value)
    assert "\n" not in caught.value.message and len(caught.value.message) < 120 and "2:4" in str(caught.value.hint)
    with pytest.raises(RecipeError, match=message):
        recipe_from_mapping({"prune": {"sparsity": value}})


def test_in_a_recipe() -> None:
    for given_, kept in ((0.8, 0.8), ("0.8", 0.8), ("2:4", "2:4"), (None, None)):
        assert recipe_from_mapping({"prune": {"sparsity": given_}}).prune.sparsity == kept
    for wrong in ([0.5], {"share": 0.5}):
        with pytest.raises(RecipeError, match="is no sparsity"):
            recipe_from_mapping({"prune": {"sparsity": wrong}})
    with pytest.raises(RecipeError, match="sparse_layers"):
        recipe_from_mapping({"prune": {"sparsity": 0.5, "sparse_layers": "some"}})


def test_the_plan_tells_of_it() -> None:
    stages = {each.name: each.what for each in plan("digits", ["prune.sparsity=2:4", "prune.steps=3"]).stages}
    assert "2:4" in stages["sparse"] and "3 steps" in stages["sparse"] and "no faster" in stages["sparse"]
    assert "10 epochs" in stages["recover"] and "prune" not in stages
    assert "sparse" not in {each.name for each in plan("digits").stages}


def test_the_schedule_is_that_of_zhu_and_gupta() -> None:
    """s_t = s_f + (s_i - s_f) (1 - t/n)^3 with s_i = 0."""
    assert [part_at(step, 4) for step in range(1, 5)] == [1 - (3 / 4) ** 3, 1 - (1 / 2) ** 3, 1 - (1 / 4) ** 3, 1]
    assert part_at(1, 1) == 1


@st.composite
def _weights(draw: st.DrawFn, multiple: int = 1) -> dict[str, Tensor]:
    """Layers of a few weights, many of them alike."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    return {
        str(index): torch.randint(-5, 6, (outputs, inputs * multiple, window), generator=generator) / 4
        for index, (outputs, inputs, window) in enumerate(shapes)
    }


@settings(max_examples=60, deadline=None)
@given(_weights(), st.floats(0.01, 0.99), st.sampled_from([0.25, 0.7, 1.0]))
def test_zeros_anywhere(weights: dict[str, Tensor], share: float, part: float) -> None:
    """Of all layers together, or of each, exactly so many of the smallest; what is zero stays it."""
    sizes = {name: each.abs() for name, each in weights.items()}
    both = zero_masks(weights, Sparsity(share), "global", part)
    flat, chosen = (torch.cat([each.flatten() for each in group.values()]) for group in (sizes, both))
    assert int(chosen.sum()) == round(part * share * len(flat))
    if chosen.any() and not chosen.all():
        assert flat[chosen].max() <= flat[~chosen].min()
    each_alone = zero_masks(weights, Sparsity(share), "layer", part)
    for name, mask in each_alone.items():
        assert mask.shape == weights[name].shape and int(mask.sum()) == round(part * share * mask.numel())
        if mask.any() and not mask.all():
            assert sizes[name][mask].max() <= sizes[name][~mask].min()
    zeroed = {name: each.masked_fill(both[name], 0) for name, each in weights.items()}
    again = zero_masks(zeroed, Sparsity(share), "global", part)
    assert all(bool((zeroed[name][again[name]] == 0).all()) for name in again)  # nothing more to do
    if part < 1 and round(share * len(flat)) >= sum(int((each == 0).sum()) for each in zeroed.values()):
        later = zero_masks(zeroed, Sparsity(share), "global")
        assert all(bool(later[name][zeroed[name] == 0].all()) for name in later)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(PATTERNS), st.sampled_from([0.3, 1.0]))
def test_zeros_of_a_pattern(data: st.DataObject, pattern: tuple[int, int], part: float) -> None:
    """Of every group along the inputs the smallest are zero, at last; on the way the smallest of those."""
    left, of = pattern
    weights = data.draw(_weights(of))
    masks = zero_masks(weights, Sparsity(1 - left / of, pattern), "global", part)
    count = sum(each.numel() for each in weights.values()) * (of - left) // of
    assert sum(int(each.sum()) for each in masks.values()) == (count if part == 1 else round(part * count))
    for name, weight in weights.items():
        outputs, inputs, window = weight.shape
        for output, start, place in itertools.product(range(outputs), range(0, inputs, of), range(window)):
            group = weight[output, start : start + of, place].abs()
            mask = masks[name][output, start : start + of, place]
            assert int(mask.sum()) <= of - left and (part < 1 or int(mask.sum()) == of - left)
            if mask.any():
                assert group[mask].max() <= group[~mask].min()
        if part == 1:
            zeroed = weight.masked_fill(masks[name], 0)
            assert check_pattern(zeroed, pattern) == (int((zeroed == 0).sum()), 0)
            again = zero_masks({name: zeroed}, Sparsity(1 - left / of, pattern))[name]
            assert bool((zeroed[again] == 0).all())


def test_counting_a_pattern() -> None:
    weight = np.ones((2, 8, 3, 3), np.float32)
    assert check_pattern(weight, None) == (0, 0)
    assert check_pattern(weight, (2, 4)) == (0, 2 * 2 * 9)
    weight[:, [0, 3]] = 0  # two of the first four, none of the others
    assert check_pattern(weight, (2, 4)) == (36, 18)
    assert check_pattern(weight, (6, 8)) == (36, 0)
    weight[:, [0, 3]] = 1
    weight[:, ::2] = 0
    assert check_pattern(torch.from_numpy(weight), (2, 4)) == (72, 0)
    assert check_pattern(weight, (1, 4))[1] == 36
    with pytest.raises(ValueError, match="8 inputs are no whole number of groups of 3"):
        check_pattern(weight, (2, 3))


def test_layers_that_stay_dense() -> None:
    model, spec = lively("mobilenet_v3_small")
    anywhere = eligible_layers(model, spec, Sparsity(0.8), "all")
    order = [*anywhere.layers, *anywhere.dense]
    weighted = {name for name, each in model.named_modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)}
    assert len(order) == len(set(order)) and set(order) == weighted
    reasons = set(anywhere.dense.values())
    assert reasons == {"the first layer", "the output layer", "a depthwise convolution, which has few weights"}
    pointwise = eligible_layers(model, spec, Sparsity(0.8), "pointwise")
    assert set(pointwise.layers) == set(anywhere.layers)  # but for the first, all others are 1x1
    pattern = eligible_layers(model, spec, parse_sparsity("2:4"), "all")
    assert [each for each in pattern.dense.values() if "depthwise" not in each] == [
        "its 3 inputs are no whole number of groups of 4"
    ]
    assert set(pattern.layers) > set(anywhere.layers)  # the output layer, too
    model, spec = lively("resnet8")
    assert "no 1x1 convolution" in eligible_layers(model, spec, Sparsity(0.8), "pointwise").dense.values()


def test_what_cannot_be() -> None:
    model, spec = lively("shallow_cnn")
    with pytest.raises(
        ModelError, match=r"no layer of zoo:shallow_cnn can have the zeros of sparsity 1:7: features\.0\.0: its 3"
    ):
        zero_model(model, spec, parse_sparsity("1:7"))
    with torch.no_grad():
        weight_of(model.get_submodule("features.1.0")).mul_(1e-6)
    with pytest.raises(ModelError, match=r"features\.1\.0 of zoo:shallow_cnn would lose all its 1,152 weights") as caught:
        zero_model(model, spec, Sparsity(0.5))
    assert "scope=layer" in str(caught.value.hint)
    assert zero_model(model, spec, Sparsity(0.5), scope="layer").layers == {
        "features.1.0": (1152, 576), "features.2.0": (3456, 1728)
    }  # fmt: skip


def test_what_is_told_of_a_network() -> None:
    model, spec = lively("shallow_cnn")
    before = {name: each.clone() for name, each in model.state_dict().items()}
    made = zero_model(model, spec, Sparsity(0.5))
    told = made.to_json()
    assert told["share"] == 0.5 and told["share_of_all"] == 2304 / (216 + 1152 + 3456 + 72)
    assert told["left_dense"] == {"features.0.0": "the first layer", "classifier": "the output layer"}
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {"features.1.0.weight", "features.2.0.weight"}
    for name in changed:  # what is left is as it was
        after = model.state_dict()[name]
        assert torch.equal(after[after != 0], before[name][after != 0])


def test_a_network_that_cannot_be_traced(tmp_path: Path) -> None:
    """Where channels cannot be followed, weights can be zero all the same, and the message says so."""
    from edgekd.prune.groups import find_groups

    spec = python_spec(tmp_path, """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.more, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return torch.from_numpy(self.head(self.more(self.conv(x)).mean((2, 3))).detach().numpy())

def make():
    return Net()
""")  # fmt: skip
    model = build(spec)
    with pytest.raises(ModelError, match="cannot be traced for pruning, at") as caught:
        find_groups(model, spec)
    assert "--sparsity" in str(caught.value.hint) and "prune.sparsity=0.8" in str(caught.value.hint)
    made = zero_model(model, spec, parse_sparsity("2:4"))
    assert made.layers == {"more": (576, 288), "head": (24, 12)}


def test_shared_weights_count_once(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.one, self.two, self.head = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3))
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(self.first(x))).mean((2, 3)))

def make():
    return Net()
""")  # fmt: skip
    made = zero_model(build(spec), spec, Sparsity(0.5))
    assert made.layers == {"one": (16, 8)} and made.weights == 12 + 16 + 12


def test_setting_zeros_leaves_gradients_alone() -> None:
    model = build(spec_for("shallow_cnn"))
    mask = torch.zeros(16, 8, 3, 3, dtype=torch.bool)
    mask[0] = True
    set_zeros(model, {"features.1.0": mask})
    weight = model.get_submodule("features.1.0").weight
    assert isinstance(weight, torch.nn.Parameter) and weight.requires_grad and weight.grad_fn is None
    assert bool((weight[0] == 0).all()) and bool((weight[1:] != 0).all())
