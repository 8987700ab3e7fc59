"""What an app must know of a tokenizer that it builds again from ``vocab.txt``, found out by asking the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizerFacts:
    """How a text becomes tokens.

    Attributes:
        is_bert: It is BERT's: WordPiece on words and punctuation marks (Devlin et al., 2019), so a vocabulary tells it all
            but what follows.
        lowers: Upper case becomes lower case first.
        before, after: Special tokens that are put around a text.
        padding: What fills up a short text.
    """

    is_bert: bool
    lowers: bool
    before: tuple[str, ...]
    after: tuple[str, ...]
    padding: str

    @property
    def said(self) -> str:
        """The facts beside the vocabulary, in words."""
        casing = "upper case becomes lower case" if self.lowers else "upper and lower case differ"
        around = [f"{' '.join(self.before)} before it"] if self.before else []
        around += [f"{' '.join(self.after)} after it"] if self.after else []
        return f"{casing}, {' and '.join(around) or 'no special tokens'}, short texts filled up with {self.padding}"


def tokenizer_facts(content: bytes) -> TokenizerFacts:
    """Return the facts of a tokenizer.

    Args:
        content: Of a ``tokenizer.json`` that pads.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content.decode())
    padding = (tokenizer.padding or {})["pad_token"]
    kinds = type(tokenizer.model).__name__, type(tokenizer.pre_tokenizer).__name__
    tokenizer.no_padding()
    encoded = tokenizer.encode("a")
    own = [not special for special in encoded.special_tokens_mask]
    first, last = own.index(True), len(own) - own[::-1].index(True)
    lowers = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("A") == "a"
    return TokenizerFacts(
        kinds == ("WordPiece", "BertPreTokenizer"), lowers, tuple(encoded.tokens[:first]), tuple(encoded.tokens[last:]), padding
    )
