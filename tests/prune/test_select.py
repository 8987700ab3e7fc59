"""Budgets: what is cut, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.devices.profiles import load_profile
from edgekd.errors import ModelError, UsageError
from edgekd.models.spec import build, call, cost
from edgekd.models.tensors import ModelSpec
from edgekd.prune.costs import WidthCosts, device_time
from edgekd.prune.criteria import CRITERIA, Samples, scores
from edgekd.prune.groups import Found, find_groups, kept_channels
from edgekd.prune.prune import prune_model
from edgekd.prune.record import cut_modules
from edgekd.prune.select import select
from edgekd.prune.target import PruningTarget, parse_target
from tests.models.zoo_specs import random_inputs, spec_for
from tests.prune.networks import lively


@functools.cache
def known(name: str) -> tuple[torch.nn.Module, ModelSpec, Found, WidthCosts]:
    model, spec = lively(name)
    found = find_groups(model, spec)
    return model, spec, found, WidthCosts(model, spec, found.groups)


@given(data=st.data(), name=st.sampled_from(["resnet8", "tiny_transformer", "shallow_cnn"]))
@settings(max_examples=25, deadline=None)
def test_costs_are_those_of_the_cut_network(data: st.DataObject, name: str) -> None:
    import copy

    model, spec, found, costs = known(name)
    units = {each.name: data.draw(st.integers(1, each.units), each.name) for each in found.groups}
    kept, attributes = kept_channels(found.groups, {group: list(range(count)) for group, count in units.items()})
    narrow = copy.deepcopy(model)
    cut_modules(narrow, kept, attributes)
    expected, amounts = cost(narrow, spec), costs.amounts(units)
    assert (amounts.macs, amounts.params, amounts.bytes) == (expected.macs, expected.params, expected.size_bytes)


@given(
    shares=st.tuples(st.floats(0.4, 0.95), st.floats(0.4, 0.95)), multiple=st.sampled_from([1, 2, 4, 8]),
    what=st.sampled_from(["macs", "params", "bytes"]), scope=st.sampled_from(["global", "layer"]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_a_smaller_budget_never_costs_more(
    shares: tuple[float, float], multiple: int, what: str, scope: str, seed: int
) -> None:
    model, spec, found, costs = known("resnet8")
    worth = scores("random", model, spec, found.groups, None, seed)
    left = []
    for share in sorted(shares):
        target = parse_target(f"{what}={share:.6f}x")
        chosen = select(found.groups, worth, costs, target, scope=scope, multiple=multiple)  # type: ignore[arg-type]
        assert chosen.left <= share * chosen.whole * (1 + 1e-5)
        left.append(chosen.left)
        for group in found.groups:
            count = len(chosen.kept[group.name])
            assert count >= 1 and (count == group.units or count % multiple == 0)
            # Those that stay are worth as much as those that go.
            scored = worth[group.name]
            gone = [each for each in range(group.units) if each not in chosen.kept[group.name]]
            assert not gone or float(scored[gone].max()) <= float(scored[chosen.kept[group.name]].min())
    assert left[0] <= left[1]


@given(ratios=st.tuples(st.floats(0.01, 0.7), st.floats(0.01, 0.7)), multiple=st.sampled_from([1, 4, 8]))
@settings(max_examples=30, deadline=None)
def test_a_higher_ratio_never_costs_more(ratios: tuple[float, float], multiple: int) -> None:
    model, spec, found, costs = known("resnet8")
    worth = scores("magnitude", model, spec, found.groups, None, 0)
    less, more = (
        select(found.groups, worth, costs, PruningTarget("ratio", each, False), multiple=multiple) for each in sorted(ratios)
    )
    assert more.left <= less.left <= less.whole


def test_latency_guides_what_is_cut() -> None:
    model, spec = lively("mobilenet_v1")
    time = device_time(load_profile("pi4"))
    made = prune_model(model, spec, parse_target("latency=0.6x@pi4"), time=time)
    assert made.predicted is not None
    before, after = made.predicted
    assert after.p50_ms <= 0.6 * before.p50_ms and after.low_ms < after.p50_ms < after.high_ms
    counted = prune_model(model, spec, parse_target("macs=0.6x"), time=time)
    # For latency, other layers are cut than for multiply-accumulates.
    assert made.widths() != counted.widths()


def test_kernels_are_those_of_the_exported_file(tmp_path: object) -> None:
    from pathlib import Path

    from edgekd.devices.file_latency import predict_file
    from edgekd.export.onnx import export_onnx
    from edgekd.models.spec import save_weights
    from edgekd.prune.costs import DeviceTime

    folder = Path(str(tmp_path))
    model, spec = lively("resnet8")
    save_weights(model, folder / "net.safetensors")
    export_onnx(spec.to_json(), str(folder / "net.safetensors"), str(folder / "net.onnx"))
    pi4 = load_profile("pi4")
    there = predict_file(folder / "net.onnx", pi4, "onnxruntime", 1).prediction
    here = known("resnet8")[3].latency({}, DeviceTime(pi4, "onnxruntime", 1, "fp32"))
    assert there is not None
    assert here.p50_ms == pytest.approx(there.p50_ms, rel=0.03)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_dead_channel_goes_first(criterion: str) -> None:
    """Every criterion but chance finds the channels that do nothing."""
    spec = spec_for("resnet8")
    torch.manual_seed(1)
    model = build(spec).eval()
    dead = [1, 4, 5, 9, 11, 12, 13, 15]
    with torch.no_grad():
        block = model.get_submodule("stages.0")
        for name in ("conv1", "bn1"):
            for value in block.get_submodule(name).parameters():
                value[dead] = 0
        weight = block.get_submodule("conv2").weight
        assert isinstance(weight, Tensor)
        weight[:, dead] = 0
    samples: Samples = [(random_inputs(spec, 8), torch.randint(0, 3, (8,)))]
    found = find_groups(model, spec)
    worth = scores(criterion, model, spec, found.groups, samples, 0)["stages.0.conv1"]  # type: ignore[arg-type]
    lowest = sorted(worth.sort().indices[:8].tolist())
    assert (lowest == dead) == (criterion != "random")
    if criterion != "random":
        made = prune_model(model, spec, parse_target("ratio=0.5"), criterion=criterion, samples=samples)  # type: ignore[arg-type]
        assert made.spec.pruning is not None
        alive = sorted(set(range(16)) - set(dead))
        assert made.spec.pruning["modules"]["stages.0.conv1"]["out"]["kept"] == alive


def test_out_of_reach() -> None:
    model, spec, _, _ = known("resnet8")
    with pytest.raises(ModelError, match=r"macs=0\.01x asks for .* below what can be reached: .*x; 6 of 6 groups") as caught:
        prune_model(model, spec, parse_target("macs=0.01x"))
    assert caught.value.exit_code == 3 and "\n" not in caught.value.message
    assert caught.value.hint is not None and "ask for macs=0." in caught.value.hint


def test_the_reachable_point_can_be_asked_for() -> None:
    model, spec, _, _ = known("resnet8")
    with pytest.raises(ModelError) as caught:
        prune_model(model, spec, parse_target("params=0.01x"))
    assert caught.value.hint is not None
    advised = caught.value.hint.split()[2].rstrip(",")
    made = prune_model(model, spec, parse_target(advised))
    assert made.after.params and made.before.params and made.after.params < 0.1 * made.before.params


def test_a_ratio_that_empties_a_layer() -> None:
    model, spec, _, _ = known("resnet8")
    with pytest.raises(UsageError, match=r"ratio=0\.95 empties conv: 16 channels in multiples of 8") as caught:
        prune_model(model, spec, parse_target("ratio=0.95"))
    assert caught.value.exit_code == 2


def test_a_budget_that_is_kept_already() -> None:
    model, spec, _, _ = known("resnet8")
    with pytest.raises(UsageError, match="no smaller than the network"):
        prune_model(model, spec, parse_target("params=1G"))


@pytest.mark.parametrize("text", [
    "macs", "mac=0.5x", "macs=1.5x", "macs=0x", "latency=0.5x", "macs=0.5x@pi4", "ratio=1", "ratio=0.5x", "params=12ms",
    "latency=12k@pi4", "macs=-3", "macs=nan", "bytes=", "=0.5x", "latency=@pi4",
])  # fmt: skip
def test_no_target(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize(("text", "expected"), [
    ("macs=0.5x", PruningTarget("macs", 0.5, True)), ("params=200k", PruningTarget("params", 2e5, False)),
    ("bytes=1MiB", PruningTarget("bytes", 2.0**20, False)), ("latency=12ms@pi4", PruningTarget("latency", 12, False, "pi4")),
    ("ratio=0.3", PruningTarget("ratio", 0.3, False)), ("macs=1.5e6", PruningTarget("macs", 1.5e6, False)),
])  # fmt: skip
def test_targets(text: str, expected: PruningTarget) -> None:
    assert parse_target(text) == expected
    assert parse_target(str(expected)) == expected


def test_batch_norms_are_missing() -> None:
    model, spec, found, _ = known("tiny_transformer")
    with pytest.raises(UsageError, match="batchnorm can judge no layer"):
        scores("batchnorm", model, spec, found.groups, None, 0)
    with pytest.raises(UsageError, match="taylor looks at samples"):
        scores("taylor", model, spec, found.groups, None, 0)


def test_gradients_do_not_stay() -> None:
    model, spec, found, _ = known("shallow_cnn")
    samples: Samples = [(random_inputs(spec, 4), torch.tensor([0, 1, 2, 0]))]
    scores("taylor", model, spec, found.groups, samples, 0)
    assert all(each.grad is None or not bool(each.grad.any()) for each in model.parameters())
    assert call(model, spec, random_inputs(spec, 1))["logits"].shape == (1, 3)


def test_a_cut_that_makes_it_slower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose kernels dislike a narrow first layer, that layer stays."""
    model, spec, found, costs = known("resnet8")
    worth = scores("magnitude", model, spec, found.groups, None, 0)
    disliked = "stages.1.conv1"

    def counted(units: dict[str, int]) -> float:
        slower = 2.0 if units.get(disliked, 32) < 32 else 1.0
        return slower * costs.amounts({name: count for name, count in units.items() if name != disliked}).macs

    monkeypatch.setattr("edgekd.prune.select.measure", lambda *_: counted)
    chosen = select(found.groups, worth, costs, parse_target("macs=0.6x"))
    assert len(chosen.kept[disliked]) == 32 and chosen.slower == (disliked,)
    with pytest.raises(ModelError, match=f"cutting {disliked} would not make it faster"):
        select(found.groups, worth, costs, parse_target("macs=0.01x"))
