"""Means over images keep both dimensions on their way to TFLite: the same numbers, and no transpose."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgekd.export.tflite import _MeansOverImages
from edgekd.inspect.inspection import inspect_file
from edgekd.report.report import Report

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda x: torch.mean(x, dim=(2, 3)),
    "method": lambda x: x.mean((2, 3)),
    "from the end": lambda x: x.mean([-1, -2]),
    "kept": lambda x: x.mean((2, 3), keepdim=True),
    "kept by position": lambda x: torch.mean(x, (2, 3), True),
    "one dimension": lambda x: x.mean(2),
    "channels": lambda x: x.mean((1, 2)),
    "all": lambda x: x.mean(),
    "another type": lambda x: torch.mean(x, dim=(2, 3), dtype=torch.float64),
    "no image": lambda x: x.flatten(2).mean((1, 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_mean_is_what_it_was(way: str) -> None:
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = WAYS[way](images)
    with _MeansOverImages():
        found = WAYS[way](images)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_files_have_no_transposes(finished: Report) -> None:
    for name in ("tflite-fp32", "tflite-fp16", "tflite-int8"):
        assert inspect_file(finished.path(name)).layout.transposes == 0
