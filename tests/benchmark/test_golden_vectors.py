"""Golden vectors on a device: agreement by the rule, and whatever is wrong with them told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benchmark.device_runner import _compared
from edgekd.benchmark.golden_vectors import find_golden, read_golden, verify_on_device
from edgekd.benchmark.transports import Finished
from edgekd.benchmark.transports.local import LocalTransport
from edgekd.devices.profiles import load_profile
from edgekd.errors import DataError, DeviceError, UsageError
from tests.benchmark.devices_in_tests import OddDevice
from tests.kit.made_up import image_spec, write_run

HOST = load_profile("host")
SAMPLES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one ONNX file and its golden vectors."""
    raw = np.random.default_rng(0).integers(0, 256, (SAMPLES + 4, 4, 4, 1)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("made") / "run"
    return write_run(folder, (image_spec((1, 4, 4)),), ("a", "b", "c"), {"image": raw}, {"image": 255.0})


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def golden_of(run: Path) -> Path:
    return run / "golden" / "student.fp32.onnx"


def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = golden_of(run) / "golden.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def set_output(run: Path, values: np.ndarray[Any, Any]) -> None:
    """Make other outputs the golden ones, with their hash."""
    import hashlib

    def edit(content: dict[str, Any]) -> None:
        (each,) = content["outputs"]
        (golden_of(run) / each["file"]).write_bytes(values.astype("<f4").tobytes())
        each["sha256"] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()

    change(run, edit)


def test_a_file_gives_on_this_machine_what_it_gave_on_it(made: Path) -> None:
    found = verify_on_device(made / "artifacts" / "student.fp32.onnx", HOST, LocalTransport())
    assert (len(found.vectors), found.differing) == (SAMPLES + 4, ())
    assert found.identical == SAMPLES + 4
    content = found.to_json()
    assert (content["agree"], content["differ"], content["identical"]) == (SAMPLES + 4, 0, SAMPLES + 4)
    assert content["made_with"].startswith("onnxruntime ")
    json.dumps(content, allow_nan=False)


def test_a_difference_is_found_and_told(run: Path) -> None:
    golden = read_golden(golden_of(run))
    values = golden.outputs[0].copy()
    values[2, 1] += 100
    values[4] *= 1 + 1e-6
    set_output(run, values)
    found = verify_on_device(run / "artifacts" / "student.fp32.onnx", HOST, LocalTransport())
    assert [each.id for each in found.differing] == ["2"]
    assert found.differing[0].why.startswith("output 0 differs by 100, allowed are")
    assert not found.vectors[4].identical and found.vectors[4].agrees


def test_vectors_of_another_file_are_refused(run: Path) -> None:
    file = run / "artifacts" / "student.fp32.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="another SHA-256"):
        verify_on_device(file, HOST, LocalTransport())


def test_vectors_are_found_beside_a_run_and_where_they_are_named(made: Path, tmp_path: Path) -> None:
    file = made / "artifacts" / "student.fp32.onnx"
    assert find_golden(file, None) == golden_of(made)
    assert find_golden(file, made / "golden") == golden_of(made)
    assert find_golden(file, golden_of(made)) == golden_of(made)
    with pytest.raises(UsageError, match=r"no golden\.json in"):
        find_golden(tmp_path / "m.onnx", None)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("samples"),
        lambda content: content.update(schema=2),
        lambda content: content.update(samples=[]),
        lambda content: content.update(samples="many"),
        lambda content: content["outputs"].clear(),
        lambda content: content["outputs"][0]["tolerance"].pop(),
        lambda content: content["outputs"][0].update(tolerance=[-1.0] * (SAMPLES + 4)),
        lambda content: content["outputs"][0].update(dtype="object"),
        lambda content: content["outputs"][0].update(shape=[SAMPLES + 4, 1 << 40]),
        lambda content: content["outputs"][0].update(shape=[3, 3]),
        lambda content: content["outputs"][0].update(sha256="0" * 64),
        lambda content: content["inputs"][0].update(file="../../report.json"),
        lambda content: content["inputs"][0].update(file="missing.bin"),
        lambda content: content["inputs"][0].update(index="first"),
        lambda content: content.update(runtime=None),
    ],
)
def test_broken_vectors_are_one_clear_line(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    change(run, edit)
    with pytest.raises(DataError) as caught:
        read_golden(golden_of(run))
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_text_that_is_no_json_is_one_clear_line(run: Path) -> None:
    for text in ("", "{", "[" * 100_000, "null"):
        (golden_of(run) / "golden.json").write_text(text)
        with pytest.raises(DataError):
            read_golden(golden_of(run))


def test_a_device_that_leaves_samples_out_is_not_believed(made: Path) -> None:
    line = b'{"event": "vector", "row": 0, "identical": true, "agrees": true, "worst": 0.0, "why": ""}\n'

    def skip(device: OddDevice, arguments: list[str]) -> Finished | None:
        if "request.json" not in arguments or device.command_of_request() != "verify":
            return None
        return Finished(0, line + b'{"event": "done"}\n', b"")

    with pytest.raises(DeviceError, match="answered for 1 of 10 golden vectors"):
        verify_on_device(made / "artifacts" / "student.fp32.onnx", HOST, OddDevice(skip))


REQUEST = {"tolerances": {"0": [0.5]}, "ranked": 0, "top1": [1], "margins": [2.0]}


@pytest.mark.parametrize(
    ("wanted", "got", "agrees", "identical", "why"),
    [
        ([1.0, 3.0], [1.0, 3.0], True, True, ""),
        ([1.0, 3.0], [1.5, 2.5], True, False, ""),
        ([1.0, 3.0], [1.6, 3.0], False, False, "differs by 0.6, allowed are 0.5"),
        ([1.0, 3.0], [1.0, float("nan")], False, False, "differs by nan"),
        ([1.0, 3.0], [1.0, float("inf")], False, False, "differs by inf"),
        ([3.0, 3.0], [3.3, 2.9], False, False, "class 0 first instead of 1"),
    ],
)
def test_the_rule_is_the_kits(wanted: list[float], got: list[float], agrees: bool, identical: bool, why: str) -> None:
    found = _compared(REQUEST, 0, [(0, np.asarray([wanted], np.float32), np.asarray([got], np.float32))])
    assert (found["agrees"], found["identical"]) == (agrees, identical)
    assert why in found["why"]
    json.dumps(found, allow_nan=False)


def test_another_shape_or_dtype_does_not_agree() -> None:
    wanted = np.zeros((1, 2), np.float32)
    for got in (np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64)):
        assert not _compared(REQUEST, 0, [(0, wanted, got)])["agrees"]


def test_a_narrow_lead_may_change_hands() -> None:
    narrow = REQUEST | {"margins": [0.1]}
    found = _compared(narrow, 0, [(0, np.asarray([[3.0, 3.1]]), np.asarray([[3.2, 3.0]]))])
    assert found["agrees"]
