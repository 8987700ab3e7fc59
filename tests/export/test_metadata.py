"""The metadata stage: what it refuses, and that a run ships what it described and verified."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_digits

from edgekd.census import census
from edgekd.errors import UsageError
from edgekd.export.metadata import check_labels
from edgekd.models.tensors import classifier, image_input
from edgekd.report.model_card import model_card
from edgekd.report.report import Report
from edgekd.runtimes import feed
from edgekd.safe.child import run_in_child
from edgekd.safe.files import sha256_file
from tests.export.metadata_reader import meet


@pytest.mark.parametrize("count", [9, 11])
def test_labels_must_be_as_many_as_outputs(finished: Report, tmp_path: Path, count: int) -> None:
    """Through a child process, as in a run: the error keeps its type and so its exit code."""
    spec = classifier("zoo:shallow_cnn", (image_input((8, 8, 1), (0.3,), (0.4,)),), tuple(map(str, range(count))))
    for name in ("tflite-int8", "onnx-fp32"):
        path = next(each.verified.artifact.path for each in finished.artifacts if each.name == name)
        told = {
            "model": str(path), "kind": name.partition("-")[0], "out": str(tmp_path / "out"), "spec": spec.to_json(),
            "name": "n", "task": "classification", "license_name": None, "files": {},
        }  # fmt: skip
        with pytest.raises(UsageError, match=f"output logits has 10 values, but there are {count} labels for it") as raised:
            run_in_child("edgekd.export.metadata:write_metadata", told, log=tmp_path / "log")
        assert raised.value.exit_code == 2
        assert not (tmp_path / "out").exists()


def test_outputs_without_labels_are_let_through() -> None:
    check_labels([{"name": "boxes", "shape": [1, 10, 4]}])


def test_a_stranger_reads_digits_with_the_shipped_file_alone(finished: Report) -> None:
    """Pixels of 0 to 16 as a camera would give them, 0 to 255; ``report.json`` and the metadata say the same."""
    content = json.loads((finished.folder / "report.json").read_text())
    digits = load_digits()
    test = [int(each.removeprefix("digits:")) for each in json.loads((finished.folder / "splits.json").read_text())["test"]][
        :40
    ]
    pixels = np.round(digits.images[test] * 255 / 16).astype(np.uint8)[..., None]
    for artifact in content["artifacts"]:
        if artifact["format"] != "tflite":
            continue
        path = finished.folder / artifact["path"]
        stranger = meet(path)
        assert stranger.metadata["name"] == finished.recipe.name
        runner = Interpreter(str(path)).get_signature_runner()
        for image, label in zip(pixels, digits.target[test], strict=True):
            found = stranger.run({"image": image})
            (taken,) = artifact["outputs"]
            expected = runner(image=feed(image[None], 255.0, artifact["inputs"][0]))["logits"][0].astype(np.float32)
            if taken["scale"] is not None:
                expected = (expected - taken["zero_point"]) * np.float32(taken["scale"])
            # Float32 in another order can move an input over the edge between two of 256 steps.
            np.testing.assert_allclose(found, expected, atol=2 * (taken["scale"] or 0) + 1e-4)
            assert stranger.labels[found.argmax()] == taken["labels"][expected.argmax()]
            if path.name == "student.fp32.tflite" and expected.max() - np.sort(expected)[-2] > 5:
                assert stranger.labels[found.argmax()] == str(label)


def test_onnx_files_tell_what_report_json_tells(finished: Report) -> None:
    content = json.loads((finished.folder / "report.json").read_text())
    for artifact in content["artifacts"]:
        if artifact["format"] == "onnx":
            session = onnxruntime.InferenceSession(finished.folder / artifact["path"])
            told = session.get_modelmeta().custom_metadata_map
            assert json.loads(told["edgekd.inputs"]) == artifact["inputs"]
            assert json.loads(told["edgekd.labels"]) == artifact["outputs"][0]["labels"]
            assert told["edgekd.name"] == "digits"


def test_what_was_verified_is_what_is_shipped(finished: Report) -> None:
    for each in finished.artifacts:
        stage = each.verified.artifact.path
        assert stage.parent.name.startswith(f"metadata-{each.name}-")
        shipped = finished.folder / each.relative_path
        assert sha256_file(shipped) == sha256_file(stage) == each.verified.artifact.sha256
        assert census(str(shipped), each.verified.artifact.format) == each.verified.dtypes


def test_the_card_says_what_reads_it(finished: Report) -> None:
    card = model_card(finished)
    assert "TFLite Model Metadata" in card
    assert "custom_metadata_map" in card
