"""Target profiles: the devices that artifacts are made for, as ``devices/*.toml`` describes them.

What a device is, where each value is from, and how its files are found. How a file is read and checked is in
:mod:`edgekd.devices.profile_file`. Free of torch and of the runtimes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from edgekd.errors import UsageError
from edgekd.names import did_you_mean

DeviceKind = Literal["host", "android", "ios", "raspberry-pi", "jetson"]
KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
RUNTIMES_BY_FORMAT: dict[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "tensorrt"),
    "ort": ("onnxruntime",),
    "tflite": ("litert",),
}
"""What can run a file of each format."""


@dataclass(frozen=True)
class Core:
    """A micro-architecture of a CPU, from ``cores.toml``.

    Attributes:
        id: For example ``A76``.
        fp32_per_cycle, fp16_per_cycle, int8_per_cycle: Operations that one core does in a cycle at best, where a
            multiplication and an addition are two; 0: it has no such arithmetic.
        dot_product, fp16_arithmetic, i8mm: What its instruction set has.
        sources: Where each value is from; ``isa`` for the instruction set.
    """

    id: str
    fp32_per_cycle: int
    fp16_per_cycle: int
    int8_per_cycle: int
    dot_product: bool
    fp16_arithmetic: bool
    i8mm: bool
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        core: Micro-architecture, as in ``cores.toml``, for example ``A76``.
        count: Number of cores.
        ghz: Highest clock.
        role: ``prime``, ``big`` or ``little``.
    """

    core: str
    count: int
    ghz: float
    role: Literal["prime", "big", "little"]


@dataclass(frozen=True)
class Accelerator:
    """A GPU or an NPU.

    Attributes:
        kind: ``gpu`` or ``npu``.
        name: Name for people.
        runs: What runs on it, and by which way, in words.
        source: Where that is from.
    """

    kind: Literal["gpu", "npu"]
    name: str
    runs: str
    source: str


@dataclass(frozen=True)
class PowerMode:
    """A setting of clocks and power.

    Attributes:
        name: As the device calls it, for example ``MAXN``.
        what: What it does, and the command that sets it.
    """

    name: str
    what: str


@dataclass(frozen=True)
class PublishedFigure:
    """A ratio of published latencies of this device, the median over the models that have both.

    Attributes:
        what: ``int8_speedup``: floating point to int8; ``thread_speedup``: one thread to ``threads`` of them.
        runtime: What was measured, as its publisher calls it.
        where: ``cpu``, ``gpu`` or ``npu``.
        precision: Of the floating-point side, or of both: ``fp32`` or ``fp16``.
        value: How many times faster; below 1: slower.
        models: Models that the median is over, each at one size of its input.
        source: Repository that published the latencies.
        threads: Number of threads; ``None``: not stated.
    """

    what: Literal["int8_speedup", "thread_speedup"]
    runtime: str
    where: Literal["cpu", "gpu", "npu"]
    precision: Literal["fp32", "fp16"]
    value: float
    models: int
    source: str
    threads: int | None = None


@dataclass(frozen=True)
class Remark:
    """Something else to know of a device.

    Attributes:
        text: A sentence.
        source: Where it is from.
    """

    text: str
    source: str


@dataclass(frozen=True)
class Profile:
    """A device that artifacts run on.

    Attributes:
        id: Name used in recipes and reports, for example ``host`` or ``pi4``.
        name: Name for people.
        kind: The kind of device of ``abilities.toml``, or ``host``: this machine.
        runtimes: ``{format: runtime}``, for example ``{"onnx": "onnxruntime"}``.
        threads: Thread settings to measure: numbers, or ``"all"``.
        soc: System on a chip.
        published_as: Ids of the same device in tables of published latency.
        clusters: CPU cores, the fastest first; none for the host, which is measured.
        dot_product, fp16_arithmetic, i8mm: What the instruction set of the fastest cores has.
        copy_gb_s: Bandwidth of a copy by one core, measured, in GB/s; ``None``: unknown.
        memory_bytes: Of the whole device, the smallest that is sold; ``None``: unknown.
        artifacts: Files for it, by flavour, the best first.
        channel_multiple: Widths that its kernels like are multiples of it.
        sources: Where each value is from, by its key; an estimate begins with ``estimate``.
        same_soc: Ids of other devices with the same chip in tables of published latency.
        memory_gb_s: Bandwidth of the memory by its data sheet, in GB/s; a core reaches a fraction of it.
        accelerators: GPUs and NPUs.
        versions: ``{runtime: version}`` that files are made for.
        power_modes: Settings of clocks and power, the fastest first.
        published: Ratios of published latencies.
        remarks: What else to know.
    """

    id: str
    name: str
    kind: DeviceKind
    runtimes: dict[str, str]
    threads: tuple[int | Literal["all"], ...]
    soc: str = ""
    published_as: tuple[str, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    dot_product: bool = False
    fp16_arithmetic: bool = False
    i8mm: bool = False
    copy_gb_s: float | None = None
    memory_bytes: int | None = None
    artifacts: tuple[str, ...] = ()
    channel_multiple: int = 8
    sources: dict[str, str] = field(default_factory=dict)
    same_soc: tuple[str, ...] = ()
    memory_gb_s: float | None = None
    accelerators: tuple[Accelerator, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    power_modes: tuple[PowerMode, ...] = ()
    published: tuple[PublishedFigure, ...] = ()
    remarks: tuple[Remark, ...] = ()

    def is_estimate(self, key: str) -> bool:
        """Return whether the value of ``key``, as in ``sources``, is an estimate."""
        return self.sources.get(key, "").startswith("estimate")


def profile_folder() -> Path:
    """Return the folder of the shipped profiles: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "profiles"
    return installed if installed.is_dir() else package.parent.parent / "devices"


def user_file(profile: str) -> Path:
    """Return where the calibration of a profile is kept: below ``XDG_DATA_HOME``, or ``~/.local/share``."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "edgekd" / "devices" / f"{profile}.toml"


def profile_names() -> tuple[str, ...]:
    """Return the ids of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in profile_folder().glob("*.toml") if path.stem != "cores"))


def load_profile(name: str) -> Profile:
    """Return the shipped profile ``name``, or that of a ``.toml`` file.

    Raises:
        UsageError: There is no such profile; or its file cannot be read, lacks a value, or has an impossible one.
    """
    from edgekd.devices.profile_file import read_profile

    known = profile_names()
    if name in known:
        return read_profile(profile_folder() / f"{name}.toml")
    if name.endswith(".toml"):
        return read_profile(Path(name))
    shown = name if len(name) <= 80 and name.isprintable() else ascii(name[:80])
    raise UsageError(
        f"no device profile '{shown}', allowed: {', '.join(known)}{did_you_mean(name[:80], known)}",
        "a profile of your own is named by its file, my_board.toml; `edgekd devices new` writes one to start from",
    )


@cache
def cores() -> dict[str, Core]:
    """Return the micro-architectures of ``cores.toml`` by their id."""
    from edgekd.devices.profile_file import read_cores

    return read_cores(profile_folder() / "cores.toml")


def peak_gops(cluster: Cluster, precision: Literal["fp32", "fp16", "int8"]) -> float:
    """Return what one core of ``cluster`` does at best, in billions of operations a second; 0: no such arithmetic."""
    core = cores()[cluster.core]
    per_cycle = {"fp32": core.fp32_per_cycle, "fp16": core.fp16_per_cycle, "int8": core.int8_per_cycle}[precision]
    return cluster.ghz * per_cycle


def fast_clusters(profile: Profile) -> tuple[Cluster, ...]:
    """Return the clusters that are not little ones; all of them where there are no others."""
    return tuple(each for each in profile.clusters if each.role != "little") or profile.clusters


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
