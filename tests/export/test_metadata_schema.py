"""Our metadata flatbuffers against the generated object API of tflite-support: the same bytes."""

import json
from typing import Any

import flatbuffers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    min_parser_version,
    pack_metadata,
)
from tests.export.metadata_reader import decode
from tests.export.reference import official, rounded

_floats = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4).map(tuple)
_texts = st.text(max_size=20)
_files = st.builds(AssociatedFile, st.sampled_from(["labels.txt", "vocab.txt"]), _texts, st.sampled_from(FileType))
_contents = st.one_of(
    st.just(Features()),
    st.builds(Image, st.sampled_from(ColorSpace), st.integers(0, 4096), st.integers(0, 4096)),
    st.builds(Audio, st.integers(0, 192_000), st.integers(0, 2)),
)
_units = st.one_of(st.builds(Normalization, _floats, _floats), st.builds(ScoreThreshold, st.floats(-1e6, 1e6, width=32)))
_tensors = st.builds(
    TensorMetadata, _texts, _texts, _contents, st.lists(_units, max_size=2).map(tuple),
    st.none() | st.builds(Stats, _floats, _floats), st.lists(_files, max_size=2).map(tuple),
)  # fmt: skip
_models = st.builds(
    ModelMetadata, _texts, _texts, _texts, st.none() | _texts, st.lists(_tensors, min_size=1, max_size=3).map(tuple),
    st.lists(_tensors, min_size=1, max_size=2).map(tuple), st.none() | _files,
)  # fmt: skip

LABELS = AssociatedFile("labels.txt", "Labels.", FileType.TENSOR_AXIS_LABELS)
OUTPUT = TensorMetadata("logits", "Logits.", Features(), (ScoreThreshold(-10.0),), files=(LABELS,))
IMAGE = TensorMetadata(
    "image", "An image.", Image(ColorSpace.RGB, 32, 24), (Normalization((127.5,), (50.0,)),), Stats((-2.55,), (2.55,))
)


def _model(*inputs: TensorMetadata, **more: Any) -> ModelMetadata:
    return ModelMetadata("a name", "what it does", "edgekd 1", None, inputs, (OUTPUT,), **more)


@settings(max_examples=60, deadline=None)
@given(_models)
def test_the_bytes_are_those_of_the_generated_object_api(model: ModelMetadata) -> None:
    tables = official().tables
    packed = pack_metadata(model)
    builder = flatbuffers.Builder(0)
    unpacked = tables.ModelMetadataT.InitFromObj(tables.ModelMetadata.GetRootAs(packed, 0))
    builder.Finish(unpacked.Pack(builder), b"M001")
    assert packed == bytes(builder.Output())


def _filled(table: Any, **values: Any) -> Any:
    for name, value in values.items():
        assert hasattr(table, name)
        setattr(table, name, value)
    return table


def test_the_bytes_are_those_of_tables_filled_by_hand() -> None:
    tables = official().tables
    size = _filled(tables.ImageSizeT(), width=32, height=24)
    image = _filled(tables.ImagePropertiesT(), colorSpace=tables.ColorSpaceType.RGB, defaultSize=size)
    content = _filled(
        tables.ContentT(), contentPropertiesType=tables.ContentProperties.ImageProperties, contentProperties=image
    )
    options = _filled(tables.NormalizationOptionsT(), mean=[127.5], std=[50.0])
    unit = _filled(tables.ProcessUnitT(), optionsType=tables.ProcessUnitOptions.NormalizationOptions, options=options)
    stats = _filled(tables.StatsT(), max=[2.55], min=[-2.55])
    given = _filled(
        tables.TensorMetadataT(), name="image", description="An image.", content=content, processUnits=[unit], stats=stats
    )
    labels = _filled(
        tables.AssociatedFileT(), name="labels.txt", description="Labels.", type=tables.AssociatedFileType.TENSOR_AXIS_LABELS
    )
    content = _filled(
        tables.ContentT(), contentPropertiesType=tables.ContentProperties.FeatureProperties,
        contentProperties=tables.FeaturePropertiesT(),
    )  # fmt: skip
    options = _filled(tables.ScoreThresholdingOptionsT(), globalScoreThreshold=-10.0)
    unit = _filled(tables.ProcessUnitT(), optionsType=tables.ProcessUnitOptions.ScoreThresholdingOptions, options=options)
    taken = _filled(
        tables.TensorMetadataT(), name="logits", description="Logits.", content=content, processUnits=[unit],
        associatedFiles=[labels],
    )  # fmt: skip
    graph = _filled(tables.SubGraphMetadataT(), inputTensorMetadata=[given], outputTensorMetadata=[taken])
    model = _filled(
        tables.ModelMetadataT(), name="a name", description="what it does", author="edgekd 1", minParserVersion="1.0.0",
        subgraphMetadata=[graph],
    )  # fmt: skip
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"M001")
    assert pack_metadata(_model(IMAGE)) == bytes(builder.Output())


TOKENS = TensorMetadata("input_ids", "Tokens.", Features())
SOUND = TensorMetadata("waveform", "Sound.", Audio(16_000, 1), stats=Stats((-1.0,), (1.0,)))
VOCABULARY = AssociatedFile("vocab.txt", "Words.", FileType.VOCABULARY)
KINDS = {
    "image": (_model(IMAGE), "1.0.0"), "features": (_model(TensorMetadata("features", "Row.", Features())), "1.0.0"),
    "sound": (_model(SOUND), "1.3.0"), "text": (_model(TOKENS, vocabulary=VOCABULARY), "1.1.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_oldest_version_that_reads_it_is_known(kind: str) -> None:
    model, version = KINDS[kind]
    assert min_parser_version(model) == version
    assert decode(pack_metadata(model))["min_parser_version"] == version
    assert official().version(pack_metadata(model)) == version


@pytest.mark.parametrize("kind", KINDS)
def test_the_displayer_shows_what_was_meant(kind: str) -> None:
    packed = pack_metadata(KINDS[kind][0])
    assert rounded(json.loads(official().shown(packed))) == rounded(decode(packed))
