"""Hostile files for tests: pickles that would leave a canary behind, and seeded mutants of good files."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Gadget:
    """Unpickled freely, it runs ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def gadgets(canary: Path) -> dict[str, Gadget]:
    """Return pickle gadgets of several kinds; each of them makes the file ``canary`` where it is unpickled freely."""
    write = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Gadget(os.system, f"touch {canary}"),
        "eval": Gadget(eval, f"__import__('pathlib').Path({str(canary)!r}).touch()"),
        "exec": Gadget(exec, write),
        "method": Gadget(Path.touch, canary),
        "open": Gadget(open, str(canary), "w"),
        "nested": Gadget(map, exec, [write]),
    }


def mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` broken forms of ``content``: cut off, bits flipped, bytes overwritten, zeroed, doubled."""
    draw = random.Random(seed)
    for number in range(count):
        broken = bytearray(content)
        where = draw.randrange(len(broken))
        if number % 4 == 0:
            del broken[where:]
        elif number % 4 == 1:
            for _ in range(draw.choice([1, 8])):
                broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        elif number % 4 == 2:
            # Headers and directories are at the ends.
            where = draw.choice(
                [draw.randrange(min(200, len(broken))), len(broken) - 1 - draw.randrange(min(200, len(broken)))]
            )
            broken[where] = draw.randrange(256)
        else:
            broken[where : where + 16] = draw.choice([bytes(16), b"\xff" * 16, broken[:16], b""])
        yield bytes(broken)
