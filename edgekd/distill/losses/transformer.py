"""Losses on the inside of transformers: relations, attention scores, hidden states.

``b`` sequences of ``l`` tokens; ``mask`` is ``[b, l]``, not 0 where a token is. Suffix ``_s``: student, ``_t``: teacher.
No gradient flows to the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.losses.numerics import check_same_shape, divergence, full_precision, mean_where, soft_log, unit
from edgekd.errors import ModelError, UsageError

LayerMap = Sequence[int] | str | None
"""Which teacher layer each student layer imitates; ``None`` or a text: the uniform map of TinyBERT."""


@full_precision
def minilmv1(
    q_s: Tensor, q_t: Tensor, k_s: Tensor, k_t: Tensor, v_s: Tensor, v_t: Tensor, mask: Tensor | None = None,
    relation_heads: int = 12, relations: Sequence[str] = ("qk", "vv"),
) -> Tensor:  # fmt: skip
    """Attention and value relations of the last layer (Wang, Wei, Dong, Bao, Yang and Zhou, 2020).

    ``sum over relations xy of mean over sequences of KL(R(x_t, y_t) || R(x_s, y_s)) / (heads * length)``,
    ``R(x, y) = softmax(x y^T / sqrt(width of a head))``, summed over heads and tokens, padding left out.

    Args:
        q_s, k_s, v_s: Queries, keys, values of the student ``[b, l, width]``, heads side by side.
        q_t, k_t, v_t: Of the teacher ``[b, l, its width]``: widths may differ.
        mask: ``[b, l]``; ``None``: all are tokens.
        relation_heads: Heads to cut both widths into; the attention heads of both models.
        relations: Pairs of ``q``, ``k``, ``v``.

    Raises:
        ModelError: A width is no multiple of the heads.
        UsageError: A relation is none.
    """
    return _relation_loss({"q": (q_s, q_t), "k": (k_s, k_t), "v": (v_s, v_t)}, mask, relation_heads, relations)


@full_precision
def minilmv2(
    q_s: Tensor, q_t: Tensor, k_s: Tensor, k_t: Tensor, v_s: Tensor, v_t: Tensor, mask: Tensor | None = None,
    relation_heads: int = 48, relations: Sequence[str] = ("qq", "kk", "vv"),
) -> Tensor:  # fmt: skip
    """Multi-head self-attention relations (Wang, Bao, Huang, Dong and Wei, 2021).

    ``sum over relations xx of mean over sequences of KL(R(x_t, x_t) || R(x_s, x_s)) / (heads * length)``, R as in
    :func:`minilmv1`, between queries, between keys and between values. The relation heads have a number of their own, so
    that models of different heads compare. The teacher's layer is the last, or an upper middle one.

    Args:
        q_s, k_s, v_s: Queries, keys, values of the student ``[b, l, width]``, heads side by side.
        q_t, k_t, v_t: Of the teacher ``[b, l, its width]``: widths may differ.
        mask: ``[b, l]``; ``None``: all are tokens.
        relation_heads: Heads to cut both widths into, 48 in the paper.
        relations: Pairs of ``q``, ``k``, ``v``.

    Raises:
        ModelError: A width is no multiple of the heads.
        UsageError: A relation is none.
    """
    return _relation_loss({"q": (q_s, q_t), "k": (k_s, k_t), "v": (v_s, v_t)}, mask, relation_heads, relations)


def _relation_loss(
    vectors: dict[str, tuple[Tensor, Tensor]], mask: Tensor | None, heads: int, relations: Sequence[str]
) -> Tensor:
    valid = _valid(mask, vectors["q"][0])
    total = torch.zeros(())
    for relation in relations:
        if len(relation) != 2 or not set(relation) <= set(vectors):
            raise UsageError(f"no relation '{relation}'", "allowed: qq, kk, vv, qk and other pairs of q, k, v")
        x, y = (vectors[each] for each in relation)
        log_s = _log_relation(x[0], y[0], valid, heads)
        log_t = _log_relation(x[1].detach(), y[1].detach(), valid, heads)
        rows = divergence(log_t, log_s).masked_fill(~valid.unsqueeze(1), 0.0)
        total = total + (rows.sum((1, 2)) / (heads * valid.sum(1).clamp_min(1))).mean()
    return total


def _log_relation(first: Tensor, second: Tensor, valid: Tensor, heads: int) -> Tensor:
    """Return log-relations ``[b, heads, l, l]``; padding has a probability of exactly 0."""
    x, y = _heads(first, heads), _heads(second, heads)
    scores = x @ y.transpose(2, 3) / x.shape[3] ** 0.5
    # A finite number: 0 * (-inf + inf) would make NaN of padding.
    return soft_log(scores.masked_fill(~valid[:, None, None, :], -1e30), 1.0)


def _heads(vectors: Tensor, heads: int) -> Tensor:
    if vectors.shape[2] % heads:
        raise ModelError(
            f"a width of {vectors.shape[2]} does not divide into {heads} relation heads",
            "set relation_heads to a common divisor of both widths",
        )
    return vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)


def _valid(mask: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if mask is None else mask != 0


@full_precision
def tinybert_att(
    att_s: Sequence[Tensor], att_t: Sequence[Tensor], rep_s: Sequence[Tensor] | None = None,
    rep_t: Sequence[Tensor] | None = None, layer_map: LayerMap = None,
) -> Tensor:  # fmt: skip
    """Attention term of TinyBERT (Jiao, Yin, Shang, Jiang, Chen, Li, Wang and Liu, 2020).

    ``sum over student layers i of mean((A_i(student) - A_g(i)(teacher))^2)``, A the scores before the softmax, those of -100
    or less (masked) set to 0 in each; ``g(i) = (i + 1) M / N - 1`` of M teacher and N student layers. TextBrewer sets
    everything from -0.001 down to 0, ordinary scores too.

    Args:
        att_s: Per layer ``[b, heads, l, l]``.
        att_t: Per layer of the teacher, as many heads.
        rep_s, rep_t: Unused, so that both terms take the same outputs.
        layer_map: Teacher layer of every student layer, from 0; ``None`` or a text: uniform.
    """
    chosen = _chosen(layer_map, len(att_s), [round((i + 1) * len(att_t) / len(att_s)) - 1 for i in range(len(att_s))])
    return _layers_mse([_unmasked(each) for each in att_s], [_unmasked(att_t[i]) for i in chosen], "attention scores")


def _unmasked(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores <= -100, 0.0)


@full_precision
def tinybert_hidden(
    rep_s: Sequence[Tensor], rep_t: Sequence[Tensor], att_s: Sequence[Tensor] | None = None,
    att_t: Sequence[Tensor] | None = None, layer_map: LayerMap = None,
) -> Tensor:  # fmt: skip
    """Hidden states of TinyBERT (Jiao, Yin, Shang, Jiang, Chen, Li, Wang and Liu, 2020).

    ``sum over i of mean((H_i(student) - H_g(i)(teacher))^2)``, i = 0 the embeddings; ``g(i) = i M / N``.

    Args:
        rep_s: Embeddings and per layer ``[b, l, width]``, projected to the teacher's width.
        rep_t: Embeddings and per layer of the teacher.
        att_s, att_t: Unused, so that both terms take the same outputs.
        layer_map: Teacher state of every student state, 0 the embeddings; ``None`` or a text: uniform.
    """
    layers = max(len(rep_s) - 1, 1)
    chosen = _chosen(layer_map, len(rep_s), [round(i * (len(rep_t) - 1) / layers) for i in range(len(rep_s))])
    return _layers_mse(rep_s, [rep_t[i] for i in chosen], "hidden states")


def _chosen(layer_map: LayerMap, layers: int, uniform: list[int]) -> Sequence[int]:
    if layer_map is None or isinstance(layer_map, str):
        return uniform
    if len(layer_map) != layers:
        raise UsageError(f"layer_map names {len(layer_map)} teacher layers for {layers} of the student", "one for each")
    return layer_map


def _layers_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], what: str) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        check_same_shape(s, t, what)
        total = total + functional.mse_loss(s, t.detach())
    return total


@full_precision
def distilbert(
    student: Tensor, teacher: Tensor, hid_s: Tensor, hid_t: Tensor, mask: Tensor | None = None, labels: Tensor | None = None,
    temperature: float = 2.0, alpha_ce: float = 5.0, alpha_mlm: float = 2.0, alpha_cos: float = 1.0,
) -> Tensor:  # fmt: skip
    """The three terms of DistilBERT (Sanh, Debut, Chaumond and Wolf, 2019).

    ``alpha_ce * T^2 * mean over tokens KL + alpha_mlm * CE(labels) + alpha_cos * mean over tokens (1 - cos(hidden))``.
    The mean is over valid tokens; over whole sequences, as ``batchmean`` of ``[b, l, vocabulary]`` would be, the term
    grows with length.

    Args:
        student, teacher: Logits ``[b, l, vocabulary]``.
        hid_s, hid_t: Last hidden states ``[b, l, width]``, of one width.
        mask: ``[b, l]``; ``None``: all are tokens.
        labels: True tokens ``[b, l]``, negative where not asked; ``None``: no such term.
        temperature: T, above 0.
        alpha_ce, alpha_mlm, alpha_cos: Weights, 0 or more.
    """
    check_same_shape(student, teacher, "logits")
    check_same_shape(hid_s, hid_t, "hidden states")
    valid = _valid(mask, student)
    soft = divergence(soft_log(teacher.detach(), temperature), soft_log(student, temperature))
    cosine = (unit(hid_s, 2) * unit(hid_t.detach(), 2)).sum(2)
    total = alpha_ce * temperature**2 * mean_where(soft, valid) + alpha_cos * mean_where(1 - cosine, valid)
    if labels is None:
        return total
    log_true = soft_log(student, 1.0).gather(2, labels.clamp_min(0).unsqueeze(2)).squeeze(2)
    return total + alpha_mlm * mean_where(-log_true, labels >= 0)
