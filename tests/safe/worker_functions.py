"""What tests let a worker open."""

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from edgekd.errors import ModelError
from edgekd.safe.worker import Answer, Arrays


def open_echo(**arguments: Any) -> tuple[dict[str, Any], Answer]:
    print("chatter on stdout")
    print("chatter on stderr", file=sys.stderr)
    return {"given": arguments, "pid": os.getpid()}, lambda arrays: arrays


def open_counter(start: int) -> tuple[dict[str, Any], Answer]:
    state = {"calls": start}

    def answer(arrays: Arrays) -> Arrays:
        state["calls"] += 1
        return {"calls": np.asarray(state["calls"]), "sum": np.asarray([each.sum() for each in arrays.values()])}

    return {}, answer


def open_and_fail(kind: str) -> tuple[dict[str, Any], Answer]:
    fail(kind)
    raise AssertionError


def open_then_fail(kind: str) -> tuple[dict[str, Any], Answer]:
    def answer(arrays: Arrays) -> Arrays:
        fail(kind)
        return arrays

    return {}, answer


def fail(kind: str) -> None:
    if kind == "edgekd":
        raise ModelError("this model cannot", "try another")
    if kind == "library":
        raise KeyError("inside a library")
    if kind == "memory":
        raise MemoryError
    if kind == "hang":
        time.sleep(3600)
    if kind == "exit":
        os._exit(7)
    os.kill(os.getpid(), {"crash": signal.SIGSEGV, "kernel": signal.SIGKILL}[kind])


def open_objects() -> tuple[dict[str, Any], Answer]:
    return {}, lambda arrays: {"objects": np.asarray([{"a": 1}], dtype=object)}


def open_sometimes() -> tuple[dict[str, Any], Answer]:
    def answer(arrays: Arrays) -> Arrays:
        if arrays["x"].sum() < 0:
            raise ModelError("no negative sums")
        return arrays

    return {}, answer
