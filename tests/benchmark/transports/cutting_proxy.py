"""ProxyCommand of ssh that breaks the connection, once: ``python cutting_proxy.py PORT BYTES LOG``.

It passes standard input to the port and back. The first one dies when it has passed so many bytes, of both directions
together; LOG.1, LOG.2, ... tell how many each has passed, in their last lines.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 16


def main() -> None:
    port, most, log = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    number = 1 + len(list(log.parent.glob(f"{log.name}.*")))
    mine = log.with_name(f"{log.name}.{number}")
    mine.touch()
    passed, lock = 0, threading.Lock()

    def count(size: int) -> None:
        nonlocal passed
        with lock:
            passed += size
            with mine.open("a") as file:  # now, since ssh ends it with a signal
                file.write(f"{passed}\n")
            if number == 1 and passed > most:
                os._exit(1)

    connection = socket.create_connection(("127.0.0.1", port))
    back = (lambda: connection.recv(BLOCK), lambda data: os.write(1, data), count)
    threading.Thread(target=_pass, args=back, daemon=True).start()
    _pass(lambda: os.read(0, BLOCK), connection.sendall, count)


def _pass(read: Callable[[], bytes], write: Callable[[bytes], object], count: Callable[[int], None]) -> None:
    while block := read():
        write(block)
        count(len(block))
    os._exit(0)


if __name__ == "__main__":
    main()
