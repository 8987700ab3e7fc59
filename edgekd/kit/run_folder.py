"""A run folder, read as data from anywhere: only what its report says, and only files that its manifest vouches for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekd.errors import UsageError

Dtype = Literal[
    "float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"
]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_AGAIN = "run edgekd compress again with this folder as --out; it makes what is missing or changed"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Tensor(_Section):
    """An input or output of an artifact, as ``report.json`` tells it; see :class:`~edgekd.models.tensors.TensorSpec`."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    shape: Annotated[list[int | str], Field(min_length=1, max_length=8)]
    dtype: Dtype
    layout: Literal["NCHW", "NHWC", "NC"]
    meaning: Literal["image", "tokens", "mask", "waveform", "features", "logits"]
    scale: Annotated[float, Field(gt=0)] | None = None
    zero_point: int | None = None
    value_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    mean: list[float] | None = None
    std: list[Annotated[float, Field(gt=0)]] | None = None
    sample_rate: Annotated[int, Field(ge=1)] | None = None
    labels: list[str] | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample, with a batch of 1 before it."""
        return (1, *(int(size) for size in self.shape[1:]))

    @model_validator(mode="after")
    def _whole(self) -> Tensor:
        if any(not isinstance(size, int) or size < 1 for size in self.shape[1:]) or self.shape[0] in (0, -1):
            raise ValueError(f"{self.shape} is no shape of a batch of samples of one size")
        if (self.scale is None) != (self.zero_point is None) or (self.mean is None) != (self.std is None):
            raise ValueError("scale and zero_point, and mean and std, go together")
        if self.meaning in {"image", "waveform"} and self.value_range is None:
            raise ValueError(f"value_range of this {self.meaning} is missing")
        if self.meaning == "image" and (len(self.shape) != 4 or self.layout == "NC"):
            raise ValueError("an image has four dimensions")
        if self.meaning == "waveform" and self.sample_rate is None:
            raise ValueError("sample_rate of this waveform is missing")
        return self


class Latency(_Section):
    """Of one artifact on one target."""

    kind: Literal["measured", "predicted"]
    p50_ms: float


class ReportedArtifact(_Section):
    """One file of the run."""

    path: Annotated[str, Field(pattern=r"^(artifacts|rejected)/[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    format: Literal["onnx", "ort", "tflite"]
    precision: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    flavour: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    size_bytes: int
    sha256: Hash
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    latency: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9:._-]{1,80}$")], Latency]

    @property
    def name(self) -> str:
        """As ``export.artifacts`` of a recipe has it, for example ``tflite-int8``."""
        return "-".join(part for part in (self.format, self.precision, self.flavour) if part)

    @property
    def file_name(self) -> str:
        """Without its folder."""
        return self.path.partition("/")[2]

    @property
    def passed(self) -> bool:
        """Whether it kept every promise of its recipe."""
        return self.path.startswith("artifacts/")


class RunReport(_Section):
    """What kits need of ``report.json``."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    task: Literal["classification"]
    artifacts: list[ReportedArtifact]


class GoldenSample(_Section):
    """One row of the golden vectors."""

    id: str
    kind: str
    label: int | None = None
    top1: int | None = None
    margin: float | None = None


class GoldenTensor(_Section):
    """The values of one input or output in all rows."""

    name: str
    index: Annotated[int, Field(ge=0)]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.bin$", max_length=200)]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=8)]
    dtype: Dtype
    byte_order: Literal["little"]
    sha256: Hash
    tolerance: list[Annotated[float, Field(ge=0)]] | None = None


class Golden(_Section):
    """``golden.json``; see :func:`edgekd.golden_file.golden_file`."""

    schema_version: Literal[1] = Field(alias="schema")
    rule: str
    samples: Annotated[list[GoldenSample], Field(min_length=1)]
    inputs: list[GoldenTensor]
    outputs: list[GoldenTensor]


class _Listed(_Section):
    path: str
    sha256: Hash


class _Manifest(_Section):
    files: list[_Listed]


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class RunFolder:
    """A run folder whose report was read.

    Attributes:
        folder: Where it is.
        report: What was measured.
        hashes: SHA-256 of every file by its path, as the manifest has it.
    """

    folder: Path
    report: RunReport
    hashes: dict[str, str]

    def read(self, path: str) -> bytes:
        """Return the content of a file of the run.

        Raises:
            UsageError: It is not there, or is not what the run wrote.
        """
        return _read(self.folder, path, self.hashes)

    def golden(self, artifact: ReportedArtifact) -> tuple[Golden, dict[str, bytes]]:
        """Return the golden vectors of an artifact, and their files by name.

        Raises:
            UsageError: They are not there, were changed, or are of another file.
        """
        folder = f"golden/{artifact.file_name}"
        golden = _parsed(Golden, self.read(f"{folder}/golden.json"), f"{self.folder}/{folder}/golden.json")
        tensors = [*golden.inputs, *golden.outputs]
        names = ["golden.json", "golden.npz", *(each.file for each in tensors)]
        files = {name: self.read(f"{folder}/{name}") for name in names}
        for each, told in zip(tensors, [*artifact.inputs, *artifact.outputs], strict=False):
            expected = (len(golden.samples), *told.sample_shape[1:])
            size = int(np.prod(expected)) * np.dtype(told.dtype).itemsize
            if (each.name, tuple(each.shape), each.dtype, len(files[each.file])) != (told.name, expected, told.dtype, size):
                raise UsageError(f"{self.folder}/{folder} does not belong to {artifact.path}", _AGAIN)
        if (len(golden.inputs), len(golden.outputs)) != (len(artifact.inputs), len(artifact.outputs)) or any(
            len(each.tolerance or ()) != len(golden.samples) for each in golden.outputs
        ):
            raise UsageError(f"{self.folder}/{folder} does not belong to {artifact.path}", _AGAIN)
        return golden, files


def open_run_folder(folder: Path) -> RunFolder:
    """Read a finished run.

    Raises:
        UsageError: It is no run folder, its report is broken or changed, or of another edgekd.
    """
    try:
        is_run = (folder / "report.json").is_file() and (folder / "manifest.json").is_file()
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}", "give the folder that edgekd compress wrote to") from None
    if not is_run:
        raise UsageError(
            f"{folder} is no finished run: there is no report.json with a manifest.json in it",
            "give the folder that edgekd compress wrote to (--out)",
        )
    manifest = _parsed(_Manifest, _content(folder / "manifest.json"), str(folder / "manifest.json"))
    hashes = {each.path: each.sha256 for each in manifest.files}
    report = _parsed(RunReport, _read(folder, "report.json", hashes), str(folder / "report.json"))
    return RunFolder(folder, report, hashes)


def _read(folder: Path, path: str, hashes: dict[str, str]) -> bytes:
    if path not in hashes:
        raise UsageError(f"{folder} has no {path}, or its manifest does not list it", _AGAIN)
    content = _content(folder / path)
    if hashlib.sha256(content).hexdigest() != hashes[path]:
        raise UsageError(f"{folder / path} is not the file that the run wrote: its SHA-256 differs from manifest.json", _AGAIN)
    return content


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", _AGAIN) from None


def _parsed(model: type[_Model], content: bytes, name: str) -> _Model:
    try:
        parsed: Any = json.loads(content)
        return model.model_validate(parsed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}: {where or 'content'}: {first['msg']}", _AGAIN) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{name} is no JSON", _AGAIN) from None
