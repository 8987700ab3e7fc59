"""The same network written by somebody else: run it with the same weights and see that it says the same."""

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def randomise(model: nn.Module) -> None:
    """Give batch norms weights, biases and statistics that are not 1 and 0, so that every one of them counts."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05)
            nn.init.normal_(module.bias, std=0.05)


def in_calling_order(model: nn.Module, inputs: Tensor) -> list[nn.Module]:
    """Return the layers with weights as ``model`` calls them."""
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in model.modules()
        if isinstance(module, LAYERS)
    ]
    with torch.no_grad():
        model.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return called


def hand_over(ours: nn.Module, theirs: nn.Module, inputs: Tensor) -> None:
    """Copy every weight of ``ours`` to ``theirs``, layer by layer in calling order."""
    for source, target in zip(in_calling_order(ours, inputs), in_calling_order(theirs, inputs), strict=True):
        assert isinstance(target, type(source))
        target.load_state_dict(source.state_dict())


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Fail unless outputs are equal to rounding, and say something."""
    assert float(ours.std(0).min()) > 1e-4
    assert float((ours - theirs).abs().max()) < 1e-4 * float(ours.max() - ours.min())


def params(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
