"""Short names for operators, for people to read."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MODULE = re.compile(r"^(?:\w+\.)+_?[A-Za-z0-9]+_(?P<attribute>.+)$")
"""How litert-torch writes a module on the way to a layer: its class with its package, and the attribute that holds it."""
_CLASS = re.compile(r"^(?:\w+\.)+_?[A-Za-z0-9]+$")


def labels(names: Iterable[str]) -> dict[str, str]:
    """Return a label for each name: the way through a network's modules to a layer, without classes and packages.

    ``pkg.Net_model/pkg.Stem_stem/torch.nn.modules.conv.Conv2d_conv;1`` becomes ``stem/conv``: what all names begin with is
    left out. Of several joined by ``;;`` the first counts, the one that gives the output. Other names stay as they are.
    Labels need not be unique: a module may be several operators.
    """
    ways = {name: _way(name) for name in names}
    long = [way for way in ways.values() if len(way) > 1]
    while len(long) > 1 and all(len(way) > 1 and way[0] == long[0][0] for way in long):
        for way in long:
            del way[0]
    return {name: "/".join(way) or name for name, way in ways.items()}


def _way(name: str) -> list[str]:
    parts = [part for part in re.sub(r";\d*$", "", name.split(";;")[0]).split("/") if part]
    matches = [(part, _MODULE.match(part)) for part in parts]
    return [match["attribute"] if match else part for part, match in matches if match or not _CLASS.match(part)]
