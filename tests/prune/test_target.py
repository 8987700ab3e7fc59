"""Budgets in recipes: text and mapping mean the same, and mistakes are told where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import RecipeError
from edgekd.planning import plan
from edgekd.prune.target import WHATS, parse_target
from edgekd.recipe_file import dump_recipe, load_recipe, recipe_from_mapping


def _target(value: Any, *overrides: str) -> str | None:
    return recipe_from_mapping({"prune": {"target": value}}, overrides).prune.target


@pytest.mark.parametrize(("mapping", "text"), [
    ({"device": "pi4", "latency": "0.5x"}, "latency=0.5x@pi4"), ({"latency": "12ms", "device": "pi4"}, "latency=12ms@pi4"),
    ({"macs": "0.5x"}, "macs=0.5x"), ({"params": 200_000}, "params=200k"), ({"bytes": "1MiB"}, "bytes=1048576"),
    ({"ratio": 0.3}, "ratio=0.3"), ({"macs": "20M", "params": None}, "macs=2e7"),
])  # fmt: skip
def test_a_mapping_is_the_text(mapping: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert _target(mapping) == _target(text) == str(parse_target(text))
    # Stages depend on the dumped values: the two recipes are one.
    ours, theirs = (recipe_from_mapping({"prune": {"target": each}}) for each in (mapping, text))
    assert ours == theirs and dump_recipe(ours) == dump_recipe(theirs)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(ours))
    assert load_recipe(tmp_path / "recipe.yaml") == ours


@given(what=st.sampled_from(WHATS), share=st.floats(0.001, 0.999), device=st.sampled_from(["pi4", "my device.toml", "a@b"]))
def test_any_share(what: str, share: float, device: str) -> None:
    amount = share if what == "ratio" else f"{share!r}x"
    mapping = {what: amount} | ({"device": device} if what == "latency" else {})
    text = f"{what}={amount}" + (f"@{device}" if what == "latency" else "")
    assert _target(mapping) == _target(text)


def test_overrides() -> None:
    assert _target(None, "prune.target.latency=0.5x", "prune.target.device=pi4") == "latency=0.5x@pi4"
    assert _target({"macs": "0.5x"}, "prune.target={device: pi4, latency: 9ms}") == "latency=9ms@pi4"
    assert _target({"device": "pi4", "latency": "0.5x"}, "prune.target.latency=0.7x") == "latency=0.7x@pi4"
    assert _target("macs=0.5x", "prune.target=null") is None
    assert any("latency=0.5x@pi4" in each.what for each in plan("digits", ["prune.target={device: pi4, latency: .5x}"]).stages)


@pytest.mark.parametrize(("lines", "where", "message"), [
    (["device: pi4", "latncy: 0.5x"], 4, "unknown key, allowed here: device, macs, params, bytes, latency, ratio; did you mean 'latency'?"),
    (["parameters: 0.5x"], 3, "did you mean 'params'"), (["macs: half"], 3, "'half' in 'macs=half' is no amount"),
    (["device: pi4", "latency: fast"], 4, "'fast' in 'latency=fast' is no amount"), (["macs: true"], 3, "must be text"),
    (["ratio: 1.5"], 3, "above 0 and below 1"), (["macs: [1, 2]"], 3, "must be text"),
    (["latency: 0.5x"], 2, "none is named; add for example device: pi4"),
    (["device: pi4", "macs: 0.5x"], 2, "device goes with latency, and the budget is macs"),
    (["macs: 0.5x", "params: 0.5x"], 2, "macs and params are two budgets"), (["device: pi4"], 2, "it names no budget"),
])  # fmt: skip
def test_mistakes_in_a_mapping(lines: list[str], where: int, message: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("\n".join(["prune:", "  target:", *(f"    {each}" for each in lines)]) + "\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert [each.where for each in caught.value.problems if message in each.message] == [f"{file}:{where}"]


@pytest.mark.parametrize("value", [5, True, ["macs=0.5x"], "macs", {}, "macs=0.5x@pi4", ""])
def test_no_budget(value: Any) -> None:
    with pytest.raises(RecipeError):
        _target(value)
