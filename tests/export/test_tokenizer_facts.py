"""What is found out of tokenizers, against tokenizers put together for it."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import BertWordPieceTokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors

from edgekd.export.tokenizer_facts import tokenizer_facts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "fine", "film"]


def _content(tokenizer: Any, direction: str = "right") -> bytes:
    tokenizer.enable_padding(direction=direction, length=8, pad_id=0, pad_token="[PAD]")
    return str(tokenizer.to_str()).encode()


@pytest.mark.parametrize("lowers", [True, False])
def test_berts(tmp_path: Path, lowers: bool) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    facts = tokenizer_facts(_content(BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=lowers)))
    assert (facts.is_bert, facts.lowers, facts.before, facts.after) == (True, lowers, ("[CLS]",), ("[SEP]",))
    casing = "upper case becomes lower case" if lowers else "upper and lower case differ"
    assert facts.said == f"{casing}, [CLS] before it and [SEP] after it, short texts filled up with [PAD]"


def test_transformers_form_of_it_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    facts = tokenizer_facts(_content(transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).backend_tokenizer))
    assert (facts.is_bert, facts.lowers, facts.before, facts.after) == (True, True, ("[CLS]",), ("[SEP]",))


def test_one_that_was_trained_adds_nothing() -> None:
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(["a fine film"] * 3, vocab_size=100, min_frequency=2, show_progress=False)
    facts = tokenizer_facts(_content(trained))
    assert (facts.is_bert, facts.before, facts.after) == (True, (), ())
    assert facts.said == "upper case becomes lower case, no special tokens, short texts filled up with [PAD]"


def test_others() -> None:
    words = {word: index for index, word in enumerate(WORDS)}
    other = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    other.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    other.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    other.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    facts = tokenizer_facts(_content(other, "left"))
    assert (facts.is_bert, facts.lowers, facts.before, facts.after) == (False, True, (), ("[SEP]",))
    assert facts.said == "upper case becomes lower case, [SEP] after it, short texts filled up in front with [PAD]"
