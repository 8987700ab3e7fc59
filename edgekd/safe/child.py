"""Run one function in a fresh process: converters, untrusted files and timings.

A child keeps the parent alive when a native library crashes, keeps third-party chatter in a log,
and gives timings a process without training threads. Arguments and result are JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError, ExportError, ResourceError
from edgekd.safe import stop
from edgekd.safe.files import disk_errors

_KILLED_BY_KERNEL = -signal.SIGKILL
_SECONDS_BETWEEN_POLLS = 0.02
_LEAST_LIMIT = 8 << 30
_LAST_BYTES = 1_000
_OUT_OF_MEMORY = re.compile(r"bad_alloc|can't allocate memory|not enough memory|[Oo]ut of memory|Cannot allocate memory")
"""What libraries say, in C++ and in Python, where memory was refused to them."""


def run_in_child(
    function: str,
    arguments: dict[str, Any],
    *,
    log: Path,
    timeout_s: float = 1800.0,
    threads: int | None = None,
    memory_bytes: int | None = None,
) -> Any:
    """Call ``module:function(**arguments)`` in a new Python process and return its result.

    Args:
        function: ``module:function``; arguments and result must survive a trip through JSON.
        arguments: Keyword arguments.
        log: File that gets everything the child and its libraries print; appended to.
        timeout_s: Seconds after which the child is killed.
        threads: Number of threads for native libraries that read ``OMP_NUM_THREADS``; ``None``: their default.
        memory_bytes: What the child may allocate; ``None``: as much as the machine has, so that it fails instead of others.

    Raises:
        ExportError: The child crashed or raised; the message names the cause and the log.
        ResourceError: It ran out of memory, disk or time.
        EdgekdError: Whatever edgekd error the function raised, as the same type.
        Interrupted: A stop signal came while waiting.
    """
    limit = memory_bytes if memory_bytes is not None else machine_memory()
    read_end, write_end = os.pipe()
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log_file = log.open("ab")
    with log_file, os.fdopen(read_end, "rb") as answers:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgekd.safe.child", function, str(write_end), str(os.getpid()), str(limit)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                env=child_environment(threads),
                pass_fds=(write_end,),
                start_new_session=True,  # Ctrl+C goes to the parent, which decides
            )
        finally:
            os.close(write_end)
        try:
            _send(process, arguments)
            answer = _wait(process, answers.fileno(), function, timeout_s, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return _result(answer, process.returncode, function, log)


def machine_memory() -> int:
    """Return the bytes of memory of this machine, 8 GiB at least, because libraries reserve more than they use; 0: unknown."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        return 0
    return max(found, _LEAST_LIMIT)


def _limit_memory(most: int) -> None:
    """Let this process fail, rather than the machine, where it allocates more than ``most`` bytes; 0: no limit."""
    if sys.platform != "linux" or most <= 0:
        return
    import resource

    # Private memory that can be written: what is mapped from files and only read, as libraries are, does not count.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(process: subprocess.Popen[bytes], arguments: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(arguments).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died before reading: its exit status tells why


def _wait(process: subprocess.Popen[bytes], answers: int, function: str, timeout_s: float, log: Path) -> bytes:
    """Collect the answer until the child closes its end, polling the clock and the stop flag."""
    os.set_blocking(answers, False)
    deadline = time.monotonic() + timeout_s
    answer = bytearray()
    while True:
        stop.check_stop()
        if time.monotonic() > deadline:
            raise ResourceError(f"{function} took longer than {timeout_s:.0f} s and was stopped; its output is in {log}")
        try:
            block = os.read(answers, 1 << 20)
        except BlockingIOError:
            if process.poll() is not None:
                # A grandchild may hold the pipe open: what the child wrote is all there is.
                return bytes(answer) + _drain(answers)
            time.sleep(_SECONDS_BETWEEN_POLLS)
            continue
        if not block:
            process.wait(timeout=max(1.0, deadline - time.monotonic()))
            return bytes(answer)
        answer += block


def _drain(descriptor: int) -> bytes:
    rest = bytearray()
    try:
        while block := os.read(descriptor, 1 << 20):
            rest += block
    except BlockingIOError:
        pass
    return bytes(rest)


def child_environment(threads: int | None) -> dict[str, str]:
    """Return the environment of a child: this one's imports, ``threads`` native threads, and less chatter."""
    environment = dict(os.environ)
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    environment["PYTHONPATH"] = os.pathsep.join([path for path in sys.path if path])
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _result(answer: bytes, exit_status: int, function: str, log: Path) -> Any:
    if answer and exit_status == 0:
        reply = json.loads(answer)
        if "error" in reply:
            raise raised(reply, function, log)
        return reply["result"]
    raise failure(exit_status, function, log)


def raised(reply: dict[str, Any], function: str, log: Path) -> EdgekdError:
    """Return what a child raised, ``{"error": type, "message", "hint"}``, as the same edgekd error or an ExportError."""
    kind = _error_types().get(reply["error"])
    if kind is not None:
        return kind(reply["message"], reply["hint"])
    return ExportError(f"{function}: {reply['error']}: {reply['message']}", f"its full output is in {log}")


def failure(exit_status: int, function: str, log: Path) -> EdgekdError:
    """Return the error for a child that died without an answer."""
    if exit_status < 0 and _OUT_OF_MEMORY.search(_end_of(log)):
        return ResourceError(f"{function} ran out of memory; its output is in {log}")
    if exit_status == _KILLED_BY_KERNEL:
        return ResourceError(f"{function} was killed, most likely out of memory; its output is in {log}")
    cause = signal.Signals(-exit_status).name if exit_status < 0 else f"exit status {exit_status}"
    return ExportError(f"{function} crashed ({cause})", f"its full output is in {log}")


def _end_of(log: Path) -> str:
    """Return the last lines of what a child printed: why a native library ended it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _error_types() -> dict[str, type[EdgekdError]]:
    """Edgekd's errors by name, those with the plain (message, hint) signature."""
    known: dict[str, type[EdgekdError]] = {}
    waiting = [EdgekdError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__init__ is EdgekdError.__init__:
            known[kind.__name__] = kind
    return known


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that no orphan keeps writing."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def error_reply(function: str, error: Exception) -> dict[str, Any]:
    """Return what a child answers when ``function`` raised: see :func:`raised`. An unexpected error's traceback is logged."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return {"error": "ResourceError", "message": f"{function}: out of memory", "hint": None}
    if isinstance(error, EdgekdError):
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    traceback.print_exception(error)
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return {"error": type(error).__name__, "message": first_line[:500], "hint": None}


def _main() -> None:
    function, descriptor, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(descriptor, False)
    die_with_parent(parent)
    _limit_memory(int(sys.argv[4]))
    arguments = json.loads(sys.stdin.buffer.read())
    module, _, name = function.partition(":")
    try:
        reply = {"result": getattr(importlib.import_module(module), name)(**arguments)}
    except Exception as error:
        reply = error_reply(function, error)
    sys.stdout.flush()
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(json.dumps(reply).encode())


if __name__ == "__main__":
    _main()
