"""Golden vectors: which samples, that they are what the file gives, and that they are the same every time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from sklearn.datasets import load_digits

import edgekd
from edgekd.data.dataset import Dataset, Raw
from edgekd.data.splits import Splits
from edgekd.golden import evenly_over_classes, raw_samples
from edgekd.golden_file import ADVERSARIAL, golden_file
from edgekd.models.tensors import TensorSpec
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file
from tests.conftest import QUICK
from tests.kit.made_up import image_spec, write_run

FILES = ["student.fp32.onnx", "student.int8.onnx", "student.fp32.tflite", "student.fp16.tflite", "student.int8.tflite"]


def _golden(report: Report, file: str) -> tuple[Path, dict[str, Any]]:
    folder = report.folder / "golden" / file
    return folder, json.loads((folder / "golden.json").read_text())


def _bin(folder: Path, each: dict[str, Any]) -> np.ndarray:
    assert each["byte_order"] == "little"
    assert sha256_file(folder / each["file"]) == each["sha256"]
    return np.fromfile(folder / each["file"], np.dtype(each["dtype"]).newbyteorder("<")).reshape(each["shape"])


@pytest.mark.parametrize("file", FILES)
def test_a_stranger_gets_the_golden_outputs(finished: Report, file: str) -> None:
    """Fed with nothing but the .bin files, in the runtime's own interface, the file gives them within the tolerance."""
    folder, golden = _golden(finished, file)
    (given,), (taken,) = golden["inputs"], golden["outputs"]
    inputs, expected = _bin(folder, given), _bin(folder, taken)
    path = str(finished.folder / "artifacts" / file)
    if file.endswith("onnx"):
        (found,) = onnxruntime.InferenceSession(path).run([taken["name"]], {given["name"]: inputs})
    else:
        interpreter = Interpreter(path)
        interpreter.allocate_tensors()
        index = interpreter.get_input_details()[given["index"]]["index"]
        rows = []
        for row in inputs:
            interpreter.set_tensor(index, row[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(interpreter.get_output_details()[taken["index"]]["index"]))
        found = np.concatenate(rows)
    assert found.dtype == expected.dtype
    difference = np.abs(np.asarray(found, np.float64) - expected).max(axis=1)
    assert (difference <= taken["tolerance"]).all()
    assert np.ptp(expected[:16].astype(np.float64)) > 20 * max(taken["tolerance"][:16])
    assert [row["top1"] for row in golden["samples"]] == expected.argmax(axis=1).tolist()
    ordered = np.sort(expected.astype(np.float64), axis=1)
    np.testing.assert_allclose([row["margin"] for row in golden["samples"]], ordered[:, -1] - ordered[:, -2])


@pytest.mark.parametrize("file", FILES)
def test_other_kernels_of_the_runtime_are_within_the_tolerance(finished: Report, file: str) -> None:
    """LiteRT's own and reference kernels against XNNPACK's; ONNX Runtime's graph as it is written against an optimized one."""
    folder, golden = _golden(finished, file)
    (given,), (taken,) = golden["inputs"], golden["outputs"]
    inputs, expected = _bin(folder, given), _bin(folder, taken).astype(np.float64)
    path = str(finished.folder / "artifacts" / file)
    found: list[np.ndarray] = []
    if file.endswith("onnx"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        found += onnxruntime.InferenceSession(path, options).run([taken["name"]], {given["name"]: inputs})
    else:
        for kernels in (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.BUILTIN_REF):
            run = Interpreter(path, experimental_op_resolver_type=kernels).get_signature_runner()
            found.append(np.concatenate([run(**{given["name"]: row[None]})[taken["name"]] for row in inputs]))
    worst = max(float((np.abs(each.astype(np.float64) - expected).max(axis=1) / taken["tolerance"]).max()) for each in found)
    assert worst <= (0.25 if "int8" in file else 0.05)  # one step of four; far less for floats


@pytest.mark.parametrize("file", FILES)
def test_both_forms_hold_the_same_values(finished: Report, file: str) -> None:
    folder, golden = _golden(finished, file)
    with np.load(folder / "golden.npz") as archive:
        assert sorted(archive) == ["input_image", "output_logits"]
        np.testing.assert_array_equal(archive["input_image"], _bin(folder, golden["inputs"][0]))
        np.testing.assert_array_equal(archive["output_logits"], _bin(folder, golden["outputs"][0]))
    is_int8 = file == "student.int8.tflite"
    assert golden["inputs"][0]["dtype"] == golden["outputs"][0]["dtype"] == ("int8" if is_int8 else "float32")
    assert golden["artifact"]["sha256"] == sha256_file(finished.folder / "artifacts" / file)


def test_inputs_are_prepared_test_samples_and_extremes(finished: Report) -> None:
    folder, golden = _golden(finished, "student.fp32.onnx")
    digits, samples = load_digits(), golden["samples"]
    test = json.loads((finished.folder / "splits.json").read_text())["test"]
    assert [row["kind"] for row in samples] == ["test"] * 16 + list(ADVERSARIAL)
    assert {row["id"] for row in samples[:16]} <= set(test)
    artifact = json.loads((finished.folder / "report.json").read_text())["artifacts"][0]
    (mean,), (std,) = artifact["inputs"][0]["mean"], artifact["inputs"][0]["std"]
    levels = _bin(folder, golden["inputs"][0])[:, 0] * std + mean
    indices = [int(row["id"].removeprefix("digits:")) for row in samples[:16]]
    np.testing.assert_allclose(levels[:16], digits.images[indices] / 16, atol=1e-6)
    assert [row["label"] for row in samples[:16]] == digits.target[indices].tolist()
    np.testing.assert_allclose(levels[16], 0, atol=1e-6)
    np.testing.assert_allclose(levels[17], 1, atol=1e-6)
    np.testing.assert_allclose(levels[18], 0.5, atol=1e-6)
    noise = levels[19] * 16
    np.testing.assert_allclose(noise, np.round(noise), atol=1e-4)
    assert noise.min() > -1e-4
    assert noise.max() < 16 + 1e-4
    assert len(np.unique(np.round(noise))) > 8


def test_rejected_files_have_none_and_stale_ones_are_removed(finished: Report, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    gated = edgekd.compress("digits", out, [*QUICK, "gates.max_size_kib=14", "export.artifacts=[onnx-int8, tflite-fp32]"])
    assert not gated.ok
    assert [path.name for path in (out / "golden").iterdir()] == ["student.int8.onnx"]
    listed = {each["path"] for each in json.loads((out / "manifest.json").read_text())["files"]}
    assert {each for each in listed if each.startswith("golden/")} == {
        str(path.relative_to(out)) for path in out.glob("golden/*/*")
    }
    none = edgekd.compress("digits", out, [*QUICK, "gates.max_size_kib=1", "export.artifacts=[onnx-int8]"])
    assert not none.ok
    assert not (out / "golden").exists()


def test_samples_come_evenly_from_classes() -> None:
    labels = np.asarray([0] * 50 + [1] * 3 + [2] * 50)
    test = np.arange(0, 103, dtype=np.int64)[::-1].copy()
    chosen = evenly_over_classes(test, labels, 16)
    assert np.bincount(labels[chosen]).tolist() == [7, 3, 6]
    assert len(set(chosen.tolist())) == 16
    assert evenly_over_classes(test[:5], labels, 16).tolist() == test[:5].tolist()
    many = np.arange(1_000, dtype=np.int64)
    assert np.diff(evenly_over_classes(many, many, 16)).min() >= 62


def _dataset(kind: str, raw: dict[str, Raw], inputs: tuple[TensorSpec, ...], count: int) -> Dataset:
    every = np.arange(count, dtype=np.int64)
    return Dataset(kind, raw, inputs, every % 2, Path("ids"), ("a", "b"), Splits(every, every, every), "digest")


def test_extremes_of_sounds_are_those_of_16_bits() -> None:
    array = np.arange(12, dtype=np.int16).reshape(2, 6)
    spec = TensorSpec("waveform", "float32", (6,), "NC", "waveform", (-1.0, 1.0), sample_rate=8_000)
    raw = raw_samples(_dataset("waveform", {"waveform": Raw(Path(), array, 32_768)}, (spec,), 2), np.arange(2))["waveform"]
    assert raw.dtype == np.int16
    np.testing.assert_array_equal(raw[:2], array)
    assert (raw[2] == -32_768).all()
    assert (raw[3] == 32_767).all()
    assert (np.abs(raw[4]) <= 1).all()


def test_extremes_of_features_are_those_of_the_test_split() -> None:
    array = np.asarray([[0.0, 10.0], [4.0, -10.0], [1.0, 1.0]], np.float32)
    spec = TensorSpec("features", "float32", (2,), "NC", "features", None, (0.0, 0.0), (1.0, 1.0))
    raw = raw_samples(_dataset("features", {"features": Raw(Path(), array, None)}, (spec,), 3), np.arange(1))["features"]
    np.testing.assert_array_equal(raw[1:4], [[0, -10], [4, 10], [2, 0]])
    assert ((raw[4] >= raw[1]) & (raw[4] <= raw[2])).all()


def test_extremes_of_texts_are_legal_tokens_and_masks() -> None:
    ids = TensorSpec("input_ids", "int32", (7,), "NC", "tokens", vocabulary=30)
    mask = TensorSpec("attention_mask", "int32", (7,), "NC", "mask")
    arrays = {name: Raw(Path(), np.ones((2, 7), np.int32), None) for name in ("input_ids", "attention_mask")}
    raw = raw_samples(_dataset("text", arrays, (ids, mask), 2), np.arange(2))
    tokens, masks = raw["input_ids"][2:], raw["attention_mask"][2:]
    assert tokens.min() == 0
    assert tokens.max() == 29
    assert (tokens[1] == 29).all()
    assert set(np.unique(masks)) == {0, 1}
    assert (np.diff(masks, axis=1) <= 0).all()  # padding comes last
    assert (masks[:, 0] == 1).all()
    assert masks.sum(axis=1)[:3].tolist() == [1, 7, 4]


def test_a_sample_without_a_finite_output_is_left_out_and_named(tmp_path: Path) -> None:
    values = np.zeros((6, 2, 2, 1), np.float32)
    values[4] = np.nan
    spec = image_spec((1, 2, 2))
    run = write_run(tmp_path / "run", (spec,), ("a", "b"), {"image": np.zeros((6, 2, 2, 1), np.float32)}, {"image": 1.0})
    np.savez(tmp_path / "raw.npz", image=values)
    model = {
        "reference": "", "inputs": [vars(spec)], "outputs": [vars(TensorSpec("logits", "float32", (2,), "NC", "logits"))],
    }  # fmt: skip
    samples = [{"id": str(row), "kind": "test", "label": 0} for row in range(2)]
    path = str(run / "artifacts" / "student.fp32.onnx")
    made = golden_file(path, "onnx", "fp32", model, str(tmp_path / "raw.npz"), samples, str(tmp_path), {"image": 1.0}, {})
    assert made["left_out"] == ["mid gives NaN or infinity"]
    golden = json.loads((tmp_path / "golden.json").read_text())
    assert [row["kind"] for row in golden["samples"]] == ["test", "test", "lowest", "highest", "noise"]
    assert golden["inputs"][0]["shape"][0] == golden["outputs"][0]["shape"][0] == 5
