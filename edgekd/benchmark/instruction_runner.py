"""Runs a model file in an emulator that counts: ``python3 instruction_runner.py FILE KIND RUNS``, beside ``device_runner.py``.

A mark (see ``tools/instruction_counter.c``) stands before and after every one of the runs.
"""

from __future__ import annotations

import contextlib
import os
import sys

MARK = 77
_WARMUP = 5


def main() -> None:
    """Load the file, warm up, and run it between marks."""
    import device_runner  # type: ignore[import-not-found,unused-ignore]

    path, kind, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    inputs, put, run, _ = device_runner.open_model(path, kind, 1)
    put(device_runner.random_inputs(inputs))
    for _ in range(_WARMUP):
        run()
    for number in range(runs):
        _mark(2 * number)
        run()
        _mark(2 * number + 1)


def _mark(number: int) -> None:
    with contextlib.suppress(OSError):  # there is no such priority: it is the counter that takes notice
        os.getpriority(MARK, number)


if __name__ == "__main__":
    main()
