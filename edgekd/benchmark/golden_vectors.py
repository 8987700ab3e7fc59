"""Read golden vectors, and send them to a device: does the file give there what it gave where it was made?"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.benchmark.device_session import open_session
from edgekd.benchmark.model_facts import kind_of
from edgekd.benchmark.transports import Transport
from edgekd.devices.profiles import Profile
from edgekd.errors import DataError, DeviceError, UsageError
from edgekd.safe.files import sha256_file

_MOST_BYTES = 1 << 30
_SECONDS_PER_SAMPLE = 60.0
_START_S = 300.0
_DTYPES = frozenset(
    {"float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"}
)


@dataclass(frozen=True)
class Golden:
    """Golden vectors of one file, see :func:`edgekd.golden_file.golden_file`.

    Attributes:
        sha256: Of the file they are of.
        rule: How to compare, in words.
        samples: ``id``, ``top1``, ``margin`` and more of each.
        inputs, outputs: By position in the file, a row per sample.
        tolerances: By output position, a number per sample.
        ranked: Position of the output whose first class counts; ``None``: none.
        made_with: Runtime, version and machine that gave the outputs.
    """

    sha256: str
    rule: str
    samples: tuple[dict[str, Any], ...]
    inputs: dict[int, NDArray[Any]]
    outputs: dict[int, NDArray[Any]]
    tolerances: dict[int, tuple[float, ...]]
    ranked: int | None
    made_with: str


def find_golden(file: Path, given: Path | None) -> Path:
    """Return the folder with the golden vectors of a file: ``given``, one in it named as the file, or that of its run.

    Raises:
        UsageError: There is none.
    """
    places = [given, given / file.name] if given else [file.parent.parent / "golden" / file.name, file.parent / "golden"]
    for place in places:
        if (place / "golden.json").is_file():
            return place
    raise UsageError(
        f"no golden vectors of {file}: no golden.json in {' or '.join(str(each) for each in places)}",
        "edgekd compress and edgekd export leave them beside their files; or name their folder with --golden",
    )


def read_golden(folder: Path) -> Golden:
    """Read golden vectors as data from anywhere.

    Raises:
        DataError: They are not whole, or not what ``golden.json`` says.
    """
    try:
        content = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        if content["schema"] != 1:
            raise DataError(f"{folder / 'golden.json'} has schema {content['schema']}, this edgekd reads 1")
        samples = tuple(dict(each) for each in content["samples"])
        count = len(samples)
        inputs = {int(each["index"]): _array(folder, each, count) for each in content["inputs"]}
        outputs = {int(each["index"]): _array(folder, each, count) for each in content["outputs"]}
        tolerances = {int(each["index"]): tuple(float(one) for one in each["tolerance"]) for each in content["outputs"]}
        made = content["runtime"]
        golden = Golden(
            str(content["artifact"]["sha256"]), str(content["rule"]), samples, inputs, outputs, tolerances,
            _ranked(samples, outputs), f"{made['name']} {made['version']} on {made['machine']}",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"the golden vectors in {folder} are not readable: {type(error).__name__}: {error}",
                        "copy the folder again, or make it anew") from None  # fmt: skip
    limits = [one for each in golden.tolerances.values() for one in each]
    if not count or not inputs or not outputs or any(len(each) != count for each in golden.tolerances.values()) or not all(
        math.isfinite(each) and each >= 0 for each in limits
    ):  # fmt: skip
        raise DataError(f"the golden vectors in {folder} are not whole", "copy the folder again, or make it anew")
    return golden


def _array(folder: Path, told: dict[str, Any], count: int) -> NDArray[Any]:
    name, shape, dtype = str(told["file"]), [int(each) for each in told["shape"]], str(told["dtype"])
    if Path(name).name != name or dtype not in _DTYPES or not shape or shape[0] != count or min(shape) < 0:
        raise ValueError(f"{name!r} of {dtype} {shape} is none of {count} samples")
    kind = np.dtype(dtype).newbyteorder("<")
    if math.prod(shape) * kind.itemsize > _MOST_BYTES:
        raise ValueError(f"{name!r} is too large")
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != told["sha256"]:
        raise ValueError(f"{name} was changed: its SHA-256 is another")
    values: NDArray[Any] = np.frombuffer(content, kind).reshape(shape).astype(np.dtype(dtype))
    return values


def _ranked(samples: Sequence[dict[str, Any]], outputs: dict[int, NDArray[Any]]) -> int | None:
    """Return the output that ``top1`` is of: its largest value is that class in every sample."""
    if any(each.get("top1") is None or each.get("margin") is None for each in samples):
        return None
    for index, values in outputs.items():
        flat = values.reshape(len(samples), -1)
        if flat.shape[1] > 1 and all(int(row.argmax()) == each["top1"] for row, each in zip(flat, samples, strict=True)):
            return index
    return None


def vectors_file(golden: Golden, folder: Path) -> Path:
    """Write the arrays of golden vectors as the runner takes them: ``i0, i1, ..., o0, ...`` by position in the file."""
    named = {f"i{index}": each for index, each in golden.inputs.items()} | {
        f"o{index}": each for index, each in golden.outputs.items()
    }
    path = folder / "vectors.npz"
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **named)
    return path


@dataclass(frozen=True)
class Vector:
    """What a device gave for one sample.

    Attributes:
        id: Of the sample.
        identical: Every bit of every output is the same.
        agrees: It keeps to the rule.
        worst: Largest difference as a share of what is allowed; ``None``: not a number, or another shape.
        why: Why it does not agree.
    """

    id: str
    identical: bool
    agrees: bool
    worst: float | None
    why: str


@dataclass(frozen=True)
class DeviceVerification:
    """Golden vectors of one file, on a device.

    Attributes:
        file, target, via: What was run, and where.
        rule: How it was compared, in words.
        made_with: What gave the golden outputs.
        environment: What the device tells of itself.
        vectors: What it gave, by sample.
    """

    file: Path
    target: str
    via: str
    rule: str
    made_with: str
    environment: dict[str, Any]
    vectors: tuple[Vector, ...]

    @property
    def differing(self) -> tuple[Vector, ...]:
        """Samples that do not agree."""
        return tuple(each for each in self.vectors if not each.agrees)

    @property
    def identical(self) -> int:
        """Samples whose outputs are the same to the last bit."""
        return sum(each.identical for each in self.vectors)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "file": str(self.file), "target": self.target, "via": self.via, "rule": self.rule, "made_with": self.made_with,
            "samples": len(self.vectors), "agree": len(self.vectors) - len(self.differing), "differ": len(self.differing),
            "identical": self.identical, "environment": self.environment, "vectors": [asdict(each) for each in self.vectors],
        }  # fmt: skip


def verify_on_device(
    file: Path, profile: Profile, transport: Transport, *, golden: Path | None = None, python: str = "python3",
    threads: int = 1, opened: bool = False,
) -> DeviceVerification:  # fmt: skip
    """Run the golden vectors of a file on a device, one by one.

    Args:
        file: An ``.onnx``, ``.ort`` or ``.tflite`` file.
        profile: The device.
        transport: The way to it.
        golden: Folder of its golden vectors; ``None``: that of the run which made it.
        python: Python on the device.
        threads: Of the runtime there.
        opened: The transport was entered by the caller, who also leaves it.

    Raises:
        UsageError: There are no such vectors, or they are of another file.
        DeviceError: The device cannot be reached, or lacks what is needed.
    """
    kind = kind_of(file)
    vectors = read_golden(find_golden(file, golden))
    digest = sha256_file(file)
    if digest != vectors.sha256:
        raise UsageError(f"the golden vectors are not of {file}: it has another SHA-256", "verify the file they were made of")
    scope: AbstractContextManager[Any] = nullcontext() if opened else transport
    with scope:
        session, environment = open_session(transport, profile, python, [kind])
        transport.push(file, f"model.{kind}")
        with tempfile.TemporaryDirectory(prefix="edgekd-vectors-") as folder:
            transport.push(vectors_file(vectors, Path(folder)), "vectors.npz")
        request = {
            "command": "verify", "files": [{"path": f"model.{kind}", "kind": kind, "sha256": digest}], "threads": threads,
            "vectors": "vectors.npz", "ranked": vectors.ranked,
            "tolerances": {str(index): list(each) for index, each in vectors.tolerances.items()},
            "top1": [each.get("top1") for each in vectors.samples], "margins": [each.get("margin") for each in vectors.samples],
        }  # fmt: skip
        events = session.ask(request, _START_S + _SECONDS_PER_SAMPLE * len(vectors.samples))
    return DeviceVerification(file, profile.id, transport.name, vectors.rule, vectors.made_with, environment,
                              _vectors(events, vectors, transport.name))  # fmt: skip


def _vectors(events: Sequence[dict[str, Any]], golden: Golden, name: str) -> tuple[Vector, ...]:
    found: dict[int, Vector] = {}
    try:
        for each in events:
            if each["event"] == "vector":
                row = int(each["row"])
                worst = None if each["worst"] is None else float(each["worst"])
                name_of, why = str(golden.samples[row].get("id")), str(each["why"])[:200]
                found[row] = Vector(name_of, each["identical"] is True, each["agrees"] is True, worst, why)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DeviceError(f"{name}: the runner's answer is not what it should be: {error!r}") from None
    if sorted(found) != list(range(len(golden.samples))):
        raise DeviceError(f"{name}: the device answered for {len(found)} of {len(golden.samples)} golden vectors")
    return tuple(found[row] for row in sorted(found))
