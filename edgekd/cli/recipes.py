"""``edgekd recipes``."""

from __future__ import annotations

import json

import click

from edgekd.recipe_file import load_recipe, shipped_recipes


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the recipes as JSON.")
def command(as_json: bool) -> None:
    """List the recipes that come with edgekd."""
    rows = []
    for name, path in shipped_recipes().items():
        recipe = load_recipe(path)
        run = path.read_text().splitlines()[0].removeprefix("# ")
        rows.append(
            {"name": name, "teacher": recipe.teacher.model, "student": recipe.student.model, "run": run, "path": str(path)}
        )
    if as_json:
        click.echo(json.dumps({"recipes": rows}, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<10} {row['teacher']} into {row['student']}\n{'':<10} {row['run']}")
