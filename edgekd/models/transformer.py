"""A transformer encoder for text classification in BERT's layout (Devlin et al., 2019), down to BERT-Tiny.

Names of weights are those of Hugging Face's ``BertForSequenceClassification`` without the leading ``bert.``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgekd.models.blocks import scaled, whole

_MASKED = -10_000.0
"""Added to the scores of padding: finite, so that ranges stay finite when it is quantized."""
_EPSILON = 1e-12


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, hidden: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, hidden)
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.token_type_embeddings = nn.Embedding(2, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: input_ids.shape[1]] + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + places))
        return embedded


class _SelfAttention(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, hidden // heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count, length, _ = x.shape

        def split(each: Tensor) -> Tensor:
            return each.reshape(count, length, self.heads, self.size).transpose(1, 2)

        scores = torch.matmul(split(self.query(x)), split(self.key(x)).transpose(2, 3)) / math.sqrt(self.size) + mask
        mixed = torch.matmul(self.dropout(scores.softmax(3)), split(self.value(x)))
        return mixed.transpose(1, 2).reshape(count, length, self.heads * self.size)  # pruning takes heads away


class _Residual(nn.Module):
    """A dense layer, dropout, and layer norm of its sum with what came in before."""

    def __init__(self, inner: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        result: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + before)
        return result


class _Dense(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, outer)


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = _SelfAttention(hidden, heads, dropout)
        self.output = _Residual(hidden, hidden, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = self.output(self.self(x, mask), x)
        return result


class _Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(hidden, heads, dropout)
        self.intermediate = _Dense(hidden, intermediate)
        self.output = _Residual(intermediate, hidden, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        result: Tensor = self.output(nn.functional.gelu(self.intermediate.dense(x)), x)
        return result


class _Encoder(nn.Module):
    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(hidden, heads, intermediate, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertClassifier(nn.Module):
    """Embeddings, layers, pooler and classifier of BERT."""

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        layers: int,
        hidden: int,
        heads: int,
        intermediate: int,
        positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vocabulary, hidden, positions, dropout)
        self.encoder = _Encoder(layers, hidden, heads, intermediate, dropout)
        self.pooler = _Dense(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)
        self.apply(_initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map ``input_ids`` and ``attention_mask`` (1: a token, 0: padding), both ``[n, length]``, to logits per class."""
        hidden = self.embeddings(input_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * _MASKED
        pooled = torch.tanh(self.pooler.dense(self.encoder(hidden, mask)[:, 0]))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def tiny_transformer(
    vocabulary: int, classes: int, layers: int = 2, hidden: int = 128, heads: int = 2, intermediate: int = 512,
    positions: int = 512, dropout: float = 0.1, width: float = 1.0,
) -> nn.Module:  # fmt: skip
    """Build BERT-Tiny (Turc et al., 2019): 2 layers of 128 with 2 heads.

    4,385,920 parameters before the classifier for its vocabulary of 30,522 and 512 positions; 58.7 M MACs for a text of
    128 tokens, embeddings being looked up.

    Args:
        vocabulary: Number of different tokens.
        classes: Number of classes.
        layers, hidden, heads, intermediate: As BERT names them; ``intermediate`` is usually 4 times ``hidden``.
        positions: Longest text in tokens.
        dropout: Share of values dropped in training.
        width: Scales ``hidden`` and ``intermediate``, in steps of the heads.
    """
    if whole("hidden", hidden) % whole("heads", heads):
        raise ValueError(f"hidden is {hidden}, allowed: a multiple of {heads} heads")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}, allowed: a number from 0 to below 1")
    return BertClassifier(
        vocabulary, classes, whole("layers", layers), scaled(hidden, width, heads), heads,
        scaled(whole("intermediate", intermediate), width), whole("positions", positions), dropout,
    )  # fmt: skip
