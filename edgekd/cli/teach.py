"""``edgekd teach``."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.arguments import recipe_and_overrides
from edgekd.errors import Interrupted

if TYPE_CHECKING:
    from edgekd.distill.soft_targets import SoftTargets


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Folder that gets the teacher's outputs.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. Default: runs/NAME, by the recipe's name.")
@click.option("--allow-code", is_flag=True, help="Let a Keras teacher run code that its file holds. Only for files you trust.")
@click.option("--json", "as_json", is_flag=True, help="Print what is kept as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what runtimes and other libraries print.")
def command(
    arguments: tuple[str, ...], store: Path, out: Path | None, allow_code: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Ask the teacher once about every training sample, and keep what it says.

    Another machine then distills from the folder, without the teacher: edgekd compress RECIPE teacher.model=store:FOLDER.
    Running the same command again continues a stopped run, and checks a finished store.
    """
    from edgekd.planning import resolve_recipe

    recipe, overrides = recipe_and_overrides(arguments)
    asked = resolve_recipe(recipe, overrides)
    from edgekd.cli.terminal import Terminal

    out = out or Path("runs") / "".join(each if each.isalnum() or each in "-_." else "-" for each in asked.name)
    if not verbose:
        warnings.simplefilter("ignore")
    try:
        with Terminal(out, quiet=quiet or as_json, verbose=verbose) as terminal:
            terminal.opening(f"{asked.name}: outputs of {asked.teacher.model}, in {store}")
            from edgekd.distill.teach import teach

            kept = teach(asked, store, out, listener=terminal, allow_code=allow_code)
    except Interrupted as stopped:
        resume = shlex.join(["edgekd", *sys.argv[1:]])
        raise Interrupted(f"{stopped.message}\nresume with: {resume}", stopped.exit_code - 128) from None
    rest = [each for each in overrides if not each.startswith("teacher.")]
    alone = ["teacher.ensemble=[]"] if asked.teacher.ensemble else []
    following = shlex.join(["edgekd", "compress", recipe, *rest, f"teacher.model=store:{store}", *alone])
    if as_json:
        click.echo(json.dumps(_content(kept, store, following), indent=2))
    elif not quiet:
        _show(kept, store, following)


def _content(kept: SoftTargets, store: Path, following: str) -> dict[str, Any]:
    header = kept.header
    return {
        "store": str(store), "teacher": header.teacher.model_dump(mode="json"), "data": header.data,
        "samples": header.samples, "classes": header.classes, "augmentations": kept.keys,
        "augment": header.augment.model_dump(mode="json"), "encoding": header.encoding, "size_bytes": header.size(kept.keys),
        "digest": kept.digest, "compress": following,
    }  # fmt: skip


def _show(kept: SoftTargets, store: Path, following: str) -> None:
    from edgekd.distill.soft_targets import shown_augment

    header, metric = kept.header, kept.header.teacher.metric
    lines = [
        ("store", f"{store}, {kept.described.removeprefix('stored: ')}"),
        ("teacher", f"{header.teacher.name}, test {metric.name.replace('top1', 'top-1')} {metric.value:.2%}"),
        ("kept", f"{header.encoding} of {header.classes} classes"),
        *([("augment", shown_augment(header.augment))] if kept.keys > 1 else []),
        ("distill", following),
    ]
    for name, value in lines:
        click.echo(f"  {name:<10} {value}")
