"""``edgekd quantize``."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import click

from edgekd.errors import GateMissed


@click.command()
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="What ranges come from and it is judged on, as data.source of a recipe. Default: the data of the "
              "run that the file is from.")  # fmt: skip
@click.option("--artifact", metavar="NAME", help="What it becomes, as in export.artifacts. Default: onnx-int8 or tflite-int8.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the new file. Default: beside FILE.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of samples with the same top-1 class.")
@click.option("--max-drop", type=click.FloatRange(-100, 100), help="Points of the task metric that it may lose.")
@click.option("--layers", is_flag=True, help="Compare layer by layer; done anyway where a limit is missed.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what runtimes and other libraries print.")
def command(
    file: str, overrides: tuple[str, ...], data: str | None, artifact: str | None, out: Path | None,
    min_agreement: float | None, max_drop: float | None, layers: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Turn FILE, a float32 .onnx or .tflite file from anywhere, into int8 or fewer bits, and compare both.

    How it is fed is found out. KEY=VALUE changes the data, as data.image_size=32, or how it is quantized, as
    quantize.calibration_samples=500, or tells of FILE what cannot be found out, as a.preprocess.layout=NCHW. What misses a
    limit goes to rejected/ in the folder of the new file.

    \b
    edgekd quantize net.onnx --data folder:photos
    Exit codes: 0 every limit was kept · 2 wrong usage or data · 3 the file cannot be quantized · 4 a limit was missed
    """
    if not verbose:
        warnings.simplefilter("ignore")
    from edgekd.cli.terminal import Terminal
    from edgekd.cli.verify import print_comparison
    from edgekd.compare.models import Limits
    from edgekd.quantize.file import quantize_file

    with Terminal(Path(), quiet=quiet or as_json, verbose=False) as terminal:
        made = quantize_file(
            file, data, artifact, out, overrides, limits=Limits(None, min_agreement, max_drop), layers=layers, listener=terminal
        )
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
        sys.exit(0 if made.comparison.ok else GateMissed.exit_code)
    new, old = made.size_bytes
    if not quiet:
        print_comparison(made.comparison)
        click.echo(f"{made.path}  {new / 1024:.1f} KiB, {old / new:.1f} times smaller")
    if not made.comparison.ok:
        missed = "\n".join(f"limit missed: {each.text}" for each in made.comparison.limits if not each.passed)
        raise GateMissed(f"{missed}\n{made.path} is what came of it")
