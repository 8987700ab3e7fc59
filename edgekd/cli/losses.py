"""``edgekd losses``."""

from __future__ import annotations

import json
from typing import Any

import click

from edgekd.distill.losses.registry import LOSSES, DistillationLoss
from edgekd.recipe_distill import unfit_for_recipes

_FAMILIES = {
    "response": "what the teacher says", "feature": "its inner maps", "relation": "how samples lie to one another",
    "transformer": "inside a transformer", "ensemble": "several teachers", "dense": "outputs with places, for code of your own",
    "self_online": "without a teacher: schemes of their own",
}  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the losses as JSON.")
def command(as_json: bool) -> None:
    """List what a student can learn from its teacher, for distill.losses.

    Weights and temperatures choose themselves unless they are given; what stands behind a loss are its arguments.
    """
    losses = [_described(name, loss) for name, loss in LOSSES.items()]
    if as_json:
        click.echo(json.dumps(losses, indent=2))
        return
    click.echo("distill.losses lists names, or {name: NAME, weight: auto, temperature: auto, arguments: {}, layers: []}")
    for family, what in _FAMILIES.items():
        click.echo(f"\n  {family.replace('_', ', ')}: {what}")
        for each in losses:
            if each["family"] == family:
                hyperparameters = ", ".join(f"{name} {value}" for name, value in each["hyperparameters"].items())
                shown = f"; {hyperparameters}" if hyperparameters else ""
                note = f"; {each['not_in_recipes']}" if each["not_in_recipes"] and family != "dense" else ""
                click.echo(f"    {each['name']:<16} {each['summary']}{shown}{note}")


def _described(name: str, loss: DistillationLoss) -> dict[str, Any]:
    return {
        "name": name, "family": loss.family, "summary": loss.summary, "weight": loss.weight,
        "hyperparameters": loss.hyperparameters, "inner_layers": loss.inner_layers, "not_in_recipes": unfit_for_recipes(name),
    }  # fmt: skip
