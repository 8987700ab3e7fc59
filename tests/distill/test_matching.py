"""Layer matching against brute force over every pairing, against known pairs, and its errors."""

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekd.distill.layers import Layer, Structure, find_structure
from edgekd.distill.matching import match_layers, pairs_for
from edgekd.errors import ModelError, UsageError
from edgekd.recipe_distill import DistillLoss, LayerPair
from tests.distill.networks import TEXT, Network, as_network, image_inputs, network


def _structure(found: Network) -> Structure:
    return find_structure(found.module, found.spec, found.run)


def _names(loss: str, student: Network, teacher: Network) -> list[tuple[str, str]]:
    pairs = pairs_for(DistillLoss(name=loss), _structure(student), _structure(teacher))
    return [(each.student.name, each.teacher.name) for each in pairs]


@st.composite
def _stages(draw: st.DrawFn) -> list[Layer]:
    sizes = draw(st.lists(st.sampled_from([56, 28, 14, 7, 4, 2]), min_size=1, max_size=5, unique=True))
    depths = sorted(draw(st.lists(st.integers(1, 100), min_size=len(sizes), max_size=len(sizes))))
    return [
        Layer(f"layer{index}", "map", (8, size, size), depth / 100)
        for index, (size, depth) in enumerate(zip(sorted(sizes, reverse=True), depths, strict=True))
    ]


def _equal(own: Layer, other: Layer, own_input: int, other_input: int) -> bool:
    return abs(math.log2(own.shape[1] / own_input * other_input / other.shape[1])) < 0.5


@given(_stages(), _stages(), st.sampled_from([56, 64, 112]), st.sampled_from([56, 64, 224]))
def test_no_pairing_is_better(student: list[Layer], teacher: list[Layer], own: int, other: int) -> None:
    equal = {
        (i, j) for i, s in enumerate(student) for j, t in enumerate(teacher) if _equal(s, t, own, other)
    } or {(i, j) for i in range(len(student)) for j in range(len(teacher))}  # fmt: skip
    best = (0, 0.0)
    for count in range(1, min(len(student), len(teacher)) + 1):
        for chosen in combinations(range(len(student)), count):
            for others in combinations(range(len(teacher)), count):
                places = list(zip(chosen, others, strict=True))
                if all(each in equal for each in places):
                    value = -sum(abs(student[i].depth - teacher[j].depth) for i, j in places)
                    best = max(best, (count, value))
    found = match_layers(student, teacher, (own, own), (other, other))
    places = [(student.index(each.student), teacher.index(each.teacher)) for each in found]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(places))
    assert all(each in equal for each in places)
    assert len(places) == best[0]
    assert -sum(abs(each.student.depth - each.teacher.depth) for each in found) == pytest.approx(best[1])


@given(st.integers(1, 12), st.integers(1, 24))
def test_blocks_go_up_together(own: int, others: int) -> None:
    student = [Layer(f"s{index}", "tokens", (16, 8), index / own) for index in range(own)]
    teacher = [Layer(f"t{index}", "tokens", (16, 8), index / others) for index in range(others)]
    places = [teacher.index(each.teacher) for each in match_layers(student, teacher, None, None)]
    assert len(places) == own
    assert places == sorted(places)
    assert places[-1] == others - 1
    if others % own == 0:
        assert places == [(index + 1) * others // own - 1 for index in range(own)]


def test_what_each_loss_compares() -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs())
    stages = [("stages.0", "stages.2"), ("stages.1", "stages.5"), ("stages.2", "stages.8")]
    for loss in ("fitnet", "vid", "ofd", "ab", "pkd"):
        assert _names(loss, student, teacher) == stages[1:]
    for loss in ("at", "nst", "fsp", "reviewkd_hcl"):
        assert _names(loss, student, teacher) == stages
    for loss in ("rkd", "rkd_angle", "rkd_distance", "cc_gaussian", "pkt"):
        assert _names(loss, student, teacher) == [("classifier:input", "classifier:input")]
    assert _names("sp", student, teacher) == stages[2:]


def test_sizes_are_relative_to_what_comes_in() -> None:
    student, teacher = network("resnet8", image_inputs(32)), network("resnet20", image_inputs(64))
    assert _names("at", student, teacher) == [("stages.0", "stages.2"), ("stages.1", "stages.5"), ("stages.2", "stages.8")]
    assert _names("at", network("resnet18", image_inputs(64)), teacher) == [("stages.1", "stages.8")]  # 16 of 64


def test_the_stem_is_skipped() -> None:
    found = network("resnet18", image_inputs(64))
    assert [own for own, _ in _names("at", found, found)] == ["stages.1", "stages.3", "stages.5", "stages.7"]


def test_transformers() -> None:
    student, teacher = network("tiny_transformer", TEXT, layers=2), network("tiny_transformer", TEXT, layers=6)
    blocks = [("encoder.layer.0", "encoder.layer.2"), ("encoder.layer.1", "encoder.layer.5")]
    assert _names("tinybert_att", student, teacher) == blocks
    assert _names("tinybert_hidden", student, teacher) == [("encoder.layer.0:input", "encoder.layer.0:input"), *blocks]
    assert _names("minilmv2", student, teacher) == blocks[1:]
    assert _names("rkd", student, teacher) == [("classifier:input", "classifier:input")]


def test_named_layers_win() -> None:
    loss = DistillLoss(name="at", layers=(LayerPair(student="stages.1.bn1", teacher="stages.8:input"),))
    (pair,) = pairs_for(loss, _structure(network("resnet8", image_inputs())), _structure(network("resnet20", image_inputs())))
    assert (pair.student.name, pair.student.shape) == ("stages.1.bn1", (32, 16, 16))
    assert (pair.teacher.name, pair.teacher.shape) == ("stages.8:input", (64, 8, 8))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("stage.1", "stages.5", r"at: the student has no module 'stage\.1'; did you mean 'stages\.1'\?"),
        ("stages.1", "stages.55", r"at: the teacher has no module 'stages\.55'; did you mean 'stages\.5'\?"),
        ("stages.1", "clasifier:input", r"the teacher has no module 'clasifier:input'; did you mean 'classifier:input'\?"),
    ],
)
def test_a_misspelt_module(student: str, teacher: str, message: str) -> None:
    loss = DistillLoss(name="at", layers=(LayerPair(student=student, teacher=teacher),))
    own, other = _structure(network("resnet8", image_inputs())), _structure(network("resnet20", image_inputs()))
    with pytest.raises(UsageError, match=message) as caught:
        pairs_for(loss, own, other)
    assert "classifier:input" in str(caught.value.hint)


def test_a_module_without_maps() -> None:
    own = network("resnet8", image_inputs())
    own.module.register_module("unused", nn.ReLU())
    loss = DistillLoss(name="at", layers=(LayerPair(student="unused", teacher="stages.5"),))
    with pytest.raises(ModelError, match="module 'unused' of the student gives no maps"):
        pairs_for(loss, _structure(own), _structure(network("resnet20", image_inputs())))


def test_nothing_to_match() -> None:
    dense = as_network(nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 4)), image_inputs())
    other = _structure(network("resnet20", image_inputs()))
    with pytest.raises(ModelError, match="at compares inner maps or tokens, and no layers") as caught:
        pairs_for(DistillLoss(name="at"), _structure(dense), other)
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message
    with pytest.raises(ModelError, match="minilmv2 compares blocks of transformers, and the student has none"):
        pairs_for(DistillLoss(name="minilmv2"), _structure(dense), other)
    (pair,) = pairs_for(DistillLoss(name="rkd"), _structure(dense), other)
    assert pair.student.name == "3:input"
    functional = as_network(_Functional(), image_inputs())
    with pytest.raises(ModelError, match="rkd compares the last features, and the student shows none"):
        pairs_for(DistillLoss(name="rkd"), _structure(functional), other)


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3072, 4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1) @ self.matrix


def test_a_map_of_one_pixel_has_no_attention() -> None:
    student, teacher = network("mobilenet_v2", image_inputs(32)), network("resnet18", image_inputs(32))
    sizes = [own for own, _ in _names("at", student, teacher)]
    assert "head" not in sizes  # 1 x 1 for images of 32 pixels
    assert "head" in [own for own, _ in _names("fitnet", student, teacher)]
