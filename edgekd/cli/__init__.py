"""The command line: each command parses, calls one function, and prints. Commands load when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from edgekd import __version__
from edgekd.errors import EdgekdError, Interrupted

_COMMANDS = {
    "compress": "Distill, quantize, export, verify and measure: a recipe becomes a folder of proven files.",
    "export": "Export, quantize, verify and measure a trained network, without training.",
    "prune": "Cut channels and heads out of a trained network, to a budget of MACs, bytes or latency.",
    "quantize": "Turn a float ONNX or TFLite file into int8 or fewer bits, and prove it.",
    "verify": "Compare two models of any framework, layer by layer; check a run folder, or a file on a device.",
    "benchmark": "Measure the latency of model files on a device, and say whether it can be trusted.",
    "teach": "Keep a teacher's outputs in a folder, to distill from where the teacher is not.",
    "init": "Write a commented recipe to start from.",
    "kit": "Write what a device needs, with a program that proves it works there.",
    "plan": "Say what a recipe would do, and do nothing.",
    "models": "List what can be a teacher or a student, and what each is able to.",
    "losses": "List what a student can learn from its teacher.",
    "recipes": "List the recipes that come with edgekd.",
    "inspect": "Say what is inside a model file, what it costs, and which runtimes take it.",
    "devices": "List devices, say what to expect of one, and start a profile of your own.",
}


class _LazyGroup(click.Group):
    """Imports a command's module when it is called, so that --help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgekd.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from edgekd.names import did_you_mean

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}', allowed: {', '.join(_COMMANDS)}{did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgekd")
def cli() -> None:
    """Turn a large trained network into a small one for phones, Raspberry Pi and Jetson.

    \b
    edgekd compress                       the embedded example: digits, in a minute
    edgekd init my.yaml                   a recipe to fill in
    edgekd plan my.yaml                   what it would do
    edgekd compress my.yaml --out DIR     do it; run again to continue
    """


def main() -> None:
    """Run the command line and exit with the code that :mod:`edgekd.errors` lists."""
    as_json = "--json" in sys.argv
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        if as_json:
            _print_json({"status": "error", "exit_code": error.exit_code, "message": error.format_message(), "hint": None})
        else:
            error.show()
        sys.exit(error.exit_code)
    except EdgekdError as error:
        _show(error, as_json)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except MemoryError:
        click.echo("error: out of memory\nhint: lower the batch_size of the recipe", err=True)
        sys.exit(6)
    except BrokenPipeError:
        # Whoever read our output has gone; point stdout elsewhere so that Python's exit does not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _show(error: EdgekdError, as_json: bool) -> None:
    if as_json:
        problems = [{"where": each.where, "key": each.key, "message": each.message} for each in getattr(error, "problems", [])]
        content: dict[str, Any] = {
            "status": "interrupted" if isinstance(error, Interrupted) else "error",
            "exit_code": error.exit_code, "message": error.message, "hint": error.hint,
        }  # fmt: skip
        _print_json(content | ({"problems": problems} if problems else {}))
        return
    for line in error.message.splitlines():
        click.echo(line if isinstance(error, Interrupted) else f"error: {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _print_json(content: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(content, indent=2))
