"""Losses on transformers against loops over sequences, heads and layers in float64 NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from edgekd.distill.losses import distilbert, minilmv1, minilmv2, tinybert_att, tinybert_hidden
from edgekd.errors import ModelError, UsageError


def _random(seed: int, *shape: int, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


LENGTHS = (5, 3)
MASK = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def _vectors() -> dict[str, Any]:
    return {f"{each}_{side}": _random(ord(each) + 7 * i, 2, 5, 12 * (i + 1)) for each in "qkv" for i, side in enumerate("st")}


def _relation(x: np.ndarray, y: np.ndarray, heads: int, head: int) -> np.ndarray:
    width = x.shape[1] // heads
    a, b = (each[:, head * width : (head + 1) * width] for each in (x, y))
    return np.asarray(softmax(a @ b.T / np.sqrt(width), axis=1))


@pytest.mark.parametrize("heads", [1, 3, 6])
@pytest.mark.parametrize(("loss", "relations"), [(minilmv1, ("qk", "vv")), (minilmv2, ("qq", "kk", "vv")), (minilmv2, ("qv",))])
def test_minilm_is_the_closed_form(loss: Any, relations: tuple[str, ...], heads: int) -> None:
    vectors = _vectors()
    expected = 0.0
    for x, y in (tuple(each) for each in relations):
        for n, length in enumerate(LENGTHS):
            for head in range(heads):
                first, second = ([vectors[f"{each}_{side}"][n, :length].numpy() for side in "st"] for each in (x, y))
                r_s, r_t = (_relation(a, b, heads, head) for a, b in zip(first, second, strict=True))
                expected += rel_entr(r_t, r_s).sum() / (heads * length) / len(LENGTHS)
    assert loss(**vectors, mask=MASK, relation_heads=heads, relations=relations).item() == pytest.approx(expected)


def test_minilm_does_not_see_padding() -> None:
    vectors = _vectors()
    changed = {name: torch.where(MASK.unsqueeze(2), each, 1e4) for name, each in vectors.items()}
    values = [minilmv2(**each, mask=MASK, relation_heads=3).item() for each in (vectors, changed)]
    assert values[0] == pytest.approx(values[1])
    cropped = {name: each[:1] for name, each in vectors.items()}
    assert minilmv2(**cropped, relation_heads=3).item() == pytest.approx(
        minilmv2(**cropped, mask=MASK[:1], relation_heads=3).item()
    )


def test_padding_stays_out_when_scores_are_far_below_zero() -> None:
    vectors = _vectors()
    for side in "st":
        vectors[f"q_{side}"] = vectors[f"q_{side}"].abs() * 100
        vectors[f"k_{side}"] = -vectors[f"k_{side}"].abs() * 100
    cropped = {name: each[1:, : LENGTHS[1]] for name, each in vectors.items()}
    padded = {name: each[1:] for name, each in vectors.items()}
    expected = minilmv1(**cropped, relation_heads=3, relations=("qk",)).item()
    assert minilmv1(**padded, mask=MASK[1:], relation_heads=3, relations=("qk",)).item() == pytest.approx(expected)


def test_an_empty_sequence_counts_nothing() -> None:
    value = minilmv1(**_vectors(), mask=torch.zeros(2, 5), relation_heads=2)
    assert value.item() == 0.0


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ModelError, match="a width of 12 does not divide into 5 relation heads"):
        minilmv2(**_vectors(), relation_heads=5)


def test_unknown_relations_are_refused() -> None:
    with pytest.raises(UsageError, match="no relation 'qx'"):
        minilmv2(**_vectors(), relation_heads=3, relations=("qx",))


def test_tinybert_att_takes_every_second_layer_of_twice_as_many() -> None:
    student, teacher = [_random(i, 2, 3, 5, 5) for i in range(2)], [_random(9 + i, 2, 3, 5, 5) for i in range(4)]
    expected = sum(((student[i] - teacher[g]).numpy() ** 2).mean() for i, g in ((0, 1), (1, 3)))
    assert tinybert_att(student, teacher).item() == pytest.approx(expected)
    chosen = sum(((student[i] - teacher[g]).numpy() ** 2).mean() for i, g in ((0, 0), (1, 2)))
    assert tinybert_att(student, teacher, layer_map=(0, 2)).item() == pytest.approx(chosen)


def test_tinybert_att_leaves_masked_scores_out() -> None:
    student, teacher = _random(0, 2, 3, 5, 5), _random(1, 2, 3, 5, 5)
    masked = [each.masked_fill(~MASK[:, None, None], -10000.0) for each in (student, teacher)]
    expected = ((student - teacher).numpy() ** 2 * MASK.numpy()[:, None, None]).mean()
    assert tinybert_att([masked[0]], [masked[1]]).item() == pytest.approx(expected)
    # Ordinary negative scores stay: TextBrewer drops them.
    assert tinybert_att([-student.abs()], [-teacher.abs()]).item() > 0


def test_tinybert_hidden_starts_with_the_embeddings() -> None:
    student, teacher = [_random(i, 2, 5, 8) for i in range(3)], [_random(9 + i, 2, 5, 8) for i in range(7)]
    expected = sum(((student[i] - teacher[g]).numpy() ** 2).mean() for i, g in ((0, 0), (1, 3), (2, 6)))
    assert tinybert_hidden(student, teacher).item() == pytest.approx(expected)


def test_a_layer_map_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="names 1 teacher layers for 2"):
        tinybert_att([torch.zeros(1, 1, 2, 2)] * 2, [torch.zeros(1, 1, 2, 2)] * 4, layer_map=(0,))


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="attention scores of the student"):
        tinybert_att([torch.zeros(1, 2, 3, 3)], [torch.zeros(1, 4, 3, 3)])


def test_distilbert_is_the_closed_form() -> None:
    student, teacher, hidden_s, hidden_t = (_random(0, 2, 5, 7), _random(1, 2, 5, 7), _random(2, 2, 5, 4), _random(3, 2, 5, 4))
    labels = torch.tensor([[3, -100, 0, 6, -100], [-100, 2, -100, -100, -100]])
    soft, cosines, hard = [], [], []
    for n, length in enumerate(LENGTHS):
        for i in range(length):
            p, q = (softmax(each[n, i].numpy() / 2) for each in (teacher, student))
            soft.append(rel_entr(p, q).sum())
            a, b = hidden_s[n, i].numpy(), hidden_t[n, i].numpy()
            cosines.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    for n, i in torch.nonzero(labels >= 0).tolist():
        hard.append(-log_softmax(student[n, i].numpy())[labels[n, i]])
    arguments = (student, teacher, hidden_s, hidden_t, MASK)
    without = 5 * 4 * np.mean(soft) + np.mean(cosines)
    assert distilbert(*arguments).item() == pytest.approx(without)
    assert distilbert(*arguments, labels=labels).item() == pytest.approx(without + 2 * np.mean(hard))
    assert distilbert(*arguments, labels=torch.full((2, 5), -100)).item() == pytest.approx(without)
