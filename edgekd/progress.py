"""What a run tells whoever watches it; the pipeline knows nothing of terminals."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Receives the events of a run, in order, from one thread."""

    def stage_started(self, name: str, what: str) -> None:
        """Stage ``name`` begins; ``what`` is one line that says what it will do."""

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        """The running stage has done ``done`` of ``total`` equal parts; ``note`` is a figure worth seeing."""

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        """Stage ``name`` ended; ``what`` says with which result, ``reused`` that an earlier run had done it."""

    def warned(self, message: str) -> None:
        """Something the user should know that does not stop the run."""


class Silent:
    """A listener that ignores everything: the default of the Python API."""

    def stage_started(self, name: str, what: str) -> None:
        """Ignore."""

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        """Ignore."""

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        """Ignore."""

    def warned(self, message: str) -> None:
        """Ignore."""
