"""What a run looks like in a terminal: one line per stage, a live bar, and one table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgekd.distill.control import verdict
from edgekd.report.pruning import cuts_line
from edgekd.report.report import Report
from edgekd.report.rows import HEADINGS, TARGET_HEADINGS, Row, table_rows, target_rows
from edgekd.report.sparsity import HEADINGS as ZERO_HEADINGS
from edgekd.report.sparsity import SPEED, zero_rows

_NAME_WIDTH = 30
_PIPE_WIDTH = 160
_NARROW = 116


class Terminal:
    """A :class:`~edgekd.progress.Listener` that writes to stderr; nothing at all if ``quiet``.

    The bar with its time to go is drawn only on a real terminal; a log file gets the plain lines.
    """

    def __init__(self, out: Path, *, quiet: bool, verbose: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._log = out / "stages" / "log.txt" if verbose else None
        self._shown = self._log.stat().st_size if self._log is not None and self._log.is_file() else 0
        self._progress = Progress(
            TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
            console=self._console, transient=True, disable=quiet or not self._console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._what = ""

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._show_log()

    def opening(self, text: str) -> None:
        """Print the first line of a run."""
        self._console.print(Text(text, style="bold"))

    def stage_started(self, name: str, what: str) -> None:
        """Show a live line."""
        self._what = what
        self._task = self._progress.add_task(f"{name}: {what}", total=None, note="")

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        """Replace the live line by a lasting one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._show_log()
        line = Text(f"  {name:<{_NAME_WIDTH}}", style="cyan")
        line.append(f"{self._what}: ", style="default").append(what, style="default")
        line.append(" (done before)" if reused else f" ({seconds:.1f} s)", style="dim")
        self._console.print(line, soft_wrap=True)

    def warned(self, message: str) -> None:
        """Print a warning."""
        self._console.print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)

    def _show_log(self) -> None:
        """Print what libraries wrote to the log since the last time."""
        if self._log is not None and self._log.is_file():
            with self._log.open("rb") as file:
                file.seek(self._shown)
                new = file.read()
            self._shown += len(new)
            if new:
                self._console.print(Text(new.decode(errors="replace").rstrip(), style="dim"), soft_wrap=True)


def print_report(report: Report) -> None:
    """Print the table of a report and where its page is, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)  # a file has no width to fit: never fold a row
    _print_table(console, HEADINGS, table_rows(report))
    if report.targets:
        console.print()
        _print_table(console, TARGET_HEADINGS, target_rows(report), left=(0, 1, 4, 6))
    if zeros := zero_rows(report):
        console.print()
        _print_table(console, ZERO_HEADINGS, zeros)
        console.print(SPEED, soft_wrap=True)
    if (cuts := cuts_line(report)) is not None:
        console.print(f"pruned: {cuts}", soft_wrap=True)
    if report.control is not None:
        console.print(verdict(report.control), soft_wrap=True)
    passed = sum(gate.passed for gate in report.gates)
    console.print(f"gates: {passed} of {len(report.gates)} passed")
    console.print(f"report: {report.html}", soft_wrap=True)


def _print_table(console: Console, headings: Sequence[str], rows: Sequence[Row], left: Sequence[int] = (0,)) -> None:
    wide = console.width > _NARROW
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1 if wide else 0))
    for index, heading in enumerate(headings):
        title = heading if wide else heading.replace("p50 ", "p50\n").replace("all ", "all\n").replace(" (", "\n(")
        # Only the name may fold: a number that is cut short is worse than none.
        table.add_column(title, justify="left" if index in left else "right", no_wrap=index > 0, overflow="fold")
    for row in rows:
        name = row.cells[0] + (" (rejected)" if row.rejected else "")
        table.add_row(name, *row.cells[1:], style="red" if row.rejected else None)
    console.print(table)
