"""From what a student takes to what a teacher takes, against Pillow and closed forms; and from its output to logits."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from edgekd.models.adapter import Adapter, adapter_from_json, data_logits, teacher_inputs
from edgekd.models.tensors import TensorSpec, image_input

GREY = image_input((8, 8, 1), (0.3,), (0.2,))
COLOUR = image_input((6, 4, 3), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
PIXELS = {"image": "pixels"}


def _normalised(images: Tensor, spec: TensorSpec) -> dict[str, Tensor]:
    assert spec.mean is not None
    assert spec.std is not None
    mean, std = torch.tensor(spec.mean).view(1, -1, 1, 1), torch.tensor(spec.std).view(1, -1, 1, 1)
    return {"image": (images - mean) / std}


def _fed(adapter: Adapter, images: Tensor, spec: TensorSpec) -> Tensor:
    return teacher_inputs(adapter, _normalised(images, spec), (spec,))["pixels"]


def test_the_students_normalisation_is_undone_and_the_teachers_is_done() -> None:
    images = torch.rand(5, 3, 6, 4)
    assert torch.allclose(_fed(Adapter(PIXELS, layout="NCHW", channels=3), images, COLOUR), images, atol=1e-6)
    scaled = _fed(Adapter(PIXELS, layout="NCHW", channels=3, value_range=(-1, 1)), images, COLOUR)
    assert torch.allclose(scaled, images * 2 - 1, atol=1e-6)
    adapter = Adapter(PIXELS, layout="NCHW", channels=3, value_range=(0, 255), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    expected = (images * 255 - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([4.0, 5, 6]).view(3, 1, 1)
    assert torch.allclose(_fed(adapter, images, COLOUR), expected, atol=1e-4)


def test_layouts_and_flat_images_keep_every_pixel_in_its_place() -> None:
    images = torch.rand(2, 3, 6, 4)
    rows = _fed(Adapter(PIXELS, layout="NHWC", channels=3), images, COLOUR)
    assert rows.shape == (2, 6, 4, 3)
    assert torch.allclose(rows[1, 5, 2], images[1, :, 5, 2], atol=1e-6)
    for layout, order in (("NHWC", (0, 2, 3, 1)), ("NCHW", (0, 1, 2, 3))):
        flat = _fed(Adapter(PIXELS, layout=layout, channels=3, shape=(72,)), images, COLOUR)
        assert torch.allclose(flat, images.permute(order).reshape(2, 72), atol=1e-6)


def test_colour_becomes_grey_as_pillow_does_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    found = _fed(Adapter(PIXELS, layout="NCHW", channels=1, value_range=(0, 255)), images, COLOUR)
    expected = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    assert np.abs(found[0, 0].numpy() - expected).max() <= 1


def test_grey_becomes_colour_by_repeating() -> None:
    images = torch.rand(2, 1, 8, 8)
    found = _fed(Adapter(PIXELS, layout="NCHW", channels=3), images, GREY)
    assert torch.allclose(found, images.expand(2, 3, 8, 8), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (5, 9), (32, 8)])
def test_images_are_resized_as_pillow_does_it(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).random((8, 8), np.float32)
    found = _fed(Adapter(PIXELS, layout="NCHW", channels=1, size=size), torch.from_numpy(pixels)[None, None], GREY)
    expected = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-4


def test_rows_of_features_are_normalised_by_column() -> None:
    spec = TensorSpec("features", "float32", (3,), "NC", "features", None, (1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
    rows = torch.rand(4, 3) * 10
    given = {"features": (rows - torch.tensor([1.0, 2, 3])) / 2}
    assert torch.allclose(teacher_inputs(Adapter({"features": "x"}), given, (spec,))["x"], rows, atol=1e-5)
    own = Adapter({"features": "x"}, mean=(0.0, 0.0, 5.0), std=(1.0, 2.0, 4.0))
    expected = (rows - torch.tensor([0.0, 0, 5])) / torch.tensor([1.0, 2, 4])
    assert torch.allclose(teacher_inputs(own, given, (spec,))["x"], expected, atol=1e-5)


def test_tokens_pass_unchanged_and_token_types_are_zeros() -> None:
    tokens = TensorSpec("input_ids", "int32", (5,), "NC", "tokens", vocabulary=9)
    mask = TensorSpec("attention_mask", "int32", (5,), "NC", "mask")
    given = {"input_ids": torch.randint(9, (2, 5), dtype=torch.int32), "attention_mask": torch.ones(2, 5, dtype=torch.int32)}
    adapter = Adapter({"input_ids": "ids", "attention_mask": "mask"}, zeros=("token_type_ids",))
    found = teacher_inputs(adapter, given, (tokens, mask))
    assert torch.equal(found["ids"], given["input_ids"])
    assert torch.equal(found["mask"], given["attention_mask"])
    assert torch.equal(found["token_type_ids"], torch.zeros(2, 5, dtype=torch.int32))
    assert set(teacher_inputs(Adapter({"input_ids": "ids"}), given, (tokens, mask))) == {"ids"}


@given(st.integers(2, 9), st.integers(0, 100), st.randoms(use_true_random=False))
def test_logs_of_probabilities_are_the_logits_up_to_a_constant(classes: int, seed: int, random: object) -> None:
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(seed)) * 5
    found = data_logits(Adapter(PIXELS, probabilities=True), logits.softmax(1))
    assert torch.allclose(found.softmax(1), logits.softmax(1), atol=1e-6)
    assert torch.allclose(found - found.mean(1, keepdim=True), logits - logits.mean(1, keepdim=True), atol=1e-3)


def test_a_subset_of_classes_keeps_its_odds() -> None:
    logits = torch.randn(6, 5)
    for adapter, output in (
        (Adapter(PIXELS, columns=(4, 0)), logits),
        (Adapter(PIXELS, columns=(4, 0), probabilities=True), logits.softmax(1)),
    ):
        assert torch.allclose(data_logits(adapter, output).softmax(1), logits[:, [4, 0]].softmax(1), atol=1e-5)


def test_one_output_for_two_classes() -> None:
    score = torch.linspace(-12, 12, 9)[:, None]
    both = torch.cat([torch.zeros_like(score), score], 1)
    assert torch.equal(data_logits(Adapter(PIXELS, single=True), score), both)
    found = data_logits(Adapter(PIXELS, single=True, probabilities=True), score.sigmoid())
    assert torch.allclose(found.softmax(1), both.softmax(1), atol=1e-6)
    turned = data_logits(Adapter(PIXELS, single=True, columns=(1, 0)), score)
    assert torch.equal(turned, both.flip(1))


@pytest.mark.parametrize("single", [False, True])
def test_probabilities_of_0_and_1_stay_finite(single: bool) -> None:
    output = torch.tensor([[0.0], [1.0]]) if single else torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = data_logits(Adapter(PIXELS, single=single, probabilities=True), output)
    assert bool(torch.isfinite(found).all())
    assert found.argmax(1).tolist() == ([0, 1] if single else [1, 0])


def test_more_dimensions_of_size_1_are_no_matter() -> None:
    output = torch.randn(3, 4, 1, 1)
    assert torch.equal(data_logits(Adapter(PIXELS), output), output[:, :, 0, 0])


def test_an_adapter_survives_json() -> None:
    adapter = Adapter({"a": "b"}, ("t",), "NHWC", 3, (4, 5), (60,), (0.0, 255.0), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "out", (2, 0, 1),
                      True, 0.01, False, ("note",))  # fmt: skip
    again = adapter_from_json(json.loads(json.dumps(adapter.to_json())))
    assert again == adapter
    assert again.notes == adapter.notes
