"""``edgekd export``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli.arguments import target_override
from edgekd.cli.compress import run


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--weights", metavar="FILE", help="Trained weights: .safetensors, or .pt holding tensors only. A Keras file "
              "brings its own.")  # fmt: skip
@click.option(
    "--data", "source", required=True, metavar="SOURCE", help="As data.source of a recipe: what the files are proven on."
)
@click.option("--artifact", "artifacts", multiple=True, metavar="NAME", help="A file to make, several times for several; "
              "default: those of a recipe. `edgekd plan` says what each is for.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. Default: runs/NAME, by the name of the model.")
@click.option("--target", "targets", multiple=True, metavar="DEVICE[=WAY]", help="As of `edgekd compress`.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, as `edgekd plan` does, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what converters and other libraries print.")
def command(
    model: str, overrides: tuple[str, ...], weights: str | None, source: str, artifacts: tuple[str, ...], out: Path | None,
    targets: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Export, quantize, verify and measure a trained network, without training anything.

    MODEL is a reference as in `edgekd models`, for example zoo:resnet8, python:net.py:make or keras:net.keras. It is
    `edgekd compress` with distill.scheme=none: the same files, proofs, report and exit codes. KEY=VALUE changes any other
    key of the recipe; student.preprocess says how samples are normalised, where that is not by the training split's own mean
    and deviation.

    \b
    edgekd export zoo:resnet8 --weights resnet8.safetensors --data folder:photos --artifact tflite-int8
    """
    import json

    name = "".join(each if each.isalnum() or each in "-_." else "-" for each in model.partition(":")[2]) or "export"
    given = [
        f"name={json.dumps(name)}", "distill.scheme=none", f"student.model={json.dumps(model)}",
        f"student.weights={json.dumps(weights)}", f"data.source={json.dumps(source)}",
        *([f"export.artifacts={json.dumps(artifacts)}"] if artifacts else []), *target_override(targets), *overrides,
    ]  # fmt: skip
    run(("digits", *given), out, dry_run, False, as_json, quiet, verbose)
