"""One place maps recipe names to functions, and it tells the truth about them."""

import inspect
import subprocess
import sys

import pytest

from edgekd.distill import losses
from edgekd.distill.losses import adapters
from edgekd.distill.losses.registry import LOSSES, DistillationLoss, distillation_loss
from edgekd.errors import UsageError
from tests.distill.losses.examples import example

NAMES = [
    "kd", "kd_logit_std", "dkd", "dist", "nkd", "wttm", "kd_logit_mse", "wsld",
    "fitnet", "at", "fsp", "vid", "ofd", "nst", "ab", "reviewkd_hcl",
    "rkd_distance", "rkd_angle", "rkd", "sp", "cc_gaussian", "pkt",
    "minilmv1", "minilmv2", "tinybert_hidden", "tinybert_att", "distilbert",
    "cwd", "pixel_kd", "pkd", "token_kd", "frame_kd", "ctc_kd", "policy_gaussian_kl",
    "multi_avg", "multi_entropy", "multi_camkd", "dml", "pskd", "byot_kd",
]  # fmt: skip


def test_every_loss_is_there_by_its_name() -> None:
    assert sorted(LOSSES) == sorted(NAMES)
    assert sorted(losses.__all__) == sorted([*NAMES, "cross_entropy"])
    for name in losses.__all__:
        assert callable(getattr(losses, name))
        assert name in dir(losses)


@pytest.mark.parametrize(("name", "entry"), LOSSES.items())
def test_entry_matches_its_function(name: str, entry: DistillationLoss) -> None:
    function = getattr(losses, name)
    assert entry.load() is function
    assert function.__name__ == name
    parameters = inspect.signature(function).parameters
    assert {key: parameters[key].default for key in entry.hyperparameters} == entry.hyperparameters
    required = {key for key, each in parameters.items() if each.default is inspect.Parameter.empty}
    assert required == set(entry.arguments)
    assert set(entry.arguments) <= set(example(name).arguments)
    assert entry.weight > 0
    assert entry.adapter is None or hasattr(adapters, entry.adapter)


@pytest.mark.parametrize("name", losses.__all__)
def test_docstring_has_formula_and_arguments(name: str) -> None:
    function = getattr(losses, name)
    text = inspect.getdoc(function)
    assert text is not None
    for argument in inspect.signature(function).parameters:
        assert argument in text.partition("Args:")[2], argument
    if name != "cross_entropy":
        assert "``" in text.partition("Args:")[0]
        assert any(f", {year})" in text or f"{year}," in text or f"{year})" in text for year in range(2014, 2026)), "paper"


def test_families_and_inner_layers() -> None:
    families = {name: entry.family for name, entry in LOSSES.items()}
    assert families["kd"] == "response"
    assert set(families.values()) == {"response", "feature", "relation", "transformer", "dense", "ensemble", "self_online"}
    assert all(LOSSES[name].inner_layers == (family in ("feature", "relation", "transformer")) for name, family in families.items() if name != "pkd")  # fmt: skip
    assert LOSSES["pkd"].inner_layers


def test_the_true_labels_are_not_counted_twice() -> None:
    assert [name for name, entry in LOSSES.items() if entry.replaces_cross_entropy] == ["distilbert", "dml", "pskd"]


def test_unknown_names_are_refused() -> None:
    assert distillation_loss("dkd") is LOSSES["dkd"]
    with pytest.raises(UsageError, match=r"no distillation loss 'dkdd'; did you mean 'dkd'\?"):
        distillation_loss("dkdd")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = losses.nothing


def test_the_registry_loads_no_torch() -> None:
    code = "import sys; from edgekd.distill.losses.registry import LOSSES; assert LOSSES['kd'].weight == 1; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
