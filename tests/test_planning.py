"""The dry run: what a recipe would do, and what would be refused."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgekd.errors import DataError, RecipeError, UsageError
from edgekd.flavours import DEFAULT_ARTIFACTS
from edgekd.planning import plan, resolve_recipe
from edgekd.recipe import Recipe
from edgekd.recipe_file import recipe_from_mapping, shipped_recipes

ONNX = "export.artifacts=[onnx-fp32, onnx-int8]"


def _images(root: Path, *folders: str) -> Path:
    for each in folders:
        (root / each).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / each / "a.png")
    return root


def test_a_recipe_is_given_in_four_ways(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 5\n")
    expected = Recipe(seed=5)
    assert resolve_recipe(expected) is expected
    assert (
        resolve_recipe({"seed": 5})
        == resolve_recipe(tmp_path / "r.yaml")
        == resolve_recipe(str(tmp_path / "r.yaml"))
        == expected
    )
    assert resolve_recipe("digits").name == "digits"


def test_overrides_apply_to_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 5\n")
    for given in (Recipe(seed=5), {"seed": 5}, tmp_path / "r.yaml", "digits"):
        assert resolve_recipe(given, ["seed=6"]).seed == 6
        with pytest.raises(RecipeError, match=r"override 'sed=6': sed: unknown key.*did you mean 'seed'"):
            resolve_recipe(given, ["sed=6"])


def test_every_shipped_recipe_resolves() -> None:
    assert [resolve_recipe(name).name for name in shipped_recipes()] == list(shipped_recipes())


def test_a_plan_says_what_will_be_done() -> None:
    planned = plan("digits", ["threads=3", "distill.temperature=2.5", "teacher.train.epochs=7", "benchmark.runs=11", ONNX])
    assert (planned.threads, planned.artifacts) == (3, ("student.fp32.onnx", "student.int8.onnx"))
    assert [stage.name for stage in planned.stages] == [
        "data",
        "teacher",
        "teacher-check",
        "distill",
        "targets",
        "export",
        "validation",
        "observe-onnx",
        "try-onnx-int8",
        "onnx-int8",
        "metadata",
        "verify",
        "golden",
        "benchmark",
    ]
    what = {stage.name: stage.what for stage in planned.stages}
    assert what["data"] == "digits: 1,797 images in 10 classes; by seed: 20% for validation, 20% for test"
    assert planned.data.counts[0] == 178
    assert len(planned.data.samples) == 3
    assert "7 epochs" in what["teacher"]
    assert "kd(T 2.5)" in what["distill"]
    assert what["targets"] == "teacher outputs are kept, for 8 augmentations of each sample at most"
    assert what["export"] == "student.fp32.onnx"
    assert what["onnx-int8"].startswith("int8 for ONNX Runtime on CPUs")
    assert "; static ranges of activations. For CPUs of phones" in what["onnx-int8"]
    assert what["metadata"] == "what they take and give, and their labels, inside 2 files"
    assert what["verify"].startswith("2 files")
    assert what["benchmark"].endswith("11 runs each")


def test_a_plan_is_json_and_holds_the_whole_recipe() -> None:
    planned = plan("digits", [ONNX])
    content = json.loads(json.dumps(planned.to_json(), allow_nan=False))
    assert recipe_from_mapping(content["recipe"]) == planned.recipe
    assert content["artifacts"] == list(planned.artifacts)
    assert [stage["name"] for stage in content["stages"]] == [stage.name for stage in planned.stages]


def _layers(*overrides: str, recipe: str = "digits") -> list[str]:
    return [stage.what for stage in plan(recipe, [*overrides, ONNX]).stages if stage.name == "layers"]


def test_layers_that_losses_compare_are_in_the_plan() -> None:
    planned = plan("digits", ["distill.losses=[kd, reviewkd_hcl, rkd]", ONNX])
    names = [stage.name for stage in planned.stages]
    place = names.index("distill")
    assert names[place : place + 5] == ["distill", "layers", "layers", "layers", "targets"]
    assert [stage.what for stage in planned.stages[place + 1 : place + 5]] == [
        "student <- teacher",
        "reviewkd_hcl: features.2 (24x4x4) <- features.3 (64x4x4), review fusion",
        "rkd: classifier:input (24) <- classifier:input (128)",
        "the teacher is asked at every step: reviewkd_hcl looks inside the teacher, and only outputs are kept",
    ]
    assert [each["name"] for each in planned.to_json()["stages"]] == names
    given = "distill.losses=[{name: fitnet, layers: [{student: features.0, teacher: features.1}]}]"
    assert _layers(given) == ["student <- teacher", "fitnet: features.0 (8x8x8) <- features.1 (32x8x8), conv 1x1"]


def test_layers_are_told_under_the_training_that_compares_them() -> None:
    chain = ["distill.losses=[at]", "distill.assistants=[{model: 'zoo:resnet8'}]", ONNX]
    stages = [stage for stage in plan("digits", chain).stages if not stage.what.startswith("at: ")]
    names = [stage.name for stage in stages]
    assert names[names.index("assistant-1") :][:5] == ["assistant-1", "layers", "distill", "layers", "targets"]
    assert [stage.what for stage in stages if stage.name == "layers"] == ["assistant-1 <- teacher", "student <- assistant-1"]


def test_layers_are_matched_later_where_the_size_of_images_is_not_known(tmp_path: Path) -> None:
    root = _images(tmp_path / "pets", "cat", "dog")
    source = f"data.source=folder:{root}"
    teacher, losses = "teacher.model=zoo:resnet8", "distill.losses=[at]"
    assert _layers(source, teacher, losses)[0] == "student <- teacher"
    Image.new("RGB", (9, 8)).save(root / "dog" / "a.png")
    assert _layers(source, teacher, losses) == ["matched when the data is read: the size of its samples is not known yet"]
    assert _layers(source, teacher, losses, "data.image_size=16")[1].startswith("at: ")


def test_a_layer_that_is_not_there_is_refused_by_the_plan() -> None:
    with pytest.raises(
        UsageError, match=r"fitnet: the student has no module 'featrues.0'; did you mean 'features.0'\?"
    ) as error:
        _layers("distill.losses=[{name: fitnet, layers: [{student: featrues.0, teacher: features.1}]}]")
    assert error.value.exit_code == 2
    assert error.value.hint == "layers found in the student: features.0, features.2, classifier:input"


@pytest.mark.parametrize(("losses", "expected"), [("[kd, {name: at, weight: 0}]", "[]"), ("[at]", "['torch']")])
def test_torch_is_imported_for_losses_on_inner_layers_alone(losses: str, expected: str) -> None:
    code = (
        "import sys\nfrom edgekd.planning import plan\n"
        f"plan('digits', ['distill.losses={losses}'])\n"
        "print(sorted({'torch', 'tensorflow', 'onnxruntime', 'litert_torch', 'onnx', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


def test_all_threads_are_the_default() -> None:
    assert plan({}, [ONNX]).threads >= 1


def test_class_names_that_labels_txt_cannot_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + 'a good film,"very\ngood"\na bad film,bad\n' * 10)
    with pytest.raises(DataError, match="with a line break in it"):
        plan({"data": {"source": f"csv:{tmp_path / 'x.csv'}"}}, [ONNX])


@pytest.mark.parametrize("artifact", ["onnx-int8", "onnx-fp32"])
def test_one_artifact_is_enough(artifact: str) -> None:
    what = {stage.name: stage.what for stage in plan({}, [f"export.artifacts=[{artifact}]"]).stages}
    assert ("onnx-int8" in what) == (artifact == "onnx-int8")
    assert what["export"] == "student.fp32.onnx" + (", to make others from" if artifact == "onnx-int8" else "")


def test_a_plan_says_what_is_tried_for_int8_files() -> None:
    def told(*overrides: str) -> dict[str, str]:
        return {stage.name: stage.what for stage in plan({}, list(overrides)).stages}

    usual = told()
    assert usual["observe-onnx"].endswith("as many as it takes, 2,048 at most, evenly from every class")
    assert usual["try-tflite-int8"] == (
        "ranges by minmax, percentile, mse and entropy, measured on validation samples; while they lose over 0.5 points, "
        "the same with corrected, equalized, rounded weights, then the fewest layers in floating point that mend it"
    )
    fixed = told(
        "quantize.ranges=mse", "quantize.weights=as-trained", "quantize.calibration_samples=300", "quantize.keep=[]",
        "export.artifacts=[tflite-int8, tflite-int16x8, tflite-int8-dynamic]",
    )  # fmt: skip
    assert "training samples: 300, evenly" in fixed["observe-tflite"]
    assert fixed["try-tflite-int8"] == "ranges by mse, measured on validation samples"
    assert fixed["try-tflite-int16x8"] == "ranges by minmax, measured on validation samples"
    assert "try-tflite-int8-dynamic" not in fixed
    assert told("quantize.weights=rounded", "quantize.keep=[]")["try-onnx-int8"].endswith("; rounded weights")


def test_a_file_made_of_a_file_made_of_a_file_is_planned_in_order() -> None:
    planned = plan({}, ["export.artifacts=[ort-int8]"])
    assert [stage.name for stage in planned.stages][-10:] == [
        "export", "validation", "observe-onnx", "try-onnx-int8", "onnx-int8", "ort-int8", "metadata", "verify", "golden", "benchmark",
    ]  # fmt: skip
    what = {stage.name: stage.what for stage in planned.stages}
    assert what["onnx-int8"].endswith("; static ranges of activations, to make others from")
    assert "For ONNX Runtime Mobile" in what["ort-int8"]


def test_a_student_that_is_not_trained_needs_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"distill.scheme is none, .* student.weights is not set"):
        plan({}, [ONNX, "distill.scheme=none"])
    (tmp_path / "w.safetensors").write_bytes(b"")
    planned = plan({}, [ONNX, "distill.scheme=none", f"student.weights={tmp_path / 'w.safetensors'}"])
    assert [stage.name for stage in planned.stages][:3] == ["data", "student", "export"]


def test_image_folders_are_counted(tmp_path: Path) -> None:
    alone = _images(tmp_path / "alone", "cat", "dog")
    split = _images(tmp_path / "split", "train/cat", "train/dog", "test/cat", "test/dog")
    source = "data.source=folder:"
    said = plan({}, [ONNX, f"{source}{alone}", "data.test=0.25"]).stages[0].what
    assert said == f"folder:{alone}: 2 images in 2 classes; by seed: 20% for validation, 25% for test"
    said = plan({}, [ONNX, f"{source}{split}"]).stages[0].what
    assert said == f"folder:{split}: 4 images in 2 classes; given splits: train 2, test 2; by seed: 20% for validation"


def test_a_missing_image_folder_is_refused_with_advice(tmp_path: Path) -> None:
    _images(tmp_path / "pets", "cat", "dog")
    with pytest.raises(DataError, match="pest does not exist; did you mean 'pets'"):
        plan({}, [ONNX, f"data.source=folder:{tmp_path / 'pest'}"])


def test_missing_packages_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_quantizer" else real(name))
    with pytest.raises(UsageError, match=r"need .*ai-edge-quantizer.*not installed") as error:
        plan({"export": {"artifacts": list(DEFAULT_ARTIFACTS)}})
    assert error.value.hint == "pip install 'edgekd[tflite]', or leave them out: 'export.artifacts=[onnx-fp32, onnx-int8]'"
    with pytest.raises(UsageError) as error:
        plan({"export": {"artifacts": ["tflite-fp32"]}})
    assert "'export.artifacts=[onnx-fp32]'" in str(error.value)
    assert plan({}, [ONNX]).artifacts
