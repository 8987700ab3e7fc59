"""Losses and gradients against stored ones of published code, float64 at 1e-8 and float32 at 1e-5."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill import losses
from edgekd.distill.losses.adapters import AttentionFusion, HintRegressor, VidRegressor
from edgekd.distill.losses.numerics import unit
from edgekd.distill.losses.registry import LOSSES

pytestmark = pytest.mark.skipif(
    not (Path(os.environ.get("EDGEKD_DATA", "/nonexistent")) / "kd_golden" / "check.py").is_file(),
    reason="EDGEKD_DATA has no kd_golden folder",
)


def _kd_total(student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    return alpha * losses.cross_entropy(student, target) + beta * losses.kd(student, teacher, temperature)


def _element_mean(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, multiplier: float = 1.0
) -> Tensor:
    soft = losses.kd(student, teacher, temperature) / student.shape[1]
    return (1 - alpha) * losses.cross_entropy(student, target) + alpha * multiplier * soft


def _smoothed(student: Tensor, target: Tensor, epsilon: float) -> Tensor:
    classes = student.shape[1]
    return losses.cross_entropy(student, target, epsilon * classes / (classes - 1))  # torch spreads over all classes


def _dkd_logit_std(student: Tensor, teacher: Tensor, target: Tensor, **hyperparameters: float) -> Tensor:
    z_s, z_t = ((each - each.mean(1, keepdim=True)) / (each.std(1, keepdim=True) + 1e-7) for each in (student, teacher))
    return losses.dkd(z_s, z_t, target, **hyperparameters)


def _with_parameters(module: nn.Module, parameters: dict[str, Tensor], *inputs: Any) -> Any:
    return torch.func.functional_call(module, parameters, inputs)


def _fitnet_convreg(student: Tensor, teacher: Tensor, **given: Tensor) -> Tensor:
    regressor = HintRegressor((16, 8, 8), (24, 8, 8)).to(student.dtype)
    names = {
        "conv_weight": "convolution.weight",
        "conv_bias": "convolution.bias",
        "bn_weight": "normalization.weight",
        "bn_bias": "normalization.bias",
    }
    return losses.fitnet(_with_parameters(regressor, {names[key]: value for key, value in given.items()}, student), teacher)


def _vid_regressor(
    student: Tensor, teacher: Tensor, log_scale: Tensor, w0: Tensor, w1: Tensor, w2: Tensor, eps: float
) -> Tensor:
    weights = {"layers.0.weight": w0, "layers.2.weight": w1, "layers.4.weight": w2}
    return losses.vid(_with_parameters(VidRegressor(16, 16).to(student.dtype), weights, student), teacher, log_scale, eps)


def _reviewkd_abf(student: Tensor, residual: Tensor, teacher: Tensor, **given: Tensor) -> Tensor:
    fusion = AttentionFusion(16, 12, 16, fuses=True).to(student.dtype)
    names = {"conv1": "narrow.0.weight", "conv2": "widen.0.weight", "att_w": "attention.weight", "att_b": "attention.bias"}
    output, _ = _with_parameters(fusion, {names[key]: value for key, value in given.items()}, student, residual, (8, 8))
    return losses.fitnet(output, teacher)


MADE_OF_OURS: dict[str, Callable[..., Tensor]] = {
    "kd_total": _kd_total,
    "kd_no_t2": lambda student, teacher, temperature: losses.kd(student, teacher, temperature) / temperature**2,
    "kd_total_elementmean": _element_mean,
    "tfkd_self": _element_mean,
    "label_smoothing": _smoothed,
    "kd_soft_ce": lambda student, teacher, temperature: losses.byot_kd(student, teacher, temperature) / temperature**2,
    "tinybert_pred": lambda student, teacher, temperature: losses.byot_kd(student, teacher, temperature) / student.shape[1],
    "dkd_batchsum": lambda student, **more: losses.dkd(student, **more) * len(student),
    "dkd_logit_std": _dkd_logit_std,
    "dist_seg": losses.dist,
    "dml_kl": lambda student, teacher, temperature: losses.kd(student, teacher, temperature),
    "fitnet_convreg": _fitnet_convreg,
    "vid_regressor": _vid_regressor,
    "reviewkd_abf": _reviewkd_abf,
    "ab_raw": lambda student, teacher, margin: losses.ab(student, teacher, margin) * len(student) / 3e-3,
    "ofd_mdistiller": lambda student, teacher, margin: losses.ofd(student, teacher, margin) / len(student),
    "rkd_distance_l2norm": lambda student, teacher, weight: weight * losses.rkd_distance(unit(student, 1), unit(teacher, 1)),
    "tinybert": lambda **both: losses.tinybert_att(**both) + losses.tinybert_hidden(**both),
    "pixel_kd_elementmean": lambda student, teacher, temperature: (
        losses.pixel_kd(student, teacher, temperature) / student.shape[1]
    ),
    "pairwise_pool2": lambda student, teacher: _pairwise(functional.max_pool2d(student, 2), functional.max_pool2d(teacher, 2)),
}
"""Losses of other codes that differ from ours by a factor, or that are made of ours and of our modules."""


def _pairwise(student: Tensor, teacher: Tensor) -> Tensor:
    a, b = (unit(each.flatten(2), 1) for each in (student, teacher))
    return functional.mse_loss(a.transpose(1, 2) @ a, b.transpose(1, 2) @ b)


def _check() -> Any:
    path = Path(os.environ["EDGEKD_DATA"]) / "kd_golden" / "check.py"
    spec = importlib.util.spec_from_file_location("kd_golden_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, None), (torch.float32, 1e-5)])
def test_our_losses_are_the_published_ones(dtype: torch.dtype, tolerance: float | None) -> None:
    golden = _check()
    ours = {name: getattr(losses, name) for name in LOSSES}
    known = {case["method"] for case in golden.load()[0]}
    assert len(known & set(ours)) >= 29
    assert golden.check(ours, dtype, tolerance, verbose=False) == []


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, None), (torch.float32, 1e-5)])
def test_other_codes_differ_by_what_we_say(dtype: torch.dtype, tolerance: float | None) -> None:
    golden = _check()
    known = {case["method"] for case in golden.load()[0]}
    assert len(known & set(MADE_OF_OURS)) >= 19
    assert golden.check(MADE_OF_OURS, dtype, tolerance, verbose=False) == []
