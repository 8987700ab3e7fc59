"""A student of the teacher's own kind: fewer layers of a transformer, or a narrower copy of a zoo architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UsageError
from edgekd.models.catalog import ZOO
from edgekd.models.references import KINDS, kind_of, model_path, name_of
from edgekd.recipe import TeacherMember

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAYER = re.compile(r"^(.*\blayers?\.)(\d+)(\..*)$")
_LAYER_COUNTS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "encoder_layers")
"""What configurations of transformers call the number of layers."""
_IN_THE_ZOO = {
    "mobilenetv1_100": "mobilenet_v1", "mobilenetv2_100": "mobilenet_v2", "mobilenetv3_small_100": "mobilenet_v3_small",
    "mobilenetv3_large_100": "mobilenet_v3_large", "tf_efficientnet_lite0": "efficientnet_lite0",
}  # fmt: skip
"""Architectures of the zoo by other names, those of timm."""
_DEFAULT_LAYERS = 2  # of the zoo's transformer


def derive_student(teacher: TeacherMember, wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[int, ...] | None]:
    """Return reference and arguments of a student like ``teacher``, and which of its layers the student starts from.

    A transformer keeps every second layer, from the first (Sanh et al., 2019, DistilBERT); any other network of the
    zoo, or one of timm or torchvision that the zoo has too, becomes one of the zoo with half of the channels.

    Args:
        teacher: The first teacher.
        wanted: Arguments of the recipe's student, which win.

    Raises:
        UsageError: There is no known way to make this teacher smaller.
    """
    kind, name = kind_of(teacher.model), name_of(teacher.model)
    if kind == "zoo" and ZOO[name].inputs == "text":
        return _halved(teacher, wanted, "layers", teacher.arguments.get("layers", _DEFAULT_LAYERS))
    if kind == "zoo":
        width = teacher.arguments.get("width", 1.0)
        if not isinstance(width, int | float):
            raise UsageError(f"teacher.arguments.width is {width!r}, no number", "give the share of channels, for example 0.5")
        return teacher.model, {**teacher.arguments, "width": 0.5 * width, **wanted}, None
    if kind == "hf":
        config = _config(teacher.model)
        for argument in _LAYER_COUNTS:
            if isinstance(config.get(argument), int):
                return _halved(teacher, wanted, argument, config[argument])
    known = _IN_THE_ZOO.get(name, name)
    if kind in {"timm", "torchvision"} and known in ZOO:
        return f"zoo:{known}", {"width": 0.5, **wanted}, None
    reason = "how to make it smaller is not known" if KINDS[kind].layers else "a black box shows its outputs alone, no layers"
    raise UsageError(
        f"student.model is from-teacher, but the teacher is {teacher.model}: {reason}",
        "name a student of its own, see `edgekd models`; zoo: and most transformers can be made smaller",
    )


def _config(reference: str) -> dict[str, Any]:
    """Return ``config.json`` of an ``hf:`` model, read as data: transformers would import torch."""
    file = model_path(reference) / "config.json"
    try:
        if not file.is_file():
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(name_of(reference), "config.json"))
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UsageError(f"cannot read the configuration of {reference}: {first}", "check the folder or the name") from None
    return config if isinstance(config, dict) else {}


def _halved(
    teacher: TeacherMember, wanted: Mapping[str, Any], argument: str, layers: Any
) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    if not isinstance(layers, int) or layers < 2:
        raise UsageError(
            f"student.model is from-teacher, but {teacher.model} has {layers} layer(s), fewer than two",
            "name a student of its own",
        )
    arguments = {**teacher.arguments, argument: layers // 2, **wanted}
    left = arguments[argument]
    if not isinstance(left, int) or not 1 <= left <= layers:
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
