"""Progress as plain lines, for commands that load nothing heavy."""

from __future__ import annotations

import click

from edgekd.progress import Silent


class ProgressLines(Silent):
    """Says on standard error which part is being done; nothing if ``quiet``."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        """Print a line."""
        if not self._quiet:
            click.echo(f"  {done + 1} of {total}: {note}", err=True)
