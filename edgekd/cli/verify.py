"""``edgekd verify``."""

from __future__ import annotations

import json
import os.path
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekd.errors import GateMissed

if TYPE_CHECKING:
    from edgekd.benchmark.golden_vectors import DeviceVerification
    from edgekd.compare.models import Comparison, Distance
    from edgekd.compare.run import RunCheck

_WIDTH = 34
_SHOWN = 10


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="A B [KEY=VALUE]... | RUN_FOLDER | FILE --on TARGET")
@click.option(
    "--data", help="What to compare on, as data.source of a recipe. Default: the data of the run that a file is from."
)
@click.option("--weights-a", help="File of trained weights of A.")
@click.option("--weights-b", help="File of trained weights of B.")
@click.option("--labels-a", help="File of class names of A, one per line.")
@click.option("--labels-b", help="File of class names of B, one per line.")
@click.option("--max-error", type=click.FloatRange(min=0), help="Largest difference, as a share of the range of A's outputs.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of samples with the same top-1 class.")
@click.option("--max-drop", type=click.FloatRange(-100, 100), help="Points of the task metric that B may lose to A.")
@click.option("--layers", is_flag=True, help="Compare layer by layer; done anyway where a limit is missed.")
@click.option("--hashes-only", is_flag=True, help="Of a run folder: check the files' hashes, run nothing.")
@click.option("--allow-code", is_flag=True, help="Let a Keras model run code that its file holds. Only for files you trust.")
@click.option(
    "--on", "target", metavar="TARGET", help="Run the golden vectors of FILE on this device: edgekd devices lists them."
)
@click.option("--via", metavar="WAY", help="How to reach it: local, ssh://user@host[:port], adb[:SERIAL], emulated.")
@click.option("--golden", type=click.Path(path_type=Path), metavar="DIR", help="Golden vectors of FILE. Default: its run's.")
@click.option("--python", default="python3", show_default=True, metavar="PATH", help="Python on the device; ~/ is its home.")
@click.option("--instructions", is_flag=True, help="With --via emulated: count the ARM instructions of one inference, too.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what runtimes and other libraries print.")
def command(
    arguments: tuple[str, ...], data: str | None, weights_a: str | None, weights_b: str | None, labels_a: str | None,
    labels_b: str | None, max_error: float | None, min_agreement: float | None, max_drop: float | None, layers: bool,
    hashes_only: bool, allow_code: bool, target: str | None, via: str | None, golden: Path | None, python: str,
    instructions: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compare model B with model A, whatever frameworks they are of; check a finished run folder; or check on a device that
    a file gives there what it gave where it was made.

    A and B are .onnx or .tflite files, or model references as zoo:NAME, python:FILE.py:FUNCTION, pt2:FILE, keras:FILE.
    How each is fed is found out. KEY=VALUE changes the data, as data.image_size=32, or tells of a model what cannot be
    found out, as b.preprocess.layout=NCHW. Limits that are not given are those of recipes for such files.

    \b
    Exit codes: 0 every limit was kept · 2 wrong usage or data · 3 a model cannot be run ·
    4 a limit was missed, a golden vector differs, or a file of the run folder is not what its manifest says ·
    5 a device cannot be reached, or lacks something
    """
    if instructions and via != "emulated":
        raise click.UsageError("--instructions are counted by emulation: add --via emulated")
    if target is not None or via is not None:
        _verify_on_device(arguments, target or "host", via, golden, python, instructions, as_json, quiet)
        return
    if golden is not None:
        raise click.UsageError("--golden is for a file on a device: say which with --on TARGET")
    names = [each for each in arguments if "=" not in each or os.path.exists(each)]  # noqa: PTH110 - Path.exists raises
    overrides = tuple(each for each in arguments if each not in names)
    if len(names) not in {1, 2}:
        raise click.UsageError(f"{len(names)} models given; name two models, or one run folder")
    if not verbose:
        warnings.simplefilter("ignore")
    from edgekd.cli.terminal import Terminal

    with Terminal(Path(), quiet=quiet or as_json, verbose=False) as terminal:
        if len(names) == 1:
            from edgekd.compare.run import check_run

            checked = check_run(Path(names[0]), overrides, hashes_only=hashes_only, listener=terminal)
        else:
            if hashes_only:
                raise click.UsageError("--hashes-only is for a run folder, and two models are given")
            from edgekd.compare.models import Limits, compare_models

            found = compare_models(
                names[0], names[1], data, overrides, weights=(weights_a, weights_b), labels=(labels_a, labels_b),
                limits=Limits(max_error, min_agreement, max_drop), layers=layers, allow_code=allow_code, listener=terminal,
            )  # fmt: skip
    if len(names) == 1:
        _show_run(checked, as_json, quiet)
    else:
        _show(found, as_json, quiet)


def _show(found: Comparison, as_json: bool, quiet: bool) -> None:
    missed = [each.text for each in found.limits if not each.passed]
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        sys.exit(GateMissed.exit_code if missed else 0)
    if not quiet:
        print_comparison(found)
    if missed:
        raise GateMissed("\n".join(f"limit missed: {each}" for each in missed))


def print_comparison(found: Comparison) -> None:
    """Print what was found of two models: what each is, how they differ, and the limits."""
    for name, side, metric in (("A", found.a, found.metrics[0]), ("B", found.b, found.metrics[1])):
        low, high = metric.ci95
        click.echo(f"{name} {side.asked.reference}")
        _line("fed", "; ".join(side.notes))
        if side.dtypes is not None:
            shares = ", ".join(f"{key.replace('_', ' ')} {100 * share:.1f} %" for key, share in side.dtypes.items() if share)
            _line("inside", shares or "no weights")
        _line(
            "top-1", f"{100 * metric.value:.2f} % ({100 * low:.1f} to {100 * high:.1f}), {metric.n:,} samples of {found.source}"
        )
    low, high = found.drop_ci95
    click.echo("difference")
    _line("B loses", f"{found.drop:+z.2f} points ({low:z.2f} to {high:z.2f}, paired)")
    _line("right alone", f"A on {found.discordant[0]:,}, B on {found.discordant[1]:,}")
    _print_distance(f"{found.compared} on {found.samples.n:,} real samples", found.samples)
    if found.extremes is not None:
        _print_distance(f"{found.compared} on {found.extremes.n} extreme inputs", found.extremes)
    if found.layers is not None:
        click.echo(found.layers.text())
    click.echo("limits")
    for each in found.limits:
        _line(each.name, f"{each.value:.4g}, limit {each.limit:.4g}: {'kept' if each.passed else 'MISSED'}")


def _print_distance(title: str, found: Distance) -> None:
    low, high = found.agreement.ci95
    click.echo(title)
    _line("max error", f"{found.max_abs_error:.4g}, {100 * found.max_relative_error:.3g} % of A's range")
    _line("mean error", f"{found.mean_abs_error:.4g}, {100 * found.mean_relative_error:.3g} % of A's range")
    _line("cosine", f"{found.cosine:.6f}")
    _line("worst output, gain, offset", f"{found.sqnr_db:.1f} dB, {found.gain:.4f}, {100 * found.offset:+.2f} % of A's range")
    _line("same top-1", f"{100 * found.agreement.value:.2f} % ({100 * low:.1f} to {100 * high:.1f})")
    if any(found.not_finite):
        _line("left out as NaN or infinite", f"A {found.not_finite[0]}, B {found.not_finite[1]}")


def _line(name: str, what: str) -> None:
    click.echo(f"  {name:<{_WIDTH}} {what}")


def _show_run(checked: RunCheck, as_json: bool, quiet: bool) -> None:
    wrong = checked.problems
    if as_json:
        click.echo(json.dumps(checked.to_json(), indent=2))
        sys.exit(GateMissed.exit_code if wrong else 0)
    if not quiet:
        for each in checked.lines():
            click.echo(each)
    if wrong:
        raise GateMissed("\n".join(wrong))


def _verify_on_device(
    arguments: tuple[str, ...], target: str, via: str | None, golden: Path | None, python: str, instructions: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    if len(arguments) != 1:
        raise click.UsageError(f"{len(arguments)} arguments given with --on; name one .onnx, .ort or .tflite file")
    from edgekd.benchmark.golden_vectors import verify_on_device
    from edgekd.cli.benchmark import transport_to
    from edgekd.devices.profiles import load_profile
    from edgekd.safe.stop import stop_signals

    profile = load_profile(target)
    with stop_signals():
        found = verify_on_device(Path(arguments[0]), profile, transport_to(profile, via), golden=golden, python=python)
    counted = None
    if instructions:
        from edgekd.benchmark.arm_instructions import count_instructions

        counted = count_instructions(Path(arguments[0]))
    if as_json:
        click.echo(json.dumps(found.to_json() | {"instructions": counted}, indent=2))
        sys.exit(GateMissed.exit_code if found.differing else 0)
    if not quiet:
        _show_on_device(found)
        if counted is not None:
            _line("one inference", f"{counted:,} ARM instructions on one thread, to compare files with: no latency")
    if found.differing:
        raise GateMissed(f"{len(found.differing)} of {len(found.vectors)} golden vectors differ on {found.target}")


def _show_on_device(found: DeviceVerification) -> None:
    told = found.environment
    runtimes = ", ".join(f"{name} {version}" for name, version in (told.get("runtimes") or {}).items())
    click.echo(f"{found.file} on {found.target} via {found.via}")
    _line("made with", found.made_with)
    _line("device", f"{told.get('model') or told.get('cpu')}, {told.get('machine')}, {runtimes}")
    _line("rule", found.rule)
    count = len(found.vectors)
    _line("golden vectors", f"{count - len(found.differing)} of {count} agree, {found.identical} to the last bit")
    shares = [each.worst for each in found.vectors if each.worst is not None]
    if shares:
        _line("largest difference", f"{max(shares):.2g} of what is allowed")
    for each in found.differing[:_SHOWN]:
        _line(f"sample {each.id!r}"[:_WIDTH], each.why)
