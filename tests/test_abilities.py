"""The table of files and devices: whole, in agreement with what is known of the runtimes, and told by the plan."""

import pytest
from click.testing import CliRunner

from edgekd.abilities import check_device, devices, usable, why_not
from edgekd.cli.plan import show_plan
from edgekd.errors import UsageError
from edgekd.flavours import ARTIFACT_NAMES, FLAVOURS, ArtifactName, format_of
from edgekd.inspect.delegates import runtimes
from edgekd.planning import plan

RUNTIMES = {each.id: each for each in runtimes()}


@pytest.mark.parametrize("device", devices())
def test_every_device_has_files_and_runtimes_that_exist(device: str) -> None:
    found = check_device(device)
    kit = [name for names in found.kit for name in names]
    assert len(set(kit)) == len(kit)
    assert not set(kit) & set(found.no)
    formats = {RUNTIMES[each].format for each in found.runtimes}
    for name in ARTIFACT_NAMES:
        able = why_not(name, device) is None
        # What no runtime of a device reads is of no use there; ONNX Runtime reads its own format too.
        assert able <= (("onnx" if format_of(name) == "ort" else format_of(name)) in formats)
    assert all(reason and not reason.endswith(".") and "\n" not in reason for reason in found.no.values())


@pytest.mark.parametrize("device", devices())
def test_the_table_agrees_with_what_each_runtime_is_known_to_take(device: str) -> None:
    known = [RUNTIMES[each] for each in check_device(device).runtimes]
    onnx = [each for each in known if each.format == "onnx"]
    tflite = [each for each in known if each.format == "tflite"]
    # Asymmetric ranges are for runtimes that take a zero point, ranges as it runs for those with the operator.
    assert (why_not("onnx-int8", device) is None) == any(not each.symmetric for each in onnx)
    dynamic = any("DynamicQuantizeLinear" not in each.refuses for each in onnx)
    assert (why_not("onnx-int8-dynamic", device) is None) == dynamic
    kernels = any("CONV_2D" in each.takes.get("int16", ()) or "int16" in each.dtypes for each in tflite)
    assert (why_not("tflite-int16x8", device) is None) == kernels


def test_files_for_tensorrt_are_for_the_jetson_alone() -> None:
    assert [each for each in devices() if why_not("onnx-int8-tensorrt", each) is None] == ["jetson"]
    assert "TensorRT" in FLAVOURS["onnx-int8-tensorrt"].devices


def test_files_come_best_first() -> None:
    made: tuple[ArtifactName, ...] = ("onnx-fp32", "tflite-fp32", "tflite-fp16", "tflite-int8", "onnx-int8-tensorrt")
    assert usable(made, "android") == ("tflite-int8", "tflite-fp16", "tflite-fp32", "onnx-fp32")
    assert usable(made, "jetson") == ("onnx-int8-tensorrt", "onnx-fp32")


def test_unknown_devices_are_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'android'"):
        check_device("andriod")
    with pytest.raises(UsageError, match="did you mean 'raspberry-pi'"):
        why_not("onnx-fp32", "raspberrypi")


def test_the_plan_tells_for_each_device_what_it_can_use_and_why_not() -> None:
    planned = plan("digits", ["export.artifacts=[onnx-fp32, onnx-int8, tflite-int8]"])
    found = {each.id: each for each in planned.devices}
    assert set(found) == set(devices())
    assert found["raspberry-pi"].usable == ("tflite-int8", "onnx-int8", "onnx-fp32")
    assert found["jetson"].usable == ("onnx-fp32",)
    assert set(found["jetson"].unusable) == {"onnx-int8", "tflite-int8"}
    assert planned.to_json()["devices"][0] == {
        "id": "android", "usable": ("tflite-int8", "onnx-fp32", "onnx-int8"), "unusable": {},
    }  # fmt: skip
    runner = CliRunner()
    with runner.isolation() as (shown, *_):
        show_plan(planned, as_json=False)
        text = shown.getvalue().decode()
    assert "not onnx-int8: TensorRT takes no zero point but 0; onnx-int8-tensorrt has it" in text
