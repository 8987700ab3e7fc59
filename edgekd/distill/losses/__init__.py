"""Distillation losses: pure functions in log-space that compute in float32, whatever the autocast.

``edgekd.distill.losses.NAME`` is the function of a recipe name; :mod:`~edgekd.distill.losses.registry` says what each takes.
Nothing loads torch until a function is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekd.distill.losses.registry import LOSSES

if TYPE_CHECKING:
    from edgekd.distill.losses.dense import ctc_kd, cwd, frame_kd, pixel_kd, pkd, policy_gaussian_kl, token_kd
    from edgekd.distill.losses.ensemble import multi_avg, multi_camkd, multi_entropy
    from edgekd.distill.losses.feature import ab, at, fitnet, fsp, nst, ofd, reviewkd_hcl, vid
    from edgekd.distill.losses.relation import cc_gaussian, pkt, rkd, rkd_angle, rkd_distance, sp
    from edgekd.distill.losses.response import cross_entropy, dist, dkd, kd, kd_logit_mse, kd_logit_std, nkd, wsld, wttm
    from edgekd.distill.losses.self_online import byot_kd, dml, pskd
    from edgekd.distill.losses.transformer import distilbert, minilmv1, minilmv2, tinybert_att, tinybert_hidden

__all__ = [
    "ab", "at", "byot_kd", "cc_gaussian", "cross_entropy", "ctc_kd", "cwd", "dist", "distilbert", "dkd", "dml", "fitnet",
    "frame_kd", "fsp", "kd", "kd_logit_mse", "kd_logit_std", "minilmv1", "minilmv2", "multi_avg", "multi_camkd",
    "multi_entropy", "nkd", "nst", "ofd", "pixel_kd", "pkd", "pkt", "policy_gaussian_kl", "pskd", "reviewkd_hcl", "rkd",
    "rkd_angle", "rkd_distance", "sp", "tinybert_att", "tinybert_hidden", "token_kd", "vid", "wsld", "wttm",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in LOSSES:
        value: Any = LOSSES[name].load()
    elif name == "cross_entropy":
        value = importlib.import_module("edgekd.distill.losses.response").cross_entropy
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
