"""Batch norm folded into weights: the same outputs, the same architecture, batch norms that multiply by 1."""

import pytest
import torch
from torch import nn

from edgekd.models.spec import build, call
from edgekd.quantize.weights.folding import fold
from tests.models.zoo_specs import random_inputs, spec_for


def _lived_in(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and factors of a trained network."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.5)
                nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(("name", "folded"), [("shallow_cnn", 3), ("resnet8", 7), ("mobilenet_v2", 52), ("ds_cnn", 9)])
def test_outputs_stay_and_every_batch_norm_multiplies_by_one(name: str, folded: int) -> None:
    spec = spec_for(name, arguments={"width": 0.35} if name == "mobilenet_v2" else {})
    model = _lived_in(build(spec))
    samples = random_inputs(spec, 8)
    with torch.no_grad():
        before = call(model, spec, samples)["logits"]
        assert sum(each.norm is not None for each in fold(model, spec, samples)) == folded
        after = call(model, spec, samples)["logits"]
    assert (after - before).abs().max() < 1e-4 * (before.max() - before.min())
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    assert sum(_multiplies_by_one(each) for each in norms) == folded
    assert len(norms) - folded == (name == "ds_cnn")  # where the front end normalises its spectrogram, no layer is before it


def _multiplies_by_one(norm: nn.BatchNorm2d) -> bool:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return torch.equal(factor, torch.ones_like(factor)) and not bool(norm.running_mean.any())
