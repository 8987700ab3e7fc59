"""Learning rates over the steps of a training."""

from __future__ import annotations

import math


def learning_rate(schedule: str, step: int, total: int, peak: float) -> float:
    """Return the learning rate of ``step`` (from 0) of ``total`` under ``one_cycle`` or ``cosine``."""
    return one_cycle(step, total, peak) if schedule == "one_cycle" else cosine(step, total, peak)


def one_cycle(step: int, total: int, peak: float) -> float:
    """Return the learning rate of ``step``: up to ``peak`` over the first 30 %, then down to almost 0.

    Both by half a cosine, from ``peak / 25`` and to ``peak / 250,000`` (Smith and Topin, 2018; the
    shape and defaults of ``torch.optim.lr_scheduler.OneCycleLR``).
    """
    first, last = peak / 25, peak / 25 / 1e4
    top = 0.3 * total - 1
    if step <= top:
        start, end, share = first, peak, step / top
    else:
        start, end, share = peak, last, (step - top) / (total - 1 - top) if total - 1 > top else 1.0
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def cosine(step: int, total: int, peak: float) -> float:
    """Return the learning rate of ``step``: from ``peak`` to 0 by half a cosine (Loshchilov and Hutter, 2017), no restart.

    The shape of ``torch.optim.lr_scheduler.CosineAnnealingLR`` with ``T_max = total``.
    """
    return peak / 2 * (1 + math.cos(math.pi * step / total))
