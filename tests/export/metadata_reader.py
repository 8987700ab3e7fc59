"""A stranger who reads TFLite metadata: from a file alone, by ``metadata_schema.fbs``, with none of edgekd's code."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types as kinds
from flatbuffers.table import Table

# Fields of every table, in their order in the schema: a scalar, an enumeration (a list), "string", "floats", the name of a table,
# (table,) for a vector of them, a dictionary for a union; "-" where edgekd writes nothing.
_COLORS = ["UNKNOWN", "RGB", "GRAYSCALE"]
_TYPES = [
    "UNKNOWN", "DESCRIPTIONS", "TENSOR_AXIS_LABELS", "TENSOR_VALUE_LABELS", "TENSOR_AXIS_SCORE_CALIBRATION", "VOCABULARY",
]  # fmt: skip
_CONTENT = {1: "FeatureProperties", 2: "ImageProperties", 4: "AudioProperties"}
_UNITS = {1: "NormalizationOptions", 3: "ScoreThresholdingOptions", 4: "BertTokenizerOptions"}
_FIELDS: dict[str, list[tuple[str, Any]]] = {
    "ModelMetadata": [
        ("name", "string"), ("description", "string"), ("version", "string"), ("subgraph_metadata", ("SubGraphMetadata",)),
        ("author", "string"), ("license", "string"), ("associated_files", "-"), ("min_parser_version", "string"),
    ],
    "SubGraphMetadata": [
        ("name", "string"), ("description", "string"), ("input_tensor_metadata", ("TensorMetadata",)),
        ("output_tensor_metadata", ("TensorMetadata",)), ("associated_files", "-"), ("input_process_units", ("ProcessUnit",)),
    ],
    "TensorMetadata": [
        ("name", "string"), ("description", "string"), ("dimension_names", "-"), ("content", "Content"),
        ("process_units", ("ProcessUnit",)), ("stats", "Stats"), ("associated_files", ("AssociatedFile",)),
    ],
    "Content": [("content_properties_type", _CONTENT), ("content_properties", "union")],
    "ProcessUnit": [("options_type", _UNITS), ("options", "union")],
    "FeatureProperties": [],
    "ImageProperties": [("color_space", _COLORS), ("default_size", "ImageSize")],
    "ImageSize": [("width", kinds.Uint32Flags), ("height", kinds.Uint32Flags)],
    "AudioProperties": [("sample_rate", kinds.Uint32Flags), ("channels", kinds.Uint32Flags)],
    "NormalizationOptions": [("mean", "floats"), ("std", "floats")],
    "ScoreThresholdingOptions": [("global_score_threshold", kinds.Float32Flags)],
    "BertTokenizerOptions": [("vocab_file", ("AssociatedFile",))],
    "Stats": [("max", "floats"), ("min", "floats")],
    "AssociatedFile": [("name", "string"), ("description", "string"), ("type", _TYPES)],
}  # fmt: skip


def decode(buffer: bytes) -> dict[str, Any]:
    """Return a metadata flatbuffer as tflite-support's displayer shows it."""
    assert flatbuffers.util.BufferHasIdentifier(buffer, 0, b"M001")
    return _table(Table(buffer, flatbuffers.encode.Get(flatbuffers.packer.uoffset, buffer, 0)), "ModelMetadata")


def _table(table: Table, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    member = ""
    for number, (field, kind) in enumerate(_FIELDS[name]):
        offset = table.Offset(4 + 2 * number)
        if not offset:
            continue
        place = offset + table.Pos
        if kind == "string":
            found[field] = table.String(place).decode()
        elif kind == "floats":
            found[field] = [float(value) for value in table.GetVectorAsNumpy(kinds.Float32Flags, offset)]
        elif kind == "union":
            found[field] = _table(Table(table.Bytes, table.Indirect(place)), member)
        elif isinstance(kind, str):
            found[field] = _table(Table(table.Bytes, table.Indirect(place)), kind)
        elif isinstance(kind, tuple):
            start, count = table.Vector(offset), table.VectorLen(offset)
            rows = [Table(table.Bytes, table.Indirect(start + 4 * row)) for row in range(count)]
            found[field] = [_table(row, kind[0]) for row in rows]
        elif isinstance(kind, dict):
            member = found[field] = kind[table.Get(kinds.Uint8Flags, place)]
        elif isinstance(kind, list):
            found[field] = kind[table.Get(kinds.Int8Flags, place)]
        else:
            found[field] = table.Get(kind, place)
    return found


@dataclass(frozen=True)
class Stranger:
    """What is in a TFLite file: its metadata, the files behind it, and LiteRT to run it."""

    path: Path
    metadata: dict[str, Any]
    files: dict[str, bytes]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.metadata["subgraph_metadata"][0]["input_tensor_metadata"]
        return found

    @property
    def output(self) -> dict[str, Any]:
        (found,) = self.metadata["subgraph_metadata"][0]["output_tensor_metadata"]
        assert isinstance(found, dict)
        return found

    @property
    def labels(self) -> list[str]:
        (file,) = self.output["associated_files"]
        assert file["type"] == "TENSOR_AXIS_LABELS"
        return self.files[file["name"]].decode().removesuffix("\n").split("\n")

    def run(self, raw: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Normalise and quantize one sample's raw values, ``{name: array}``, as the file says, and return the real outputs."""
        interpreter = Interpreter(str(self.path))
        interpreter.allocate_tensors()
        for told, details in zip(self.inputs, interpreter.get_input_details(), strict=True):
            values = np.asarray(raw[told["name"]])[None]
            for unit in told.get("process_units", []):
                assert unit["options_type"] == "NormalizationOptions"
                mean, std = (np.float32(unit["options"][key]) for key in ("mean", "std"))
                values = (values.astype(np.float32) - mean) / std
            scale, zero_point = details["quantization"]
            if scale:
                limits = np.iinfo(details["dtype"])
                values = np.clip(np.round(values / np.float32(scale) + zero_point), limits.min, limits.max)
            interpreter.set_tensor(details["index"], values.reshape(details["shape"]).astype(details["dtype"]))
        interpreter.invoke()
        (details,) = interpreter.get_output_details()
        scale, zero_point = details["quantization"]
        found: np.ndarray[Any, Any] = interpreter.get_tensor(details["index"])[0].astype(np.float32)
        if scale:
            found = (found - np.float32(zero_point)) * np.float32(scale)
        return found


def meet(path: Path) -> Stranger:
    """Read a file as a stranger would."""
    content = path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    entries = [model.Metadata(row) for row in range(model.MetadataLength())]
    (buffer,) = [model.Buffers(entry.Buffer()) for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    with zipfile.ZipFile(path) as archive:
        assert all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())
        files = {name: archive.read(name) for name in archive.namelist()}
    return Stranger(path, decode(buffer.DataAsNumpy().tobytes()), files)
