"""What every loss promises, over its whole range."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.distill import losses
from edgekd.distill.losses.registry import LOSSES
from tests.distill.losses.examples import KINDS, Example, example

BOTH_SIGNS = {"vid", "pkt"}
"""A likelihood without its constant, and a divergence with an epsilon in it."""

NOT_ZERO = {
    "nkd", "wsld", "frame_kd", "ctc_kd", "dml", "pskd", "byot_kd", "distilbert",  # cross-entropies
    "vid", "ofd", "ab", "wttm",  # a likelihood; margins; a teacher softer than the student
    "multi_avg", "multi_entropy", "multi_camkd",  # teachers of different minds
}  # fmt: skip
"""Not 0 when student and teacher agree."""


def call(name: str, made: Example, **hyperparameters: Any) -> Tensor:
    value: Tensor = getattr(losses, name)(**made.arguments, **hyperparameters)
    return value


def backward(value: Tensor) -> None:
    value.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=40)
@given(
    temperature=st.floats(0.05, 100),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 1e3, 3e3]) | st.floats(1e-6, 3e3),  # normal numbers: up to 1e4
    seed=st.integers(0, 1000),
    n=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
)
@pytest.mark.filterwarnings("ignore:rkd_distance is 0")
def test_finite_with_finite_gradients(name: str, temperature: float, size: float, seed: int, n: int, kind: str) -> None:
    made = example(name, seed, n, size, kind).leaves()
    soft = {"temperature": temperature} if "temperature" in inspect.signature(getattr(losses, name)).parameters else {}
    value = call(name, made, **soft)
    assert value.shape == ()
    assert torch.isfinite(value), value
    backward(value)
    for each in made.students():
        assert each.grad is None or torch.isfinite(each.grad).all()


@pytest.mark.parametrize("name", [name for name, each in LOSSES.items() if "temperature" in each.hyperparameters])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 100.0])
def test_finite_at_the_corners(name: str, temperature: float) -> None:
    made = example(name, n=5).mapped(lambda _, each: torch.where(each > 0, 1e4, -1e4)).leaves()
    value = call(name, made, temperature=temperature)
    backward(value)
    assert torch.isfinite(value)
    assert all(torch.isfinite(each.grad).all() for each in made.students() if each.grad is not None)


@pytest.mark.parametrize(
    ("name", "kind", "at_most"),
    [
        ("kd_logit_std", "zero", 1e3),
        ("dist", "zero", 500),
        ("rkd_angle", "duplicate rows", 1),
        ("pkd", "zero", 100),
        ("pkt", "zero", 1),
    ],
)
def test_gradient_stays_small_where_published_codes_explode(name: str, kind: str, at_most: float) -> None:
    made = example(name, n=5, kind=kind).leaves()
    backward(call(name, made))
    assert max(float(each.grad.abs().max()) for each in made.students() if each.grad is not None) <= at_most


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_the_student_and_never_the_teacher(name: str) -> None:
    made = example(name).leaves()
    backward(call(name, made))
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in made.students())
    assert all(each.grad is None for each in made.teachers())


# The weights of wsld depend on the student and count as constants: see test_response.
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"wsld"}))
def test_gradient_is_the_difference_quotient(name: str) -> None:
    made = example(name, seed=3, n=3, size=1.0).mapped(lambda _, each: each.double()).leaves()
    backward(call(name, made))
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in made.students()]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in made.students()]
    slope = sum(float((gradient * direction).sum()) for gradient, direction in zip(gradients, directions, strict=True))
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            moved = iter([each.detach() + sign * step * way for each, way in zip(made.students(), directions, strict=True)])
            students = {id(each): next(moved) for each in made.students()}
            ends.append(float(call(name, made.mapped(lambda _, each, at=students: at.get(id(each), each)))))  # type: ignore[misc]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - NOT_ZERO))
def test_zero_when_student_and_teacher_agree(name: str) -> None:
    made = example(name, kind="equal", n=5)
    if name == "tinybert_att":
        made.arguments["att_t"] = [made.arguments["att_s"][i // 2] for i in range(4)]
    if name == "tinybert_hidden":
        made.arguments["rep_t"] = [made.arguments["rep_s"][-(-i // 2)] for i in range(5)]
    assert float(call(name, made)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - BOTH_SIGNS))
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), size=st.floats(0.1, 30))
def test_never_negative(name: str, seed: int, size: float) -> None:
    assert float(call(name, example(name, seed, size=size))) >= -1e-5


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(name: str, half: torch.dtype) -> None:
    halves = example(name).mapped(lambda _, each: each.to(half)).leaves()
    with torch.autocast("cpu", torch.bfloat16):
        value = call(name, halves)
    backward(value)
    single = call(name, halves.mapped(lambda _, each: each.detach().float()))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(single.item(), rel=1e-6)
    assert all(each.grad is None or (each.grad.dtype == half and torch.isfinite(each.grad).all()) for each in halves.students())


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_left_as_they_are(name: str) -> None:
    made, same = example(name), example(name)
    call(name, made)
    for mine, before in zip([*made.students(), *made.teachers()], [*same.students(), *same.teachers()], strict=True):
        assert torch.equal(mine, before)


SHIFTED = ["kd", "kd_logit_std", "dkd", "dist", "nkd", "wttm", "wsld", "cwd", "pixel_kd", "token_kd", "dml", "byot_kd", "multi_avg", "multi_entropy", "multi_camkd"]  # fmt: skip


@pytest.mark.parametrize("name", SHIFTED)
def test_a_constant_added_to_logits_changes_nothing(name: str) -> None:
    made = example(name).mapped(lambda _, each: each.double())
    moved = made.mapped(lambda _, each: each + 5.0)
    assert float(call(name, moved)) == pytest.approx(float(call(name, made)), rel=1e-9)


@pytest.mark.parametrize("name", ["at", "nst", "rkd_distance", "sp", "cc_gaussian", "pkt", "pkd"])
def test_the_scale_of_features_changes_nothing(name: str) -> None:
    made = example(name).mapped(lambda _, each: each.double())
    larger = made.mapped(lambda _, each: each * 7.0)
    assert float(call(name, larger)) == pytest.approx(float(call(name, made)), rel=1e-5)
