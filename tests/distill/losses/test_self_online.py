"""Losses without a trained teacher against closed forms in float64 NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy
from torch import Tensor

from edgekd.distill.losses import byot_kd, cross_entropy, dml, kd, pskd
from edgekd.errors import UsageError


def _logits(seed: int, size: float = 3.0) -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


STUDENT, PEERS = _logits(0), [_logits(1), _logits(2)]
TARGET = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def test_dml_is_the_closed_form() -> None:
    log_q = log_softmax(STUDENT.numpy(), axis=1)
    hard = -log_q[np.arange(7), TARGET.numpy()].mean()
    soft = np.mean([rel_entr(softmax(each.numpy(), axis=1), np.exp(log_q)).sum(1).mean() for each in PEERS])
    assert dml(STUDENT, PEERS, TARGET).item() == pytest.approx(hard + soft)


def test_dml_wants_a_peer() -> None:
    with pytest.raises(UsageError, match="needs a peer"):
        dml(STUDENT, [], TARGET)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_pskd_is_the_cross_entropy_with_the_mixed_target(alpha: float) -> None:
    old = softmax(PEERS[0].numpy(), axis=1)
    mixed = (1 - alpha) * np.eye(5)[TARGET.numpy()] + alpha * old
    expected = -(mixed * log_softmax(STUDENT.numpy(), axis=1)).sum(1).mean()
    assert pskd(STUDENT, torch.tensor(old), TARGET, alpha).item() == pytest.approx(expected)


def test_pskd_of_the_first_epoch_is_cross_entropy() -> None:
    assert pskd(STUDENT, PEERS[0].softmax(1), TARGET, 0.0).item() == pytest.approx(cross_entropy(STUDENT, TARGET).item())


def test_byot_kd_is_kd_and_the_entropy_of_the_last_exit() -> None:
    last = entropy(softmax(PEERS[0].numpy() / 3, axis=1), axis=1).mean()
    assert byot_kd(STUDENT, PEERS[0], 3.0).item() == pytest.approx(kd(STUDENT, PEERS[0], 3.0).item() + 9 * last)
