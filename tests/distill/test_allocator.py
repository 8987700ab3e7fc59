"""Freed memory is used again while a training runs, and given back after it."""

import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.distill.allocator import reused_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone is set")
_VALUES = 1 << 23  # 64 MiB


def _faults_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(_VALUES)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_block_that_was_freed_is_not_faulted_in_again() -> None:
    plain = _faults_of_a_step()
    with reused_memory():
        np.ones(_VALUES)
        assert _faults_of_a_step() < plain / 10


def test_memory_is_given_back_at_the_end() -> None:
    before = _resident()
    with reused_memory():
        np.ones(_VALUES)
        assert _resident() > before + 4 * _VALUES
    assert _resident() < before + 4 * _VALUES
