"""What networks are made of, and the warning where a loss is known to hurt between families."""

from __future__ import annotations

from torch import nn

_PUBLISHED = {
    "at": "AT from VGG13 left MobileNetV2 at 59.40 % top-1",
    "fitnet": "FitNet from ResNet50 left MobileNetV2 at 63.16 % top-1",
    "nst": "NST from VGG13 left MobileNetV2 at 58.16 % top-1",
}
DEPTHWISE = "depthwise convolutions"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def family(network: nn.Module) -> frozenset[str]:
    """Return what spatial layers a network is made of, its first convolution aside.

    Any of ``depthwise convolutions`` (as many groups as channels), ``grouped convolutions``, ``full convolutions`` and
    ``attention``; 1x1 convolutions are in every family.
    """
    convolutions = [each for each in network.modules() if isinstance(each, _CONVOLUTIONS)]
    kinds = {_kind(each) for each in convolutions[1:] if max(each.kernel_size) > 1}
    attention = any("attention" in type(each).__name__.lower() for each in network.modules())
    return frozenset(kinds | ({"attention"} if attention else set()))


def _kind(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> str:
    if convolution.groups == 1:
        return "full convolutions"
    return DEPTHWISE if convolution.groups == convolution.in_channels else "grouped convolutions"


def family_warning(loss: str, student: nn.Module, teacher: nn.Module) -> str | None:
    """Return why ``loss`` may do harm here: at, fitnet, nst from another family into depthwise convolutions; else ``None``."""
    own, other = family(student), family(teacher)
    if loss not in _PUBLISHED or DEPTHWISE not in own or own == other:
        return None
    return (
        f"{loss} may make this student worse than training alone: it has {_listed(own)}, the teacher {_listed(other)}; "
        f"{_PUBLISHED[loss]}, which reaches 64.60 % alone (CIFAR-100, Tian et al., 2020); kd, dkd or dist are safer here"
    )


def _listed(kinds: frozenset[str]) -> str:
    return " and ".join(sorted(kinds)) or "dense layers alone"
