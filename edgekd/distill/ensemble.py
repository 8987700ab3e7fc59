"""How several teachers agree on soft targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def combine(logits: Sequence[Tensor], weights: Sequence[float], rule: str, temperature: float = 1.0) -> Tensor:
    """Return the logits of an ensemble: their softmax at ``temperature`` is what the student is to imitate.

    Args:
        logits: Of each teacher, ``[n, classes]``; each may be off by a constant per row, as log-probabilities are.
        weights: Share of each teacher, above 0, relative to the others.
        rule: ``mean_logits``: weighted mean of logits (of log-probabilities: a geometric mean).
            ``mean_probabilities``: weighted mean of softened probabilities (Hinton et al., 2015).
            ``entropy``: the same, with each sample's weights times ``1 - H_k / sum(H)``, so that teachers who are
            surer of it count more (Kwon et al., 2020).
        temperature: Softens each teacher before they are mixed; unused by ``mean_logits``.
    """
    if len(logits) == 1:
        return logits[0]
    shares = [each / sum(weights) for each in weights]
    if rule == "mean_logits":
        # Centred, so that teachers of log-probabilities and of logits mix on one scale; no softmax sees it.
        rows = [each.float() - each.float().mean(1, keepdim=True) for each in logits]
        return torch.stack([share * each for share, each in zip(shares, rows, strict=True)]).sum(0)
    # In logarithms throughout, so that classes which all teachers rule out keep their order; in double precision,
    # because entropies of sure teachers are small and it is their ratio that counts.
    soft = torch.stack([(each.double() / temperature).log_softmax(1) for each in logits])
    per_sample = torch.tensor(shares, dtype=torch.float64)[:, None].expand(len(logits), len(logits[0]))
    if rule == "entropy":
        entropies = -(soft.exp() * soft).sum(2)
        total = entropies.sum(0, keepdim=True)
        surer = torch.where(total > 0, 1 - entropies / total.clamp_min(1e-300), torch.ones_like(entropies))
        per_sample = per_sample * surer.clamp_min(0)
        per_sample = per_sample / per_sample.sum(0, keepdim=True)
    return (temperature * (per_sample.log()[:, :, None] + soft).logsumexp(0)).float()
