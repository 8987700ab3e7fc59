"""``edgekd compress``."""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from pathlib import Path

import click

from edgekd.cli.arguments import recipe_and_overrides, target_override
from edgekd.errors import EdgekdError, GateMissed, Interrupted
from edgekd.launcher import is_follower, launched_count, speaks_for_machine


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. Default: runs/NAME, by the recipe's name.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="DEVICE[=WAY]",
    help="A device files are for (`edgekd devices list`); may be given again. pi4 is predicted, pi4=ssh://pi@pi4 measured.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen, as `edgekd plan` does, and do nothing.")
@click.option("--allow-code", is_flag=True, help="Let a Keras teacher run code that its file holds. Only for files you trust.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what converters and other libraries print.")
def command(
    arguments: tuple[str, ...], out: Path | None, targets: tuple[str, ...], dry_run: bool, allow_code: bool, as_json: bool,
    quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Distill, quantize, export, verify and measure.

    RECIPE is a file or the name of a shipped recipe (default: digits). KEY=VALUE changes it, for example
    distill.temperature=2. Running the same command again continues a stopped run, or replays a finished one.

    \b
    Exit codes: 0 every gate passed · 1 bug · 2 wrong usage, recipe or data · 3 the model cannot do that ·
    4 a gate was missed · 6 out of disk, memory or time · 130/143 stopped, state saved
    """
    run((*arguments, *target_override(targets)), out, dry_run, allow_code, as_json, quiet, verbose)


def run(
    arguments: tuple[str, ...], out: Path | None, dry_run: bool, allow_code: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Run a recipe, tell what happens, print the result, and exit with its code."""
    from edgekd.planning import resolve_recipe

    if launched_count() > 1:  # torch warns of every training without unused parameters, from C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_follower():
        sys.exit(0 if dry_run else _follow(arguments, out, allow_code))
    recipe, overrides = recipe_and_overrides(arguments)
    asked = resolve_recipe(recipe, overrides)
    if dry_run:
        from edgekd.cli.plan import show_plan
        from edgekd.planning import plan

        show_plan(plan(asked), as_json)
        return
    from edgekd.cli.terminal import Terminal, print_report

    out = out or _default_out(asked.name)
    if not verbose:
        warnings.simplefilter("ignore")
    try:
        with Terminal(out, quiet=quiet or as_json, verbose=verbose) as terminal:
            # Before torch is imported, so that the first second of a long run is not silent.
            taught = f"{asked.teacher.model} into {asked.student.model}"
            if not asked.distill.has_teacher:
                taught = f"{asked.student.model}, scheme {asked.distill.scheme}"
            if asked.distill.scheme == "none":
                taught = f"{asked.student.model} as it is"
            terminal.opening(f"{asked.name}: {taught}, in {out}")
            from edgekd.pipeline import compress

            report = compress(asked, out, listener=terminal, allow_code=allow_code)
    except Interrupted as stopped:
        resume = shlex.join(["edgekd", *sys.argv[1:]])
        raise Interrupted(f"{stopped.message}\nresume with: {resume}", stopped.exit_code - 128) from None
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    elif not quiet:
        print_report(report)
    missed = [f"{gate.name}: {gate.value:.4g}, promised {gate.limit:.4g}" for gate in report.gates if not gate.passed]
    if missed and not as_json:
        raise GateMissed("\n".join(f"gate missed: {each}" for each in missed), f"the files are in {out / 'rejected'}")
    sys.exit(GateMissed.exit_code if missed else 0)


def _default_out(name: str) -> Path:
    return Path("runs") / "".join(each if each.isalnum() or each in "-_." else "-" for each in name)


def _follow(arguments: tuple[str, ...], out: Path | None, allow_code: bool) -> int:
    """Do this process's part of a run that another one leads, without a word; return the exit code."""
    from edgekd.planning import resolve_recipe

    warnings.simplefilter("ignore")
    try:
        recipe, overrides = recipe_and_overrides(arguments)
        asked = resolve_recipe(recipe, overrides)
        from edgekd.pipeline import compress

        return 0 if compress(asked, out or _default_out(asked.name), allow_code=allow_code).ok else GateMissed.exit_code
    except EdgekdError as error:
        from edgekd.distill.processes import OtherFailed

        # What goes wrong in all processes is said once on each machine, and what went wrong elsewhere was said there.
        if speaks_for_machine() and not isinstance(error, OtherFailed):
            raise
        return error.exit_code
