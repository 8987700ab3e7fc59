"""Curves of the loss over what a layer loses, and the layers that must not be cut."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from edgekd.errors import Interrupted, ModelError
from edgekd.prune.chart import sensitivity_chart, shown_layers
from edgekd.prune.criteria import Samples, loss_of, scores
from edgekd.prune.groups import Found, find_groups
from edgekd.prune.prune import Pruned, cut_copy
from edgekd.prune.record import with_record
from edgekd.prune.sensitivity import Curves, Sensitivity, sensitivities, spare
from tests.models.zoo_specs import random_inputs
from tests.prune.networks import lively


def _samples(spec: object, *sizes: int) -> Samples:
    return [(random_inputs(spec, size), torch.randint(0, 3, (size,))) for size in sizes]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet8", "tiny_transformer"])
def test_the_curve_is_the_loss_of_networks_that_were_really_cut(name: str) -> None:
    model, spec = lively(name)
    samples, found = _samples(spec, 5, 3), find_groups(model, spec)
    worth = scores("magnitude", model, spec, found.groups, None, 0)
    curves = sensitivities(model, spec, found.groups, worth, samples)
    assert curves.samples == 8 and curves.guess == math.log(3) and curves.loss == pytest.approx(loss_of(model, spec, samples))
    for group, row in zip(found.groups, curves.layers, strict=True):
        order = worth[group.name].argsort(stable=True).tolist()
        assert row.layer == group.name and row.units == group.units and 1 <= row.cut[0] <= row.cut[-1] < group.units
        for gone, loss in zip(row.cut, row.losses, strict=True):
            narrow, record = cut_copy(model, spec, found.groups, {group.name: sorted(order[gone:])})
            assert loss_of(narrow, with_record(spec, record), samples) == pytest.approx(loss, rel=1e-3)


def test_few_samples_are_enough_where_there_are_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = lively("shallow_cnn")
    found = find_groups(model, spec)
    worth = scores("magnitude", model, spec, found.groups, None, 0)
    monkeypatch.setattr("edgekd.prune.sensitivity._MOST_PASSES", 3 * len(found.groups) * 70)
    assert sensitivities(model, spec, found.groups, worth, _samples(spec, 60, 60)).samples == 70


def test_it_stops_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = lively("shallow_cnn")
    found = find_groups(model, spec)
    worth = scores("magnitude", model, spec, found.groups, None, 0)
    monkeypatch.setattr("edgekd.safe.stop._received", 15)
    with pytest.raises(Interrupted):
        sensitivities(model, spec, found.groups, worth, _samples(spec, 4))


def _curves(loss: float, *quarters: float) -> Curves:
    rows = (Sensitivity(f"layer{index}", 8, (2, 4, 6), (each, 2 * each, 3 * each)) for index, each in enumerate(quarters))
    return Curves(256, loss, math.log(10), tuple(rows))


@pytest.mark.parametrize(("loss", "quarters", "expected"), [
    (0.1, (0.9, 0.15, 0.2, 0.12, 0.16), {"layer0"}),  # middle rise 0.06
    (0.1, (0.2, 0.15, 0.2, 0.12, 0.16), set()),
    (0.1, (0.15, 0.11, 0.101, 0.102, 0.103), set()),  # outstanding, but nothing to speak of
    (0.5, (0.4, 0.45, 0.9, 0.44, 0.48), {"layer2"}),  # the others get better: as if nothing rose
    (0.1, (5.0, 5.0), set()), (0.1, (), set()), (1.0, (3.0, 1.1, 1.2, 2.9, 1.15), {"layer0", "layer3"}),
])  # fmt: skip
def test_layers_that_stand_out(loss: float, quarters: tuple[float, ...], expected: set[str]) -> None:
    found = _curves(loss, *quarters).sensitive()
    assert set(found) == expected
    assert all("without 2 of its 8" in each for each in found.values())


def test_a_budget_out_of_reach_takes_them_after_all() -> None:
    model, spec = lively("resnet8")
    found = find_groups(model, spec)
    first, *others = found.groups
    tried: list[set[str]] = []

    def prune(some: Found) -> Pruned:
        tried.append({each.name for each in some.groups})
        if len(some.groups) < len(found.groups):
            assert some.refused == {**found.refused, first.name: "it hurts"}
            raise ModelError("out of reach")
        return made

    made = Pruned(spec, model, found, None, 8, None, None, None)  # type: ignore[arg-type]
    assert spare(found, {first.name: "it hurts", "elsewhere": "gone"}, prune) is made
    assert tried == [{each.name for each in others}, {each.name for each in found.groups}]
    tried.clear()
    everything = {each.name: "it hurts" for each in found.groups}
    assert spare(found, {}, prune) is spare(found, everything, prune) is made and len(tried) == 2


def test_the_chart_draws_every_layer_or_the_thirty_most_sensitive() -> None:
    few = replace(
        _curves(0.1, 0.5, 0.2), layers=(Sensitivity("a<b>$c", 8, (2, 4, 6), (0.5, 1.0, 9.0)), *_curves(0.1, 0.2).layers)
    )
    drawn = sensitivity_chart(few.to_json(), {"layer0": 0.5})
    assert drawn == sensitivity_chart(few.to_json(), {"layer0": 0.5})
    assert "a&lt;b&gt;$c" in drawn and "all 8 stay" in drawn and "50 % of 8 cut" in drawn and "<b>" not in drawn
    many = _curves(0.1, *(0.1 + 0.01 * (index % 40) for index in range(60)))
    shown = shown_layers(many.to_json())
    assert len(shown) == 30 and min(each["losses"][0] for each in shown) > 0.1 + 0.01 * 14.5
    assert [each["layer"] for each in shown] == [
        each.layer for each in many.layers if each.layer in {one["layer"] for one in shown}
    ]
