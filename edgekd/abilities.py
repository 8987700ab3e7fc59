"""Which of the files that can be made each device can use, and why not the others: one table, ``abilities.toml``.

Plans, kits and inspections read it. What a file is, is in :mod:`edgekd.flavours`; which operators a runtime takes, in
``inspect/delegates.toml``. Free of torch and of the runtimes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekd.errors import UsageError
from edgekd.flavours import ARTIFACT_NAMES, ArtifactName
from edgekd.names import did_you_mean


@dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        id: For example ``raspberry-pi``.
        what: In words, with the runtimes that are meant.
        kit: Files for its deploy kit, the best first; of those that stand together, the one measured faster.
        runtimes: Ids of the runtimes of ``inspect/delegates.toml`` that run its files.
        no: Why not, for every file that is of no use there.
    """

    id: str
    what: str
    kit: tuple[tuple[ArtifactName, ...], ...]
    runtimes: tuple[str, ...]
    no: dict[ArtifactName, str]


@cache
def devices() -> dict[str, Device]:
    """Return every device of ``abilities.toml`` by its id."""
    content = tomllib.loads(Path(__file__).with_name("abilities.toml").read_text(encoding="utf-8"))
    found = {}
    for table in content["device"]:
        no: dict[ArtifactName, str] = {}
        for pattern, reason in table["no"].items():
            no |= dict.fromkeys(_named(pattern), reason)
        kit = tuple(tuple(name for each in names for name in _named(each)) for names in table["kit"])
        found[table["id"]] = Device(table["id"], table["what"], kit, tuple(table["runtimes"]), no)
    return found


def _named(pattern: str) -> list[ArtifactName]:
    """Return the artifact of that name, or those that begin as ``pattern`` does before its ``*``."""
    start = pattern.removesuffix("*")
    found = [name for name in ARTIFACT_NAMES if (name.startswith(start) if start != pattern else name == pattern)]
    assert found, f"abilities.toml names {pattern}, and there is no such artifact"
    return found


def check_device(name: str) -> Device:
    """Return the device of that name.

    Raises:
        UsageError: There is none; the nearest is named.
    """
    known = devices()
    if name not in known:
        raise UsageError(f"no target '{name}', allowed: {', '.join(known)}{did_you_mean(name, known)}")
    return known[name]


def why_not(artifact: ArtifactName, device: str) -> str | None:
    """Return why a file is of no use on a device, in words; ``None``: it runs there.

    Raises:
        UsageError: There is no such device.
    """
    return check_device(device).no.get(artifact)


def usable(artifacts: Iterable[ArtifactName], device: str) -> tuple[ArtifactName, ...]:
    """Return those of ``artifacts`` that a device can use, those of its kit first and the best of them first.

    Raises:
        UsageError: There is no such device.
    """
    able = [name for name in artifacts if why_not(name, device) is None]
    best = [name for names in check_device(device).kit for name in names]
    return tuple(sorted(able, key=lambda name: best.index(name) if name in best else len(best)))
