"""What a run may have left behind: processes by a word in their arguments, folders by their names."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_PATIENCE_S = 20.0


def processes_with(word: str) -> list[int]:
    """Return the ids of living processes with ``word`` in their arguments or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = "State:\tZ" not in (folder / "status").read_text()
            if alive and word.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended while we looked, or is not ours
            continue
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true: a device cleans up in its own time."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def sockets() -> set[Path]:
    """Return the sockets of shared connections on this machine."""
    return set(Path(tempfile.gettempdir()).glob("edgekd-*.ssh*"))
