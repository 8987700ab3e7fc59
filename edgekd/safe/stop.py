"""Stopping on Ctrl+C or SIGTERM: a flag that long work polls, so that state is saved first.

The first signal sets the flag; a second one ends the process at once, as impatient users expect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edgekd.errors import Interrupted

_received: int | None = None


@contextmanager
def stop_signals() -> Iterator[None]:
    """While active, SIGINT and SIGTERM set the flag that :func:`check_stop` reads.

    Outside the main thread, where Python cannot set handlers, this changes nothing.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received = None
    previous = {number: signal.signal(number, _on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        raise KeyboardInterrupt
    _received = number


def stop_requested() -> bool:
    """Whether a stop signal has come."""
    return _received is not None


def check_stop() -> None:
    """Raise :class:`~edgekd.errors.Interrupted` if a stop signal has come; call it where state is safe."""
    if _received is not None:
        raise Interrupted("stopped; what is done so far is saved", _received)
