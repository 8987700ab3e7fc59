"""The losses by their recipe names. Free of torch: the plan reads it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgekd.errors import UsageError
from edgekd.names import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Taken = Literal["logits", "maps", "tokens", "frames", "actions", "stages", "features", "relations", "attention", "hidden"]
_INNER: frozenset[Taken] = frozenset({"stages", "features", "relations", "attention", "hidden"})


@dataclass(frozen=True)
class DistillationLoss:
    """A loss and how it is used.

    Attributes:
        function: ``module:function``.
        summary: One line with the paper.
        weight: Beside a cross-entropy of weight 1. For sums over the batch or everything in it, of the size they have.
        hyperparameters: Their defaults, by name.
        takes: ``logits``; outputs with places: ``maps``, ``tokens``, ``frames``, ``actions``; inside the networks:
            ``stages`` (maps of several layers), ``features`` (of one layer), ``relations`` (queries, keys, values),
            ``attention``, ``hidden``.
        arguments: Names of the tensors it must get, or lists of them.
        replaces_cross_entropy: Whether the true labels are in it already.
        adapter: Module of :mod:`edgekd.distill.losses.adapters` that comes after the student.
        warm_up: Epochs of 240 over which its weight grows from 0.
        automatic_temperature: Whether the temperature can be chosen by the spread of the teacher's logits; else an automatic
            one is the default, as where logits are standardised already.
    """

    function: str
    summary: str
    weight: float = 1.0
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    takes: tuple[Taken, ...] = ("logits",)
    arguments: tuple[str, ...] = ("student", "teacher")
    replaces_cross_entropy: bool = False
    adapter: str | None = None
    warm_up: int = 0
    automatic_temperature: bool = False

    @property
    def family(self) -> str:
        """``response``, ``feature``, ``relation``, ``transformer``, ``dense``, ``ensemble`` or ``self_online``."""
        return self.function.partition(":")[0].rpartition(".")[2]

    @property
    def inner_layers(self) -> bool:
        """Whether it looks inside the networks, so that a black box cannot teach it."""
        return not _INNER.isdisjoint(self.takes)

    def load(self) -> Callable[..., Tensor]:
        """Return the function. Imports torch."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
        return function


_LABELLED = ("student", "teacher", "target")
_QUERIES_KEYS_VALUES = ("q_s", "q_t", "k_s", "k_t", "v_s", "v_t")

LOSSES: dict[str, DistillationLoss] = {
    "kd": DistillationLoss(
        "edgekd.distill.losses.response:kd",
        "softened outputs, T^2 KL (Hinton et al., 2015)",
        hyperparameters={"temperature": 4.0}, automatic_temperature=True,
    ),
    "kd_logit_std": DistillationLoss(
        "edgekd.distill.losses.response:kd_logit_std",
        "kd of logits standardised per sample (Sun et al., 2024)",
        weight=9.0, hyperparameters={"temperature": 2.0},
    ),
    "dkd": DistillationLoss(
        "edgekd.distill.losses.response:dkd",
        "true class and other classes apart (Zhao et al., 2022); on ImageNet T 1, beta 0.5 to 2",
        hyperparameters={"temperature": 4.0, "alpha": 1.0, "beta": 8.0}, arguments=_LABELLED, warm_up=20,
        automatic_temperature=True,
    ),
    "dist": DistillationLoss(
        "edgekd.distill.losses.response:dist",
        "correlations between and within classes, for strong teachers (Huang et al., 2022); on CIFAR T 4",
        weight=2.0, hyperparameters={"temperature": 1.0, "beta": 1.0, "gamma": 1.0}, automatic_temperature=True,
    ),
    "nkd": DistillationLoss(
        "edgekd.distill.losses.response:nkd",
        "normalised cross-entropy of the other classes (Yang et al., 2023)",
        hyperparameters={"temperature": 1.0, "gamma": 1.5}, arguments=_LABELLED,
    ),
    "wttm": DistillationLoss(
        "edgekd.distill.losses.response:wttm",
        "teacher alone softened by a power, samples weighted (Zheng and Yang, 2024)",
        weight=4.0, hyperparameters={"gamma": 0.2},
    ),
    "kd_logit_mse": DistillationLoss(
        "edgekd.distill.losses.response:kd_logit_mse",
        "squared difference of logits (Ba and Caruana, 2014)",
        hyperparameters={"temperature": 1.0},
    ),
    "wsld": DistillationLoss(
        "edgekd.distill.losses.response:wsld",
        "soft labels weighted by how far the student is behind (Zhou et al., 2021)",
        hyperparameters={"temperature": 2.0, "weight": 2.5}, arguments=_LABELLED, automatic_temperature=True,
    ),
    "fitnet": DistillationLoss(
        "edgekd.distill.losses.feature:fitnet",
        "squared difference of inner maps (Romero et al., 2015)",
        weight=100.0, takes=("stages",), adapter="HintRegressor",
    ),
    "at": DistillationLoss(
        "edgekd.distill.losses.feature:at",
        "where the maps are large, for networks of one family (Zagoruyko and Komodakis, 2017)",
        weight=1000.0, hyperparameters={"p": 2.0}, takes=("stages",),
    ),
    "fsp": DistillationLoss(
        "edgekd.distill.losses.feature:fsp",
        "flow between neighbouring stages (Yim et al., 2017)",
        weight=50.0, takes=("stages",),
    ),
    "vid": DistillationLoss(
        "edgekd.distill.losses.feature:vid",
        "likelihood of the teacher's maps with a learned variance (Ahn et al., 2019)",
        hyperparameters={"eps": 1e-5}, takes=("stages",), arguments=("student", "teacher", "log_scale"), adapter="VidRegressor",
    ),
    "ofd": DistillationLoss(
        "edgekd.distill.losses.feature:ofd",
        "partial distance before the activation, a sum over the batch (Heo et al., 2019)",
        weight=1e-5, takes=("stages",), arguments=("student", "teacher", "margin"), adapter="Connector",
    ),
    "nst": DistillationLoss(
        "edgekd.distill.losses.feature:nst",
        "discrepancy of channel activations, for networks of one family (Huang and Wang, 2017)",
        weight=50.0, takes=("stages",),
    ),
    "ab": DistillationLoss(
        "edgekd.distill.losses.feature:ab",
        "which neurons are on (Heo et al., 2019)",
        hyperparameters={"margin": 1.0}, takes=("stages",), adapter="Connector",
    ),
    "reviewkd_hcl": DistillationLoss(
        "edgekd.distill.losses.feature:reviewkd_hcl",
        "stages fused from deep to shallow, at several scales (Chen et al., 2021)",
        hyperparameters={"levels": (4, 2, 1)}, takes=("stages",), adapter="ReviewFusion", warm_up=20,
    ),
    "rkd_distance": DistillationLoss(
        "edgekd.distill.losses.relation:rkd_distance",
        "distances between samples (Park et al., 2019)",
        weight=25.0, takes=("features",),
    ),
    "rkd_angle": DistillationLoss(
        "edgekd.distill.losses.relation:rkd_angle",
        "angles between samples (Park et al., 2019)",
        weight=50.0, takes=("features",),
    ),
    "rkd": DistillationLoss(
        "edgekd.distill.losses.relation:rkd",
        "distances and angles between samples (Park et al., 2019)",
        hyperparameters={"distance_weight": 25.0, "angle_weight": 50.0}, takes=("features",),
    ),
    "sp": DistillationLoss(
        "edgekd.distill.losses.relation:sp",
        "similarities of samples (Tung and Mori, 2019)",
        weight=3000.0, takes=("features",),
    ),
    "cc_gaussian": DistillationLoss(
        "edgekd.distill.losses.relation:cc_gaussian",
        "correlations of samples in a Gaussian kernel (Peng et al., 2019)",
        weight=100.0, hyperparameters={"gamma": 0.4, "order": 2}, takes=("features",),
    ),
    "pkt": DistillationLoss(
        "edgekd.distill.losses.relation:pkt",
        "divergence of neighbourhoods (Passalis and Tefas, 2018)",
        weight=30000.0, hyperparameters={"eps": 1e-7}, takes=("features",),
    ),
    "minilmv1": DistillationLoss(
        "edgekd.distill.losses.transformer:minilmv1",
        "attention and value relations of the last layer (Wang et al., 2020)",
        hyperparameters={"relation_heads": 12, "relations": ("qk", "vv")},
        takes=("relations",), arguments=_QUERIES_KEYS_VALUES,
    ),
    "minilmv2": DistillationLoss(
        "edgekd.distill.losses.transformer:minilmv2",
        "relations of one layer, whatever the heads and widths (Wang et al., 2021)",
        hyperparameters={"relation_heads": 48, "relations": ("qq", "kk", "vv")},
        takes=("relations",), arguments=_QUERIES_KEYS_VALUES,
    ),
    "tinybert_hidden": DistillationLoss(
        "edgekd.distill.losses.transformer:tinybert_hidden",
        "embeddings and hidden states (Jiao et al., 2020)",
        takes=("hidden",), arguments=("rep_s", "rep_t"),
    ),
    "tinybert_att": DistillationLoss(
        "edgekd.distill.losses.transformer:tinybert_att",
        "attention scores before the softmax (Jiao et al., 2020)",
        takes=("attention",), arguments=("att_s", "att_t"),
    ),
    "distilbert": DistillationLoss(
        "edgekd.distill.losses.transformer:distilbert",
        "soft tokens, masked tokens and the last hidden states (Sanh et al., 2019)",
        hyperparameters={"temperature": 2.0, "alpha_ce": 5.0, "alpha_mlm": 2.0, "alpha_cos": 1.0},
        takes=("tokens", "hidden"), arguments=("student", "teacher", "hid_s", "hid_t"), replaces_cross_entropy=True,
    ),
    "cwd": DistillationLoss(
        "edgekd.distill.losses.dense:cwd",
        "where each channel looks (Shu et al., 2021); on features T 1, weight 5",
        weight=3.0, hyperparameters={"temperature": 4.0}, takes=("maps",),
    ),
    "pixel_kd": DistillationLoss(
        "edgekd.distill.losses.dense:pixel_kd",
        "kd at every pixel (Liu et al., 2019)",
        hyperparameters={"temperature": 1.0}, takes=("maps",),
    ),
    "pkd": DistillationLoss(
        "edgekd.distill.losses.dense:pkd",
        "correlation of feature maps, for detectors (Cao et al., 2022)",
        weight=6.0, takes=("stages",),
    ),
    "token_kd": DistillationLoss(
        "edgekd.distill.losses.dense:token_kd",
        "kd at every token (Kim and Rush, 2016)",
        hyperparameters={"temperature": 2.0}, takes=("tokens",),
    ),
    "frame_kd": DistillationLoss(
        "edgekd.distill.losses.dense:frame_kd",
        "soft labels at every frame of speech (Li et al., 2014)",
        takes=("frames",),
    ),
    "ctc_kd": DistillationLoss(
        "edgekd.distill.losses.dense:ctc_kd",
        "the sequence that the teacher reads (Takashima et al., 2018)",
        hyperparameters={"blank": 0}, takes=("frames",),
    ),
    "policy_gaussian_kl": DistillationLoss(
        "edgekd.distill.losses.dense:policy_gaussian_kl",
        "divergence of Gaussian policies (Rusu et al., 2016)",
        takes=("actions",), arguments=("mean_s", "std_s", "mean_t", "std_t"),
    ),
    "multi_avg": DistillationLoss(
        "edgekd.distill.losses.ensemble:multi_avg",
        "mean of kd over several teachers (You et al., 2017)",
        hyperparameters={"temperature": 4.0}, arguments=("student", "teachers"), automatic_temperature=True,
    ),
    "multi_entropy": DistillationLoss(
        "edgekd.distill.losses.ensemble:multi_entropy",
        "several teachers, the sure ones weigh more (Kwon et al., 2020)",
        hyperparameters={"temperature": 4.0}, arguments=("student", "teachers"), automatic_temperature=True,
    ),
    "multi_camkd": DistillationLoss(
        "edgekd.distill.losses.ensemble:multi_camkd",
        "several teachers, those that are right weigh more (Zhang et al., 2022)",
        hyperparameters={"temperature": 4.0}, arguments=("student", "teachers", "target"), automatic_temperature=True,
    ),
    "dml": DistillationLoss(
        "edgekd.distill.losses.self_online:dml",
        "networks that learn from one another (Zhang et al., 2018)",
        hyperparameters={"temperature": 1.0}, arguments=("student", "peers", "target"), replaces_cross_entropy=True,
    ),
    "pskd": DistillationLoss(
        "edgekd.distill.losses.self_online:pskd",
        "what the network said an epoch ago (Kim et al., 2021)",
        hyperparameters={"alpha_t": 0.8}, arguments=_LABELLED, replaces_cross_entropy=True,
    ),
    "byot_kd": DistillationLoss(
        "edgekd.distill.losses.self_online:byot_kd",
        "early exits learn from the last (Zhang et al., 2019)",
        weight=0.1, hyperparameters={"temperature": 3.0}, adapter="ExitHead",
    ),
}  # fmt: skip
"""Weights and hyperparameters are those of the papers or of their common codes."""


def distillation_loss(name: str) -> DistillationLoss:
    """Return the loss of a recipe name.

    Raises:
        UsageError: There is none.
    """
    if name not in LOSSES:
        raise UsageError(f"no distillation loss '{name}'" + did_you_mean(name, LOSSES), f"allowed: {', '.join(LOSSES)}")
    return LOSSES[name]
