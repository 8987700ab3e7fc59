"""Faults of exporters and quantizers, planted one at a time: every one must be caught by a gate or an error.

The network is tiny and sees three channels that differ, so that their order matters. Files are changed as a broken exporter
would leave them; nothing tells the checks that there is a fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_digits

from edgekd.artifacts import Artifact
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.stages import distill_student, settle_training
from edgekd.distill.training_stage import TrainedModel
from edgekd.errors import EdgekdError, ExportError
from edgekd.export.onnx import export_onnx
from edgekd.export.stages import export_student
from edgekd.flavours import ArtifactName
from edgekd.per_class import cost_per_class
from edgekd.progress import Silent
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.stages import quantize_exports
from edgekd.recipe import Recipe
from edgekd.recipe_file import recipe_from_mapping
from edgekd.safe.files import sha256_file
from edgekd.tasks.classification import agreement
from edgekd.verify import check_gates, verify
from edgekd.workspace import Workspace, open_workspace
from tests.model_surgery import Array, Tflite, append_onnx, edit_onnx, prepend_onnx

ANOTHER_SEED = 7


@dataclass(frozen=True)
class Made:
    """A run up to its verification: what the stage is given."""

    recipe: Recipe
    data: Dataset
    student: TrainedModel
    other: TrainedModel
    artifacts: dict[ArtifactName, Artifact]
    folder: Path
    scratch: Path

    def file(self, name: ArtifactName) -> Path:
        return self.artifacts[name].path

    def judged(self, student: TrainedModel, artifact: Artifact, data: Dataset | None = None) -> list[str]:
        """Return the names of the gates that a file misses."""
        with open_workspace(self.folder, Silent()) as workspace:
            seen = data or self.data
            verified = verify(seen, student, {artifact.name: artifact}, workspace)
            classes = cost_per_class(seen, None, student, verified)
        gates = check_gates(self.recipe, None, student, verified, classes)
        return [gate.name for gate in gates if not gate.passed]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("planted")
    digits = load_digits()
    grey = digits.images / 16 * 255
    colour = np.stack([grey, 255 - np.roll(grey, 1, axis=2), 0.7 * np.roll(grey, 1, axis=1)], -1).round().astype(np.uint8)
    np.savez(folder / "colour.npz", x=colour, y=digits.target)
    recipe = recipe_from_mapping({
        "data": {"source": f"npz:{folder / 'colour.npz'}"}, "student": {"model": "zoo:shallow_cnn"},
        "distill": {"scheme": "temporal", "train": {"epochs": 16}}, "threads": 1,
    })  # fmt: skip
    with open_workspace(folder / "run", Silent()) as workspace:
        data = load_data(recipe, workspace)
        student = _trained(recipe, data, workspace)
        other = _trained(recipe.model_copy(update={"seed": ANOTHER_SEED}), data, workspace)
        artifacts = quantize_exports(recipe, data, student, export_student(recipe, student, workspace), workspace)
    scratch = folder / "changed"
    scratch.mkdir()
    return Made(recipe, data, student, other, artifacts, folder / "run", scratch)


def _trained(recipe: Recipe, data: Dataset, workspace: Workspace) -> TrainedModel:
    return distill_student(settle_training(recipe, data, 1, workspace), data, None, 1, workspace)


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8"])
def test_what_is_whole_passes_every_gate(made: Made, name: ArtifactName) -> None:
    assert made.judged(made.student, made.artifacts[name]) == []


def _as(made: Made, name: ArtifactName, content: bytes | Path) -> Artifact:
    """Return an artifact that claims to be ``name`` and holds ``content``."""
    raw = content.read_bytes() if isinstance(content, Path) else content
    path = made.scratch / f"{hashlib.sha256(raw).hexdigest()[:12]}.{name}"
    path.write_bytes(raw)
    return Artifact(name, path, sha256_file(path))


def _onnx(made: Made, name: ArtifactName, change: Callable[[dict[str, Array]], None]) -> Artifact:
    return _as(made, name, edit_onnx(made.file(name), made.scratch / "edited.onnx", change))


def _tflite(made: Made, name: ArtifactName, change: Callable[[Tflite], None]) -> Artifact:
    model = Tflite(made.file(name))
    change(model)
    return _as(made, name, model.save(made.scratch / "edited.tflite"))


def quantization_skipped(made: Made) -> Artifact:
    return _as(made, "tflite-int8", made.file("tflite-fp32"))


def half_of_the_weights_quantized(made: Made) -> Artifact:
    model = onnx.load(made.file("onnx-int8"))
    constants = {each.name: each for each in model.graph.initializer}
    (node,) = [each for each in model.graph.node if each.input[0] == "features.2.0.weight_quantized"]
    values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    real = (values * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
    model.graph.node.remove(node)
    return _as(made, "onnx-int8", model.SerializeToString())


def wrong_dtype(made: Made) -> Artifact:
    return _as(made, "tflite-fp16", made.file("tflite-fp32"))


def stale_file_of_another_training(made: Made) -> Artifact:
    fresh = made.scratch / "other.onnx"
    export_onnx(made.other.spec.to_json(), str(made.other.weights), str(fresh))
    quantize_onnx(str(fresh), str(_calibration(made, 1.0)), str(made.scratch / "other.int8.onnx"))
    return _as(made, "onnx-int8", made.scratch / "other.int8.onnx")


def _calibration(made: Made, factor: float) -> Path:
    path = made.scratch / f"calibration-{factor}.npz"
    batch = made.data.batch(made.data.splits.train[:100])
    np.savez(path, allow_pickle=False, **{name: (values * factor).astype(np.float32) for name, values in batch.items()})
    return path


def empty_file(made: Made) -> Artifact:
    return _as(made, "onnx-fp32", b"")


def truncated_onnx(made: Made) -> Artifact:
    return _as(made, "onnx-fp32", made.file("onnx-fp32").read_bytes()[:-2000])


def truncated_tflite(made: Made) -> Artifact:
    whole = made.file("tflite-int8").read_bytes()
    return _as(made, "tflite-int8", whole[: len(whole) // 2])


def labels_swapped(made: Made) -> Artifact:
    def change(model: Tflite) -> None:
        (dense,) = model.operators("FULLY_CONNECTED")
        for index in dense.inputs[1:3]:
            values = model.values(index)
            model.put(index, values[[1, 0, *range(2, 10)]])
            quantization = model.graph.tensors[index].quantization
            quantization.scale = np.asarray(quantization.scale)[[1, 0, *range(2, 10)]]

    return _tflite(made, "tflite-int8", change)


def one_class_dropped(made: Made) -> Artifact:
    def change(constants: dict[str, Array]) -> None:
        constants["classifier.weight_quantized"][3] = 0
        constants["classifier.bias_quantized"][3] = -100_000

    return _onnx(made, "onnx-int8", change)


def one_output_missing(made: Made) -> Artifact:
    def change(constants: dict[str, Array]) -> None:
        constants["classifier.weight"] = constants["classifier.weight"][:9]
        constants["classifier.bias"] = constants["classifier.bias"][:9]

    path = edit_onnx(made.file("onnx-fp32"), made.scratch / "nine.onnx", change)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    del model.graph.value_info[:]
    return _as(made, "onnx-fp32", model.SerializeToString())


def normalisation_dropped(made: Made) -> Artifact:
    mean, std = (np.asarray(each, np.float32).reshape(1, 3, 1, 1) for each in _normalisation(made))
    undone = prepend_onnx(made.file("onnx-int8"), made.scratch / "once.onnx", "Mul", std)
    return _as(made, "onnx-int8", _again(prepend_onnx, undone, "Add", mean))


def _normalisation(made: Made) -> tuple[tuple[float, ...], tuple[float, ...]]:
    (given,) = made.data.inputs
    assert given.mean is not None and given.std is not None
    return given.mean, given.std


def _again(step: Callable[..., Path], source: Path, operation: str, constant: Array) -> Path:
    model = onnx.load(source)
    for node in model.graph.node:  # names of the first step, out of the way of the second
        node.input[:] = [{"changed": "first", "extra0": "constant"}.get(name, name) for name in node.input]
        node.output[:] = ["first" if name == "changed" else name for name in node.output]
    for each in model.graph.initializer:
        each.name = "constant" if each.name == "extra0" else each.name
    source.write_bytes(model.SerializeToString())
    return step(source, source.with_name("twice.onnx"), operation, constant)


def channels_bgr(made: Made) -> Artifact:
    def change(constants: dict[str, Array]) -> None:
        name = "features.0.0.weight_quantized"
        constants[name] = np.ascontiguousarray(constants[name][:, ::-1])

    return _onnx(made, "onnx-int8", change)


def layout_transposed(made: Made) -> Artifact:
    return _as(made, "onnx-int8", prepend_onnx(made.file("onnx-int8"), made.scratch / "t.onnx", "Transpose", perm=[0, 1, 3, 2]))


def softmax_left_in(made: Made) -> Artifact:
    return _as(made, "onnx-int8", append_onnx(made.file("onnx-int8"), made.scratch / "softmax.onnx", "Softmax", axis=1))


def layer_zeroed(made: Made) -> Artifact:
    def change(model: Tflite) -> None:
        convolution = model.operators("CONV_2D")[1]
        model.put(convolution.inputs[1], np.zeros_like(model.values(convolution.inputs[1])))

    return _tflite(made, "tflite-int8", change)


def bias_dropped(made: Made) -> Artifact:
    def change(model: Tflite) -> None:
        convolution = model.operators("CONV_2D")[-1]
        model.put(convolution.inputs[2], np.zeros_like(model.values(convolution.inputs[2])))

    return _tflite(made, "tflite-int8", change)


def half_float_overflow(made: Made) -> Artifact:
    def change(model: Tflite) -> None:
        (dense,) = model.operators("FULLY_CONNECTED")
        (source,) = [each.inputs[0] for each in model.operators("DEQUANTIZE") if each.outputs[0] == dense.inputs[1]]
        values = model.values(source)
        values[0, :3] = np.inf
        model.put(source, values)

    return _tflite(made, "tflite-fp16", change)


def batch_norm_folded_wrong_before(made: Made) -> Artifact:
    def change(constants: dict[str, Array]) -> None:
        constants["features.1.0.weight"] *= np.float32(1.1)

    return _onnx(made, "onnx-fp32", change)


def batch_norm_folded_wrong_in_int8(made: Made) -> Artifact:
    def change(constants: dict[str, Array]) -> None:
        for name in ("features.1.0.weight_scale", "features.1.0.weight_bias_quantized_scale"):
            constants[name] *= np.float32(1.1)

    return _onnx(made, "onnx-int8", change)


def zero_point_off(made: Made) -> Artifact:
    model = onnx.load(made.file("onnx-int8"))
    (back,) = [each for each in model.graph.node if each.output[0] == "logits"]
    (right,) = [each for each in model.graph.initializer if each.name == back.input[2]]
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(right) - np.uint8(10), "wrong"))
    back.input[2] = "wrong"
    return _as(made, "onnx-int8", model.SerializeToString())


def scale_off(made: Made) -> Artifact:
    def change(model: Tflite) -> None:
        (dense,) = model.operators("FULLY_CONNECTED")
        for index in dense.inputs[1:3]:
            model.scale(index, 2.0)

    return _tflite(made, "tflite-int8", change)


def wrong_calibration_range(made: Made) -> Artifact:
    out = made.scratch / "narrow.onnx"
    quantize_onnx(str(made.file("onnx-fp32")), str(_calibration(made, 0.25)), str(out))
    return _as(made, "onnx-int8", out)


def file_from_another_run(made: Made) -> Artifact:
    model = onnx.load(made.file("onnx-fp32"))
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    return _as(made, "onnx-fp32", model.SerializeToString())


def clamp_that_no_photograph_reaches(made: Made) -> Artifact:
    reached = float(np.abs(np.load(made.student.test_logits)).max()) + 0.01
    model = onnx.load(append_onnx(made.file("onnx-fp32"), made.scratch / "clip.onnx", "Clip"))
    for name, bound in (("low", -reached), ("high", reached)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(bound, np.float32), name))
        model.graph.node[-1].input.append(name)
    return _as(made, "onnx-fp32", model.SerializeToString())


PLANTED = [
    quantization_skipped, half_of_the_weights_quantized, wrong_dtype, stale_file_of_another_training, empty_file, truncated_onnx,
    truncated_tflite, labels_swapped, one_class_dropped, one_output_missing, normalisation_dropped, channels_bgr,
    layout_transposed, softmax_left_in, layer_zeroed, bias_dropped, half_float_overflow, batch_norm_folded_wrong_before,
    batch_norm_folded_wrong_in_int8, zero_point_off, scale_off, wrong_calibration_range, file_from_another_run,
    clamp_that_no_photograph_reaches,
]  # fmt: skip


def _name(plant: Callable[[Made], Artifact]) -> str:
    return plant.__name__


@pytest.mark.parametrize("plant", PLANTED, ids=_name)
def test_a_planted_fault_is_caught(made: Made, plant: Callable[[Made], Artifact]) -> None:
    artifact = plant(made)
    try:
        missed = made.judged(made.student, artifact)
    except EdgekdError as error:
        assert isinstance(error, ExportError)
        return
    assert missed, "no gate was missed"


def test_a_description_with_mean_and_std_swapped_is_caught(made: Made) -> None:
    mean, std = _normalisation(made)
    given = replace(made.student.spec.inputs[0], mean=std, std=mean)
    student = replace(made.student, spec=replace(made.student.spec, inputs=(given,)), digest="swapped")
    assert made.judged(student, made.artifacts["tflite-int8"])


def test_a_description_with_another_order_of_labels_is_caught(made: Made) -> None:
    labels = made.data.classes
    wrong = replace(made.student.spec.outputs[0], labels=(labels[1], labels[0], *labels[2:]))
    student = replace(made.student, spec=replace(made.student.spec, outputs=(wrong,)))
    with pytest.raises(ExportError, match="output 0 is '1', class 0 is '0'"):
        made.judged(student, made.artifacts["onnx-fp32"])


def test_a_file_that_changed_after_it_was_made_is_caught(made: Made) -> None:
    artifact = made.artifacts["onnx-int8"]
    path = made.scratch / "changed.onnx"
    path.write_bytes(artifact.path.read_bytes()[:-1])
    with pytest.raises(ExportError, match="is not the file that was made"):
        made.judged(made.student, replace(artifact, path=path))
    with pytest.raises(ExportError, match="is not the file that was made"):
        made.judged(made.student, replace(artifact, path=made.scratch / "missing.onnx"))


def test_the_other_training_is_a_hard_case(made: Made) -> None:
    """It is about as accurate and mostly of the same opinion, so accuracy alone would let it pass."""
    mine, others = (np.load(each.test_logits) for each in (made.student, made.other))
    assert agreement(mine, others) > 0.9
    assert abs(made.student.metric.value - made.other.metric.value) < 0.03
