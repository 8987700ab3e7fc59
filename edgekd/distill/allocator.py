"""Memory of a training that is used again at the next step instead of being given back in between.

A step frees and allocates the same large activations as the one before. glibc maps each block of more than 32 MiB anew, and
after freeing trims the heap, so the kernel has to hand out, and zero, those pages at every step.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _GIBIBYTE = (1 << 31) - 1, 1 << 30
_USUAL_TRIM, _USUAL_MMAP = 64 << 20, 32 << 20
"""What glibc's own adjustment arrives at in a process that frees large blocks; setting any value ends the adjustment."""


@contextmanager
def reused_memory() -> Iterator[None]:
    """Keep freed memory in this process while inside, and give it back at the end.

    Does nothing where the C library is not glibc.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _GIBIBYTE)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        libc.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None
