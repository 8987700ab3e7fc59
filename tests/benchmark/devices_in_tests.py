"""Devices that fail in ways of their own, all on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekd.benchmark.transports import Finished
from edgekd.benchmark.transports.local import LocalTransport

Meddle = Callable[["OddDevice", list[str]], "Finished | None"]


class OddDevice(LocalTransport):
    """This machine, with something done before each program runs, which may answer in its place."""

    def __init__(self, meddle: Meddle) -> None:
        super().__init__()
        self.name = "odd"
        self.meddle = meddle
        self.commands: list[list[str]] = []

    def run(self, arguments: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Finished:
        self.commands.append(list(arguments))
        answer = self.meddle(self, list(arguments))
        return super().run(arguments, timeout_s=timeout_s, stdin=stdin) if answer is None else answer

    def command_of_request(self) -> str:
        """Return what the request that was pushed last asks for."""
        import json

        return str(json.loads(Path(self.folder, "request.json").read_text())["command"])
