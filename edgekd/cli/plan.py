"""``edgekd plan``."""

from __future__ import annotations

import json

import click

from edgekd.cli.arguments import recipe_and_overrides, target_override
from edgekd.planning import Plan, plan

_CLASSES = 20


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--target", "targets", multiple=True, metavar="DEVICE[=WAY]", help="As of `edgekd compress`.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(arguments: tuple[str, ...], targets: tuple[str, ...], as_json: bool) -> None:
    """Say what a recipe would do, and do nothing.

    Checks the recipe, the data folder's layout and the installed packages.
    """
    recipe, overrides = recipe_and_overrides((*arguments, *target_override(targets)))
    show_plan(plan(recipe, overrides), as_json)


def show_plan(planned: Plan, as_json: bool) -> None:
    """Print a plan on stdout."""
    if as_json:
        click.echo(json.dumps(planned.to_json(), indent=2))
        return
    click.echo(f"{planned.recipe.name}: seed {planned.recipe.seed}, {planned.threads} training threads")
    counts = [f"{name} {count:,}" for name, count in zip(planned.data.classes, planned.data.counts, strict=True)]
    more = f", and {len(counts) - _CLASSES} more" if len(counts) > _CLASSES else ""
    lines = [("classes", f"{', '.join(counts[:_CLASSES])}{more}"), *(("sample", each) for each in planned.data.samples)]
    lines += [(stage.name, stage.what) for stage in planned.stages]
    for device in planned.devices:
        lines.append((f"on {device.id}", ", ".join(device.usable) or "none of these files is of use"))
        lines += [("", f"not {name}: {reason}") for name, reason in device.unusable.items()]
    width = max(len(name) for name, _ in lines)
    for name, what in lines:
        click.echo(f"  {name:<{width}} {what}")
