"""Text end to end: tokens and masks by name into every file, and the tokenizer beside them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from tokenizers import BertWordPieceTokenizer, Tokenizer

import edgekd
from edgekd.flavours import ArtifactName
from edgekd.report.report import Report
from tests.export.metadata_reader import meet
from tests.texts import write_texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("text")
    write_texts(folder / "texts.tsv", 1_000)
    training = {"epochs": 4, "batch_size": 32, "learning_rate": 3e-3}
    recipe = {
        "data": {"source": f"tsv:{folder / 'texts.tsv'}", "max_tokens": 20, "vocabulary": 300},
        "teacher": {"model": "zoo:tiny_transformer", "arguments": {"layers": 2, "hidden": 64}, "train": training},
        "student": {"model": "from-teacher"},
        "distill": {"train": training},
        "benchmark": {"runs": 10, "warmup": 1},
    }
    return edgekd.compress(recipe, folder / "out")


def test_every_gate_is_passed(text: Report) -> None:
    assert text.ok, [gate for gate in text.gates if not gate.passed]
    assert text.teacher is not None
    assert text.teacher.metric.value > 0.9
    assert text.student.metric.value > 0.9
    assert text.student.spec.arguments == {"layers": 1, "hidden": 64}


def test_int8_of_a_transformer_is_dynamic(text: Report) -> None:
    content = json.loads((text.folder / "report.json").read_text())
    for each in content["artifacts"]:
        assert each["activations"] == ("dynamic" if each["precision"] == "int8" else None)
        assert (each["dtypes"]["int8_weights"] > 0.9) == (each["precision"] == "int8")


def test_inputs_keep_their_names(text: Report) -> None:
    onnx_names: tuple[ArtifactName, ...] = ("onnx-fp32", "onnx-int8")
    for name in onnx_names:
        graph = onnx.load(text.path(name)).graph
        assert [each.name for each in graph.input] == ["input_ids", "attention_mask"]
        assert [each.name for each in graph.output] == ["logits"]
    tflite_names: tuple[ArtifactName, ...] = ("tflite-fp32", "tflite-fp16", "tflite-int8")
    for name in tflite_names:
        (signature,) = Interpreter(str(text.path(name))).get_signature_list().values()
        assert sorted(signature["inputs"]) == ["attention_mask", "input_ids"]


def test_a_stranger_classifies_texts_with_the_folder_alone(text: Report) -> None:
    artifacts = text.folder / "artifacts"
    labels = (artifacts / "labels.txt").read_text().splitlines()
    tokenizer = Tokenizer.from_file(str(artifacts / "tokenizer.json"))
    padding = tokenizer.token_to_id("[PAD]")
    assert padding is not None
    assert (artifacts / "vocab.txt").read_text().splitlines()[padding] == "[PAD]"
    encoded = tokenizer.encode_batch(["a wonderful film of charming people", "a dull plot and awful actors"])
    fed = {
        "input_ids": np.array([each.ids for each in encoded], np.int32),
        "attention_mask": np.array([each.attention_mask for each in encoded], np.int32),
    }
    (logits,) = onnxruntime.InferenceSession(text.path("onnx-int8")).run(["logits"], fed)
    assert [labels[index] for index in logits.argmax(1)] == ["1", "0"]
    interpreter = Interpreter(str(text.path("tflite-int8")))
    runner = interpreter.get_signature_runner()
    for row, expected in enumerate(["1", "0"]):
        found = runner(**{name: values[row : row + 1] for name, values in fed.items()})["logits"]
        assert labels[int(found.argmax())] == expected


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-fp16", "tflite-int8"])
def test_a_stranger_classifies_texts_with_one_file_alone(text: Report, name: ArtifactName, tmp_path: Path) -> None:
    stranger = meet(text.path(name))
    (unit,) = stranger.metadata["subgraph_metadata"][0]["input_process_units"]
    (file,) = unit["options"]["vocab_file"]
    assert file["description"].endswith("upper case becomes lower case, no special tokens, short texts filled up with [PAD].")
    (tmp_path / file["name"]).write_bytes(stranger.files[file["name"]])
    tokenizer = BertWordPieceTokenizer(str(tmp_path / file["name"]), lowercase=True)
    tokenizer.enable_truncation(20)
    tokenizer.enable_padding(length=20, pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    own = Tokenizer.from_file(str(text.folder / "artifacts" / "tokenizer.json"))
    for line, label in (("A wonderful film of charming people", "1"), ("a DULL plot and awful actors", "0")):
        encoded = tokenizer.encode(line, add_special_tokens=False)
        assert encoded.ids == own.encode(line).ids
        found = stranger.run({"input_ids": encoded.ids, "attention_mask": encoded.attention_mask})
        assert stranger.labels[found.argmax()] == label


def test_padding_changes_nothing(text: Report) -> None:
    tokenizer = Tokenizer.from_file(str(text.folder / "artifacts" / "tokenizer.json"))
    tokenizer.no_padding()
    short = tokenizer.encode("a lovely story")
    session = onnxruntime.InferenceSession(text.path("onnx-fp32"))

    def logits(filler: int) -> np.ndarray:
        rest = 20 - len(short.ids)
        tokens = np.array([[*short.ids, *[filler] * rest]], np.int32)
        mask = np.array([[1] * len(short.ids) + [0] * rest], np.int32)
        (found,) = session.run(["logits"], {"input_ids": tokens, "attention_mask": mask})
        return np.asarray(found)

    np.testing.assert_allclose(logits(0), logits(17), atol=1e-5)


def test_the_card_tells_how_to_feed_it(text: Report) -> None:
    card = Path(text.folder, "MODEL_CARD.md").read_text()
    assert "cut to 20 tokens" in card
    assert "tokenizer.json" in card
    assert "pixels" not in card
