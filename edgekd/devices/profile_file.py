"""Read a profile from its TOML file, and refuse what cannot be: each mistake with file, line, key and what is allowed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd.abilities import why_not
from edgekd.devices import profiles
from edgekd.devices.profiles import DeviceKind, Profile
from edgekd.errors import UsageError
from edgekd.flavours import ARTIFACT_NAMES, ArtifactName, format_of
from edgekd.names import did_you_mean

_SCHEMA = 1
_MAX_BYTES = 1 << 20
_Text = Annotated[
    str, Field(min_length=1, max_length=600, pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$")
]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_Bandwidth = Annotated[float, Field(gt=0, le=10_000)]
# Facts whose source stands in [sources]; clusters have two, and accelerators and the like carry their own.
_SOURCED = {
    "soc": ("soc",), "published_as": ("published_as",), "same_soc": ("same_soc",),
    "clusters": ("clusters.core", "clusters.ghz"), "dot_product": ("dot_product",), "fp16_arithmetic": ("fp16_arithmetic",),
    "i8mm": ("i8mm",), "copy_gb_s": ("copy_gb_s",), "memory_gb_s": ("memory_gb_s",), "memory_bytes": ("memory_bytes",),
    "artifacts": ("artifacts",), "channel_multiple": ("channel_multiple",), "runtimes": ("runtimes",),
    "versions": ("versions",), "measure": ("threads",), "power_modes": ("power_modes",),
}  # fmt: skip
# A host is measured: nothing of its hardware is needed.
_OF_A_DEVICE = (
    "soc", "clusters", "dot_product", "fp16_arithmetic", "i8mm", "memory_bytes", "artifacts", "channel_multiple", "versions"
)  # fmt: skip


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Cluster(_Table):
    core: _Text
    count: int = Field(ge=1, le=1024)
    ghz: float = Field(gt=0, le=10)
    role: Literal["prime", "big", "little"]


class _Accelerator(_Table):
    kind: Literal["gpu", "npu"]
    name: _Text
    runs: _Text
    source: _Text


class _PowerMode(_Table):
    name: _Text
    what: _Text


class _Published(_Table):
    what: Literal["int8_speedup", "thread_speedup"]
    runtime: _Text
    where: Literal["cpu", "gpu", "npu"]
    precision: Literal["fp32", "fp16"]
    threads: int | None = Field(None, ge=1, le=1024)
    value: float = Field(gt=0, le=1024)
    models: int = Field(ge=1)
    source: _Text


class _Remark(_Table):
    text: _Text
    source: _Text


class _Measure(_Table):
    threads: list[Annotated[int, Field(ge=1, le=1024)] | Literal["all"]] = Field(min_length=1, max_length=16)


class _ProfileFile(_Table):
    schema_: int = Field(alias="schema")
    id: _Name
    name: _Text
    kind: DeviceKind
    soc: _Text | None = None
    published_as: list[_Name] = Field([], max_length=32)
    same_soc: list[_Name] = Field([], max_length=32)
    dot_product: bool | None = None
    fp16_arithmetic: bool | None = None
    i8mm: bool | None = None
    copy_gb_s: _Bandwidth | None = None
    memory_gb_s: _Bandwidth | None = None
    memory_bytes: int | None = Field(None, ge=1 << 20, le=1 << 48)
    artifacts: list[ArtifactName] = Field([], max_length=len(ARTIFACT_NAMES))
    channel_multiple: int | None = Field(None, ge=1, le=1024)
    clusters: list[_Cluster] = Field([], max_length=16)
    accelerators: list[_Accelerator] = Field([], max_length=16)
    runtimes: dict[str, str] = Field(min_length=1)
    versions: dict[str, _Text] = {}
    measure: _Measure
    power_modes: list[_PowerMode] = Field([], max_length=32)
    published: list[_Published] = Field([], max_length=64)
    remarks: list[_Remark] = Field([], max_length=64)
    sources: dict[str, _Text]


_TABLES: dict[str, type[_Table]] = {
    "clusters": _Cluster, "accelerators": _Accelerator, "power_modes": _PowerMode, "published": _Published,
    "remarks": _Remark, "measure": _Measure,
}  # fmt: skip


class _Core(_Table):
    fp32_per_cycle: int = Field(ge=1)
    fp16_per_cycle: int = Field(ge=0)
    int8_per_cycle: int = Field(ge=1)
    dot_product: bool
    fp16_arithmetic: bool
    i8mm: bool
    sources: dict[Literal["fp32_per_cycle", "fp16_per_cycle", "int8_per_cycle", "isa"], _Text] = Field(min_length=4)


def read_profile(path: Path) -> Profile:
    """Return the profile of a file.

    Raises:
        UsageError: It cannot be read, is no profile, lacks a value, or has an impossible one.
    """
    text, content = _toml(path, "device profile")
    where = _Where(path, text)
    if content.get("schema") != _SCHEMA or isinstance(content["schema"], bool):
        raise where.error(("schema",), f"this edgekd reads schema {_SCHEMA}")
    try:
        read = _ProfileFile.model_validate(content)
    except ValidationError as error:
        raise where.invalid(error, content) from None
    _check_complete(read, content, where)
    _check_hardware(read, where)
    _check_software(read, where)
    return Profile(
        read.id, read.name, read.kind, dict(read.runtimes), tuple(read.measure.threads), read.soc or "",
        tuple(read.published_as), tuple(profiles.Cluster(**dict(each)) for each in read.clusters),
        bool(read.dot_product), bool(read.fp16_arithmetic), bool(read.i8mm), read.copy_gb_s, read.memory_bytes,
        tuple(read.artifacts), read.channel_multiple or 8, dict(read.sources), tuple(read.same_soc), read.memory_gb_s,
        tuple(profiles.Accelerator(**dict(each)) for each in read.accelerators), dict(read.versions),
        tuple(profiles.PowerMode(**dict(each)) for each in read.power_modes),
        tuple(profiles.PublishedFigure(**dict(each)) for each in read.published),
        tuple(profiles.Remark(**dict(each)) for each in read.remarks),
    )  # fmt: skip


def read_cores(path: Path) -> dict[str, profiles.Core]:
    """Return the micro-architectures of a file by their id.

    Raises:
        UsageError: It cannot be read, lacks a value, or has an impossible one.
    """
    text, content = _toml(path, "table of cores")
    found = {}
    for name, table in content.items():
        if name == "schema":
            continue
        try:
            found[name] = profiles.Core(name, **dict(_Core.model_validate(table)))
        except ValidationError as error:
            raise _Where(path, text).invalid(error, content, (name,)) from None
    return found


def _toml(path: Path, what: str) -> tuple[str, dict[str, Any]]:
    name = ascii(str(path))[1:-1] if not str(path).isprintable() else str(path)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {what} {name}: not a file")  # a pipe would be waited for
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {what} {name}: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{name}: is larger than {_MAX_BYTES >> 20} MiB, too large for a {what}")
    try:
        text = raw.decode("utf-8-sig")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}:{raw[: error.start].count(10) + 1}: is not UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{name}: is nested too deep for a {what}") from None
    except ValueError as error:  # TOMLDecodeError, and integers of too many digits
        line = re.search(r"at line (\d+)", str(error))
        reason = re.sub(r" \(at .*?\)$", "", str(error), flags=re.DOTALL)
        place = f":{line[1]}" if line else ""
        raise UsageError(f"{name}{place}: is no TOML: {_one_line(reason)}") from None


def _check_complete(read: _ProfileFile, content: dict[str, Any], where: _Where) -> None:
    """Refuse a device without its facts, and a fact without its source."""
    for key in _OF_A_DEVICE if read.kind != "host" else ():
        if content.get(key) in (None, [], {}):
            raise where.error((key,), f"is missing, kind '{read.kind}' needs it")
    needed = [each for key, sources in _SOURCED.items() if content.get(key) not in (None, [], {}) for each in sources]
    for key in needed:
        if key not in read.sources:
            raise where.error(("sources", key), f"is missing: say where the value of {key} is from, or begin with 'estimate: '")
    # A choice without a value, as "no such device is in the table", may still have its reason.
    known = [each for sources in _SOURCED.values() for each in sources]
    for key in read.sources:
        if key not in known:
            raise where.error(("sources", key), f"unknown key, allowed: {', '.join(known)}{did_you_mean(key, known)}")


def _check_hardware(read: _ProfileFile, where: _Where) -> None:
    known = profiles.cores()
    for index, cluster in enumerate(read.clusters):
        if cluster.core not in known:
            allowed = f"allowed: {', '.join(known)}{did_you_mean(cluster.core, known)}"
            raise where.error(("clusters", index, "core"), f"unknown core '{_one_line(cluster.core)}', {allowed}")
    speeds = [cluster.ghz * known[cluster.core].fp32_per_cycle for cluster in read.clusters]
    if speeds != sorted(speeds, reverse=True):
        slow = next(index for index in range(1, len(speeds)) if speeds[index] > speeds[index - 1])
        raise where.error(("clusters", slow, "core"), "is faster than the cluster before it, the fastest stands first")
    if read.clusters:
        fastest = known[read.clusters[0].core]
        for key in ("dot_product", "fp16_arithmetic", "i8mm"):
            if getattr(read, key) not in (None, getattr(fastest, key)):
                has = "has it" if getattr(fastest, key) else "does not have it"
                raise where.error((key,), f"must be {str(getattr(fastest, key)).lower()}: {fastest.id} {has} (cores.toml)")
    if read.copy_gb_s and read.memory_gb_s and read.copy_gb_s > read.memory_gb_s:
        raise where.error(("copy_gb_s",), f"a copy of {read.copy_gb_s:g} GB/s is more than the memory's {read.memory_gb_s:g}")


def _check_software(read: _ProfileFile, where: _Where) -> None:
    formats = profiles.RUNTIMES_BY_FORMAT
    for key, runtime in read.runtimes.items():
        if key not in formats:
            raise where.error(("runtimes", key), f"unknown format, allowed: {', '.join(formats)}{did_you_mean(key, formats)}")
        if runtime not in formats[key]:
            allowed = f"allowed: {', '.join(formats[key])}{did_you_mean(runtime, formats[key])}"
            raise where.error(("runtimes", key), f"unknown runtime '{_one_line(runtime)}', {allowed}")
    used = set(read.runtimes.values())
    for name in read.versions:
        if name not in used:
            raise where.error(("versions", name), f"runs nothing here, allowed: {', '.join(sorted(used))}")
    for name in sorted(used - set(read.versions)) if read.kind != "host" else ():
        raise where.error(("versions", name), "is missing: the version of the runtime that files are made for")
    for index, artifact in enumerate(read.artifacts):
        if format_of(artifact) not in read.runtimes:
            raise where.error(("artifacts",), f"'{artifact}' needs a runtime for {format_of(artifact)} under [runtimes]")
        reason = why_not(artifact, read.kind) if read.kind != "host" else None
        if reason:
            raise where.error(("artifacts",), f"'{artifact}' is of no use on {read.kind}: {reason}")
        if artifact in read.artifacts[:index]:
            raise where.error(("artifacts",), f"'{artifact}' is named twice")


class _Where:
    """Says where in a file a key is."""

    def __init__(self, path: Path, text: str) -> None:
        self.name = str(path) if str(path).isprintable() else ascii(str(path))[1:-1]
        self.lines = text.splitlines()

    def error(self, key: tuple[str | int, ...], message: str) -> UsageError:
        """Return the error of one key, with its line."""
        dotted = "".join(f"[{each}]" if isinstance(each, int) else f".{_one_line(each)}" for each in key).removeprefix(".")
        return UsageError(f"{self.name}:{self._line(key)}: {dotted}: {message}")

    def invalid(self, error: ValidationError, content: Any, inside: tuple[str | int, ...] = ()) -> UsageError:
        """Return the error for the first thing that pydantic found, in the order of keys of the file's model."""
        first = error.errors(include_url=False)[0]
        # Of a union, as a number or "all", pydantic appends the branch that failed: keep what the file has.
        key, value = inside, content
        for each in inside:
            value = value[each]
        for each in first["loc"]:
            if isinstance(value, dict) and (each in value or first["type"] == "missing"):
                key, value = (*key, each), value.get(each)
            elif isinstance(value, list) and isinstance(each, int):
                key, value = (*key, each), value[each]
        return self.error(key, _explain(first, value, _Core if inside else _ProfileFile))

    def _line(self, key: tuple[str | int, ...]) -> int:
        """Return the line of a key by a search for its table, then for its name; that of the table where it is missing."""
        start, line = 0, 1
        table = [each for each in key[:-1] if isinstance(each, str)] if len(key) > 1 else []
        if table:
            nth = next((each for each in key if isinstance(each, int)), 0)
            header = re.compile(rf"\s*\[\[?\s*[\"']?{re.escape(table[-1])}[\"']?\s*\]\]?")
            headers = [number for number, text in enumerate(self.lines) if header.match(text)]
            if nth < len(headers):
                start = headers[nth] + 1
                line = start
        name = next((each for each in reversed(key) if isinstance(each, str)), "")
        wanted = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
        for number in range(start, len(self.lines)):
            if start and self.lines[number].lstrip().startswith("["):
                break
            if wanted.match(self.lines[number]):
                return number + 1
        if not start and name:
            header = re.compile(rf"\s*\[\[?\s*[\"']?{re.escape(name)}[\"']?\s*\]\]?")
            return next((number + 1 for number, text in enumerate(self.lines) if header.match(text)), line)
        return line


def _explain(problem: Any, value: Any, model: type[BaseModel]) -> str:
    """Return what is wrong and what is allowed, from an error of pydantic in ``model`` and the value of the file."""
    kind, context = problem["type"], problem.get("ctx", {})
    shown = _one_line(f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else value)
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        table = _TABLES.get(str(problem["loc"][0]), _ProfileFile) if len(problem["loc"]) > 1 else model
        allowed = [field.alias or name for name, field in table.model_fields.items()]
        return f"unknown key, allowed: {', '.join(allowed)}{did_you_mean(str(problem['loc'][-1])[:80], allowed)}"
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", context["expected"])
        return f"unknown value {shown}, allowed: {', '.join(expected)}{did_you_mean(str(value)[:80], expected)}"
    bounds = {"greater_than": "above {gt:g}", "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}"}
    if kind in bounds:
        return f"must be {bounds[kind].format(**context)}, found {shown}"
    if kind in {"too_short", "string_too_short"}:
        return "is empty"
    if kind in {"too_long", "string_too_long"}:
        return f"is too long, at most {context.get('max_length')}"
    if kind == "string_pattern_mismatch":
        wanted = "small letters, digits, - and _" if "a-z" in context["pattern"] else "printable text of one line"
        return f"must be {wanted}, found {shown}"
    types = {
        "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "a text",
        "list_type": "a list", "dict_type": "a table", "model_type": "a table", "finite_number": "a finite number",
        "int_from_float": "a whole number",
    }  # fmt: skip
    return f"must be {types[kind]}, found {shown}" if kind in types else f"{_one_line(problem['msg'])}, found {shown}"


def _one_line(value: object) -> str:
    text = str(value)
    text = text if len(text) <= 120 else text[:117] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]
