"""``edgekd devices calibrate``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekd.cli.progress_lines import ProgressLines
from edgekd.devices.profiles import load_profile


@click.command("calibrate")
@click.argument("name")
@click.option(
    "--via", metavar="WAY", help="How to reach it: local, ssh://user@host[:port], adb[:SERIAL]. Default: local for host."
)
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 1024), metavar="N", help="Threads of the runtime; may be given again."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="File of coefficients to write. Default: your own, which predictions use from then on.",
)  # fmt: skip
@click.option("--python", default="python3", show_default=True, metavar="PATH", help="Python on the device; ~/ is its home.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    name: str, via: str | None, threads: tuple[int, ...], out: Path | None, python: str, as_json: bool, quiet: bool
) -> None:  # fmt: skip
    """Measure small models on device NAME, so that predictions for it stand on measurements of your own.

    Some twenty networks are made once, a matter of minutes, and measured in float32 and int8 by each runtime of the device:
    minutes again for each number of threads. It says by how much predictions were off before, and are now, each network
    predicted from the others.

    \b
    Exit codes: 0 calibrated · 2 wrong usage · 5 the device cannot be reached, lacks something, died, or is too noisy
    """
    from edgekd.cli.benchmark import transport_to
    from edgekd.devices.calibrate import calibrate
    from edgekd.devices.profiles import user_file
    from edgekd.safe.stop import stop_signals

    profile = load_profile(name)
    transport = transport_to(profile, via)
    with stop_signals():
        found = calibrate(
            profile, transport, threads=threads, out=out, python=python, listener=ProgressLines(quiet or as_json)
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return
    if quiet:
        return
    click.echo(f"{found.device}" + ("" if found.load is None else f", load average {found.load:.1f}"))
    for each in found.keys:
        click.echo(each.text())
    for line in found.left_out:
        click.echo(f"left out: {line}")
    own = found.path == user_file(profile.id)
    click.echo(f"kept in {found.path}" + ("" if own else f"; predictions use it from {user_file(profile.id)} alone"))
