"""Write a profile to start from: every key with its meaning, every value of a known device, marked as an estimate."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgekd.devices.profiles import KINDS, RUNTIMES_BY_FORMAT, Profile, cores, load_profile, profile_names
from edgekd.errors import UsageError
from edgekd.flavours import ARTIFACT_NAMES
from edgekd.names import did_you_mean
from edgekd.safe.files import disk_errors, write_text

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# What a new profile of each kind starts from.
_USUAL = {"raspberry-pi": "pi4", "jetson": "jetson_orin_nano", "android": "snapdragon7", "ios": "iphone15"}
_LINE = 120


def write_profile(name: str, out: Path, *, kind: str | None = None, like: str | None = None, force: bool = False) -> Path:
    """Write a commented profile for a device ``name`` to ``out`` and return its path.

    Args:
        name: Its id: small letters, digits, ``-`` and ``_``.
        out: The file; it is made whole or not at all.
        kind: Kind of device; ``None``: that of ``like``, or ``raspberry-pi``.
        like: Device, or file of a profile, whose values to start from; ``None``: a usual device of the kind.
        force: Replace ``out`` if it is there.

    Raises:
        UsageError: The name cannot be an id or is that of a shipped device; ``like`` cannot be read, is of another kind or is
            the host; or ``out`` is there already.
    """
    if not _ID.fullmatch(name):
        shown = name if len(name) <= 80 and name.isprintable() else ascii(name[:80])
        raise UsageError(f"'{shown}' cannot be the id of a device: small letters, digits, - and _, at most 64")
    if name in profile_names():
        raise UsageError(f"'{name}' is a shipped device", f"choose another name, and start from it with --like {name}")
    if kind is not None and kind not in _USUAL:
        raise UsageError(f"no kind of device '{kind}', allowed: {', '.join(_USUAL)}{did_you_mean(kind, _USUAL)}")
    base = load_profile(like or _USUAL[kind or "raspberry-pi"])
    if base.kind == "host":
        raise UsageError("the host has no profile to start from: it is measured", f"allowed kinds: {', '.join(_USUAL)}")
    if kind is not None and kind != base.kind:
        raise UsageError(f"--like {like} is of kind {base.kind}, not {kind}", "leave one of both options out")
    with disk_errors(out):
        there = out.exists()
    if there and not force:
        raise UsageError(f"{out} is already there", "choose another file with --out, or replace it with --force")
    write_text(out, commented_profile(name, base))
    return out


def commented_profile(name: str, base: Profile) -> str:
    """Return the text of a profile with the values of ``base``, each marked as an estimate, and a comment for each key."""
    lines = [
        f"# Profile of {name}, started from {base.id}: replace what differs, and say under [sources] where each value is from.",
        f'# A value without a source begins with "estimate". Check it with: edgekd devices show {name}.toml',
        "schema = 1",
        f"id = {_text(name)}",
        "# For people.",
        f"name = {_text(name)}",
        *_comment(f"One of: {', '.join(KINDS[1:])}. It says which files are of use (edgekd plan) and how it is reached."),
        f"kind = {_text(base.kind)}",
        "# System on a chip.",
        f"soc = {_text(base.soc)}",
        "# Ids of this device, and of others with its chip, in tables of published latency; none: leave them empty.",
        "published_as = []",
        "same_soc = []",
        "# Instruction set of the fastest cores, as flags of lscpu: asimddp, asimdhp, i8mm.",
        f"dot_product = {_truth(base.dot_product)}",
        f"fp16_arithmetic = {_truth(base.fp16_arithmetic)}",
        f"i8mm = {_truth(base.i8mm)}",
    ]
    if base.copy_gb_s is not None:
        lines += ["# What one core copies, measured (memcpy, as sbc-bench does), in GB/s; leave it out if unknown.",
                  f"copy_gb_s = {base.copy_gb_s}"]  # fmt: skip
    if base.memory_gb_s is not None:
        lines += ["# What the memory is rated for, in GB/s; leave it out if unknown.", f"memory_gb_s = {base.memory_gb_s}"]
    lines += [
        f"# Of the whole device, in bytes: {base.memory_bytes / 2**30 if base.memory_bytes else 0:g} x 1024 x 1024 x 1024.",
        f"memory_bytes = {base.memory_bytes or 1 << 30:_}",
        *_comment(f"Files for it, the best first. All there are: {', '.join(ARTIFACT_NAMES)}."),
        f"artifacts = [{', '.join(_text(each) for each in base.artifacts)}]",
        "# Widths that its kernels like are multiples of this.",
        f"channel_multiple = {base.channel_multiple}",
        "",
        "# CPU cores, the fastest first; role is prime, big or little.",
        *_comment(f"core is one of: {', '.join(cores())}; the nearest, if yours is not among them."),
    ]
    for cluster in base.clusters:
        lines += ["[[clusters]]", f"core = {_text(cluster.core)}", f"count = {cluster.count}", f"ghz = {cluster.ghz}",
                  f"role = {_text(cluster.role)}", ""]  # fmt: skip
    lines += ["# GPUs and NPUs; leave them out if there is none. kind is gpu or npu."]
    for each in base.accelerators:
        lines += ["[[accelerators]]", f"kind = {_text(each.kind)}", f"name = {_text(each.name)}", f"runs = {_text(each.runs)}",
                  f"source = {_text(_estimate(base))}", ""]  # fmt: skip
    allowed = "; ".join(f"{each}: {' or '.join(runtimes)}" for each, runtimes in RUNTIMES_BY_FORMAT.items())
    lines += [
        *_comment(f"What runs a file of each format. {allowed}."),
        "[runtimes]",
        *(f"{each} = {_text(runtime)}" for each, runtime in base.runtimes.items()),
        "",
        "# Version of each of those runtimes on the device.",
        "[versions]",
        *(f"{runtime} = {_text(version)}" for runtime, version in base.versions.items()),
        "",
        "# Thread settings that are measured: numbers, or \"all\".",
        "[measure]",
        f"threads = [{', '.join(_text(each) if isinstance(each, str) else str(each) for each in base.threads)}]",
        "",
        "# Settings of clocks and power, the fastest first; leave them out if there is none.",
    ]  # fmt: skip
    for mode in base.power_modes:
        lines += ["[[power_modes]]", f"name = {_text(mode.name)}", f"what = {_text(mode.what)}", ""]
    lines += [
        "# Where each value is from: a document, a measurement, or \"estimate: why\".",
        "[sources]",
        *(f"{_key(key)} = {_text(_estimate(base))}" for key in base.sources if key not in ("published_as", "same_soc")),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _estimate(base: Profile) -> str:
    return f"estimate: as {base.id}, to be replaced"


def _comment(text: str) -> list[str]:
    """Return a comment in lines that fit."""
    lines, line = [], "#"
    for word in text.split():
        if len(line) + len(word) + 1 > _LINE:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line]


def _text(value: str) -> str:
    # What JSON escapes in a text, TOML reads alike.
    return json.dumps(value, ensure_ascii=False)


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _key(key: str) -> str:
    return _text(key) if "." in key else key
