"""Which artifact a target gets, and what is said where there is none."""

from typing import Any

import pytest

from edgekd.errors import ModelError
from edgekd.kit.choice import choose
from edgekd.kit.run_folder import RunReport


def _artifact(name: str, p50: float = 1.0, target: str = "host:1", rejected: bool = False) -> dict[str, Any]:
    kind, _, precision = name.partition("-")
    tensor = {"name": "x", "shape": ["batch", 2], "dtype": "float32", "layout": "NC", "meaning": "features"}
    return {
        "path": f"{'rejected' if rejected else 'artifacts'}/student.{precision}.{kind}", "format": kind, "precision": precision,
        "size_bytes": 1, "sha256": "0" * 64, "inputs": [tensor], "outputs": [tensor | {"meaning": "logits"}],
        "latency": {target: {"kind": "measured", "p50_ms": p50}},
    }  # fmt: skip


def _report(*artifacts: dict[str, Any]) -> RunReport:
    return RunReport.model_validate({"schema": 1, "name": "n", "task": "classification", "artifacts": list(artifacts)})


ALL = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")


@pytest.mark.parametrize(
    ("target", "rejected", "expected"),
    [
        ("android", (), "tflite-int8"),
        ("ios", ("tflite-int8",), "tflite-fp16"),
        ("android", ("tflite-int8", "tflite-fp16"), "tflite-fp32"),
        ("raspberry-pi", ("tflite-int8",), "onnx-int8"),
        ("raspberry-pi", ("onnx-int8",), "tflite-int8"),
        ("raspberry-pi", ("onnx-int8", "tflite-int8"), "tflite-fp16"),
        ("jetson", (), "onnx-fp32"),
    ],
)
def test_the_best_that_passed(target: str, rejected: tuple[str, ...], expected: str) -> None:
    choice = choose(target, _report(*(_artifact(name, rejected=name in rejected) for name in ALL)))
    assert choice.artifact.name == expected
    assert all(f"{name} missed a gate" in choice.reason for name in rejected if name < expected and target != "raspberry-pi")


def test_the_faster_int8_goes_on_a_raspberry_pi() -> None:
    faster = _report(_artifact("tflite-int8", 2.0), _artifact("onnx-int8", 1.0))
    assert choose("raspberry-pi", faster).artifact.name == "onnx-int8"
    slower = _report(_artifact("tflite-int8", 2.0), _artifact("onnx-int8", 3.0))
    choice = choose("raspberry-pi", slower)
    assert choice.artifact.name == "tflite-int8"
    assert "measured on host:1: tflite-int8 2.000 ms, onnx-int8 3.000 ms" in choice.reason


def test_a_measurement_on_the_device_counts_more_than_one_on_the_host() -> None:
    tflite, onnx = _artifact("tflite-int8", 2.0), _artifact("onnx-int8", 1.0)
    tflite["latency"]["raspberry-pi-5:4"] = {"kind": "measured", "p50_ms": 5.0}
    onnx["latency"]["raspberry-pi-5:4"] = {"kind": "measured", "p50_ms": 6.0}
    assert choose("raspberry-pi", _report(tflite, onnx)).artifact.name == "tflite-int8"
    for each in (tflite, onnx):
        each["latency"]["raspberry-pi-5:4"]["kind"] = "predicted"
    assert choose("raspberry-pi", _report(tflite, onnx)).artifact.name == "onnx-int8"


def test_int8_for_tensorrt_goes_on_a_jetson() -> None:
    report = _report(*map(_artifact, ALL), _artifact("onnx-int8-tensorrt"))
    assert choose("jetson", report).artifact.name == "onnx-int8-tensorrt"


def test_nothing_that_fits_says_why_and_what_to_add() -> None:
    with pytest.raises(ModelError) as caught:
        choose("android", _report(_artifact("onnx-fp32"), _artifact("tflite-fp16", rejected=True)))
    assert "tflite-int8 was not made, tflite-fp16 missed a gate, tflite-fp32 was not made" in caught.value.message
    assert caught.value.hint == "add tflite-int8 or tflite-fp32 to export.artifacts of the recipe"
    assert caught.value.exit_code == 3
    every = ("tflite-int8", "tflite-fp16", "tflite-fp32")
    with pytest.raises(ModelError) as caught:
        choose("ios", _report(*(_artifact(name, rejected=True) for name in every)))
    assert "see gates" in str(caught.value.hint)
    with pytest.raises(ModelError, match="onnx-fp32 was not made; not tflite-int8: LiteRT would leave its GPU idle") as caught:
        choose("jetson", _report(_artifact("tflite-int8")))
    wanted = "onnx-int8-tensorrt or onnx-fp32"
    assert caught.value.hint == f"add {wanted} to export.artifacts of the recipe"
