"""Device profiles."""

import pytest

from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.errors import UsageError


def test_the_host_is_measured_at_one_thread_and_at_all() -> None:
    host = load_profile("host")
    assert host.threads == (1, "all")
    assert host.runtimes == {"onnx": "onnxruntime", "ort": "onnxruntime", "tflite": "litert"}
    assert usable_cores() >= 1


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'host'"):
        load_profile("hosst")
