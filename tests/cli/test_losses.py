"""``edgekd losses``: every loss is listed, with what it is good for."""

import json
import subprocess
import sys

from edgekd.distill.losses.registry import LOSSES


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "edgekd", "losses", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_loss_is_listed() -> None:
    text = _run()
    assert all(f"    {name} " in text for name in LOSSES)
    assert "set that instead" in text  # losses that are schemes say so


def test_json_says_which_a_recipe_can_have() -> None:
    found = {each["name"]: each for each in json.loads(_run("--json"))}
    assert found.keys() == LOSSES.keys()
    assert found["kd"]["not_in_recipes"] is None
    assert "distill.scheme=online" in found["dml"]["not_in_recipes"]
    assert found["fitnet"]["inner_layers"]
