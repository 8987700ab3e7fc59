"""``edgekd devices``."""

from __future__ import annotations

import importlib
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgekd.devices.explain import explain, prediction_basis, transports
from edgekd.devices.profiles import KINDS, Profile, load_profile, profile_names

# Commands of their own files.
_ELSEWHERE = {
    "predict": "edgekd.cli.devices_predict",
    "calibrate": "edgekd.cli.devices_calibrate",
}
_WIDTH = 110
_INDENT = 13


class _LazyGroup(click.Group):
    """Imports the module of a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in self.list_commands(ctx):
            return self.commands.get(cmd_name)
        command: click.Command = importlib.import_module(_ELSEWHERE[cmd_name]).command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from edgekd.names import did_you_mean

        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}', allowed: {', '.join(known)}{did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup)
def command() -> None:
    """The devices that files are made for: what they are, what to expect, and a profile of your own."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the devices as JSON.")
def list_devices(as_json: bool) -> None:
    """List the devices, and what a prediction for each stands on."""
    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        click.echo(json.dumps([_row(each) for each in profiles], indent=2))
        return
    rows = [("id", "name", "cores", "instructions", "memory", "predictions"), *(_cells(each) for each in profiles)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("\nWhat to expect of one: edgekd devices show ID. One of your own: edgekd devices new ID --out FILE")


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the profile, its sources, and what to expect, as JSON.")
def show(name: str, as_json: bool) -> None:
    """Explain what to expect of device NAME, or of a profile in a .toml file, and what each statement stands on."""
    profile = load_profile(name)
    expectations = explain(profile)
    if as_json:
        content = asdict(profile) | {
            "transports": list(transports(profile)), "prediction": asdict(prediction_basis(profile)),
            "expect": [asdict(each) for each in expectations],
        }  # fmt: skip
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"{profile.id}: {profile.name}" + (f", {profile.soc}" if profile.soc else ""))
    last = ""
    for each in expectations:
        source = f" [{each.source}]" if each.source else ""
        heading = "" if each.about == last else each.about
        last = each.about
        for index, line in enumerate(textwrap.wrap(each.text + source, _WIDTH - _INDENT - 2, break_on_hyphens=False)):
            click.echo(f"  {heading if index == 0 else '':<{_INDENT - 2}}{'' if index == 0 else '  '}{line}")


@command.command("new")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="File to write; default: NAME.toml.")
@click.option("--kind", type=click.Choice(KINDS[1:]), default=None, help="Kind of device; default: that of --like.")
@click.option("--like", default=None, help="Device or .toml file to start from; default: a usual one of the kind.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help='Print {"path": FILE}.')
def new(name: str, out: Path | None, kind: str | None, like: str | None, force: bool, as_json: bool) -> None:
    """Write a commented profile to start from, for a device NAME of your own."""
    from edgekd.devices.new import write_profile

    path = write_profile(name, out or Path(f"{name}.toml"), kind=kind, like=like, force=force)
    done = f"wrote {path}; fill it in, then: edgekd devices show {path}"
    click.echo(json.dumps({"path": str(path)}) if as_json else done)


def _row(profile: Profile) -> dict[str, Any]:
    return {
        "id": profile.id, "name": profile.name, "kind": profile.kind, "soc": profile.soc,
        "clusters": [asdict(each) for each in profile.clusters], "dot_product": profile.dot_product,
        "fp16_arithmetic": profile.fp16_arithmetic, "i8mm": profile.i8mm, "memory_bytes": profile.memory_bytes,
        "artifacts": list(profile.artifacts), "runtimes": profile.runtimes, "prediction": asdict(prediction_basis(profile)),
    }  # fmt: skip


def _cells(profile: Profile) -> tuple[str, ...]:
    clusters = " + ".join(f"{each.count} {each.core} {each.ghz:g}" for each in profile.clusters)
    able = [("dot", profile.dot_product), ("fp16", profile.fp16_arithmetic), ("i8mm", profile.i8mm)]
    isa = " ".join(word for word, has in able if has) or ("none" if profile.clusters else "")
    size = profile.memory_bytes
    memory = "" if size is None else f"{size / 2**30:g} GB" if size >= 2**30 else f"{size / 2**20:g} MB"
    return profile.id, profile.name, f"{clusters} GHz" if clusters else "", isa, memory, str(prediction_basis(profile))
