"""Read target profiles."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.errors import UsageError
from edgekd.names import did_you_mean

_SCHEMA = 1


@dataclass(frozen=True)
class Profile:
    """A device that artifacts run on.

    Attributes:
        id: Name used in recipes and reports, for example ``host``.
        name: Name for people.
        transport: How edgekd reaches it: ``local`` is this machine.
        runtimes: ``{format: runtime}``, for example ``{"onnx": "onnxruntime"}``.
        threads: Thread settings to measure: numbers, or ``"all"``.
    """

    id: str
    name: str
    transport: Literal["local"]
    runtimes: dict[str, str]
    threads: tuple[int | Literal["all"], ...]


def profile_folder() -> Path:
    """Return the folder of the shipped profiles: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "profiles"
    return installed if installed.is_dir() else package.parent.parent / "devices"


def load_profile(name: str) -> Profile:
    """Return the shipped profile ``name``.

    Raises:
        UsageError: There is no such profile, or its file has another schema.
    """
    folder = profile_folder()
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise UsageError(f"no device profile '{name}', allowed: {', '.join(known)}{did_you_mean(name, known)}")
    content: dict[str, Any] = tomllib.loads((folder / f"{name}.toml").read_text())
    if content["schema"] != _SCHEMA:
        raise UsageError(f"device profile {folder / name}.toml has schema {content['schema']}, this edgekd reads {_SCHEMA}")
    return Profile(
        content["id"], content["name"], content["transport"], content["runtimes"], tuple(content["measure"]["threads"])
    )


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
