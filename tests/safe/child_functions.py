"""Functions that tests run in child processes."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from edgekd.errors import DataError
from edgekd.safe.child import run_in_child


def echo(**values: Any) -> dict[str, Any]:
    print("chatter on stdout")
    sys.stderr.write("chatter on stderr\n")
    return values


def big() -> str:
    return "x" * 5_000_000


def fail_as_edgekd() -> None:
    raise DataError("the data is bad", "mend it")


def fail_otherwise() -> None:
    raise KeyError("a bug in a library")


def send_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def sleep(pid_file: str | None = None) -> None:
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    time.sleep(600)


def run_out_of_memory() -> None:
    raise MemoryError


def allocate(count: int, library: str) -> int:
    """Ask for ``count`` bytes and use them, through one library or another."""
    if library == "torch":
        import torch

        return int(torch.ones(count, dtype=torch.uint8)[-1])
    if library == "python":
        return len(bytearray(count))
    import ctypes

    standard = ctypes.CDLL("libstdc++.so.6")
    standard._Znwm.restype = ctypes.c_void_p  # operator new, which throws std::bad_alloc through C, and ends the process
    return int(standard._Znwm(ctypes.c_size_t(count)) is not None)


def parent_of_a_sleeper(pid_file: str, log: str) -> None:
    run_in_child("tests.safe.child_functions:sleep", {"pid_file": pid_file}, log=Path(log))
