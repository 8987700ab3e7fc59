"""Artifacts: the files a run makes for devices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekd.recipe import ArtifactName


@dataclass(frozen=True)
class Artifact:
    """One exported file, where its stage left it.

    Attributes:
        name: For example ``tflite-int8``.
        path: The file.
        sha256: Of its bytes.
        activations: Of an int8 file: ``static`` or ``dynamic`` ranges.
    """

    name: ArtifactName
    path: Path
    sha256: str
    activations: str | None = None

    @property
    def format(self) -> str:
        """``onnx`` or ``tflite``."""
        return self.name.partition("-")[0]

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16`` or ``int8``."""
        return self.name.partition("-")[2]


def file_name(name: ArtifactName) -> str:
    """Return the file name of an artifact, for example ``student.int8.tflite``."""
    kind, _, precision = name.partition("-")
    return f"student.{precision}.{kind}"
