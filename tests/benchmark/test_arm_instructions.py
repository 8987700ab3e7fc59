"""Counted ARM instructions: the same every time, and in proportion to the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.benchmark.arm_instructions import count_instructions
from edgekd.benchmark.transports.emulated import ABOUT, COUNTER, default_root
from edgekd.errors import DeviceError

needs_counter = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or not (default_root() / COUNTER).is_file(),
    reason="no ARM device that counts: apt-get install qemu-user; python tools/make_arm64_device.py",
)


def write_product(path: Path, size: int) -> Path:
    """Write a product of two square matrices, of ``size ** 3`` multiplications."""
    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    shape = [size, size]
    given, taken = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [given], [taken], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@needs_counter
@pytest.mark.slow
def test_instructions_follow_the_work(tmp_path: Path) -> None:
    """A core does 4 multiplications of 32-bit floats by one instruction; loads and the interpreter come on top."""
    small, large = (count_instructions(write_product(tmp_path / f"{size}.onnx", size)) for size in (64, 128))
    expected = (128**3 - 64**3) / 4
    assert expected <= large - small <= 2 * expected
    again = count_instructions(tmp_path / "64.onnx")
    assert abs(again - small) <= 0.01 * small


@pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None or shutil.which("qemu-aarch64") is None,
    reason="no qemu: apt-get install qemu-user",
)
def test_a_device_without_a_counter_is_told(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text('{"schema": 1}')
    with pytest.raises(DeviceError, match="has no instruction counter"):
        count_instructions(write_product(tmp_path / "x.onnx", 4), tmp_path)
