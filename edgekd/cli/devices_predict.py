"""``edgekd devices predict``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekd.devices.profiles import load_profile


@click.command("predict")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--on", "device", required=True, metavar="NAME", help="The device: a name of `edgekd devices list`.")
@click.option("--runtime", metavar="NAME", help="Another runtime than the device takes for files of this format.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of threads; as the profile has it by default.")
@click.option("--layers", is_flag=True, help="Show what each layer takes.")
@click.option("--json", "as_json", is_flag=True, help='Print everything as JSON: {"files": [...]}, in the order given.')
def command(
    files: tuple[Path, ...], device: str, runtime: str | None, threads: int | None, layers: bool, as_json: bool
) -> None:  # fmt: skip
    """Predict how long ONNX and TFLite files take on a device, without having it.

    \b
    fitted              on published measurements of this device and runtime
    transferred         from devices with the same cores, or from another runtime or number of threads
    specification only  rough: from clocks and what cores do in a cycle
    """
    from edgekd.devices.file_latency import predict_file

    profile = load_profile(device)
    found = [predict_file(path, profile, runtime, threads) for path in files]
    if as_json:
        click.echo(json.dumps({"files": [each.to_json() for each in found]}, indent=2))
        return
    for each in found:
        for line in each.lines():
            click.echo(line)
        if layers and each.prediction is not None:
            for layer in each.prediction.layers:
                click.echo(f"    {layer.ms:10.4f} ms  {layer.kind:<13} {layer.macs:>12,} MACs  {layer.name}")
