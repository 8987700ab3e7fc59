"""TFLite files with metadata: a stranger feeds them by nothing but the file, and nothing else about them has changed."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image as Picture
from scipy.io import wavfile
from tokenizers import BertWordPieceTokenizer, Tokenizer

import edgekd
from edgekd.census import census
from edgekd.export.tflite_metadata import ENTRY
from edgekd.runtimes import describe, feed, open_tflite, real_values
from tests.export.described import LABELS, WORDS, Made, make
from tests.export.metadata_reader import Stranger, meet
from tests.export.reference import official, rounded

pytestmark = pytest.mark.slow
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    found = {}
    for kind in ("image", "sound", "text", "features"):
        found[kind] = make(kind, tmp_path_factory.mktemp(kind))
        for precision in PRECISIONS:
            found[kind].describe(f"{precision}.tflite")
    return found


def _reported(made: Made, precision: str, raw: Mapping[str, tuple[np.ndarray, float | None]]) -> np.ndarray:
    """Real outputs of the plain file, fed as ``report.json`` tells."""
    run, inputs, outputs = open_tflite(str(made.folder / f"plain.{precision}.tflite"), threads=1)
    fed = {each["name"]: feed(*raw[each["name"]], each) for each in describe(inputs, made.spec.inputs, "tflite")}
    real: np.ndarray = real_values(run(fed)["logits"], outputs[0])[0]
    return real


def _agree(stranger: Stranger, found: np.ndarray, expected: np.ndarray) -> None:
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert stranger.labels == list(LABELS)
    assert stranger.labels[found.argmax()] == LABELS[expected.argmax()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stranger_feeds_a_picture(made: dict[str, Made], precision: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    smooth = np.kron(random.integers(0, 256, (4, 3, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    Picture.fromarray(smooth).save(tmp_path / "picture.png")
    stranger = meet(made["image"].folder / f"{precision}.tflite")
    (given,) = stranger.inputs
    properties = given["content"]["content_properties"]
    with Picture.open(tmp_path / "picture.png") as opened:
        assert properties["color_space"] == opened.mode
        assert (properties["default_size"]["width"], properties["default_size"]["height"]) == opened.size == (12, 16)
        pixels = np.asarray(opened)
    expected = _reported(made["image"], precision, {"image": (pixels[None], 255.0)})
    _agree(stranger, stranger.run({"image": pixels}), expected)


def test_pixels_go_from_0_to_255(made: dict[str, Made]) -> None:
    """Mean and std of the specification are those of the training data times 255, stats those of black and white."""
    (given,) = meet(made["image"].folder / "int8.tflite").inputs
    (unit,) = given["process_units"]
    np.testing.assert_allclose(unit["options"]["mean"], [0.3 * 255, 0.4 * 255, 0.5 * 255], rtol=1e-6)
    np.testing.assert_allclose(unit["options"]["std"], [0.2 * 255, 0.25 * 255, 0.3 * 255], rtol=1e-6)
    np.testing.assert_allclose(given["stats"]["min"], [-0.3 / 0.2, -0.4 / 0.25, -0.5 / 0.3], rtol=1e-6)
    np.testing.assert_allclose(given["stats"]["max"], [0.7 / 0.2, 0.6 / 0.25, 0.5 / 0.3], rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stranger_feeds_a_sound(made: dict[str, Made], precision: str, tmp_path: Path) -> None:
    wave = (12_000 * np.sin(np.arange(2_000) * 0.7) * np.linspace(0, 1, 2_000)).astype(np.int16)
    wavfile.write(tmp_path / "sound.wav", 4_000, wave)
    stranger = meet(made["sound"].folder / f"{precision}.tflite")
    (given,) = stranger.inputs
    assert given["content"]["content_properties_type"] == "AudioProperties"
    rate, raw = wavfile.read(tmp_path / "sound.wav")
    assert given["content"]["content_properties"] == {"sample_rate": rate, "channels": 1}
    assert (given["stats"]["min"], given["stats"]["max"]) == ([-1.0], [1.0])
    expected = _reported(made["sound"], precision, {"waveform": (raw[None], 32_768.0)})
    _agree(stranger, stranger.run({"waveform": raw.astype(np.float32) / 32_768}), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stranger_feeds_a_text(made: dict[str, Made], precision: str, tmp_path: Path) -> None:
    """The vocabulary is in the file; what a vocabulary cannot tell is said beside it."""
    text = "A fine film, fine STORYS!"
    stranger = meet(made["text"].folder / f"{precision}.tflite")
    (unit,) = stranger.metadata["subgraph_metadata"][0]["input_process_units"]
    assert unit["options_type"] == "BertTokenizerOptions"
    (file,) = unit["options"]["vocab_file"]
    assert (file["name"], file["type"]) == ("vocab.txt", "VOCABULARY")
    (tmp_path / "vocab.txt").write_bytes(stranger.files["vocab.txt"])
    assert "upper case becomes lower case, [CLS] before it and [SEP] after it" in file["description"]
    tokenizer = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    by_name = {each["name"]: each for each in stranger.inputs}
    assert "cut to 8 or filled up to as many" in by_name["input_ids"]["description"]
    assert "filled up with [PAD]" in by_name["input_ids"]["description"]
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["[CLS]", "a", "fine", "film", "[UNK]", "fine", "story", "[SEP]"]
    given = Tokenizer.from_file(made["text"].files["tokenizer.json"]).encode(text)
    raw = {"input_ids": (np.array([given.ids]), None), "attention_mask": (np.array([given.attention_mask]), None)}
    found = stranger.run({"input_ids": encoded.ids, "attention_mask": encoded.attention_mask})
    _agree(stranger, found, _reported(made["text"], precision, raw))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stranger_feeds_a_row(made: dict[str, Made], precision: str) -> None:
    row = np.array([0.7, -16.0, 420.0])
    stranger = meet(made["features"].folder / f"{precision}.tflite")
    expected = _reported(made["features"], precision, {"features": (row[None], None)})
    _agree(stranger, stranger.run({"features": row}), expected)


def test_general_facts(made: dict[str, Made]) -> None:
    for kind, noun in (("image", "images"), ("sound", "sounds"), ("text", "texts"), ("features", "rows of numbers")):
        metadata = meet(made[kind].folder / "int8.tflite").metadata
        told = {key: value for key, value in metadata.items() if isinstance(value, str)}
        oldest = {"sound": "1.3.0", "text": "1.1.0"}.get(kind, "1.0.0")
        assert told == {
            "name": "a name", "description": f"Classifies {noun} into 5 classes.", "author": f"edgekd {edgekd.__version__}",
            "license": "Apache-2.0", "min_parser_version": oldest,
        }  # fmt: skip


def test_no_logit_is_cut_off(made: dict[str, Made]) -> None:
    """Readers take scores below 0 for no result where no threshold is told."""
    (unit,) = meet(made["image"].folder / "fp32.tflite").output["process_units"]
    assert unit == {
        "options_type": "ScoreThresholdingOptions",
        "options": {"global_score_threshold": pytest.approx(-3.4028235e38)},
    }


def test_how_an_integer_output_is_read_is_told(made: dict[str, Made]) -> None:
    path = made["image"].folder / "int8.tflite"
    (details,) = Interpreter(str(path)).get_output_details()
    scale, zero_point = details["quantization"]
    assert scale > 0
    assert f"Real value = (raw - {zero_point}) * {scale:.9g}." in meet(path).output["description"]
    assert "Real value" not in meet(made["image"].folder / "fp32.tflite").output["description"]


@pytest.mark.parametrize("kind", ["image", "sound", "text", "features"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_else_has_changed(made: dict[str, Made], kind: str, precision: str) -> None:
    plain, described = (made[kind].folder / f"{start}{precision}.tflite" for start in ("plain.", ""))
    one, other = (schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0) for path in (plain, described))
    names = [each.name for each in other.metadata]
    assert names == [*(each.name for each in one.metadata), ENTRY.encode()]
    assert (one.description, one.version) == (other.description, other.version)
    (first,), (second,) = one.subgraphs, other.subgraphs
    assert len(first.tensors) == len(second.tensors)
    assert len(first.operators) == len(second.operators)
    assert census(str(plain), "tflite") == census(str(described), "tflite")
    (run, inputs, outputs), (again, *rest) = open_tflite(str(plain), 1), open_tflite(str(described), 1)
    assert rest == [inputs, outputs]
    random = np.random.default_rng(2)
    drawn = {each["name"]: random.integers(0, 2, each["shape"]).astype(each["dtype"]) for each in inputs}
    assert np.array_equal(run(drawn)["logits"], again(drawn)["logits"])


@pytest.mark.parametrize("kind", ["image", "sound", "text"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_data_of_tensors_lies_at_multiples_of_16(made: dict[str, Made], kind: str, precision: str) -> None:
    model = schema.Model.GetRootAs((made[kind].folder / f"{precision}.tflite").read_bytes(), 0)
    places = []
    for row in range(model.BuffersLength()):
        table = model.Buffers(row)._tab
        if model.Buffers(row).DataLength():
            places.append(table.Vector(table.Offset(4)))
    assert len(places) > 5
    assert {place % 16 for place in places} == {0}


def test_the_same_bytes_from_another_place(made: dict[str, Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = made["text"].folder / "int8.tflite"
    before = path.read_bytes()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    elsewhere = {name: str(tmp_path / f"renamed.{name}") for name in made["text"].files}
    for name, source in made["text"].files.items():
        Path(elsewhere[name]).write_bytes(Path(source).read_bytes())
        os.utime(elsewhere[name], (1e9, 1e9))
    made["text"].describe("int8.tflite", files=elsewhere)
    assert path.read_bytes() == before
    assert str(made["text"].folder).encode() not in before
    with zipfile.ZipFile(path) as archive:
        assert [each.filename for each in archive.infolist()] == ["labels.txt", "vocab.txt"]
        assert archive.testzip() is None


def test_tflite_support_agrees(made: dict[str, Made]) -> None:
    """Its displayer reads what was meant, and its populator would have put the same bytes into the plain file."""
    module = official().module
    for kind in made:
        for precision in PRECISIONS:
            path = made[kind].folder / f"{precision}.tflite"
            displayer, stranger = module.MetadataDisplayer.with_model_file(str(path)), meet(path)
            assert rounded(json.loads(displayer.get_metadata_json())) == rounded(stranger.metadata)
            assert displayer.get_packed_associated_file_list() == list(stranger.files)
            for name, content in stranger.files.items():
                assert displayer.get_associated_file_buffer(name) == content
            populator = module.MetadataPopulator.with_model_buffer(
                (made[kind].folder / f"plain.{precision}.tflite").read_bytes()
            )
            populator.load_metadata_buffer(displayer.get_metadata_buffer())
            populator.load_associated_file_buffers(stranger.files)
            assert populator.get_recorded_associated_file_list() == list(stranger.files)
            populator.populate()
            theirs = module.MetadataDisplayer.with_model_buffer(populator.get_model_buffer())
            assert theirs.get_metadata_buffer() == displayer.get_metadata_buffer()


def test_a_tokenizer_that_is_not_berts_travels_whole(made: dict[str, Made]) -> None:
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    source = made["text"]
    own = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = WhitespaceSplit()
    own.enable_padding(length=8, pad_id=0, pad_token="[PAD]")
    path = source.folder / "own.json"
    own.save(str(path))
    (source.folder / "plain.own.tflite").write_bytes((source.folder / "plain.fp32.tflite").read_bytes())
    stranger = meet(source.describe("own.tflite", files={**source.files, "tokenizer.json": str(path)}))
    assert "input_process_units" not in stranger.metadata["subgraph_metadata"][0]
    assert list(stranger.files) == ["tokenizer.json", "labels.txt"]
    (tokens,) = [each for each in stranger.inputs if each["name"] == "input_ids"]
    assert "upper and lower case differ, no special tokens, short texts filled up with [PAD]" in tokens["description"]
    assert Tokenizer.from_str(stranger.files["tokenizer.json"].decode()).encode("fine film").tokens[:2] == ["fine", "film"]
