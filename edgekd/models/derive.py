"""A student of the teacher's own kind: fewer layers of a transformer, or a narrower copy of a zoo architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.errors import UsageError
from edgekd.models.catalog import ZOO
from edgekd.models.references import kind_of, name_of
from edgekd.recipe import TeacherMember

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAYER = re.compile(r"^(.*\blayers?\.)(\d+)(\..*)$")
_DEFAULT_LAYERS = 2  # of the zoo's transformer


def derive_student(teacher: TeacherMember, wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[int, ...] | None]:
    """Return reference and arguments of a student like ``teacher``, and which of its layers the student starts from.

    A transformer keeps every second layer, from the first (Sanh et al., 2019, DistilBERT); any other network of the
    zoo keeps half of its channels.

    Args:
        teacher: The first teacher.
        wanted: Arguments of the recipe's student, which win.

    Raises:
        UsageError: There is no known way to make this teacher smaller.
    """
    kind, name = kind_of(teacher.model), name_of(teacher.model)
    if kind == "zoo" and ZOO[name].inputs == "text":
        return _halved(teacher, wanted, "layers", int(teacher.arguments.get("layers", _DEFAULT_LAYERS)))
    if kind == "zoo":
        width = 0.5 * float(teacher.arguments.get("width", 1.0))
        return teacher.model, {**teacher.arguments, "width": width, **wanted}, None
    if kind == "hf":
        from transformers import AutoConfig

        from edgekd.models.builders import hub_error

        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise hub_error(teacher.model, error) from error
        layers = getattr(config, "num_hidden_layers", None)
        if isinstance(layers, int):
            return _halved(teacher, wanted, "num_hidden_layers", layers)
    raise UsageError(
        f"student.model is from-teacher, but how to make {teacher.model} smaller is not known",
        "name a student of its own, see `edgekd models`; zoo: and transformers with num_hidden_layers can be made smaller",
    )


def _halved(
    teacher: TeacherMember, wanted: Mapping[str, Any], argument: str, layers: int
) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    if layers < 2:
        raise UsageError(f"student.model is from-teacher, but {teacher.model} has one layer only", "name a student of its own")
    arguments = {**teacher.arguments, argument: layers // 2, **wanted}
    left = int(arguments[argument])
    if not 1 <= left <= layers:
        raise UsageError(f"student.arguments.{argument} is {left}, the teacher has {layers} layers", f"give 1 to {layers}")
    return teacher.model, arguments, tuple(index * layers // left for index in range(left))


def inherit(student: nn.Module, teacher: Mapping[str, Tensor], kept: tuple[int, ...]) -> int:
    """Start ``student`` from the teacher's weights: its layer i from the teacher's layer ``kept[i]``.

    Args:
        student: Gets the weights that have the same name and shape.
        teacher: State dict of the teacher.
        kept: Layers of the teacher.

    Returns:
        How many of the student's tensors were taken.
    """
    taken = {}
    for name, own in student.state_dict().items():
        match = _LAYER.match(name)
        source = f"{match[1]}{kept[int(match[2])]}{match[3]}" if match else name
        if source in teacher and teacher[source].shape == own.shape:
            taken[name] = teacher[source].clone()
    student.load_state_dict(taken, strict=False)
    return len(taken)
