"""Detection without any runtime: the teacher is a function, so that what it really takes is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from edgekd.errors import ModelError, UsageError
from edgekd.models.adapter import Adapter, data_logits
from edgekd.models.detect import Described, _clearly_better, _Tried, detect, read_labels
from edgekd.models.tensors import TensorSpec, image_input
from edgekd.recipe import Preprocess

SPEC = image_input((4, 4, 1), (0.5,), (0.25,))
CLASSES = ("dark", "middle", "bright")
Score = Callable[[Tensor], Tensor]


def _images(classes: int = 3, each: int = 40) -> tuple[Tensor, Tensor]:
    """Return grey images in [0, 1] whose brightness is their class, and the classes."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(classes).repeat_interleave(each)
    brightness = (target.float() + 0.5) / classes
    images = brightness[:, None, None, None] + torch.randn(len(target), 1, 4, 4, generator=generator) * 0.05
    return images.clamp(0, 1), target


def _scores(images: Tensor, classes: int = 3) -> Tensor:
    """Score brightness in [0, 1]: right for that range and no other."""
    centres = (torch.arange(classes).float() + 0.5) / classes
    return -40 * (images.reshape(len(images), -1).mean(1)[:, None] - centres) ** 2


def _described(shape: list[int | None], **more: Any) -> Described:
    dtype = more.pop("dtype", "float32")
    return Described("onnx:m.onnx", [{"name": "x", "shape": shape, "dtype": dtype, "scale": None}], [{"name": "y"}], **more)


def _detect(
    described: Described, score: Score, options: Preprocess | None = None, labels: tuple[str, ...] | None = None,
    classes: tuple[str, ...] = CLASSES, samples: tuple[Tensor, Tensor] | None = None,
) -> Adapter:  # fmt: skip
    images, target = samples or _images(len(classes))
    inputs = {"image": (images - 0.5) / 0.25}
    return detect(
        described, options or Preprocess(), labels, (SPEC,), classes, lambda given: {"y": score(given["x"])}, inputs, target
    )


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0, 1, "values 0 to 1 (best of 4 tried)"), (-1, 1, "values -1 to 1 (best of 4 tried)"), (0, 255, "values 0 to 255"),
     (-2, 2, "values 0 to 1, then mean 0.5 and std 0.25 (best of 4 tried)")],
)  # fmt: skip
def test_the_value_range_is_found_by_trying(low: float, high: float, said: str) -> None:
    classes = ("black", "dark", "middle", "bright", "white")  # enough of them to be wrong about
    adapter = _detect(_described([1, 4, 4]), lambda x: _scores((x - low) / (high - low), 5), classes=classes)
    assert said in "; ".join(adapter.notes)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ([1, 4, 4], "NCHW", "NCHW"), ([4, 4, 1], "NCHW", "NHWC"), ([1, 4, 4], "NHWC", "NCHW"), ([4, 4, 1], "NHWC", "NHWC"),
        ([None, None, None], "NHWC", "NHWC"), ([None, None, None], "NCHW", "NCHW"), ([None, None, 3], "NCHW", "NHWC"),
        ([3, None, None], "NHWC", "NCHW"),
    ],
)  # fmt: skip
def test_the_layout_is_where_the_channels_are(shape: list[int | None], layout: str, expected: str) -> None:
    adapter = _detect(_described(shape, layout=layout), _scores)
    assert adapter.layout == expected
    assert adapter.notes[0] == expected


def test_what_the_recipe_or_the_model_tells_is_taken() -> None:
    told = _described([1, 4, 4], value_range=(0.0, 255.0))
    assert "values 0 to 255 (as told)" in _detect(told, _scores).notes
    options = Preprocess(value_range=(0.0, 1.0), mean=(0.25,), std=(0.5,), layout="NHWC", outputs="logits")
    adapter = _detect(_described([None, None, None], mean=(0.9,), std=(0.9,)), _scores, options)
    assert (adapter.layout, adapter.value_range, adapter.mean, adapter.std) == ("NHWC", (0.0, 1.0), (0.25,), (0.5,))
    assert "values 0 to 255 (as told)" in _detect(_described([1, 4, 4], dtype="uint8"), _scores).notes


@pytest.mark.parametrize(("low", "high", "said"), [(0, 1, "0 to 1 "), (0, 255, "0 to 255"), (-2, 2, "0 to 1, then mean 0.5")])
def test_a_teacher_with_classes_in_another_order_is_fed_rightly(low: float, high: float, said: str) -> None:
    """Its outputs stay as they are: that their order is wrong is told by the teacher's check, which can be turned off."""

    def score(x: Tensor) -> Tensor:
        return _scores((x - low) / (high - low))[:, [1, 2, 0]]

    adapter = _detect(_described([1, 4, 4]), score)
    assert any(note.startswith(f"values {said}") for note in adapter.notes)
    assert adapter.columns is None


def test_a_way_that_is_right_as_it_is_wins_over_one_that_would_be_with_classes_exchanged() -> None:
    """Fed with values 0 to 1 this teacher is wrong throughout, with values -1 to 1 right throughout."""

    def score(x: Tensor) -> Tensor:
        fine = bool(x.amin() < -0.5)
        scores = _scores((x + 1) / 2 if fine else x.clamp(0, 1), 2)
        return scores if fine else scores.flip(1)

    samples = _images(2)
    own = replace(SPEC, mean=(0.0,), std=(1.0,))
    adapter = detect(
        _described([1, 4, 4]), Preprocess(), None, (own,), ("dark", "bright"), lambda given: {"y": score(given["x"])},
        {"image": samples[0]}, samples[1],
    )  # fmt: skip
    assert adapter.value_range == (-1.0, 1.0)


def test_a_poor_teacher_of_many_classes_is_no_matter_of_order() -> None:
    """With an order of outputs fitted to the very samples that judge it, 64 samples of 60 classes look right."""
    count, classes = 64, 60
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (count,), generator=generator)
    said = torch.nn.functional.one_hot(torch.randint(classes, (count,), generator=generator), classes).float()
    confusion = torch.zeros(classes, classes).index_put_((said.argmax(1), target), torch.ones(count), accumulate=True)
    rows, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    assert confusion[rows, columns].sum() / count > 0.5
    samples = torch.rand(count, 1, 4, 4, generator=generator), target
    names = tuple(map(str, range(classes)))
    adapter = _detect(_described([1, 4, 4]), lambda _: said, classes=names, samples=samples)
    assert "values 0 to 1, then mean 0.5 and std 0.25 (best of 4 tried)" in adapter.notes


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_two_unequal_classes_are_not_taken_for_swapped_ones(low: float, high: float) -> None:
    """Fed with a wrong value range, this teacher says the rare class throughout: matching would give it 80 %."""
    images, target = _images(2)
    kept = torch.cat([torch.arange(40), torch.arange(40, 50)])
    samples = images[kept], target[kept]

    def score(x: Tensor) -> Tensor:
        scaled = (x - low) / (high - low)
        fine = bool((scaled.amin() >= -0.01) and (scaled.amax() <= 1.01))
        return _scores(scaled, 2) if fine else torch.tensor([[0.0, 9.0]]).expand(len(x), 2)

    adapter = _detect(_described([1, 4, 4]), score, classes=("dark", "bright"), samples=samples)
    assert adapter.value_range == (float(low), float(high))


def test_a_teacher_that_knows_nothing_is_no_matter_of_order() -> None:
    generator = torch.Generator().manual_seed(1)
    adapter = _detect(_described([1, 4, 4]), lambda x: torch.randn(len(x), 3, generator=generator))
    assert adapter.columns is None


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (("dark", "middle", "bright"), None),
        (("Bright", "DARK", "mid-dle "), (1, None, 0)),
        (("bright", "dark", "middle"), (1, 2, 0)),
        (("sky", "bright", "sea", "dark", "middle"), (3, 4, 1)),
    ],
)
def test_classes_are_mapped_by_name(labels: tuple[str, ...], columns: tuple[int, ...] | None) -> None:
    order = [CLASSES.index(each) if each in CLASSES else 0 for each in labels]
    if columns is not None and None in columns:
        with pytest.raises(ModelError, match="no output for 1 of the 3 classes of the data: middle"):
            _detect(_described([1, 4, 4]), lambda x: _scores(x)[:, order], labels=labels)
        return
    for adapter in (
        _detect(_described([1, 4, 4]), lambda x: _scores(x)[:, order], labels=labels),
        _detect(_described([1, 4, 4], labels=labels), lambda x: _scores(x)[:, order]),
    ):
        assert adapter.columns == columns
        images, _ = _images()
        assert torch.equal(data_logits(adapter, _scores(images)[:, order]), _scores(images))


def test_names_differ_in_case_spaces_and_dashes_only() -> None:
    labels = ("Traffic_Light", "stop-sign ", "  cat")
    adapter = _detect(_described([1, 4, 4]), _scores, labels=labels, classes=("traffic light", "stop sign", "Cat"))
    assert adapter.columns is None


def test_labels_that_say_nothing_are_the_datas_order() -> None:
    generic = ("LABEL_0", "LABEL_1", "LABEL_2")
    adapter = _detect(_described([1, 4, 4], labels=generic), _scores)
    assert any("assumed: its labels are LABEL_0" in note for note in adapter.notes)
    with pytest.raises(ModelError, match="no output for 2 of the 2 classes"):
        _detect(_described([1, 4, 4], labels=generic), _scores, classes=("a", "b"))


@pytest.mark.parametrize("width", [1, 2, 4, 12])
def test_another_number_of_classes_without_labels_is_refused(width: int) -> None:
    with pytest.raises(ModelError, match=f"has {width} outputs, the data 3 classes: which is which is not known") as error:
        _detect(_described([1, 4, 4]), lambda x: torch.zeros(len(x), width))
    assert "teacher.labels" in str(error.value.hint)


def test_a_number_of_labels_that_does_not_fit_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="has 3 outputs, but 2 labels are given"):
        _detect(_described([1, 4, 4]), _scores, labels=("a", "b"))


def test_outputs_that_are_probabilities_are_recognised() -> None:
    assert _detect(_described([1, 4, 4]), lambda x: _scores(x).softmax(1)).probabilities
    assert not _detect(_described([1, 4, 4]), _scores).probabilities
    assert not _detect(_described([1, 4, 4]), lambda x: _scores(x).log_softmax(1)).probabilities
    step = 1 / 256
    quantized = Described("tflite:m.tflite", [{"name": "x", "shape": [4, 4, 1], "dtype": "float32", "scale": None}],
                          [{"name": "y", "scale": step}], layout="NHWC")  # fmt: skip
    adapter = _detect(quantized, lambda x: (_scores(x).softmax(1) / step).round() * step)
    assert adapter.probabilities
    assert adapter.floor == step / 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([5, 4, 4], "takes \\[5, 4, 4\\], which is no image of 1 or 3 channels"),
        ([17], "takes \\[17\\], the data is images of 4x4x1"),
        ([None], "takes \\[any\\], the data is images of 4x4x1"),
        ([2, 1, 4, 4], "takes \\[2, 1, 4, 4\\]"),
        ([], "takes \\[\\]"),
    ],
)
def test_shapes_that_do_not_fit_are_one_clear_line(shape: list[int | None], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        _detect(_described(shape), _scores)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_more_than_one_input_is_refused_for_images() -> None:
    described = Described("onnx:m.onnx", [{"name": n, "shape": [1, 4, 4], "dtype": "float32"} for n in ("a", "b")], [])
    with pytest.raises(ModelError, match=r"has 2 inputs \(a, b\), the data is one image"):
        _detect(described, _scores)


def test_images_take_the_size_and_channels_of_the_teacher() -> None:
    adapter = _detect(_described([3, 8, 6]), _scores)
    assert (adapter.size, adapter.channels) == ((8, 6), 3)
    assert "images resized from 4x4 to 8x6" in adapter.notes
    assert "grey repeated to 3 channels" in adapter.notes
    assert _detect(_described([None, None, None], size=(5, 5)), _scores).size == (5, 5)


TOKENS = (
    TensorSpec("input_ids", "int32", (6,), "NC", "tokens", vocabulary=20),
    TensorSpec("attention_mask", "int32", (6,), "NC", "mask"),
)


def _detect_text(names: list[str], length: int | None = None) -> tuple[Adapter, set[str]]:
    seen: set[str] = set()

    def run(given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.update(given)
        ids = given[next(name for name in names if "id" in name and "type" not in name)]
        return {"y": torch.nn.functional.one_hot(ids[:, 0].long() % 2, 2).float() * 9}

    target = torch.arange(40) % 2
    inputs = {"input_ids": target[:, None].repeat(1, 6).int(), "attention_mask": torch.ones(40, 6, dtype=torch.int32)}
    described = Described(
        "onnx:m.onnx", [{"name": name, "shape": [length], "dtype": "int64"} for name in names], [{"name": "y"}]
    )
    return detect(described, Preprocess(), None, TOKENS, ("a", "b"), run, inputs, target), seen


@pytest.mark.parametrize(
    "names",
    [["input_ids"], ["input_ids", "attention_mask"], ["input_ids", "attention_mask", "token_type_ids"],
     ["segment_ids", "input_mask", "input_word_ids"]],
)  # fmt: skip
def test_texts_are_fed_by_the_names_of_inputs(names: list[str]) -> None:
    adapter, seen = _detect_text(names)
    assert seen == set(names)
    assert f"inputs {', '.join(names)}" in adapter.notes


def test_texts_that_do_not_fit_are_one_clear_line() -> None:
    with pytest.raises(ModelError, match="takes 128 tokens, the data has 6") as error:
        _detect_text(["input_ids"], 128)
    assert error.value.hint == "set data.max_tokens=128"
    with pytest.raises(ModelError, match="has the inputs input_ids, other_ids; expected are token indices"):
        _detect_text(["input_ids", "other_ids"])


@pytest.mark.parametrize("normalised", [True, False])
def test_rows_of_features_are_tried_normalised_and_plain(normalised: bool) -> None:
    spec = TensorSpec("features", "float32", (2,), "NC", "features", None, (100.0, 0.0), (10.0, 1.0))
    rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 1]) + torch.tensor([100.0, 0])
    target = (rows[:, 0] > 100).long()

    def run(given: dict[str, Tensor]) -> dict[str, Tensor]:
        value = given["x"][:, 0] if normalised else (given["x"][:, 0] - 100) / 10
        return {"y": torch.stack([-value, value], 1) * 5}

    described = Described("onnx:m.onnx", [{"name": "x", "shape": [2], "dtype": "float32"}], [{"name": "y"}])
    inputs = {"features": (rows - torch.tensor([100.0, 0])) / torch.tensor([10.0, 1])}
    adapter = detect(described, Preprocess(), None, (spec,), ("a", "b"), run, inputs, target)
    assert (adapter.mean is not None) == normalised
    wrong = Described("onnx:m.onnx", [{"name": "x", "shape": [3], "dtype": "float32"}], [{"name": "y"}])
    with pytest.raises(ModelError, match=r"takes \[3\], the data is rows of 2 columns"):
        detect(wrong, Preprocess(), None, (spec,), ("a", "b"), run, inputs, target)


def test_nan_outputs_do_not_break_it() -> None:
    adapter = _detect(_described([1, 4, 4]), lambda x: torch.where(x.amax() > 1.5, torch.nan, 1.0) * _scores(x))
    assert adapter.value_range == (0.0, 1.0)


def test_files_of_labels_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\n\r\n dog \ngroße Eule\n".encode())
    assert read_labels(path) == ("cat", "dog", "große Eule")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00cat", "is not UTF-8 text"), (b"cat\ndog\nCat\n", "names 'Cat' twice"), (None, "cannot read labels file")],
)
def test_bad_files_of_labels_are_one_clear_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_labels(path)
    assert "\n" not in error.value.message


def test_detection_is_a_function_of_its_samples() -> None:
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.normal(size=(1, 3)).astype(np.float32))
    first, second = (_detect(_described([1, 4, 4]), lambda x: _scores(x) + noise) for _ in range(2))
    assert first == second
    assert first.notes == second.notes


def _tried(right: list[bool], losses: Tensor) -> _Tried:
    return _Tried("", Adapter({}), "", torch.tensor(right), losses.double())


def test_a_later_way_must_be_better_by_more_than_luck() -> None:
    """A teacher of CIFAR images was right on a few more of 512 samples under ImageNet's normalisation than under its own."""
    usual = _tried([True] * 300 + [False] * 212, torch.ones(512))
    lucky = _tried([True] * 305 + [False] * 207, torch.ones(512))
    noisy = _tried([True] * 305 + [False] * 207, 1 + torch.randn(512, generator=torch.Generator().manual_seed(0)))
    better = _tried([True] * 320 + [False] * 192, torch.ones(512))
    surer = _tried([True] * 300 + [False] * 212, torch.ones(512) - 0.1)
    assert not _clearly_better(usual, usual)
    assert not _clearly_better(lucky, usual)  # five of five: p = 0.0625
    assert not _clearly_better(noisy, usual)
    assert _clearly_better(better, usual)
    assert not _clearly_better(usual, better)
    assert _clearly_better(surer, usual)
    assert not _clearly_better(usual, surer)
