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
        pads_front: It does so in front of the text, not behind it.
    """

    is_bert: bool
    lowers: bool
    before: tuple[str, ...]
    after: tuple[str, ...]
    padding: str
    pads_front: bool

    @property
    def said(self) -> str:
        """The facts beside the vocabulary, in words."""
        casing = "upper case becomes lower case" if self.lowers else "upper and lower case differ"
        around = [f"{' '.join(self.before)} before it"] if self.before else []
        around += [f"{' '.join(self.after)} after it"] if self.after else []
        filled = f"filled up {'in front ' if self.pads_front else ''}with {self.padding}"
        return f"{casing}, {' and '.join(around) or 'no special tokens'}, short texts {filled}"


def tokenizer_facts(content: bytes) -> TokenizerFacts:
    """Return the facts of a tokenizer.

    Args:
        content: Of a ``tokenizer.json`` that pads.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content.decode())
    padding = tokenizer.padding or {}
    kinds = type(tokenizer.model).__name__, type(tokenizer.pre_tokenizer).__name__
    tokenizer.no_padding()
    encoded = tokenizer.encode("a")
    own = [place for place, special in enumerate(encoded.special_tokens_mask) if not special] or [len(encoded)]
    before, after = tuple(encoded.tokens[: own[0]]), tuple(encoded.tokens[own[-1] + 1 :])
    lowers = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("A") == "a"
    is_bert = kinds == ("WordPiece", "BertPreTokenizer")
    return TokenizerFacts(is_bert, lowers, before, after, padding["pad_token"], padding["direction"] == "left")
