"""``edgekd benchmark``."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.progress_lines import ProgressLines
from edgekd.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from edgekd.benchmark.measurements import DeviceBenchmark, Measurement
    from edgekd.devices.profiles import Profile

_PIPE_WIDTH = 160
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_RUNNERS = ("auto", "python", "benchmark_model", "onnxruntime_perf_test", "trtexec")
VIA_HELP = "How to reach it: local, ssh://user@host[:port], adb[:SERIAL], emulated. Default: local for host."


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--on", "target", default="host", show_default=True, metavar="TARGET", help="Device, as edgekd devices lists them."
)
@click.option("--via", metavar="WAY", help=VIA_HELP)
@click.option("--threads", multiple=True, type=click.IntRange(1, 1024), help="Threads of the runtime; may be given again.")
@click.option(
    "--runs", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="Least runs of a file in a block."
)
@click.option("--seconds", type=click.FloatRange(0, 86_400), default=5.0, show_default=True, help="Least seconds of them.")
@click.option("--blocks", type=click.IntRange(1, 1000), default=3, show_default=True, help="How often all is started anew.")
@click.option("--sustained", metavar="TIME", help="Run each file that long without a pause, for the throttled truth: 10m, 90s.")
@click.option("--runner", type=click.Choice(_RUNNERS), default="auto", show_default=True, help="What measures.")
@click.option("--tool", "tool_path", metavar="PATH", help="Where the --runner is on the device, if not on its path.")
@click.option("--python", default="python3", show_default=True, metavar="PATH", help="Python on the device; ~/ is its home.")
@click.option(
    "--golden", type=click.Path(path_type=Path), metavar="DIR", help="Run on the golden inputs there, not random ones."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Gets samples.jsonl, benchmark.json, benchmark.svg."
)
@click.option("--require-stable", is_flag=True, help="Exit with 5 unless every measurement is stable.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    files: tuple[Path, ...], target: str, via: str | None, threads: tuple[int, ...], runs: int, seconds: float, blocks: int,
    sustained: str | None, runner: str, tool_path: str | None, python: str, golden: Path | None, out: Path | None,
    require_stable: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure the latency of model files on a device, and say whether the measurement can be trusted.

    Several files take turns on the device and are compared with the first. Nothing stays there but TensorRT engines.

    \b
    stable      the times repeat
    noisy       they scatter by more than 5 %, or blocks disagree by that: something else ran
    throttled   the device slowed itself down: heat or its power supply

    \b
    Exit codes: 0 measured · 2 wrong usage · 3 a file is broken ·
    5 the device cannot be reached or lacks something, died, or with --require-stable is noisy or throttled
    """
    from edgekd.benchmark.on_device import Protocol, benchmark_files
    from edgekd.devices.profiles import load_profile
    from edgekd.safe.stop import stop_signals

    profile = load_profile(target)
    transport = transport_to(profile, via)
    protocol = Protocol(runs=runs, seconds=seconds, blocks=blocks, sustained_s=_seconds(sustained) if sustained else 0.0)
    folder = out if out is not None else Path(f"benchmark-{target}-{time.strftime('%Y%m%d-%H%M%S')}")
    with stop_signals():
        result = benchmark_files(
            files, profile, transport, threads=threads, protocol=protocol, runner=runner, tool_path=tool_path, python=python,
            golden=golden, out=folder, listener=ProgressLines(quiet or as_json),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        _show(result)
    if require_stable and not result.stable:
        words = {each.verdict.word for each in result.measurements} - {"stable"}
        raise_or_exit(DeviceError(f"the measurement is {' and '.join(sorted(words)) or 'not whole'}",
                                  "stop what else runs there, cool it, and measure again"), as_json)  # fmt: skip


def transport_to(profile: Profile, via: str | None) -> Any:
    """Return the way to a device.

    Raises:
        UsageError: It is another machine, and ``via`` does not say how to reach it.
    """
    if via is None and profile.kind != "host":
        examples = {"android": "--via adb", "raspberry-pi": "--via ssh://pi@raspberrypi.local",
                    "jetson": "--via ssh://nvidia@jetson.local"}  # fmt: skip
        how = f"say how to reach it, for example {examples[profile.kind]}; " if profile.kind in examples else ""
        raise UsageError(f"{profile.name} is another machine than this one",
                         f"{how}without one, edgekd devices predict FILE --on {profile.id} predicts")  # fmt: skip
    from edgekd.benchmark.transports.open import open_transport

    return open_transport(via or "local", profile)


def raise_or_exit(error: DeviceError, as_json: bool) -> None:
    """Raise an error, or where JSON was printed end with its exit code alone: standard output holds one document."""
    if as_json:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
    raise error


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", text)
    if found is None or float(found.group(1)) == 0:
        raise click.UsageError(f"--sustained is '{text}', and must be a time as 10m, 90s or 1h")
    return float(found.group(1)) * _UNITS[found.group(2)]


def _show(result: DeviceBenchmark) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    headings = ("file", "threads", "p50 ms (95 %)", "p90", "p99", "first", "load", "memory", "size", "energy", "verdict")
    for index, heading in enumerate(headings):
        table.add_column(
            heading, justify="left" if index in (0, len(headings) - 1) else "right", overflow="fold", no_wrap=index > 0
        )
    for each in result.measurements:
        style = {"stable": None, "noisy": "yellow", "throttled": "red"}[each.verdict.word]
        table.add_row(*(Text(cell) for cell in _cells(each)), style=style)
    for name, threads, _ in result.failed:
        table.add_row(Text(_plain(name)), Text(str(threads)), *[""] * (len(headings) - 3), Text("failed"), style="red")
    console.print(table)
    for each in result.measurements:
        for reason in each.verdict.reasons:
            console.print(f"{_plain(each.name)}, threads {each.threads}: {each.verdict.word}: {reason}", soft_wrap=True)
        if each.slowdown is not None and each.verdict.word == "throttled":
            console.print(f"{_plain(each.name)}: {each.slowdown:+.0%} from beginning to end", soft_wrap=True)
        if each.delegated is not None and each.delegated[0] < each.delegated[1]:
            console.print(f"{_plain(each.name)}: the delegate took {each.delegated[0]} of {each.delegated[1]} operators")
    for name, threads, why in result.failed:
        console.print(f"{_plain(name)}, threads {threads}: failed: {why}", soft_wrap=True)
    for comparison in result.comparisons:
        console.print(_plain(comparison.text()), soft_wrap=True)
    console.print(_environment(result), style="dim", soft_wrap=True)
    if result.folder is not None:
        console.print(f"samples and chart: {result.folder}", style="dim", soft_wrap=True)


def _cells(each: Measurement) -> tuple[str, ...]:
    found = each.summary
    middle = f"{_ms(found.mean)} mean" if found.p50 is None else _ms(found.p50)
    if found.low is not None and found.high is not None:
        middle += f" ({_ms(found.low)}-{_ms(found.high)})"
    memory = each.peak_bytes if each.peak_bytes is not None else each.model_bytes
    energy = "-" if each.energy_mj is None else f"{each.energy_mj:.3g} mJ"
    return (
        _plain(each.name), str(each.threads), middle, _ms(found.p90), _ms(found.p99), _ms(each.first_ms), _ms(each.load_ms),
        "-" if memory is None else f"{memory / 2**20:,.1f} MiB", f"{each.size_bytes / 1024:,.1f} KiB", energy,
        each.verdict.word,
    )  # fmt: skip


def _environment(result: DeviceBenchmark) -> str:
    told = result.environment
    runtimes = ", ".join(f"{name} {version}" for name, version in (told.get("runtimes") or {}).items())
    governors = {str(each.get("scaling_governor")) for each in (told.get("cpus") or {}).values()}
    measured = [each for each in result.measurements if each.temperature_c is not None]
    heat = f"{measured[0].temperature_c[0]:.0f} to {measured[-1].temperature_c[1]:.0f} °C" if measured else ""  # type: ignore[index]
    version = f" {result.runner_version}" if result.runner_version else ""
    parts = [
        told.get("model") or told.get("cpu") or result.target, told.get("os"), f"{result.runner}{version} via {result.via}",
        runtimes, f"governor {', '.join(sorted(governors))}" if governors else "", heat,
        "" if told.get("energy") == "measurable" else "energy: not measurable",
    ]  # fmt: skip
    return _plain("; ".join(str(each) for each in parts if each))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 10 else f"{value:,.1f}"


def _plain(text: str) -> str:
    """Return text from a device or a name without anything that a terminal would act on."""
    return "".join(each if each.isprintable() else "?" for each in text)
