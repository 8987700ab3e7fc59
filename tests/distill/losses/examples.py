"""Inputs for every loss, by its recipe name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekd.distill.losses.registry import LOSSES

KINDS = ("random", "zero", "constant", "duplicate rows", "equal")


@dataclass
class Example:
    """What a loss is called with."""

    arguments: dict[str, Any]

    def students(self) -> list[Tensor]:
        """Tensors that are trained."""
        return [each for name, value in self.arguments.items() if _is_students(name) for each in _tensors(value)]

    def teachers(self) -> list[Tensor]:
        """Tensors that are imitated."""
        return [each for name, value in self.arguments.items() if _is_teachers(name) for each in _tensors(value)]

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> "Example":
        """Every floating tensor changed."""
        return Example(
            {
                name: [change(name, each) for each in value]
                if isinstance(value, list)
                else change(name, value)
                if isinstance(value, Tensor) and value.is_floating_point()
                else value
                for name, value in self.arguments.items()
            }
        )

    def leaves(self) -> "Example":
        """Students and teachers as leaves that want gradients."""
        return self.mapped(lambda name, each: each.clone().requires_grad_(_is_students(name) or _is_teachers(name)))


def _is_students(name: str) -> bool:
    return name in ("student", "log_scale") or name.endswith("_s")


def _is_teachers(name: str) -> bool:
    return name in ("teacher", "teachers", "peers") or name.endswith("_t")


def _tensors(value: Any) -> Iterator[Tensor]:
    yield from value if isinstance(value, list) else [value]


def example(name: str, seed: int = 0, n: int = 4, size: float = 2.0, kind: str = "random") -> Example:
    """Inputs of ``n`` samples whose numbers are of about ``size``.

    ``zero`` and ``constant``: the student's are; ``duplicate rows``: all samples are alike, in both;
    ``equal``: the teacher's are the student's, where shapes allow.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * size

    def maps() -> list[Tensor]:
        return [random(n, 3, 8, 8), random(n, 5, 4, 4)]

    entry = LOSSES[name]
    target = torch.randint(0, 5, (n,), generator=generator)
    arguments: dict[str, Any]
    match entry.takes[0]:
        case "logits":
            arguments = {"student": random(n, 5), "target": target}
            other = {
                "teachers": [random(n, 5) for _ in range(3)],
                "peers": [random(n, 5), random(n, 5)],
                "teacher": random(n, 5),
            }
            arguments |= {key: value for key, value in other.items() if key in entry.arguments}
            if name == "pskd":
                arguments["teacher"] = arguments["teacher"].softmax(1)
            if not {"target", "teachers"} & set(entry.arguments):
                del arguments["target"]
        case "stages":
            arguments = {"student": maps(), "teacher": maps()}
            if name == "vid":
                arguments["log_scale"] = [random(3), random(5)]
            if name == "ofd":
                arguments["margin"] = [-random(1, 3, 1, 1).abs(), -random(1, 5, 1, 1).abs()]
        case "features":
            arguments = {"student": random(n, 7), "teacher": random(n, 7)}
        case "maps":
            arguments = {"student": random(n, 5, 4, 3), "teacher": random(n, 5, 4, 3)}
        case "tokens":
            arguments = {"student": random(n, 6, 9), "teacher": random(n, 6, 9)}
            mask = torch.rand(n, 6, generator=generator) < 0.7
            labels = torch.randint(-100, 9, (n, 6), generator=generator)
            arguments |= {"mask": mask, "labels": labels}
            if name == "distilbert":
                arguments |= {"hid_s": random(n, 6, 8), "hid_t": random(n, 6, 8)}
        case "frames":
            lens = torch.rand(n, generator=generator)
            arguments = {"student": random(n, 8, 6), "teacher": random(n, 8, 6).softmax(2), "lens": lens}
        case "actions":
            arguments = {"mean_s": random(n, 3), "std_s": random(n, 3).abs() + 1e-3, "mean_t": random(n, 3), "std_t": random(n, 3).abs() + 1e-3}  # fmt: skip
        case "relations":
            mask = torch.arange(6) < torch.randint(1, 7, (n, 1), generator=generator)
            arguments = {key: random(n, 6, 8) for key in entry.arguments} | {"mask": mask, "relation_heads": 2}
        case "attention":
            arguments = {"att_s": [random(n, 2, 6, 6) for _ in range(2)], "att_t": [random(n, 2, 6, 6) for _ in range(4)]}
        case "hidden":
            arguments = {"rep_s": [random(n, 6, 8) for _ in range(3)], "rep_t": [random(n, 6, 8) for _ in range(5)]}
    return _degenerate(Example(arguments), kind, size, name in ("pskd", "frame_kd", "ctc_kd"))


def _degenerate(made: Example, kind: str, size: float, probabilities: bool) -> Example:
    if kind in ("zero", "constant"):
        value = 0.0 if kind == "zero" else size
        return made.mapped(lambda name, each: torch.full_like(each, value) if _is_students(name) and name != "std_s" else each)
    if kind == "duplicate rows":
        return made.mapped(lambda name, each: each[:1].expand_as(each) if name not in ("log_scale", "margin") else each)
    if kind == "equal":
        students = {"teacher": "student"} | {name: f"{name[:-1]}s" for name in made.arguments if name.endswith("_t")}
        for name in set(students) & set(made.arguments):
            own = made.arguments[students[name]]
            made.arguments[name] = [each.clone() for each in own] if isinstance(own, list) else own.clone()
            if name == "teacher" and probabilities:
                made.arguments[name] = made.arguments[name].softmax(-1)
    return made
