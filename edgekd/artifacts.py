"""Artifacts: the files a run makes for devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.flavours import FLAVOURS, RUNTIME_NAMES, ArtifactName, flavour_of, format_of, precision_of


@dataclass(frozen=True)
class Artifact:
    """One exported file, where its stage left it.

    Attributes:
        name: For example ``tflite-int8``.
        path: The file.
        sha256: Of its bytes.
        activations: Of a file that computes in integers: ``static`` or ``dynamic`` ranges.
        beside: Further files that belong to it.
        quantization: Of a file that was chosen among several: what was tried and found, as ``report.json`` has it.
    """

    name: ArtifactName
    path: Path
    sha256: str
    activations: str | None = None
    beside: tuple[Path, ...] = ()
    quantization: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def format(self) -> str:
        """``onnx``, ``ort`` or ``tflite``."""
        return format_of(self.name)

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16``, ``int8``, ``int4`` or ``int16x8``."""
        return precision_of(self.name)

    @property
    def flavour(self) -> str:
        """What sets it apart from other files of its format and precision: ``tensorrt``, ``weights``, or nothing."""
        return flavour_of(self.name)

    @property
    def runtime(self) -> str:
        """The name of what runs it."""
        return RUNTIME_NAMES[self.format]


def file_name(name: ArtifactName) -> str:
    """Return the file name of an artifact, for example ``student.int8.tflite``."""
    kind, _, precision = name.partition("-")
    return f"student.{precision}.{kind}"


def files_beside(name: ArtifactName) -> tuple[str, ...]:
    """Return the names of further files that belong to an artifact."""
    stem = file_name(name).rpartition(".")[0]
    return tuple(f"{stem}{ending}" for ending in FLAVOURS[name].beside)
