"""Batch normalisation over processes is that of the whole batch; only classes change, and they change back."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.distill.global_batchnorm import GlobalBatchNorm, convert, revert
from edgekd.distill.processes import join_processes
from edgekd.errors import ModelError
from tests.distill.launched import run_function

CPU = torch.device("cpu")


class _Odd(nn.BatchNorm2d):
    pass


def _agrees(network: nn.Module, alone: nn.Module, whole: torch.Tensor) -> None:
    processes = join_processes()
    convert(network, CPU)
    own = whole.chunk(processes.count)[processes.rank].clone().requires_grad_()
    reference = whole.clone().requires_grad_()
    for _ in range(2):
        weights = torch.linspace(-1, 2, whole.numel(), dtype=whole.dtype).view_as(whole)
        expected = alone(reference)
        ((expected * weights).sum() + expected.pow(3).mean()).backward()
        rows = processes.gather(network(own))
        ((rows * weights).sum() + rows.pow(3).mean()).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)
    assert own.grad is not None and reference.grad is not None
    part = reference.grad.chunk(processes.count)[processes.rank]
    torch.testing.assert_close(own.grad / processes.count, part, rtol=1e-10, atol=1e-10)
    for mine, other in zip(network.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        summed = mine.grad.clone()
        torch.distributed.all_reduce(summed)
        torch.testing.assert_close(summed / processes.count, other.grad, rtol=1e-10, atol=1e-10)
    for name, each in alone.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], each, rtol=1e-10, atol=1e-10)


def check_whole_batch(_folder: Path) -> None:
    """In every process."""
    torch.set_default_dtype(torch.float64)
    for momentum in (0.1, None):
        for shape, kind in (((8, 3), nn.BatchNorm1d), ((8, 3, 5), nn.BatchNorm1d), ((8, 3, 4, 5), nn.BatchNorm2d)):
            torch.manual_seed(0)
            network, alone = kind(3, momentum=momentum), kind(3, momentum=momentum)
            for each in (network, alone):
                nn.init.uniform_(each.weight, generator=torch.Generator().manual_seed(1))
            _agrees(network, alone, 1000 + torch.randn(shape))


def check_half_precision(_folder: Path) -> None:
    """In every process: bfloat16 in, bfloat16 out, statistics in float32."""
    processes = join_processes()
    torch.manual_seed(0)
    whole = (5 + torch.randn(16, 3, 4, 4)).bfloat16()
    network, alone = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    convert(network, CPU)
    rows = processes.gather(network(whole.chunk(2)[processes.rank]))
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows.float(), alone(whole.float()), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(network.running_var, alone.running_var, rtol=1e-3, atol=1e-3)


def test_statistics_gradients_and_running_averages_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    run_function("tests.distill.test_global_batchnorm:check_whole_batch", tmp_path)


def test_half_precision(tmp_path: Path) -> None:
    run_function("tests.distill.test_global_batchnorm:check_half_precision", tmp_path)


def test_converting_changes_nothing_else() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    before, norm, seen = dict(network.state_dict()), network[1], []
    norm.register_forward_hook(lambda *_: seen.append(1))
    expected = network.eval()(torch.ones(1, 1, 5, 5))
    convert(network, CPU)
    convert(network, CPU)
    assert network[1] is norm and isinstance(norm, GlobalBatchNorm)
    assert network.state_dict().keys() == before.keys()
    assert torch.equal(network(torch.ones(1, 1, 5, 5)), expected)
    assert len(seen) == 2
    revert(network)
    assert type(network[1]) is nn.BatchNorm2d and vars(norm).keys() == vars(nn.BatchNorm2d(2)).keys()


def test_on_a_gpu_it_is_torchs_own() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2))
    convert(network, torch.device("cuda"))
    assert isinstance(network[0], nn.SyncBatchNorm)
    revert(network)
    assert not isinstance(network[0], nn.SyncBatchNorm)


def test_unknown_kind_is_refused_and_nothing_changed() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), _Odd(2))
    with pytest.raises(ModelError, match="1 is a _Odd") as caught:
        convert(network, CPU)
    assert caught.value.hint == "train in one process"
    assert type(network[0]) is nn.BatchNorm2d
