"""The record: what it refuses, and how records add up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.errors import UsageError
from edgekd.models.spec import build, call, load, save_weights
from edgekd.models.tensors import spec_from_json
from edgekd.prune.prune import prune_model
from edgekd.prune.record import cut, read_record, with_record
from edgekd.prune.target import parse_target
from tests.models.zoo_specs import random_inputs, spec_for
from tests.prune.networks import halved, lively


def record_of(name: str = "resnet8") -> dict[str, Any]:
    record = halved(name)[2].spec.pruning
    assert record is not None
    return copy.deepcopy(record)


def test_specs_without_cuts_are_written_as_before() -> None:
    spec = spec_for("resnet8")
    assert "pruning" not in spec.to_json()
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_spec_with_cuts_survives_json() -> None:
    spec = halved("resnet8")[2].spec
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_another_architecture(tmp_path: Path) -> None:
    for other in (spec_for("resnet20"), spec_for("resnet8", classes=4), spec_for("resnet8", arguments={"width": 2.0})):
        with pytest.raises(UsageError, match="pruning record is for another architecture") as caught:
            build(with_record(other, record_of()))
        assert caught.value.exit_code == 2 and "\n" not in caught.value.message


def break_modules(record: dict[str, Any]) -> None:
    record["modules"] = []


def break_order(record: dict[str, Any]) -> None:
    next(iter(record["modules"].values()))["out"]["kept"].reverse()


def break_range(record: dict[str, Any]) -> None:
    next(iter(record["modules"].values()))["out"]["kept"].append(10_000)


def break_empty(record: dict[str, Any]) -> None:
    next(iter(record["modules"].values()))["out"]["kept"].clear()


def break_name(record: dict[str, Any]) -> None:
    record["modules"]["nowhere"] = {"out": {"kept": [0], "of": 2}}


def break_kind(record: dict[str, Any]) -> None:
    record["modules"]["relu"] = {"out": {"kept": [0], "of": 2}}


def break_attribute(record: dict[str, Any]) -> None:
    record["attributes"] = {"conv": {"forward": 3}}


def break_dunder(record: dict[str, Any]) -> None:
    record["attributes"] = {"conv": {"__class__": 3}}


def break_schema(record: dict[str, Any]) -> None:
    record["schema"] = 99


@pytest.mark.parametrize("damage", [
    break_modules, break_order, break_range, break_empty, break_name, break_kind, break_attribute, break_dunder, break_schema,
])  # fmt: skip
def test_broken_records(damage: Any) -> None:
    record = record_of()
    damage(record)
    with pytest.raises(UsageError) as caught:
        build(with_record(spec_for("resnet8"), record))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"schema": 1}', "\x00\xff"])
def test_no_record(content: str, tmp_path: Path) -> None:
    (tmp_path / "prune.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_record(tmp_path / "prune.json")
    assert "\n" not in caught.value.message and "prune.json" in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the pruning record"):
        read_record(tmp_path / "prune.json")


@pytest.mark.parametrize("name", ["resnet8", "tiny_transformer"])
def test_cut_twice(name: str, tmp_path: Path) -> None:
    """Cutting what was cut gives one record, which takes a fresh network all the way."""
    model, spec = lively(name)
    once = prune_model(model, spec, parse_target("macs=0.8x"), multiple=4)
    twice = prune_model(once.model, once.spec, parse_target("macs=0.7x"), multiple=4)
    save_weights(twice.model, tmp_path / "w.safetensors")
    inputs = random_inputs(spec, 2)
    with torch.no_grad():
        expected = call(twice.model, twice.spec, inputs)["logits"]
        assert torch.equal(call(load(twice.spec, tmp_path / "w.safetensors"), spec, inputs)["logits"], expected)
        # The weights of the whole network, cut by the record, are those that are left.
        again = copy.deepcopy(model)
        assert twice.spec.pruning is not None
        cut(again, twice.spec.pruning)
        assert torch.equal(call(again, spec, inputs)["logits"], expected)
