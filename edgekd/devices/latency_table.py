"""Tables of published latency: one row for each measurement of a model on a device, as CSV."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path
from typing import Literal

from edgekd.errors import DataError

COLUMNS = (
    "device_id", "soc", "runtime", "delegate", "threads", "precision", "model", "input", "latency_ms", "metric_note",
    "source_repo_or_title",
)  # fmt: skip
"""Columns that are read; a table may have more."""
Processor = Literal["cpu", "gpu", "npu"]


@dataclass(frozen=True, order=True)
class Key:
    """What latencies must share to be fitted together.

    Attributes:
        device: Id in the table.
        runtime, delegate, threads, precision: As the table has them; threads is empty where there are none.
        setup: Version, power mode and build, as far as the source tells them.
    """

    device: str
    runtime: str
    delegate: str
    threads: str
    precision: str
    setup: str = ""

    @property
    def processor(self) -> Processor:
        """What computes."""
        text = self.delegate.lower()
        if "fall back to cpu" in text or "not stated" in text:
            return "cpu"
        if "gpu" in text:
            return "gpu"
        return "npu" if any(word in text for word in ("npu", "ane", "edgetpu", "nnapi", "dsp")) else "cpu"

    @property
    def thread_count(self) -> int | None:
        """Number of threads; ``None``: not stated, all of the fast cores as a rule."""
        return int(self.threads) if self.threads.isdigit() else None


@dataclass(frozen=True, order=True)
class Family:
    """Keys whose coefficients are alike but for a factor.

    Attributes:
        runtime: As :func:`runtime_family` tells it.
        processor: What computes.
        precision: ``fp32``, ``fp16`` or ``int8``; anything else as the table has it.
        several: Whether more than one thread works.
    """

    runtime: str
    processor: Processor
    precision: str
    several: bool


@dataclass(frozen=True)
class Latency:
    """A row.

    Attributes:
        key: What it was measured with.
        model, input: Its name, and height x width.
        ms: Mean, or what the source gives.
        spread: Natural logarithm of the 90th percentile over the median, or of the mean over the minimum; 0: not told.
        soc: Its chip, in the words of the source.
        note: What else the source tells.
        source: Where it is from.
    """

    key: Key
    model: str
    input: str
    ms: float
    spread: float
    soc: str
    note: str
    source: str


def read_latencies(path: Path) -> list[Latency]:
    """Read a table.

    Raises:
        DataError: It is missing, lacks a column, or a row has no latency above 0; the message names the row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column {', '.join(missing)}", f"it needs {', '.join(COLUMNS)}")
            return [_latency(path, number, row) for number, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def family_of(key: Key) -> Family:
    """Return the family of a key."""
    several = key.processor == "cpu" and key.threads not in ("1", "")
    precision = "int8" if key.precision in ("w8a16", "int8-dynamic") else key.precision.rstrip("?") or "fp32"
    return Family(runtime_family(key.runtime, key.delegate), key.processor, precision, several)


def runtime_family(runtime: str, delegate: str = "") -> str:
    """Return what kernels a runtime has: versions, and names for the same one, are left out."""
    name = runtime.lower()
    if "xnnpack" in name or (name.startswith(("tflite", "litert")) and "xnnpack" in delegate.lower()):
        return "tflite xnnpack"
    for family in ("tflite", "onnxruntime", "paddle-lite", "tengine", "tensorrt", "pytorch", "armnn", "ncnn", "mnn", "tnn"):
        if name.startswith(family):
            return family
    return "tflite" if name.startswith("litert") else name


def _latency(path: Path, number: int, row: dict[str, str]) -> Latency:
    try:
        milliseconds = float(row["latency_ms"])
    except (TypeError, ValueError):
        milliseconds = float("nan")
    if not isfinite(milliseconds) or milliseconds <= 0:
        raise DataError(f"{path}, row {number}: latency_ms is '{row['latency_ms']}', must be a number above 0")
    note = row["metric_note"] or ""
    key = Key(
        row["device_id"], row["runtime"], row["delegate"] or "", row["threads"] or "", row["precision"] or "", _setup(note)
    )  # fmt: skip
    source = row["source_repo_or_title"]
    return Latency(key, row["model"], row["input"], milliseconds, _spread(note, milliseconds), row["soc"], note, source)


def _setup(note: str) -> str:
    """Return what a note tells of version, power mode or build."""
    for pattern in (r"system=([^;]*)", r"(result file [\d-]+)"):
        found = re.search(pattern, note)
        if found:
            return found.group(1).strip()
    heading, cores = re.search(r"heading='([^']*)'", note), re.search(r"powersave=(\d)", note)
    if heading:
        return f"{heading.group(1)}; powersave={cores.group(1) if cores else '?'}"
    return "ARMv7 build" if "ARMv7" in note else ""


def _spread(note: str, mean: float) -> float:
    found = {name: float(value) for name, value in re.findall(r"\b(p50|p90|min)=(\d+(?:\.\d+)?)", note)}
    if found.get("p50", 0) > 0 and "p90" in found:
        return max(0.0, log(max(found["p90"], found["p50"]) / found["p50"]))
    return max(0.0, log(mean / found["min"])) if 0 < found.get("min", 0) <= mean else 0.0
