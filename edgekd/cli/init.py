"""``edgekd init``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from edgekd.errors import UsageError
from edgekd.recipe_file import commented_recipe, find_recipe, load_recipe
from edgekd.safe.files import disk_errors, write_text


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="recipe.yaml")
@click.option("--from", "base", default="digits", show_default=True, help="Shipped recipe to start from.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--json", "as_json", is_flag=True, help='Print {"path": FILE}.')
def command(file: Path, base: str, force: bool, as_json: bool) -> None:
    """Write a commented recipe to FILE (default: recipe.yaml), every key with its meaning."""
    with disk_errors(file), contextlib.suppress(FileNotFoundError):
        file.stat()
    if file.exists() and not force:
        raise UsageError(f"{file} is already there", "choose another name, or replace it with --force")
    write_text(file, commented_recipe(load_recipe(find_recipe(base))))
    click.echo(json.dumps({"path": str(file)}) if as_json else f"wrote {file}; run it with: edgekd compress {file}")
