"""The tables of TFLite Model Metadata and how they are written: ``metadata_schema.fbs`` 1.5.0 of tflite-support, file
identifier ``M001``.

Only tables and fields that edgekd fills are here. They are written in the order that the schema's generated object API
packs them, so both give the same bytes (tested against tflite-support).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import flatbuffers

FILE_IDENTIFIER = b"M001"
_Slot = Callable[[flatbuffers.Builder, int], None] | None
"""Writes the field of that number; ``None``: the field is left out."""


class FileType(IntEnum):
    """What an associated file is (``AssociatedFileType``)."""

    UNKNOWN = 0
    TENSOR_AXIS_LABELS = 2
    VOCABULARY = 5


class ColorSpace(IntEnum):
    """Channels of an image (``ColorSpaceType``)."""

    UNKNOWN = 0
    RGB = 1
    GRAYSCALE = 2


@dataclass(frozen=True)
class AssociatedFile:
    """A file packed behind the model, by its name there."""

    name: str
    description: str
    type: FileType


@dataclass(frozen=True)
class Features:
    """Content: plain numbers (``FeatureProperties``)."""


@dataclass(frozen=True)
class Image:
    """Content: an image of ``width`` and ``height`` pixels (``ImageProperties``)."""

    color_space: ColorSpace
    width: int
    height: int


@dataclass(frozen=True)
class Audio:
    """Content: sound of ``sample_rate`` Hz (``AudioProperties``)."""

    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Normalization:
    """The tensor is ``(x - mean) / std`` of raw values, per channel; pixels go from 0 to 255 (``NormalizationOptions``)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ScoreThreshold:
    """Scores below ``least`` are no results (``ScoreThresholdingOptions``); readers take 0 where nothing is said."""

    least: float


@dataclass(frozen=True)
class Stats:
    """Least and greatest value of the tensor per channel, or one for all."""

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output.

    Attributes:
        name: As in the model's signature.
        description: What it is, in words.
        content: What the numbers are.
        units: What is done to raw values before they are this input, or to this output after.
        stats: Range of its values; ``None``: not known.
        files: For example its labels.
    """

    name: str
    description: str
    content: Features | Image | Audio
    units: tuple[Normalization | ScoreThreshold, ...] = ()
    stats: Stats | None = None
    files: tuple[AssociatedFile, ...] = ()


@dataclass(frozen=True)
class ModelMetadata:
    """A model of one subgraph.

    Attributes:
        name, description, author: For people.
        license: ``None``: not told.
        inputs, outputs: In the order of the subgraph's tensors.
        vocabulary: Of the BERT tokenizer that makes all inputs of a text; ``None``: there is none.
    """

    name: str
    description: str
    author: str
    license: str | None
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    vocabulary: AssociatedFile | None = None


def min_parser_version(metadata: ModelMetadata) -> str:
    """Return the oldest version of the schema that has every field used: 1.1.0 brought tokenizers, 1.3.0 audio."""
    tensors = (*metadata.inputs, *metadata.outputs)
    if any(isinstance(each.content, Audio) for each in tensors):
        return "1.3.0"
    return "1.1.0" if metadata.vocabulary is not None else "1.0.0"


def pack_metadata(metadata: ModelMetadata) -> bytes:
    """Return ``metadata`` as a flatbuffer."""
    builder = flatbuffers.Builder(0)
    model = _table(
        builder,
        _string(builder, metadata.name),
        _string(builder, metadata.description),
        None,  # version
        _tables(builder, [_subgraph(builder, metadata)]),
        _string(builder, metadata.author),
        _string(builder, metadata.license),
        None,  # associated_files
        _string(builder, min_parser_version(metadata)),
    )
    builder.Finish(model, FILE_IDENTIFIER)
    return bytes(builder.Output())


def _subgraph(builder: flatbuffers.Builder, metadata: ModelMetadata) -> int:
    return _table(
        builder,
        None,  # name
        None,  # description
        _tables(builder, [_tensor(builder, each) for each in metadata.inputs]),
        _tables(builder, [_tensor(builder, each) for each in metadata.outputs]),
        None,  # associated_files
        _tables(builder, [] if metadata.vocabulary is None else [_unit(builder, metadata.vocabulary)]),
    )


def _tensor(builder: flatbuffers.Builder, tensor: TensorMetadata) -> int:
    return _table(
        builder,
        _string(builder, tensor.name),
        _string(builder, tensor.description),
        None,  # dimension_names
        _reference(_content(builder, tensor.content)),
        _tables(builder, [_unit(builder, each) for each in tensor.units]),
        None if tensor.stats is None else _reference(_stats(builder, tensor.stats)),
        _tables(builder, [_file(builder, each) for each in tensor.files]),
    )


_FEATURES, _IMAGE, _AUDIO = 1, 2, 4
"""Members of the union ContentProperties."""
_NORMALIZATION, _SCORE_THRESHOLDING, _BERT_TOKENIZER = 1, 3, 4
"""Members of the union ProcessUnitOptions."""


def _content(builder: flatbuffers.Builder, content: Features | Image | Audio) -> int:
    if isinstance(content, Image):
        kind, size = _IMAGE, _table(builder, _uint32(content.width), _uint32(content.height))
        properties = _table(builder, _int8(content.color_space), _reference(size))
    elif isinstance(content, Audio):
        kind, properties = _AUDIO, _table(builder, _uint32(content.sample_rate), _uint32(content.channels))
    else:
        kind, properties = _FEATURES, _table(builder)
    return _table(builder, _uint8(kind), _reference(properties))


def _unit(builder: flatbuffers.Builder, unit: Normalization | ScoreThreshold | AssociatedFile) -> int:
    """Write a process unit; a file is the vocabulary of a BERT tokenizer."""
    if isinstance(unit, Normalization):
        kind, options = _NORMALIZATION, _table(builder, _floats(builder, unit.mean), _floats(builder, unit.std))
    elif isinstance(unit, ScoreThreshold):
        kind, options = _SCORE_THRESHOLDING, _table(builder, _float32(unit.least))
    else:
        kind, options = _BERT_TOKENIZER, _table(builder, _tables(builder, [_file(builder, unit)]))
    return _table(builder, _uint8(kind), _reference(options))


def _stats(builder: flatbuffers.Builder, stats: Stats) -> int:
    return _table(builder, _floats(builder, stats.maximum), _floats(builder, stats.minimum))


def _file(builder: flatbuffers.Builder, file: AssociatedFile) -> int:
    return _table(builder, _string(builder, file.name), _string(builder, file.description), _int8(file.type))


def _table(builder: flatbuffers.Builder, *slots: _Slot) -> int:
    """Write a table of these fields, the first of them number 0, and return its offset."""
    builder.StartObject(len(slots))
    for number, slot in enumerate(slots):
        if slot is not None:
            slot(builder, number)
    return int(builder.EndObject())


def _string(builder: flatbuffers.Builder, text: str | None) -> _Slot:
    return None if text is None else _reference(builder.CreateString(text))


def _tables(builder: flatbuffers.Builder, offsets: Sequence[int]) -> _Slot:
    if not offsets:
        return None
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return _reference(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> _Slot:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return _reference(builder.EndVector())


def _reference(offset: int) -> _Slot:
    return lambda builder, number: builder.PrependUOffsetTRelativeSlot(number, offset, 0)


def _int8(value: int) -> _Slot:
    return lambda builder, number: builder.PrependInt8Slot(number, value, 0)


def _uint8(value: int) -> _Slot:
    return lambda builder, number: builder.PrependUint8Slot(number, value, 0)


def _uint32(value: int) -> _Slot:
    return lambda builder, number: builder.PrependUint32Slot(number, value, 0)


def _float32(value: float) -> _Slot:
    return lambda builder, number: builder.PrependFloat32Slot(number, value, 0.0)
