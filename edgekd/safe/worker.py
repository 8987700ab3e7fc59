"""A child process that stays: it opens something once, then answers batches of arrays until it is closed.

Black-box teachers run here, in their own runtime, so that a crash of that runtime is an error message
and its threads, its memory and its chatter stay out of the training process.

A frame on the pipes is an 8-byte length, a JSON header of that length, and the arrays' raw bytes:
``{"arrays": [[name, dtype, shape], ...], "reply": ...}``. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ResourceError
from edgekd.safe import stop
from edgekd.safe.child import child_environment, die_with_parent, error_reply, failure, raised
from edgekd.safe.files import disk_errors

Arrays = dict[str, NDArray[Any]]
Answer = Callable[[Arrays], Arrays]
_KINDS = frozenset("biuf")  # booleans, integers, floats: plain bytes
_SECONDS_BETWEEN_POLLS = 0.2


class Worker(AbstractContextManager["Worker"]):
    """Opens ``module:function(**arguments)`` in a new process; use it as a context manager.

    The function returns a JSON description and how to answer a batch.

    Args:
        function: ``module:function``.
        arguments: Keyword arguments, JSON.
        log: File that gets everything the child and its libraries print; appended to.
        timeout_s: Seconds that opening or one batch may take.

    Raises:
        ExportError: The child crashed or raised; the message names the cause and the log.
        ResourceError: It ran out of memory or time.
        EdgekdError: Whatever edgekd error the function raised, as the same type.
        Interrupted: A stop signal came while waiting.
    """

    def __init__(self, function: str, arguments: dict[str, Any], *, log: Path, timeout_s: float = 600.0) -> None:
        self._function, self._log, self._timeout_s = function, log, timeout_s
        ask_read, ask_write = os.pipe()
        answer_read, answer_write = os.pipe()
        command = [sys.executable, "-m", "edgekd.safe.worker", function, str(ask_read), str(answer_write), str(os.getpid())]
        try:
            with disk_errors(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("ab") as log_file:
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=child_environment(None),
                        pass_fds=(ask_read, answer_write), start_new_session=True,
                    )  # fmt: skip
        except BaseException:
            os.close(ask_write)
            os.close(answer_read)
            raise
        finally:
            os.close(ask_read)
            os.close(answer_write)
        self._ask, self._answers = os.fdopen(ask_write, "wb"), answer_read
        try:
            self.description: dict[str, Any] = self._exchange({}, arguments)[1]
        except BaseException:
            self.close()
            raise

    def __call__(self, arrays: Arrays) -> Arrays:
        """Return the answer to one batch."""
        return self._exchange(arrays, None)[0]

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        with contextlib.suppress(BrokenPipeError):  # the child is gone, and what was never sent is of no use
            self._ask.close()

    def _exchange(self, arrays: Arrays, reply: Any) -> tuple[Arrays, Any]:
        with contextlib.suppress(BrokenPipeError):  # the child died; its exit status says why
            _send(self._ask.write, arrays, reply)
            self._ask.flush()
        found, content = _receive(self._read)
        if isinstance(content, dict) and "error" in content:
            raise raised(content, self._function, self._log)
        return found, content

    def _read(self, count: int) -> bytearray:
        parts, deadline = bytearray(), self._timeout_s
        while len(parts) < count:
            stop.check_stop()
            if not select.select([self._answers], [], [], _SECONDS_BETWEEN_POLLS)[0]:
                deadline -= _SECONDS_BETWEEN_POLLS
                if deadline < 0:
                    raise ResourceError(
                        f"{self._function} gave no answer for {self._timeout_s:.0f} s; its output is in {self._log}"
                    )
                continue
            block = os.read(self._answers, min(count - len(parts), 1 << 20))
            if not block:
                raise failure(self._process.wait(), self._function, self._log)
            parts += block
        return parts


def _send(write: Callable[[bytes], Any], arrays: Arrays, reply: Any) -> None:
    header = _header(arrays, reply)
    write(len(header).to_bytes(8, "little") + header)
    for array in arrays.values():
        write(np.ascontiguousarray(array).tobytes())


def _header(arrays: Arrays, reply: Any) -> bytes:
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"{name} is of dtype {array.dtype}, which no worker sends")
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    return json.dumps({"arrays": listed, "reply": reply}).encode()


def _receive(read: Callable[[int], bytearray]) -> tuple[Arrays, Any]:
    header = json.loads(read(int.from_bytes(read(8), "little")))
    arrays: Arrays = {}
    for name, code, shape in header["arrays"]:
        dtype = np.dtype(code)
        if dtype.kind not in _KINDS:
            raise ValueError(f"{name} is of dtype {dtype}, which no worker sends")
        content = read(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        arrays[name] = np.frombuffer(content, dtype).reshape(shape)
    return arrays, header["reply"]


def _main() -> None:
    function, ask, answers, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.set_inheritable(ask, False)
    os.set_inheritable(answers, False)
    die_with_parent(parent)
    with os.fdopen(ask, "rb") as asked, os.fdopen(answers, "wb") as out:

        def read(count: int) -> bytearray:
            content = bytearray(asked.read(count))
            if len(content) < count:
                os._exit(0)  # closed: there is nobody to answer to
            return content

        answer: Answer | None = None
        while True:
            arrays, arguments = _receive(read)
            made: Arrays = {}
            reply: Any = None
            try:
                if answer is None:
                    module, _, name = function.partition(":")
                    reply, answer = getattr(importlib.import_module(module), name)(**arguments)
                else:
                    made = answer(arrays)
                _header(made, reply)  # what cannot be sent is an error like others
            except Exception as error:
                reply = error_reply(function, error)
            _send(out.write, {} if isinstance(reply, dict) and "error" in reply else made, reply)
            out.flush()


if __name__ == "__main__":
    _main()
