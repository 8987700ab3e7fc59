"""``edgekd prune``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd.prune.select import Scope
    from edgekd.prune.sparsity import SparseLayers


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", metavar="TARGET", help="Cut to a budget: macs=0.5x, params=200k, bytes=1M, "
              "latency=0.5x@pi4, latency=12ms@pi4, or ratio=0.5 of every layer's channels.")  # fmt: skip
@click.option("--blocks", type=click.IntRange(1, 1000), metavar="N", help="Remove N whole blocks first, residual blocks or "
              "layers of a transformer: those without which the loss rises least.")  # fmt: skip
@click.option("--sparsity", metavar="S", help="Set weights to zero, those of least magnitude: 0.8, that share of them, or 2:4, "
              "two left of four neighbours. Stored smaller, no faster on CPUs.")  # fmt: skip
@click.option("--sparse-layers", type=click.Choice(["all", "pointwise"]), default="all", show_default=True,
              help="Which get zeros: convolutions and linear layers, or 1x1 convolutions and linear layers.")  # fmt: skip
@click.option("--weights", metavar="FILE", help="Trained weights: .safetensors, or .pt holding tensors only.")
@click.option("--data", metavar="SOURCE", help="As data.source of a recipe: what taylor and activation look at, and what "
              "loss and sensitivity are measured on.")  # fmt: skip
@click.option("--criterion", default="magnitude", show_default=True, metavar="NAME",
              help="What a channel is worth: magnitude, taylor, batchnorm, activation, random.")  # fmt: skip
@click.option("--per-layer", is_flag=True, help="Every layer loses the same share; by default layers compete for the budget.")
@click.option("--for-transformers", is_flag=True, help="Of an hf: model, cut only what its configuration has fields for, alike "
              "in every layer: transformers loads what is left by itself.")  # fmt: skip
@click.option("--multiple", type=click.IntRange(1, 1024), metavar="N", help="Widths become multiples of N. Default: what the "
              "kernels of the device like, or 8.")  # fmt: skip
@click.option(
    "--on", "device", metavar="NAME", help="Predict latency before and after on this device, see `edgekd devices list`."
)
@click.option("--measure/--no-measure", default=True, show_default=True, help="Latency before and after on this host, as "
              "float32 ONNX files: some twenty seconds.")  # fmt: skip
@click.option("--shape", metavar="C,H,W", help="Of one sample, where there is no --data.")
@click.option("--classes", type=click.IntRange(2), metavar="N", help="Number of classes, where there is no --data.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the files.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show warnings of libraries.")
def command(
    model: str, overrides: tuple[str, ...], target: str | None, blocks: int | None, sparsity: str | None,
    sparse_layers: SparseLayers, weights: str | None, data: str | None, criterion: str, per_layer: bool,
    for_transformers: bool, multiple: int | None, device: str | None, measure: bool, shape: str | None, classes: int | None,
    out: Path, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Cut channels, attention heads and feed-forward units out of a trained network, to a budget, remove whole blocks, or set
    weights to zero.

    What is left is MODEL with prune.json, the record of the cuts, and pruned.safetensors: student.pruning and student.weights
    of a recipe, or of `edgekd export`. It has lost accuracy until it is trained again. Of hf:DIR there is a directory
    transformers/ beside them where transformers itself can load what is left. KEY=VALUE changes data.*, student.* and seed.

    \b
    edgekd prune zoo:resnet20 --weights resnet20.safetensors --data folder:photos --to latency=0.5x@pi4 --out runs/pruned
    edgekd prune zoo:resnet20 --weights resnet20.safetensors --data folder:photos --sparsity 2:4 --out runs/sparse

    \b
    Exit codes: 0 done · 2 wrong usage, data or record · 3 the network cannot be cut so far
    """
    _check_together(target, blocks, sparsity, criterion, multiple, device, for_transformers)
    if not verbose:
        warnings.simplefilter("ignore")
    from edgekd.cli.terminal import Terminal
    from edgekd.prune.file import PrunedFiles, prune_file
    from edgekd.prune.sparse_file import ZeroedFiles, zero_file

    scope: Scope = "layer" if per_layer else "global"
    with Terminal(out, quiet=quiet or as_json, verbose=False) as terminal:
        made: PrunedFiles | ZeroedFiles
        if target is None and blocks is None and sparsity is not None:
            made = zero_file(
                model, sparsity, out, weights, data, overrides, sparse_layers=sparse_layers, scope=scope, shape=_sizes(shape),
                classes=classes, listener=terminal,
            )  # fmt: skip
        else:
            made = prune_file(
                model, target, out, weights, data, overrides, blocks=blocks or 0, criterion=criterion, scope=scope,
                multiple=multiple, device=device, shape=_sizes(shape), classes=classes, sparsity=sparsity,
                sparse_layers=sparse_layers, for_transformers=for_transformers, measure=measure, listener=terminal,
            )  # fmt: skip
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
    elif not quiet:
        click.echo("\n".join(made.lines()))


def _check_together(
    target: str | None, blocks: int | None, sparsity: str | None, criterion: str, multiple: int | None, device: str | None,
    for_transformers: bool,
) -> None:  # fmt: skip
    """Refuse a command that asks for nothing, or says how to cut where nothing is cut."""
    if target is None and blocks is None and sparsity is None:
        raise UsageError(
            "nothing is to be cut or set to zero",
            "give --to, for example macs=0.5x, --blocks, for example 2, or --sparsity, for example 2:4",
        )
    if target is None and blocks is not None:
        if multiple is not None:
            raise UsageError("--multiple is for cuts of channels, and only blocks go", "leave it out, or give --to")
        return
    if target is None and (criterion != "magnitude" or multiple is not None or device is not None or for_transformers):
        raise UsageError(
            "--criterion, --multiple, --on and --for-transformers are for cuts: zeros are chosen by magnitude, and change no "
            "latency",
            "leave them out, or give --to",
        )


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(each.strip().isdigit() and int(each) > 0 for each in parts):
        raise UsageError(f"--shape {text} is not a list of sizes", "for example --shape 3,32,32")
    return tuple(int(each) for each in parts)
