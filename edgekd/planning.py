"""The dry run: what a recipe would do, and what would be refused.

Torch is imported only for losses on inner layers: which layers they compare is found in fresh networks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.abilities import devices, usable
from edgekd.artifacts import file_name
from edgekd.data.cache import Preview
from edgekd.data.classes import check_class_names
from edgekd.data.sources import source_module
from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.devices.targets import target_files, with_target_files
from edgekd.distill.layer_needs import check_layer_needs
from edgekd.distill.soft_target_use import stores_targets
from edgekd.errors import UsageError
from edgekd.gates import check_gates_possible
from edgekd.models.references import KINDS, check_available, kind_of
from edgekd.planned_stages import (
    PlannedStage,
    cuts_measured,
    data_stage,
    file_stages,
    layer_lines,
    pruning_stages,
    student_line,
    student_stages,
    target_stage,
    teacher_stages,
)
from edgekd.quantize.qat.planned import check_rounding, planned_rounding
from edgekd.recipe import Recipe
from edgekd.recipe_file import find_recipe, load_recipe, recipe_from_mapping


@dataclass(frozen=True)
class PlannedDevice:
    """A kind of device: the files of the run that it can use, the best first, and the others with the reason why not."""

    id: str
    usable: tuple[str, ...]
    unusable: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What a recipe would do.

    Attributes:
        recipe: The recipe, every default filled in.
        threads: CPU threads that training will use.
        data: Classes, counts and three samples.
        stages: In order.
        artifacts: Names of the files that will be made.
        devices: For each kind of device, which of them it can use, and why not the others.
    """

    recipe: Recipe
    threads: int
    data: Preview
    stages: tuple[PlannedStage, ...]
    artifacts: tuple[str, ...]
    devices: tuple[PlannedDevice, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"), "threads": self.threads, "data": asdict(self.data),
            "stages": [asdict(stage) for stage in self.stages], "artifacts": list(self.artifacts),
            "devices": [asdict(device) for device in self.devices],
        }  # fmt: skip


def resolve_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that a name, path, mapping or recipe stands for, changed by ``key=value`` overrides.

    Raises:
        RecipeError: Something in it is wrong.
        UsageError: There is no such recipe, or a target of it is no device.
    """
    if isinstance(recipe, Recipe):
        given = recipe.model_dump(mode="json", exclude_unset=True)
        return with_target_files(recipe_from_mapping(given, overrides) if overrides else recipe)
    if isinstance(recipe, Mapping):
        return with_target_files(recipe_from_mapping(recipe, overrides))
    return with_target_files(load_recipe(find_recipe(str(recipe)), overrides))


def plan(recipe: str | Path | Mapping[str, Any] | Recipe = "digits", overrides: Sequence[str] = ()) -> Plan:
    """Return what running a recipe would do; the arguments are those of :func:`edgekd.compress`.

    Raises:
        RecipeError, UsageError: The recipe is wrong, or needs a package that is not installed.
        DataError: Its data folder is missing or not as it should be.
        ModelError: Losses on inner layers find nothing to compare, or a network does not take the data.
    """
    asked = resolve_recipe(recipe, overrides)
    _check_packages(asked)
    check_teaching(asked)
    check_gates_possible(asked)
    for member in asked.teacher.members if asked.distill.has_teacher else ():
        check_available(member.model, member.weights, "teacher", member.labels)
    student = student_line(asked)
    _check_converter(asked)
    preview = source_module(asked.data).preview(asked.data)
    check_class_names(preview.classes, asked.data.source)
    if preview.kind == "text" and importlib.util.find_spec("tokenizers") is None:
        raise UsageError("text needs tokenizers, not installed here", "pip install 'edgekd[hub]'")
    check_rounding(asked, preview.kind)
    names = [file_name(name) for name in asked.export.artifacts]
    host = load_profile("host")
    stages = [
        data_stage(asked, preview),
        *teacher_stages(asked),
        *student_stages(asked, student, layer_lines(asked, preview)),
        *pruning_stages(asked),
        *([PlannedStage("qat", planned_rounding(asked))] if asked.quantize.qat.epochs else []),
        *file_stages(asked, preview),
        PlannedStage("metadata", f"what they take and give, and their labels, inside {len(names)} files"),
        PlannedStage("verify", f"{len(names)} files on the whole test split, in their own runtimes, against the gates"),
        PlannedStage("golden", "16 test samples and 4 extreme ones, with what each file that passed gives for them"),
        *cuts_measured(asked),
        PlannedStage("benchmark", f"{len(names)} files on {host.name}, {asked.benchmark.runs} runs each"),
        *[target_stage(each) for each in target_files(asked)],
    ]  # fmt: skip
    return Plan(asked, asked.threads or usable_cores(), preview, tuple(stages), tuple(names), _devices(asked))


def _devices(recipe: Recipe) -> tuple[PlannedDevice, ...]:
    made = recipe.export.artifacts
    return tuple(
        PlannedDevice(each.id, usable(made, each.id), {name: each.no[name] for name in made if name in each.no})
        for each in devices().values()
    )


_LEAST_BATCH = 4


def check_teaching(recipe: Recipe) -> None:
    """Refuse a recipe whose parts do not go together.

    Raises:
        UsageError: A loss looks inside a teacher that shows its outputs alone; kept outputs are wanted where they cannot
            serve; or something needs a teacher, and the scheme has none.
    """
    options = recipe.distill
    if options.scheme == "none" and recipe.student.weights is None and not _starts_trained(recipe.student.model):
        raise UsageError(
            "distill.scheme is none, so nothing is trained, but student.weights is not set",
            "set student.weights to a .safetensors or .pt file",
        )
    if not options.has_teacher:
        if recipe.student.model == "from-teacher":
            raise UsageError(
                f"student.model is from-teacher, but distill.scheme={options.scheme} has no teacher",
                "name a student of its own",
            )
        return
    check_layer_needs(recipe)
    stores_targets(recipe)
    between = [each.name for each in options.losses if each.definition.family == "relation"]
    if between and options.train.batch_size < _LEAST_BATCH:
        raise UsageError(
            f"{between[0]} compares the samples of a batch with one another, and distill.train.batch_size is "
            f"{options.train.batch_size}",
            f"make it {_LEAST_BATCH} or more; with 64 and more there is something to compare",
        )


def _starts_trained(reference: str) -> bool:
    return reference != "from-teacher" and KINDS[kind_of(reference)].starts_trained


def _check_converter(recipe: Recipe) -> None:
    if recipe.export.tflite.converter == "tensorflow" and not recipe.student.model.startswith("keras:"):
        raise UsageError(
            f"export.tflite.converter=tensorflow converts Keras models, and the student is {recipe.student.model}",
            "leave it out, or name a keras:FILE.keras as student.model",
        )


def _check_packages(recipe: Recipe) -> None:
    needed = {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert", "ai_edge_quantizer": "ai-edge-quantizer"}
    wants_tflite = any(name.startswith("tflite") for name in recipe.export.artifacts)
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if wants_tflite and missing:
        onnx = [name for name in recipe.export.artifacts if name.startswith("onnx")] or ["onnx-fp32"]
        raise UsageError(
            f"TFLite artifacts need {', '.join(missing)}, not installed here",
            f"pip install 'edgekd[tflite]', or leave them out: 'export.artifacts=[{', '.join(onnx)}]'",
        )
