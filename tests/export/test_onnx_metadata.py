"""ONNX files with metadata: ONNX Runtime gives it back, and it is enough to feed them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekd.export.metadata import ModelFacts
from edgekd.export.onnx_metadata import onnx_metadata
from edgekd.runtimes import feed, open_onnx
from tests.export.described import LABELS, Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = make("image", tmp_path_factory.mktemp("image"), onnx=True)
    for name in ("fp32.onnx", "int8.onnx"):
        found.describe(name)
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_runtime_gives_it_back_and_it_feeds_the_file(made: Made, precision: str) -> None:
    session = onnxruntime.InferenceSession(made.folder / f"{precision}.onnx")
    told = session.get_modelmeta().custom_metadata_map
    given, taken = (json.loads(told[f"edgekd.{side}"]) for side in ("inputs", "outputs"))
    assert {key: told[f"edgekd.{key}"] for key in ("name", "description", "author", "task", "license")} == {
        "name": "a name", "description": "Classifies images into 5 classes.", "author": "edgekd",
        "task": "classification", "license": "Apache-2.0",
    }  # fmt: skip
    assert not any("version" in key for key in told)
    assert json.loads(told["edgekd.labels"]) == list(LABELS)
    assert (given[0]["mean"], given[0]["std"], given[0]["value_range"]) == ([0.3, 0.4, 0.5], [0.2, 0.25, 0.3], [0.0, 1.0])
    assert (given[0]["layout"], given[0]["shape"][1:]) == ("NCHW", [3, 16, 12])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 12, 3)).astype(np.uint8)
    (found,) = session.run([taken[0]["name"]], {given[0]["name"]: feed(pixels, 255.0, given[0])})
    by_hand = (pixels / 255 - [0.3, 0.4, 0.5]) / [0.2, 0.25, 0.3]
    run, _, _ = open_onnx(str(made.folder / f"plain.{precision}.onnx"), threads=1)
    expected = run({"image": by_hand.transpose(0, 3, 1, 2).astype(np.float32)})["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.ptp(expected) if precision == "int8" else 1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_only_the_metadata_is_new(made: Made, precision: str) -> None:
    plain, described = (onnx.load(made.folder / f"{start}{precision}.onnx") for start in ("plain.", ""))
    kept = {each.key: each.value for each in plain.metadata_props}
    assert kept.items() <= {each.key: each.value for each in described.metadata_props}.items()
    for proto in (plain, described):
        del proto.metadata_props[:]
    assert plain == described


def test_the_same_bytes_again(made: Made) -> None:
    path = made.folder / "fp32.onnx"
    before = path.read_bytes()
    assert made.describe("fp32.onnx").read_bytes() == before
    assert str(made.folder).encode() not in before


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    given = {"name": "input_ids", "meaning": "tokens", "shape": ["batch", 8]}
    taken = {"name": "logits", "shape": ["batch", 2]}
    told = onnx_metadata(ModelFacts("n", "classification", None, [given], [taken], {"vocab.txt": b"a\nb\n"}))
    assert "edgekd.license" not in told
    assert "edgekd.labels" not in told
    assert json.loads(told["edgekd.files"]) == {"vocab.txt": hashlib.sha256(b"a\nb\n").hexdigest()}
