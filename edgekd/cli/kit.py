"""``edgekd kit``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, metavar="NAME",
    help="android, ios, raspberry-pi or jetson; may be repeated. Default: all that the run has a file for.",
)  # fmt: skip
@click.option("--zip", "zipped", is_flag=True, help="Also write each kit as one file, RUN_FOLDER/kit/NAME.zip.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(run_folder: Path, targets: tuple[str, ...], zipped: bool, as_json: bool) -> None:
    """Write what a device needs, with a program that proves it works there.

    RUN_FOLDER is what `edgekd compress` wrote. RUN_FOLDER/kit/NAME/ gets the file that suits the device, its labels, how
    raw data is prepared for it, golden vectors, and a program that asserts them in the device's own language.

    \b
    Exit codes: 0 written · 2 no run folder, or a file in it was changed · 3 the run has no file for the target
    """
    from edgekd.kit.kit import write_kits

    kits = write_kits(run_folder, targets, zipped)
    if as_json:
        written = [
            {
                "target": each.target, "artifact": each.artifact, "reason": each.reason, "folder": str(each.folder),
                "zip": None if each.zip is None else str(each.zip), "files": list(each.files),
            }
            for each in kits.written
        ]  # fmt: skip
        click.echo(json.dumps({"kits": written, "skipped": kits.skipped}, indent=2))
        return
    for each in kits.written:
        click.echo(f"{each.target:<13} {each.zip or each.folder}: {each.reason}")
    for target, why in kits.skipped.items():
        click.echo(f"no kit for {target}: {why}", err=True)
