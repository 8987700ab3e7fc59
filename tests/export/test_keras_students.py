"""Students of Keras: every route gives Keras' own outputs, with the weights of the student and not those of the file."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgekd
from edgekd.errors import ModelError, UsageError
from edgekd.inspect.inspection import inspect_file
from edgekd.models.keras_file import import_keras
from edgekd.models.spec import build, load, save_weights
from edgekd.models.tensors import ModelSpec, classifier, image_input
from edgekd.planning import plan
from edgekd.runtimes import open_artifact
from edgekd.safe.child import run_in_child
from tests.models.disguises import digits

# Not imported here: with it keras would run on TensorFlow in this process.
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed", allow_module_level=True)
pytestmark = pytest.mark.slow
LABELS = tuple(map(str, range(10)))
ROUTES = {
    "onnx": "edgekd.export.onnx:export_onnx", "litert": "edgekd.export.tflite:export_tflite",
    "tensorflow": "edgekd.export.tflite_tensorflow:export_tflite_tensorflow",
}  # fmt: skip


def _spec(path: Path) -> ModelSpec:
    """Pixels in [0, 1] are what the tests feed, 0..255 is what the networks take."""
    return classifier(f"keras:{path}", (image_input((8, 8, 1), (0.0,), (1 / 255,)),), LABELS)


def _images(part: slice) -> NDArray[np.float32]:
    return np.float32(255) * digits()[0][part]


def _runs(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    kind = path.suffix[1:]
    run, inputs, outputs = open_artifact(str(path), kind)
    assert [each["name"] for each in (*inputs, *outputs)] == ["image", "logits"]
    fed = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if kind == "tflite" else images
    if inputs[0]["scale"] is not None:
        fed = np.clip(np.round(fed / inputs[0]["scale"]) + inputs[0]["zero_point"], -128, 127).astype(np.int8)
    found: NDArray[np.float32] = run({"image": fed})["logits"]
    return found


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    path = folder / "net.keras"
    found = run_in_child("tests.models.keras_students:train", {"path": str(path)}, log=folder / "log")
    assert found["accuracy"] > 0.85
    return path


@pytest.fixture(scope="module")
def exported(net: Path) -> dict[str, Path]:
    """One file by each route, of weights other than those of the file: of twice the logits."""
    student = build(_spec(net))
    with torch.no_grad():
        for name, each in student.named_parameters():
            if name.startswith("dense/"):
                each.mul_(2)
    save_weights(student, net.with_name("doubled.safetensors"))
    made = {}
    for name, function in ROUTES.items():
        made[name] = net.with_name(f"{name}.{'onnx' if name == 'onnx' else 'tflite'}")
        arguments = {"spec": _spec(net).to_json(), "weights": str(net.with_name("doubled.safetensors")), "out": str(made[name])}
        run_in_child(function, arguments, log=net.with_name("log"))
    return made


@pytest.mark.parametrize("route", ROUTES)
def test_files_of_every_route_give_what_keras_gives(net: Path, exported: dict[str, Path], route: str) -> None:
    part = slice(1200, 1400)
    answers = np.load(net.with_suffix(".npz"))["answers"][part].astype(np.float64)
    # The softmax of the file is not in the student; its logarithm is the logits but for a constant per row.
    expected = 2 * np.log(answers)
    found = _runs(exported[route], _images(part)).astype(np.float64)
    found -= found.mean(1, keepdims=True)
    expected -= expected.mean(1, keepdims=True)
    surest = answers > 1e-6  # a smaller probability has few digits left in float32
    assert np.abs(found - expected)[surest].max() < 1e-5 * np.ptp(expected)


def test_no_transposes_are_left_between_layers(exported: dict[str, Path]) -> None:
    for path in exported.values():
        kinds = {kind.lower(): count for kind, count in inspect_file(path).operators.items()}
        # ONNX is NCHW, and Flatten of Keras goes over NHWC: that one transpose is part of the function.
        assert kinds.get("transpose", 0) == (1 if path.suffix == ".onnx" else 0)
        # Batch norms are in the convolutions, weights are in the file.
        assert not {"sub", "rsqrt", "batchnormalization", "var_handle", "read_variable"} & kinds.keys()


@pytest.mark.parametrize("route", ["litert", "tensorflow"])
def test_int8_files_of_both_converters_work(net: Path, exported: dict[str, Path], route: str) -> None:
    out, samples = net.with_name(f"{route}.int8.tflite"), net.with_name("calibration.npz")
    np.savez(samples, image=_images(slice(0, 128)))
    arguments = {"model": str(exported[route]), "calibration": str(samples), "out": str(out)}
    run_in_child("edgekd.quantize.tflite:quantize_tflite", arguments, log=net.with_name("log"))
    part = slice(1200, 1797)
    float_classes = _runs(exported[route], _images(part)).argmax(1)
    assert (_runs(out, _images(part)).argmax(1) == float_classes).mean() > 0.97


def test_a_keras_file_becomes_proven_files_without_training(net: Path, tmp_path: Path) -> None:
    overrides = [
        "distill.scheme=none", f"student.model=keras:{net}", "student.preprocess.value_range=[0,255]", "benchmark.runs=10",
        "export.artifacts=[tflite-fp32, tflite-int8]", "export.tflite.converter=tensorflow", "benchmark.warmup=0", "threads=1",
    ]  # fmt: skip
    report = edgekd.compress("digits", tmp_path / "out", overrides)
    assert report.ok, [each for each in report.gates if not each.passed]
    assert report.student.metric.value > 0.85
    assert report.student.spec.reference == f"keras:{net}"
    with pytest.raises(ModelError, match=r"wants other pixels: .* black and white are 0 and 255"):
        edgekd.compress("digits", tmp_path / "wrong", [each for each in overrides if "value_range" not in each])


def test_it_learns_as_other_students_do(net: Path, tmp_path: Path) -> None:
    spec = _spec(net)
    student = build(spec).train()
    images, labels = torch.from_numpy(_images(slice(0, 128))), torch.from_numpy(digits()[1][:128])
    mean = student.get_buffer("batch_normalization/moving_mean").clone()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    loss = torch.nn.functional.cross_entropy(student(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None and bool(each.grad.abs().sum() > 0) for each in student.parameters())
    optimizer.step()
    assert not torch.equal(mean, student.get_buffer("batch_normalization/moving_mean"))
    save_weights(student, tmp_path / "weights.safetensors")
    again = load(spec, tmp_path / "weights.safetensors")
    assert torch.equal(again(images), student.eval()(images))
    assert not torch.equal(again(images), build(spec).eval()(images))


def test_what_is_no_student_is_said(net: Path) -> None:
    said = {
        "two.keras": "has 2 outputs", "softmax_inside.keras": "softmax inside another model", "large.keras": "takes image of 16 x 16 x 1",
        "seven.keras": r"gives logits of shape \(7,\), expected \(10,\)", "saved": "cannot be a student",
    }  # fmt: skip
    for name, message in said.items():
        with pytest.raises(ModelError, match=message) as error:
            build(_spec(net.with_name(name)))
        assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["softmax_layer.keras", "matrix.keras", "plain.h5", "channels_first.keras"])
def test_networks_of_other_shapes_are_fed(net: Path, name: str) -> None:
    student = build(_spec(net.with_name(name))).eval()
    with torch.no_grad():
        found = student(torch.rand(3, 1, 8, 8))
    assert found.shape == (3, 10)
    sums = found.sum(1)
    assert not any(math.isclose(float(each), 1.0, abs_tol=1e-3) for each in sums)  # logits, not probabilities


def test_code_in_a_file_is_refused(framework_models: Path, tmp_path: Path) -> None:
    canary = framework_models / "canary"
    canary.unlink(missing_ok=True)
    with pytest.raises(ModelError, match="holds code that would run"):
        build(_spec(framework_models / "lambda.keras"))
    assert not canary.exists()


def test_keras_on_another_framework_is_said() -> None:
    with pytest.raises(UsageError, match="was imported on torch in this process"):
        import_keras("torch")
        import_keras("tensorflow")


def test_tensorflows_converter_is_for_keras() -> None:
    with pytest.raises(UsageError, match="converts Keras models, and the student is zoo:shallow_cnn") as error:
        plan("digits", ["export.tflite.converter=tensorflow"])
    assert "\n" not in error.value.message
