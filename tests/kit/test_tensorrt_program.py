"""check.py of a Jetson kit. There is no TensorRT here: a stand-in with the calls of its Python interface, which computes with
ONNX Runtime, shows that the program drives it, compares what it gives, and says so where it is absent. What TensorRT itself
computes, only a Jetson can tell."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.kit.kit import write_kits
from tests.kit.made_up import image_spec, write_run

TENSORRT = """
import ctypes
import numpy
import onnxruntime

FACTOR = 1.0

class Logger:
    WARNING = 2
    def __init__(self, level): pass

class NetworkDefinitionCreationFlag:
    EXPLICIT_BATCH = 0

class BuilderFlag:
    TF32, INT8 = "TF32", "INT8"

class _Network:
    content = None

class Builder:
    def __init__(self, log): pass
    def create_network(self, flags):
        assert flags == 1
        return _Network()
    def create_builder_config(self): return _Config()
    def create_optimization_profile(self): return _Profile()
    def build_serialized_network(self, network, config):
        assert config.cleared == ["TF32"]
        assert list(config.profile.shapes) == ["image"]
        return network.content

class _Config:
    def __init__(self): self.cleared = []
    def clear_flag(self, flag): self.cleared.append(flag)
    def add_optimization_profile(self, profile): self.profile = profile

class _Profile:
    def __init__(self): self.shapes = {}
    def set_shape(self, name, low, usual, high):
        assert low == usual == high
        self.shapes[name] = low

class OnnxParser:
    num_errors = 1
    def __init__(self, network, log): self.network = network
    def parse(self, content):
        self.network.content = content
        return True

class Runtime:
    def __init__(self, log): pass
    def deserialize_cuda_engine(self, plan): return _Engine(plan)

class _Engine:
    def __init__(self, plan): self.session = onnxruntime.InferenceSession(plan)
    def get_tensor_dtype(self, name): return "FLOAT"
    def create_execution_context(self): return _Context(self.session)

def nptype(kind):
    assert kind == "FLOAT"
    return numpy.float32

class _Context:
    def __init__(self, session):
        self.session, self.shapes, self.places = session, {}, {}
    def set_input_shape(self, name, shape): self.shapes[name] = shape
    def set_tensor_address(self, name, place): self.places[name] = place
    def execute_async_v3(self, stream):
        assert stream == 7
        given = {}
        for name, shape in self.shapes.items():
            count = int(numpy.prod(shape))
            given[name] = numpy.array((ctypes.c_float * count).from_address(self.places[name]), numpy.float32).reshape(shape)
        for each, found in zip(self.session.get_outputs(), self.session.run(None, given)):
            found = found * numpy.float32(FACTOR)
            ctypes.memmove(self.places[each.name], found.ctypes.data, found.nbytes)
        return True
"""
CUDA = """
import ctypes
_kept = []
class cudaMemcpyKind:
    cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2
def cudaStreamCreate(): return (0, 7)
def cudaMalloc(size):
    _kept.append(ctypes.create_string_buffer(size))
    return (0, ctypes.addressof(_kept[-1]))
def cudaMemcpyAsync(to, source, size, kind, stream):
    assert (stream, kind in (1, 2)) == (7, True)
    ctypes.memmove(to, source, size)
    return (0,)
def cudaStreamSynchronize(stream): return (0,)
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    raw = np.random.default_rng(0).integers(0, 256, size=(8, 4, 5, 3)).astype(np.uint8)
    run = write_run(tmp_path / "run", (image_spec((3, 4, 5)),), ("a", "b", "c"), {"image": raw}, {"image": 255.0})
    (kit,) = write_kits(run, ["jetson"]).written
    return kit.folder


def _check(kit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "check.py"], cwd=kit, capture_output=True, text=True, check=False)


def _stand_in(kit: Path, factor: float, layout: str = "new") -> None:
    (kit / "tensorrt.py").write_text(TENSORRT.replace("FACTOR = 1.0", f"FACTOR = {factor!r}"))
    package = kit / "cuda" / "bindings" if layout == "new" else kit / "cuda"
    package.mkdir(parents=True)
    (kit / "cuda" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / ("runtime.py" if layout == "new" else "cudart.py")).write_text(CUDA)


@pytest.mark.parametrize("layout", ["new", "old"])
def test_it_drives_tensorrt_and_compares(kit: Path, layout: str) -> None:
    _stand_in(kit, 1.0, layout)
    done = _check(kit)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 golden vectors agree in TensorRT" in done.stdout


def test_another_result_of_tensorrt_fails(kit: Path) -> None:
    _stand_in(kit, 1.001)
    done = _check(kit)
    assert done.returncode == 1
    assert "differences from the golden vectors in TensorRT" in done.stderr


def test_without_tensorrt_it_falls_back_says_so_and_exits_with_3(kit: Path) -> None:
    done = _check(kit)
    assert done.returncode == 3
    assert "8 of 8 golden vectors agree in ONNX Runtime on the CPU" in done.stdout
    assert "TensorRT's Python package is not installed" in done.stderr
    assert "NOT CHECKED: TensorRT" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_cuda_in_python_it_says_what_to_install(kit: Path) -> None:
    _stand_in(kit, 1.0)
    (kit / "cuda" / "bindings" / "runtime.py").unlink()
    done = _check(kit)
    assert done.returncode == 3
    assert "neither cuda-python nor PyCUDA is installed; pip install cuda-python" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_kit_fails_without_tensorrt_too(kit: Path) -> None:
    path = kit / "student.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    done = _check(kit)
    assert (done.returncode, "FAILED" in done.stderr) == (1, True)
