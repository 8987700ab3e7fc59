"""TFLite Model Metadata inside a TFLite file: the facts as a flatbuffer among its buffers, labels and vocabulary behind it.

Follows https://ai.google.dev/edge/litert/conversion/tensorflow/metadata: the flatbuffer is the buffer of the model's
metadata entry ``TFLITE_METADATA``, and associated files are a zip archive behind the model, stored without compression.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np

from edgekd import __version__
from edgekd.data.classes import labels_text
from edgekd.export.metadata_schema import (
    AssociatedFile,
    Audio,
    ColorSpace,
    Features,
    FileType,
    Image,
    ModelMetadata,
    Normalization,
    ScoreThreshold,
    Stats,
    TensorMetadata,
    pack_metadata,
)
from edgekd.export.tokenizer_facts import TokenizerFacts, tokenizer_facts

if TYPE_CHECKING:
    from edgekd.export.metadata import ModelFacts

ENTRY = "TFLITE_METADATA"
LABELS = "labels.txt"
_TOKENIZER, _VOCABULARY = "tokenizer.json", "vocab.txt"
_WHITE = 255.0
_EVERY_LOGIT = ScoreThreshold(float(np.finfo(np.float32).min))
"""The least float, because logits below 0 are results like others."""
_COLORS = {1: ColorSpace.GRAYSCALE, 3: ColorSpace.RGB}


def with_tflite_metadata(model: str, facts: ModelFacts) -> bytes:
    """Return the bytes of the TFLite file ``model`` with ``facts`` inside."""
    metadata = tflite_metadata(facts)
    contents = dict(facts.files)
    for each in facts.outputs:
        if "labels" in each:
            contents[LABELS] = labels_text(each["labels"]).encode()
    named = [file.name for tensor in (*metadata.inputs, *metadata.outputs) for file in tensor.files]
    named += [] if metadata.vocabulary is None else [metadata.vocabulary.name]
    return _append(_insert(model, pack_metadata(metadata)), {name: contents[name] for name in named})


def tflite_metadata(facts: ModelFacts) -> ModelMetadata:
    """Return ``facts`` as the tables of the metadata schema."""
    tokenizer = tokenizer_facts(facts.files[_TOKENIZER]) if _TOKENIZER in facts.files else None
    vocabulary = None
    if tokenizer is not None and tokenizer.is_bert:
        says = f"Vocabulary of a BERT tokenizer (WordPiece), one token per line: {tokenizer.said}."
        vocabulary = AssociatedFile(_VOCABULARY, says, FileType.VOCABULARY)
    return ModelMetadata(
        facts.name, facts.description, f"edgekd {__version__}", facts.license,
        tuple(_input(each, tokenizer) for each in facts.inputs),
        tuple(_output(each) for each in facts.outputs), vocabulary,
    )  # fmt: skip


def _input(each: dict[str, Any], tokenizer: TokenizerFacts | None) -> TensorMetadata:
    name, meaning = each["name"], each["meaning"]
    if meaning == "tokens":
        return _tokens(name, each["shape"][-1], tokenizer)
    if meaning == "mask":
        says = "1 where there is a token, 0 where there is padding."
        return TensorMetadata(name, says, Features(), stats=Stats((0.0,), (1.0,)))
    units = _normalization(each)
    normal = ", then (x - mean) / std" if units else ""
    integers = "" if each["scale"] is None else f", then round(x / {each['scale']:.9g} + {each['zero_point']})"
    if meaning == "waveform":
        length = f"cut or filled up with silence at its end to {each['shape'][-1]} samples"
        says = f"Mono sound of {each['sample_rate']} Hz, {length}, from -1 to 1{normal}{integers}."
        return TensorMetadata(name, says, Audio(each["sample_rate"], 1), units, _range(units, -1.0, 1.0))
    if meaning == "image":
        _, height, width, channels = each["shape"]
        color = _COLORS.get(channels, ColorSpace.UNKNOWN)
        says = f"Image of {width}x{height} pixels from 0 to 255{normal}{integers}."
        return TensorMetadata(name, says, Image(color, width, height), units, _range(units, 0.0, _WHITE))
    return TensorMetadata(name, f"Row of {each['shape'][-1]} numbers{normal}{integers}.", Features(), units)


def _tokens(name: str, length: int, tokenizer: TokenizerFacts | None) -> TensorMetadata:
    if tokenizer is None:
        return TensorMetadata(name, f"Indices of {length} tokens.", Features())
    says = f"Indices of a text's tokens, cut to {length} or filled up to as many: {tokenizer.said}."
    if tokenizer.is_bert:
        return TensorMetadata(name, says, Features())
    file = AssociatedFile(_TOKENIZER, "The tokenizer, as the library tokenizers of Hugging Face reads it.", FileType.UNKNOWN)
    return TensorMetadata(name, says, Features(), files=(file,))


def _output(each: dict[str, Any]) -> TensorMetadata:
    real = "" if each["scale"] is None else f" Real value = (raw - {each['zero_point']}) * {each['scale']:.9g}."
    if "labels" not in each:
        return TensorMetadata(each["name"], f"Real numbers.{real}", Features())
    says = f"Logits, one for each line of {LABELS}; softmax turns them into probabilities.{real}"
    file = AssociatedFile(LABELS, "Names of the classes, one per line.", FileType.TENSOR_AXIS_LABELS)
    return TensorMetadata(each["name"], says, Features(), (_EVERY_LOGIT,), files=(file,))


def _normalization(each: dict[str, Any]) -> tuple[Normalization, ...]:
    """Return mean and std of raw values, or nothing if they do nothing: of pixels from 0 to 255, of sound from -1 to 1.

    ``report.json`` tells them of values that are scaled to the value range first; here one step does both.
    """
    low, high = each.get("value_range", (0.0, 1.0))
    if each["meaning"] == "image":
        start, unit = low, _WHITE / (high - low)
    else:
        # Sound is signed, its silence is raw 0.
        start, unit = 0.0, 1.0 / high
    mean = tuple((value - start) * unit for value in each.get("mean", (0.0,)))
    std = tuple(value * unit for value in each.get("std", (1.0,)))
    return () if set(mean) == {0.0} and set(std) == {1.0} else (Normalization(mean, std),)


def _range(units: tuple[Normalization, ...], low: float, high: float) -> Stats:
    """Return what becomes of raw values from ``low`` to ``high``."""
    pairs = [(mean, std) for unit in units for mean, std in zip(unit.mean, unit.std, strict=True)] or [(0.0, 1.0)]
    return Stats(tuple((low - mean) / std for mean, std in pairs), tuple((high - mean) / std for mean, std in pairs))


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns vectors of bytes to 16: the schema asks it of tensors' data (``force_align: 16``), generated Python forgets it."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803 - flatbuffers' names
        return int(super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment))


def _insert(model: str, metadata: bytes) -> bytes:
    """Return the flatbuffer of the file ``model`` with ``metadata`` among its buffers, all data of tensors inside it."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    content = flatbuffer_utils.read_model(model)
    for buffer in content.buffers:
        if buffer.data is not None:
            # What lay behind the flatbuffer was read as bytes, which would be packed one by one.
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    content.buffers.append(schema.BufferT(data=np.frombuffer(metadata, np.uint8)))
    content.metadata = [*(content.metadata or []), schema.MetadataT(name=ENTRY, buffer=len(content.buffers) - 1)]
    builder = _AlignedBuilder(Path(model).stat().st_size)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _append(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return ``model`` with ``files`` behind it as a zip archive; the same bytes for the same content."""
    stream = io.BytesIO()
    stream.write(model)
    # Mode "w" at the end of what is there: "a" would look for an archive within the weights.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # made on 1980-01-01, the first day of zip
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()
