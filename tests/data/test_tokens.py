"""Texts to tokens: what a trained tokenizer has seen, and what a given one must bring."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.errors import DataError
from edgekd.progress import Silent
from edgekd.recipe import Recipe
from edgekd.recipe_file import recipe_from_mapping
from edgekd.workspace import open_workspace
from tests.texts import write_texts


def _recipe(source: Path, **data: object) -> Recipe:
    return recipe_from_mapping({"data": {"source": f"tsv:{source}", "max_tokens": 12, **data}})


def _load(recipe: Recipe, folder: Path) -> Dataset:
    with open_workspace(folder, Silent()) as workspace:
        return load_data(recipe, workspace)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "texts.tsv")
    return _load(_recipe(folder / "texts.tsv", vocabulary=300), folder / "out")


def test_tokens_and_masks_are_what_the_saved_tokenizer_makes(loaded: Dataset) -> None:
    tokenizer = Tokenizer.from_file(str(loaded.files["tokenizer.json"]))
    texts = [line.split("\t")[0] for line in (loaded.files["tokenizer.json"].parents[3] / "texts.tsv").read_text().splitlines()]
    arrays = loaded.batch(np.arange(len(texts)))
    assert arrays["input_ids"].shape == arrays["attention_mask"].shape == (len(texts), 12)
    for row, text in enumerate(texts[:50]):
        encoded = tokenizer.encode(text)
        assert arrays["input_ids"][row].tolist() == encoded.ids
        assert arrays["attention_mask"][row].tolist() == encoded.attention_mask


def test_vocabulary_file_is_the_tokenizers(loaded: Dataset) -> None:
    tokenizer = Tokenizer.from_file(str(loaded.files["tokenizer.json"]))
    lines = loaded.files["vocab.txt"].read_text().splitlines()
    assert len(lines) == loaded.inputs[0].vocabulary == tokenizer.get_vocab_size()
    for index, token in enumerate(lines):
        assert tokenizer.token_to_id(token) == index


def test_only_training_texts_are_seen(tmp_path: Path) -> None:
    write_texts(tmp_path / "train.tsv")
    (tmp_path / "test.tsv").write_text("zyxwvut zyxwvut zyxwvut zyxwvut\t0\nzyxwvut zyxwvut zyxwvut\t1\n")
    data = _load(_recipe(tmp_path, vocabulary=300), tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(data.files["tokenizer.json"]))
    assert tokenizer.token_to_id("zyxwvut") is None


def test_a_given_tokenizer_is_used(loaded: Dataset, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.tsv", seed=1)
    data = _load(_recipe(tmp_path / "texts.tsv", tokenizer=str(loaded.files["tokenizer.json"])), tmp_path / "out")
    assert data.files["vocab.txt"].read_bytes() == loaded.files["vocab.txt"].read_bytes()


def test_a_student_that_comes_with_a_tokenizer_reads_through_it(loaded: Dataset, tmp_path: Path) -> None:
    """Its embeddings mean nothing for another one's tokens; without a tokenizer in its folder, one is trained."""
    write_texts(tmp_path / "texts.tsv", seed=1)
    recipe = recipe_from_mapping({
        "data": {"source": f"tsv:{tmp_path / 'texts.tsv'}", "max_tokens": 12}, "student": {"model": f"hf:{tmp_path}"},
        "distill": {"scheme": "none"},
    })  # fmt: skip
    trained = _load(recipe, tmp_path / "trained")
    (tmp_path / "tokenizer.json").write_bytes(loaded.files["tokenizer.json"].read_bytes())
    data = _load(recipe, tmp_path / "out")
    assert data.files["vocab.txt"].read_bytes() == loaded.files["vocab.txt"].read_bytes()
    assert data.files["vocab.txt"].read_bytes() != trained.files["vocab.txt"].read_bytes()


def test_teachers_of_different_tokenizers_are_refused(loaded: Dataset, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.tsv")
    for name, vocabulary in (("a", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\n"), ("b", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nbad\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text(vocabulary)
    recipe = recipe_from_mapping({
        "data": {"source": f"tsv:{tmp_path / 'texts.tsv'}"},
        "teacher": {"model": f"hf:{tmp_path / 'a'}", "ensemble": [{"model": f"hf:{tmp_path / 'b'}"}]},
    })  # fmt: skip
    with pytest.raises(DataError, match="different tokenizers"):
        _load(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no tokenizer"), ("{}", "is no tokenizer"), ("not json", "is no tokenizer")],
)
def test_a_bad_tokenizer_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    write_texts(tmp_path / "texts.tsv")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        _load(_recipe(tmp_path / "texts.tsv", tokenizer=str(tmp_path / "tokenizer.json")), tmp_path / "out")
    assert "\n" not in caught.value.message
