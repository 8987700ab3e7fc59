"""Which cores the devices of latency tables have: from our profiles, else from the words of the table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from edgekd.devices.latency_table import Latency
from edgekd.devices.profiles import load_profile, profile_names


@dataclass(frozen=True)
class Speed:
    """The fastest cores of a device.

    Attributes:
        core: Micro-architecture, as in ``cores.toml`` where that has it.
        ghz: Their highest clock.
    """

    core: str
    ghz: float


def speed_of(latency: Latency) -> Speed | None:
    """Return the fastest cores of the device of a row; ``None``: it does not tell."""
    profile = profile_of_device().get(latency.key.device)
    if profile is not None:
        found = load_profile(profile).clusters
        return Speed(found[0].core, found[0].ghz) if found else None
    core, ghz = _in_words(latency.soc)
    for chip, known in _CHIPS:
        if core and ghz:
            break
        if chip.lower() in latency.soc.lower():
            core, ghz = core or known.core, ghz or known.ghz
    return Speed(core, ghz) if core and ghz else None


@cache
def profile_of_device() -> dict[str, str]:
    """Return ``{id in latency tables: profile}``."""
    return {device: name for name in profile_names() for device in load_profile(name).published_as}


def _in_words(text: str) -> tuple[str | None, float | None]:
    """Return core and clock as in ``4xA72 1.8GHz`` or ``Arm Cortex-A76 (big) ... 2400 MHz (big)``."""
    core = re.search(r"\b(?:\d+ ?x ?)?(?:Arm )?(?:Cortex-)?(A(?:7|17|53|55|57|72|73|75|76|77|78|78AE|710|715|720))\b", text)
    core = core or re.search(r"\b(Carmel|ARM11|FTC664)\b", text)
    named = re.search(r"\dx(A\d\d\d?(?:AE)?)\b", text)
    clock = re.search(r"(\d+(?:\.\d+)?) ?([GM])Hz", text)
    name = named.group(1) if named else core.group(1) if core else None
    return name, float(clock.group(1)) / (1 if clock.group(2) == "G" else 1000) if clock else None


_CHIPS: tuple[tuple[str, Speed], ...] = (
    ("Snapdragon 8 Gen 2", Speed("X3", 3.2)), ("SD 8 Gen 2", Speed("X3", 3.2)),
    ("Snapdragon 8 Gen 3", Speed("X4", 3.3)), ("Snapdragon 8 Elite", Speed("Oryon", 4.32)),
    ("Snapdragon X", Speed("Oryon", 3.4)), ("Snapdragon 835", Speed("A73", 2.45)),
    ("Snapdragon 845", Speed("A75", 2.8)), ("Snapdragon 855", Speed("A76", 2.84)),
    ("Snapdragon 865", Speed("A77", 2.84)), ("Snapdragon 888", Speed("X1", 2.84)),
    ("Snapdragon 870", Speed("A77", 3.2)), ("Snapdragon 670", Speed("A75", 2.0)), ("Snapdragon 675", Speed("A76", 2.0)),
    ("Snapdragon 710", Speed("A75", 2.2)), ("Snapdragon 730", Speed("A76", 2.2)), ("Snapdragon 765", Speed("A76", 2.4)),
    ("Snapdragon 778", Speed("A78", 2.4)), ("Snapdragon 660", Speed("A73", 2.2)), ("Snapdragon 636", Speed("A73", 1.8)),
    ("Snapdragon 625", Speed("A53", 2.0)), ("Snapdragon 410", Speed("A53", 1.2)), ("Snapdragon 810", Speed("A57", 2.0)),
    ("Snapdragon 820", Speed("Kryo", 2.15)), ("Snapdragon 821", Speed("Kryo", 2.35)), ("Kirin 950", Speed("A72", 2.3)),
    ("Kirin 960", Speed("A73", 2.36)), ("Kirin 970", Speed("A73", 2.36)), ("Kirin 980", Speed("A76", 2.6)),
    ("Kirin 990", Speed("A76", 2.86)), ("Dimensity 9300", Speed("X4", 3.25)), ("Google Tensor", Speed("X1", 2.8)),
    ("Apple A7", Speed("Cyclone", 1.3)), ("Apple A12", Speed("Vortex", 2.49)), ("Apple A14", Speed("Firestorm", 3.0)),
    ("Apple M1", Speed("Firestorm", 3.2)), ("Apple M3", Speed("Everest", 4.05)), ("QCS6490", Speed("A78", 2.7)),
    ("QCS8250", Speed("A77", 2.84)), ("QCM6690", Speed("A78", 2.4)), ("CIX P1", Speed("A720", 2.6)),
    ("RK3399", Speed("A72", 1.8)), ("RK3588", Speed("A76", 2.4)), ("RK3566", Speed("A55", 1.8)),
    ("RK3568", Speed("A55", 2.0)), ("T527", Speed("A55", 1.8)), ("Tegra X1", Speed("A57", 1.43)),
    ("Tegra X2", Speed("A57", 2.0)), ("TX2", Speed("A57", 2.0)), ("Orin NX", Speed("A78AE", 2.0)),
    ("Orin Nano", Speed("A78AE", 1.5)), ("Orin", Speed("A78AE", 2.2)), ("Xavier NX", Speed("Carmel", 1.9)),
    ("Xavier", Speed("Carmel", 2.26)), ("S922X", Speed("A73", 2.4)), ("A311D", Speed("A73", 2.2)),
    ("BCM2710A1", Speed("A53", 1.0)), ("RP3A0", Speed("A53", 1.0)), ("BCM2837", Speed("A53", 1.2)),
    ("BCM2711", Speed("A72", 1.5)), ("BCM2712", Speed("A76", 2.4)),
)  # fmt: skip
"""Fastest cores of chips that tables name without them; estimates, recalled from data sheets."""
