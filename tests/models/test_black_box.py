"""Black boxes in their own runtimes: every disguise of one classifier gives its logits again, and says what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edgekd.errors import EdgekdError, ModelError, UsageError
from edgekd.models.adapter import Adapter, adapter_from_json, data_logits, teacher_inputs
from edgekd.models.detect import detect
from edgekd.models.pretrained import open_pretrained
from edgekd.models.tensors import TensorSpec, image_input
from edgekd.recipe import TeacherMember
from edgekd.safe.child import run_in_child
from tests.models.disguises import Onnx, digits, logits, weights
from tests.safe.hostile import mutants

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Images in [0, 1], their classes, and how a student takes them."""

    images: NDArray[np.float32]
    target: NDArray[np.int64]
    classes: tuple[str, ...]
    spec: TensorSpec

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        assert self.spec.mean is not None
        assert self.spec.std is not None
        mean, std = (np.asarray(each, np.float32).reshape(1, -1, 1, 1) for each in (self.spec.mean, self.spec.std))
        return {"image": torch.from_numpy((self.images - mean) / std)}


@pytest.fixture(scope="module")
def samples() -> Samples:
    images, target = digits()
    return Samples(images, target, CLASSES, image_input((8, 8, 1), (0.3053,), (0.3761,)))


@pytest.fixture(scope="module")
def expected(samples: Samples) -> Logits:
    return logits(weights(), samples.images)


def teach(
    reference: str, samples: Samples, log: Path, labels: tuple[str, ...] | None = None, allow_code: bool = False, **options: Any
) -> tuple[Adapter, Logits]:
    """Open a teacher, find out how to feed it on 512 samples, and return its logits on all of them."""
    member = TeacherMember.model_validate({"model": reference, "preprocess": options})
    specs = (samples.spec,)
    with open_pretrained(member, specs, labels or samples.classes, log, allow_code) as opened:
        some = np.linspace(0, len(samples.target) - 1, 512).round().astype(np.int64)
        shown = {name: each[some] for name, each in samples.inputs.items()}
        adapter = detect(
            opened.described,
            member.preprocess,
            labels,
            specs,
            samples.classes,
            opened.run,
            shown,
            torch.from_numpy(samples.target[some]),
        )
        again = adapter_from_json(adapter.to_json())
        assert again == adapter
        answer = opened.run(teacher_inputs(again, samples.inputs, specs))
        return adapter, data_logits(again, answer[again.output]).numpy()


def centred(rows: Logits) -> Logits:
    """Take off what no softmax sees: a constant per row."""
    result: Logits = rows - rows.mean(1, keepdims=True)
    return result


@pytest.mark.parametrize(
    ("name", "tolerance", "notes"),
    [
        ("nchw", 1e-4, ["NCHW", "float32 input", "values 0 to 1 (best of 4 tried)", "outputs are logits", "data's order (assumed"]),
        ("nhwc", 1e-4, ["NHWC", "values 0 to 1"]),
        ("fixed1", 1e-4, ["NCHW"]),
        ("fixed7", 1e-4, ["NCHW"]),
        ("softmax", 1e-2, ["outputs are probabilities, their logarithms are used"]),
        ("log_softmax", 1e-4, ["outputs are logits"]),
        ("uint8", 0.3, ["NHWC", "uint8 input", "values 0 to 255 (as told)"]),
        ("range255", 1e-3, ["values 0 to 255 (best of 4 tried)"]),
        ("signed", 1e-4, ["values -1 to 1 (best of 4 tried)"]),
        (
            "imagenet", 1e-3,
            ["grey repeated to 3 channels", "ImageNet's mean 0.485/0.456/0.406 and std 0.229/0.224/0.225 (best of 5 tried)"],
        ),
        ("two_outputs", 1e-4, ["outputs are logits"]),
        ("logits_and_probs", 1e-4, ["outputs are logits"]),
        ("flat", 1e-4, ["images as [64]"]),
        ("matrix", 1e-4, ["images as [8, 8]"]),
        ("double", 1e-4, ["float64 input"]),
        ("half_softmax", None, ["float16 input", "outputs are probabilities"]),
        ("label_output", 1e-4, ["outputs are logits"]),
    ],
)  # fmt: skip
def test_every_onnx_disguise_gives_the_same_logits_and_says_what_it_is(
    name: str, tolerance: float | None, notes: list[str], onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    adapter, found = teach(f"onnx:{onnx_models / name}.onnx", samples, tmp_path / "log")
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= (1 if name not in {"uint8", "half_softmax"} else 0.995)
    if tolerance is not None:
        assert np.abs(centred(found) - centred(expected)).max() < tolerance
    said = "; ".join(adapter.notes)
    for note in notes:
        assert note in said


def test_images_are_resized_to_what_the_teacher_takes(
    onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    adapter, found = teach(f"onnx:{onnx_models / 'large.onnx'}", samples, tmp_path / "log")
    assert "images resized from 8x8 to 16x16" in adapter.notes
    assert (found.argmax(1) == samples.target).mean() > 0.9


def test_permuted_classes_stay_as_they_are_without_names_and_are_mapped_with_them(
    onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    reference = f"onnx:{onnx_models / 'permuted.onnx'}"
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    plain, _ = teach(f"onnx:{onnx_models / 'nchw.onnx'}", samples, tmp_path / "log")
    adapter, found = teach(reference, samples, tmp_path / "log")
    assert "classes in the data's order (assumed: it names none)" in adapter.notes
    assert (adapter.value_range, adapter.mean, adapter.std) == (plain.value_range, plain.mean, plain.std)
    assert np.abs(found - expected[:, order]).max() < 1e-4
    labels = tuple(CLASSES[each].upper() + " " for each in order)  # case and spaces do not matter
    adapter, found = teach(reference, samples, tmp_path / "log", labels)
    assert "classes reordered by name" in adapter.notes
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("name", ["superset", "superset_softmax"])
def test_a_superset_of_the_classes_is_mapped_by_name(
    name: str, onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    reference = f"onnx:{onnx_models / name}.onnx"
    with pytest.raises(ModelError, match="has 12 outputs, the data 10 classes: which is which is not known") as error:
        teach(reference, samples, tmp_path / "log")
    assert "teacher.labels" in str(error.value.hint)
    labels = ("letter a", "letter b", *(CLASSES[each] for each in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)))
    adapter, found = teach(reference, samples, tmp_path / "log", labels)
    assert "10 of its 12 classes, by name" in adapter.notes
    assert np.abs(centred(found) - centred(expected)).max() < 1e-2
    with pytest.raises(ModelError, match="no output for 1 of the 10 classes of the data: nine; did you mean 'nines'"):
        teach(reference, samples, tmp_path / "log", tuple("nines" if each == "nine" else each for each in labels))
    with pytest.raises(UsageError, match="has 12 outputs, but 10 labels are given"):
        teach(reference, samples, tmp_path / "log", CLASSES)


def _two(samples: Samples, classes: tuple[str, str] = ("zero", "one")) -> Samples:
    chosen = samples.target < 2
    return Samples(samples.images[chosen], samples.target[chosen], classes, samples.spec)


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_logit"])
def test_one_output_for_two_classes(name: str, onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path) -> None:
    two = _two(samples)
    adapter, found = teach(f"onnx:{onnx_models / name}.onnx", two, tmp_path / "log")
    assert "one output for two classes" in adapter.notes
    assert ("outputs are probabilities, their logarithms are used" in adapter.notes) == (name == "sigmoid")
    assert np.abs(centred(found) - centred(expected[samples.target < 2][:, :2])).max() < (0.2 if name == "sigmoid" else 1e-4)


@pytest.mark.parametrize("name", ["sigmoid_reversed", "sigmoid_reversed_logit"])
def test_one_output_that_stands_for_the_first_class(
    name: str, onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    two, reference = _two(samples), f"onnx:{onnx_models / name}.onnx"
    _, wrong = teach(reference, two, tmp_path / "log")
    assert np.abs(centred(wrong) + centred(expected[samples.target < 2][:, :2])).max() < 0.2
    _, found = teach(reference, two, tmp_path / "log", ("one", "zero"))
    assert np.abs(centred(found) - centred(expected[samples.target < 2][:, :2])).max() < 0.2


def test_what_the_recipe_says_is_taken_and_not_tried(
    onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path
) -> None:
    # Fed with (x - 0.2) / 0.7, which no one would guess.
    told: dict[str, Any] = {"value_range": (0.0, 1.0), "mean": (0.2,), "std": (0.7,)}
    adapter, found = teach(f"onnx:{onnx_models / 'oddnorm.onnx'}", samples, tmp_path / "log", **told)
    assert "values 0 to 1, then mean 0.2 and std 0.7 (as told)" in adapter.notes
    assert np.abs(found - expected).max() < 1e-4
    with pytest.raises(UsageError, match=r"takes 1 channel\(s\), but mean and std are given for 3"):
        teach(f"onnx:{onnx_models / 'oddnorm.onnx'}", samples, tmp_path / "log", mean=(0.2,) * 3, std=(0.7,) * 3)


def test_one_of_several_outputs_can_be_named(onnx_models: Path, samples: Samples, expected: Logits, tmp_path: Path) -> None:
    reference = f"onnx:{onnx_models / 'unclear.onnx'}"
    with pytest.raises(ModelError, match=r"several outputs: a \[10\], b \[10\]") as error:
        teach(reference, samples, tmp_path / "log")
    assert "teacher.preprocess.output" in str(error.value.hint)
    adapter, found = teach(reference, samples, tmp_path / "log", output="b")
    assert adapter.probabilities
    assert np.abs(centred(found) - centred(expected)).max() < 1e-2
    with pytest.raises(UsageError, match="has no output 'c'") as usage:
        teach(reference, samples, tmp_path / "log", output="c")
    assert "a [10], b [10]" in str(usage.value.hint)


def test_outputs_can_be_told_to_be_what_they_do_not_look_like(onnx_models: Path, samples: Samples, tmp_path: Path) -> None:
    adapter, found = teach(f"onnx:{onnx_models / 'softmax.onnx'}", samples, tmp_path / "log", outputs="logits")
    assert not adapter.probabilities
    assert found.min() >= 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Onnx(("n", 4, 8, 8)).step("ReduceMean", np.asarray([1]), keepdims=1).classify(weights()), "takes \\[4, 8, 8\\]"),
        (
            Onnx(("n", 100)).step("Gemm", np.ones((10, 100), np.float32), transB=1),
            "takes \\[100\\], the data is images of 8x8x1",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_one_clear_line(model: Onnx, message: str, samples: Samples, tmp_path: Path) -> None:
    path = model.output("scores", ("n", 10)).save(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message) as error:
        teach(f"onnx:{path}", samples, tmp_path / "log")
    assert "\n" not in error.value.message


def test_a_model_of_texts_is_refused(samples: Samples, tmp_path: Path) -> None:
    model = Onnx(("n", 1), onnx.TensorProto.STRING).step("Identity").output("scores", ("n", 1), onnx.TensorProto.STRING)
    with pytest.raises(ModelError, match=r"takes tensor\(string\) as 'pixels', not numbers"):
        teach(f"onnx:{model.save(tmp_path / 'm.onnx')}", samples, tmp_path / "log")


def test_a_batch_the_model_cannot_run_is_one_clear_line(samples: Samples, tmp_path: Path) -> None:
    model = Onnx(("n", 1, 8, 8)).step("Reshape", np.asarray([3, 64])).step("Gemm", np.ones((10, 64), np.float32), transB=1)
    path = model.output("scores", (3, 10)).save(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m.onnx failed on pixels \[2, 1, 8, 8\]: ") as error:
        teach(f"onnx:{path}", samples, tmp_path / "log")
    assert "\n" not in error.value.message


def test_an_export_of_pytorch_with_a_batch_of_one(samples: Samples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 10)
    network = torch.nn.Sequential(torch.nn.Flatten(), dense).eval()
    with torch.no_grad():
        images, target = digits()
        dense.weight.copy_(torch.from_numpy(np.stack([8 * (images[target == each].mean(0).ravel() - images.mean(0).ravel())
                                                           for each in range(10)])))  # fmt: skip
    program = torch.onnx.export(network, (torch.zeros(1, 1, 8, 8),), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "m.onnx"))
    adapter, found = teach(f"onnx:{tmp_path / 'm.onnx'}", samples, tmp_path / "log", value_range=(0.0, 1.0))
    with torch.no_grad():
        expected = network(torch.from_numpy(samples.images)).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert adapter.layout == "NCHW"


@pytest.mark.parametrize(
    ("name", "tolerance", "notes"),
    [
        ("keras:model.keras", 1e-3, ["NHWC", "float32 input", "values 0 to 1", "outputs are logits"]),
        ("keras:model.h5", 1e-3, ["NHWC"]),
        ("keras:saved_model", 1e-3, ["NHWC"]),
        ("keras:probabilities.keras", 2e-2, ["outputs are probabilities, their logarithms are used"]),
        ("tflite:model.tflite", 1e-3, ["NHWC", "float32 input"]),
        ("tflite:int8.tflite", 0.5, ["NHWC", "int8 input (quantized)", "values 0 to 1", "outputs are logits"]),
        ("tflite:uint8_softmax.tflite", None, ["uint8 input (quantized)", "outputs are probabilities"]),
    ],
)
def test_keras_and_tflite_give_the_same_logits_and_say_what_they_are(
    name: str,
    tolerance: float | None,
    notes: list[str],
    framework_models: Path,
    samples: Samples,
    expected: Logits,
    tmp_path: Path,
) -> None:
    kind, _, file = name.partition(":")
    adapter, found = teach(f"{kind}:{framework_models / file}", samples, tmp_path / "log")
    assert (found.argmax(1) == expected.argmax(1)).mean() >= (0.98 if "int8" in name else 1)
    if tolerance is not None:
        # Eight bits are coarse for the few images on which a layer saturates.
        assert np.quantile(np.abs(centred(found) - centred(expected)), 0.9 if "int8" in name else 1) < tolerance
    assert np.isfinite(found).all()
    said = "; ".join(adapter.notes)
    for note in notes:
        assert note in said


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "count"), [("onnx", "nchw.onnx", 200), ("tflite", "int8.tflite", 100),
                                                     ("keras", "model.keras", 40), ("keras", "model.h5", 40)])  # fmt: skip
def test_mutants_are_refused_or_run_and_never_harm_the_parent(
    kind: str, name: str, count: int, onnx_models: Path, framework_models: Path, tmp_path: Path
) -> None:
    good = (onnx_models if kind == "onnx" else framework_models) / name
    waiting = []
    for index, broken in enumerate(mutants(good.read_bytes(), count, seed=6)):
        waiting.append(tmp_path / f"{index:03}{good.suffix}")
        waiting[-1].write_bytes(broken)
    progress, refused, crashed = tmp_path / "progress", 0, 0
    while waiting:
        arguments = {"kind": kind, "paths": [str(each) for each in waiting], "progress": str(progress)}
        try:
            found = run_in_child("tests.models.opener:open_all", arguments, log=tmp_path / "log")
        except EdgekdError as error:
            # A runtime crashed on one of them. That is an error message here, and the rest is still to be opened.
            assert "crashed" in error.message or "killed" in error.message
            crashed += 1
            waiting = waiting[int(progress.read_text()) + 1 :]
            continue
        assert found["others"] == []
        refused += found["refused"]
        break
    assert refused > count / 4
    assert crashed < count / 20
