"""Networks that pruning meets: of the zoo with trained-looking weights, and awkward ones."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.benchmark.on_device import Protocol
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec, classifier, image_input
from edgekd.prune.prune import Pruned, prune_model
from edgekd.prune.target import parse_target
from tests.models.zoo_specs import spec_for

NARROW = {
    "resnet18": {"width": 0.5},
    "mobilenet_v1": {"width": 0.5},
    "mobilenet_v2": {"width": 0.75},
    "mobilenet_v3_small": {"width": 0.75},
    "mobilenet_v3_large": {"width": 0.75},
    "efficientnet_lite0": {"width": 0.5},
}
"""Arguments that keep tests short."""
CNNS = (
    "shallow_cnn", "digits_teacher", "resnet8", "resnet20", "resnet56", "resnet18", "mobilenet_v1", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_lite0", "ds_cnn",
)  # fmt: skip

QUICK = Protocol(runs=2, seconds=0.02, blocks=1, warmup_runs=1, warmup_s=0.0, turn_s=0.01, canary_s=0.01, idle_s=0.0)
"""A measurement that tells nothing but that it works."""


def lively(name: str, seed: int = 0) -> tuple[nn.Module, ModelSpec]:
    """Return a network of the zoo whose batch norms are no identities, and its spec."""
    spec = spec_for(name, arguments=NARROW.get(name))
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for value in (module.weight, module.bias, module.running_mean):
                    assert isinstance(value, Tensor)
                    value.add_(0.3 * torch.rand_like(value))
    return model.eval(), spec


@functools.cache
def halved(name: str) -> tuple[nn.Module, ModelSpec, Pruned]:
    """Return a network of the zoo, its spec, and what is left of it at half its multiply-accumulates."""
    model, spec = lively(name)
    return model, spec, prune_model(model, spec, parse_target("macs=0.5x"))


def python_spec(folder: Path, code: str, size: int = 8) -> ModelSpec:
    """Return the spec of a user's network, ``make()`` in ``code``, on RGB images of 3 classes."""
    file = folder / "net.py"
    file.write_text("import torch\nfrom torch import nn\n\n" + code)
    image = image_input((size, size, 3), (0.0,) * 3, (1.0,) * 3)
    return classifier(f"python:{file}:make", (image,), ("a", "b", "c"))
