"""What to expect of a device, in words: from its profile and the rules of the field, each statement with its basis."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgekd.devices.profiles import (
    Profile,
    PublishedFigure,
    fast_clusters,
    load_profile,
    peak_gops,
    profile_folder,
    profile_names,
    user_file,
)
from edgekd.errors import UsageError
from edgekd.flavours import FLAVOURS, RUNTIME_NAMES, format_of

# Whose figures are told where none of the same cores are published, by whether there is a dot product.
_WELL_KNOWN = {True: "pi5", False: "pi4"}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "tensorrt": "TensorRT"}
_REACH = {
    "host": ("this machine", "edgekd benchmark FILE --on {id}"),
    "raspberry-pi": ("over ssh", "edgekd benchmark FILE --on {id} --via ssh://USER@HOST"),
    "jetson": ("over ssh", "edgekd benchmark FILE --on {id} --via ssh://USER@HOST"),
    "android": ("over adb, with USB debugging switched on", "edgekd benchmark FILE --on {id} --via adb"),
}
_TRANSPORTS = {
    "host": ("local",), "raspberry-pi": ("ssh", "emulated"), "jetson": ("ssh", "emulated"), "android": ("adb", "emulated"),
    "ios": (),
}  # fmt: skip


@dataclass(frozen=True)
class Expectation:
    """One thing to expect.

    Attributes:
        about: ``cores``, ``int8``, ``fp16``, ``threads``, ``memory``, ``gpu``, ``npu``, ``power``, ``file``, ``pruning``,
            ``prediction``, ``reach`` or ``know``.
        text: In words.
        source: What it stands on; empty: it follows from the profile.
    """

    about: str
    text: str
    source: str = ""


@dataclass(frozen=True)
class Basis:
    """What predictions for a device stand on.

    Attributes:
        basis: ``measured``, ``fitted``, ``transferred`` or ``specification only``.
        rows: Number of published latencies of this device that were fitted.
    """

    basis: str
    rows: int

    def __str__(self) -> str:
        return f"{self.basis}, {self.rows:,} published rows" if self.rows else self.basis


def transports(profile: Profile) -> tuple[str, ...]:
    """Return the ways to run files on a device: ``local``, ``ssh``, ``adb`` or ``emulated``; none for iOS."""
    return _TRANSPORTS[profile.kind]


def prediction_basis(profile: Profile) -> Basis:
    """Return what predictions stand on: the user's calibration, else the best of the coefficients that are shipped.

    Raises:
        UsageError: A file of coefficients cannot be read.
    """
    if user_file(profile.id).is_file():
        from edgekd.devices.coefficients import read_device

        own = read_device(user_file(profile.id)).fitted
        if own:
            return Basis(f"calibrated {own[0].calibrated}", 0)
    if profile.kind == "host":
        return Basis("measured", 0)
    path = profile_folder() / "coefficients" / f"{profile.id}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _basis_of_cores(profile)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    found = list(_tables_with_basis(content))
    if not found:
        return _basis_of_cores(profile)
    order = ("fitted", "transferred", "specification only")
    best = min((each["basis"] for each in found), key=lambda basis: order.index(basis) if basis in order else len(order))
    return Basis(best, sum(int(each.get("rows", 0)) for each in found if each["basis"] == best))


def _basis_of_cores(profile: Profile) -> Basis:
    """Return what predictions stand on where no latency of the device is published."""
    path = profile_folder() / "coefficients" / "families.toml"
    if not path.is_file() or not profile.clusters:
        return Basis("specification only", 0)
    families = tomllib.loads(path.read_text(encoding="utf-8"))["family"]
    measured = {each["core"] for family in families for each in family.get("core", [])}
    return Basis("transferred" if fast_clusters(profile)[0].core in measured else "specification only", 0)


def _tables_with_basis(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("basis"), str):
            yield value
        for each in value.values():
            yield from _tables_with_basis(each)
    elif isinstance(value, list):
        for each in value:
            yield from _tables_with_basis(each)


def explain(profile: Profile) -> tuple[Expectation, ...]:
    """Return what to expect of a device, what to ship for it, and how to reach it."""
    found: list[Expectation] = []
    if profile.clusters:
        found += [_cores(profile), *_int8(profile), *_fp16(profile), *_threads(profile)]
    found += _memory(profile)
    found += [Expectation(each.kind, f"{each.name}: {each.runs}", each.source) for each in profile.accelerators]
    for index, mode in enumerate(profile.power_modes):
        found.append(Expectation("power", f"{mode.name}: {mode.what}", "" if index else profile.sources.get("power_modes", "")))
    found += [*_file(profile), *_pruning(profile), _prediction(profile), _reach(profile)]
    return (*found, *(Expectation("know", each.text, each.source) for each in profile.remarks))


def _cores(profile: Profile) -> Expectation:
    clusters = ", ".join(f"{each.count} x {each.core} at {each.ghz:g} GHz ({each.role})" for each in profile.clusters)
    best = profile.clusters[0]
    one = peak_gops(best, "fp32")
    fast = fast_clusters(profile)
    together = sum(each.count * peak_gops(each, "fp32") for each in fast)
    which = f"the {sum(each.count for each in fast)} fast ones" if len(fast) < len(profile.clusters) else "all"
    text = f"{clusters}. At best {one:.1f} GFLOP/s in fp32 on one core, {together:.1f} on {which}"
    return Expectation("cores", text, _sources(profile, "clusters.core", "clusters.ghz"))


def _int8(profile: Profile) -> Iterator[Expectation]:
    best = profile.clusters[0]
    limit = peak_gops(best, "int8") / peak_gops(best, "fp32")
    if profile.dot_product:
        text = f"{best.core} has dot products of int8{' and i8mm' if profile.i8mm else ''}: at best {limit:g} times fp32"
    else:
        text = (
            f"gains little: {best.core} has no dot product of int8, its arithmetic is at best {limit:g} times fp32;"
            " what goes beyond is from moving a quarter of the bytes"
        )
    yield Expectation("int8", f"On the CPU: {text}", _sources(profile, "dot_product"))
    of, figures = _published(profile, "int8_speedup")
    for each in figures:
        threads = {None: "", 1: " on 1 thread"}.get(each.threads, f" on {each.threads} threads")
        place = {"cpu": "", "gpu": " on the GPU", "npu": " on the NPU"}[each.where]
        said = f"{each.value:g} times as fast as {each.precision}" + (", that is slower" if each.value < 1 else "")
        yield Expectation("int8", f"{of} with {each.runtime}{place}{threads} {said} (median of {each.models})", each.source)


def _fp16(profile: Profile) -> Iterator[Expectation]:
    if profile.fp16_arithmetic:
        best = profile.clusters[0]
        limit = peak_gops(best, "fp16") / peak_gops(best, "fp32")
        text = (
            f"{best.core} computes in fp16, at best {limit:g} times fp32, if the runtime does: LiteRT when told to (XNNPACK,"
            " force fp16), ONNX Runtime converts to 32 bits and back"
        )
    else:
        core = profile.clusters[0].core
        text = f"{core} has no fp16 arithmetic: on the CPU a tflite-fp16 file is half the size at the speed of fp32"
    yield Expectation("fp16", text, _sources(profile, "fp16_arithmetic"))


def _threads(profile: Profile) -> Iterator[Expectation]:
    of, figures = _published(profile, "thread_speedup")
    for each in figures:
        said = f"{each.threads} threads were {each.value:g} times as fast as one, not {each.threads}"
        text = f"{of} {said}, with {each.runtime} in {each.precision} (median of {each.models})"
        yield Expectation("threads", text, each.source)
    fast = fast_clusters(profile)
    if len(fast) < len(profile.clusters):
        count = sum(each.count for each in fast)
        text = f"Use the {count} fast cores: with the little ones too it is often slower, as they are waited for"
        yield Expectation("threads", text, "rows of Orange Pi 5, Snapdragon 8 Gen 2 and Dimensity 9300 in Tencent/ncnn")


def _memory(profile: Profile) -> Iterator[Expectation]:
    if profile.copy_gb_s is not None:
        about = "about " if profile.is_estimate("copy_gb_s") else ""
        rated = f", of the {profile.memory_gb_s:g} its memory is rated for" if profile.memory_gb_s is not None else ""
        text = (
            f"One core copies {about}{profile.copy_gb_s:g} GB/s{rated}: layers of few operations a byte (depthwise,"
            f" fully connected, additions) wait for it; a copy of 10 MB takes {10 / profile.copy_gb_s:.1f} ms"
        )
        yield Expectation("memory", text, _sources(profile, "copy_gb_s"))
    elif profile.memory_gb_s is not None:
        text = f"Rated for {profile.memory_gb_s:g} GB/s; what one core reaches was not measured"
        yield Expectation("memory", text, _sources(profile, "memory_gb_s"))
    if profile.memory_bytes is not None:
        size = profile.memory_bytes / 2**30
        shown = f"{size:g} GB" if size >= 1 else f"{profile.memory_bytes / 2**20:g} MB"
        yield Expectation(
            "memory", f"{shown}, shared with the system and all else that runs", _sources(profile, "memory_bytes")
        )


def _file(profile: Profile) -> Iterator[Expectation]:
    for index, name in enumerate(profile.artifacts):
        flavour = next(each for known, each in FLAVOURS.items() if known == name)
        runtime = profile.runtimes[format_of(name)]
        version = f" {profile.versions[runtime]}" if runtime in profile.versions else ""
        text = f"{'Ship' if index == 0 else 'Or'} {name}: {flavour.what}, for {_RUNTIMES[runtime]}{version}"
        yield Expectation("file", text, "" if index else _sources(profile, "artifacts"))
    if not profile.artifacts:
        runs = ", ".join(f"{each} with {RUNTIME_NAMES[each]}" for each in profile.runtimes)
        yield Expectation("file", f"It runs {runs}; measure rather than guess: edgekd benchmark FILE...")


def _pruning(profile: Profile) -> Iterator[Expectation]:
    if profile.clusters:
        multiple = profile.channel_multiple
        text = f"Widths that are multiples of {multiple} lose nothing to padding in its kernels"
        yield Expectation("pruning", text, _sources(profile, "channel_multiple"))


def _prediction(profile: Profile) -> Expectation:
    basis = prediction_basis(profile)
    words = {
        "measured": "Nothing is predicted: latency is measured here",
        "fitted": f"Fitted to {basis.rows:,} published latencies of this device",
        "transferred": "Transferred from devices with the same cores, scaled by clock; `edgekd devices calibrate` improves it",
        "specification only": "From the specification only: rough, the ranking is of more use than the milliseconds",
    }
    return Expectation("prediction", words.get(basis.basis, str(basis)))


def _reach(profile: Profile) -> Expectation:
    if profile.kind not in _REACH:
        return Expectation(
            "reach", "None of edgekd's transports reaches it: `edgekd kit` writes a Swift test, which proves the file in Xcode"
        )
    how, command = _REACH[profile.kind]
    text = f"{how[0].upper()}{how[1:]}: {command.format(id=profile.id)}"
    if "emulated" in transports(profile):
        text += "; without the device, --via emulated proves the answers of its ARM runtimes, not the speed"
    return Expectation("reach", text)


def _published(profile: Profile, what: str) -> tuple[str, list[PublishedFigure]]:
    """Return published figures and of what they are: of the device, of one with the same cores, or of a well-known one."""
    own = [each for each in profile.published if each.what == what]
    if own:
        return "Published:", own
    core, known = profile.clusters[0].core, _WELL_KNOWN[profile.dot_product]
    for name in (*(name for name in profile_names() if name not in (profile.id, known)), known):
        other = load_profile(name)
        alike = bool(other.clusters) and other.clusters[0].core == core
        figures = [each for each in other.published if each.what == what and each.where == "cpu"]
        if figures and (alike or name == known):
            same = ", which has the same cores," if alike else ","
            return f"None published of this device. On {other.name}{same}", figures
    return "", []


def _sources(profile: Profile, *keys: str) -> str:
    """Return the sources of some keys, each once."""
    found = list(dict.fromkeys(profile.sources[key] for key in keys if key in profile.sources))
    return "; ".join(each for each in found if not any(other != each and other.startswith(each) for other in found))
