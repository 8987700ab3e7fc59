"""The keyword spotting network against arithmetic on the description of MLPerf Tiny."""

import torch

from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.spec import cost
from edgekd.models.tensors import classifier, image_input
from tests.models.other_networks import params


def test_counts_are_those_of_the_reference() -> None:
    first = 10 * 4 * 1 * 64 + 64
    block = (9 * 64 + 64) + (64 * 64 + 64)
    scales_and_shifts = (1 + 2 * 4) * 2 * 64
    folded = first + 4 * block + 64 * 12 + 12
    network = ds_cnn(1, 12)
    assert folded == 22_604
    assert params(network) == folded + scales_and_shifts == 23_756
    values = sum(tensor.numel() for name, tensor in network.state_dict().items() if "num_batches" not in name)
    assert values == params(network) + scales_and_shifts == 24_908  # as many statistics


def test_macs_are_those_that_others_measured() -> None:
    """Silicon Labs profiles its copy of this network, layer by layer, at 2.657 M MACs."""
    spec = classifier("zoo:ds_cnn", (image_input((49, 10, 1), (0.0,), (1.0,)),), tuple(map(str, range(12))))
    assert cost(ds_cnn(1, 12).eval(), spec).macs == 320_000 + 4 * (72_000 + 512_000) + 768 == 2_656_768


def test_the_first_convolution_keeps_half_of_every_side() -> None:
    seen: list[torch.Size] = []
    network = ds_cnn(1, 12).eval()
    network.get_submodule("first").register_forward_hook(lambda _, __, output: seen.append(output.shape))
    network(torch.zeros(1, 1, 49, 10))
    assert seen == [torch.Size([1, 64, 25, 5])]
