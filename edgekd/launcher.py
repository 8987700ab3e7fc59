"""What the launcher of several processes, ``torchrun`` or ``accelerate launch``, tells each of them by its environment."""

from __future__ import annotations

import os

from edgekd.errors import UsageError


def launched_count() -> int:
    """Return how many processes run this recipe together: 1 unless ``WORLD_SIZE``, ``RANK`` and ``MASTER_ADDR`` say more."""
    if not os.environ.get("MASTER_ADDR") or "RANK" not in os.environ:
        return 1
    return max(1, _number("WORLD_SIZE", 1))


def launched_rank() -> int:
    """Return the number of this process among them, from 0, which is the main one."""
    return _number("RANK", 0) if launched_count() > 1 else 0


def is_follower() -> bool:
    """Whether another process is the main one: it alone writes and prints."""
    return launched_rank() > 0


def speaks_for_machine() -> bool:
    """Whether this process is the first on its machine."""
    return launched_count() == 1 or _number("LOCAL_RANK", 0) == 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"the environment variable {name} is '{text}', not a whole number", "start with torchrun, or unset it")
    return int(text)
