"""What every loss computes with: full precision, log-space divergences, and divisions whose gradients stay finite."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.errors import ModelError, UsageError

P = ParamSpec("P")
Stages: TypeAlias = Tensor | Sequence[Tensor]
"""One tensor, or one for each stage of the network."""


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make ``loss`` compute in at least float32, also where autocast would use half precision; float64 stays."""

    @functools.wraps(loss)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = _first_tensor([*args, *kwargs.values()]).device.type
        wide_args, wide_kwargs = _widened(list(args)), {name: _widened(value) for name, value in kwargs.items()}
        if not torch.is_autocast_enabled(device):
            return loss(*wide_args, **wide_kwargs)
        with torch.autocast(device, enabled=False):
            return loss(*wide_args, **wide_kwargs)

    return run


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value
    return [_widened(each) for each in value] if isinstance(value, list | tuple) else value


def _first_tensor(values: Sequence[Any]) -> Tensor:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, list | tuple) and value:
            return _first_tensor(value)
    raise UsageError("a loss got no tensor", "pass the student's and the teacher's outputs")


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse to compare tensors that would broadcast or fail.

    Raises:
        ModelError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ModelError(
            f"{what} of the student {list(student.shape)} and of the teacher {list(teacher.shape)} differ in shape",
            "give both the same classes in the same order; features: put an adapter after the student's",
        )


def paired(student: Stages, teacher: Stages, what: str) -> list[tuple[Tensor, Tensor]]:
    """Return ``(student, teacher)`` of every stage; the teacher's carries no gradient.

    Raises:
        ModelError: There are no stages, or not equally many.
    """
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if not students or len(students) != len(teachers):
        raise ModelError(
            f"{what}: {len(students)} stages of the student and {len(teachers)} of the teacher",
            "name one layer of each per stage",
        )
    return [(each, other.detach()) for each, other in zip(students, teachers, strict=True)]


def soft_log(logits: Tensor, temperature: float, dim: int = -1) -> Tensor:
    """Return ``log softmax(logits / T)`` along ``dim``.

    Raises:
        UsageError: The temperature is not above 0.
    """
    check_temperature(temperature)
    return functional.log_softmax(logits / temperature, dim=dim)


def divergence(log_teacher: Tensor, log_student: Tensor, dim: int = -1) -> Tensor:
    """Return ``KL(teacher || student)`` along ``dim`` from log-probabilities, finite ones."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim)


def true_class(values: Tensor, target: Tensor) -> Tensor:
    """Return the column of the true class, ``[n]`` of ``[n, classes]``."""
    return values.gather(1, target.unsqueeze(1)).squeeze(1)


def other_classes(values: Tensor, target: Tensor) -> Tensor:
    """Return all columns but the true class, ``[n, classes - 1]`` of ``[n, classes]``.

    Raises:
        ModelError: There is no other class.
    """
    rows, classes = values.shape
    if classes < 2:
        raise ModelError("a loss that tells the true class from others needs two classes, got one", "use kd_logit_mse")
    true = functional.one_hot(target, classes).bool()
    return values.masked_select(~true).view(rows, classes - 1)


def length(values: Tensor, dim: int | tuple[int, ...], floor: Tensor | float = 1e-12) -> Tensor:
    """Return the L2 norm along ``dim``, kept; below ``floor`` it is the floor and has no gradient."""
    shortest = torch.as_tensor(floor, dtype=values.dtype, device=values.device)
    return values.square().sum(dim, keepdim=True).clamp_min(shortest.square()).sqrt()


def unit(values: Tensor, dim: int | tuple[int, ...], floor: float = 1e-12) -> Tensor:
    """Return ``values`` scaled to length 1 along ``dim``; what is shorter than ``floor`` becomes 0 and has no gradient.

    ``torch.nn.functional.normalize`` divides by its tiny epsilon there: a gradient of 1e12.
    """
    short = values.detach().square().sum(dim, keepdim=True) <= floor**2
    return values.masked_fill(short, 0.0) / length(values, dim, floor)


def standardized(values: Tensor, dim: int | tuple[int, ...], eps: float, floor: float) -> Tensor:
    """Return z-scores along ``dim``: ``(x - mean) / (std + eps)`` with the unbiased deviation, at least ``floor``.

    The floor bounds the gradient of (nearly) constant values by ``1 / floor``; they become 0.
    """
    dims = (dim,) if isinstance(dim, int) else dim
    count = 1
    for each in dims:
        count *= values.shape[each]
    shifted = values - values.detach().amax(dims, keepdim=True)  # exactly 0 where constant, whatever their size
    centred = shifted - shifted.mean(dims, keepdim=True)
    deviation = length(centred / max(count - 1, 1) ** 0.5, dims, floor)
    return centred / (deviation + eps)


def pooled_alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps ``[n, c, h, w]`` to the height and width of the smaller."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return _pooled(first, size), _pooled(second, size)


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.adaptive_avg_pool2d(maps, size)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0.

    Raises:
        UsageError: It is not.
    """
    if not temperature > 0:
        raise UsageError(f"temperature {temperature} is not above 0", "0.05 to 100 is useful")


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``valid`` is true, 0 where nothing is."""
    return values.masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)
