"""The dry run: what a recipe would do, and what would be refused, without importing torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts import file_name
from edgekd.data.cache import Preview
from edgekd.data.sources import source_module
from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.errors import UsageError
from edgekd.models.catalog import ZOO
from edgekd.models.derive import derive_student
from edgekd.models.references import KINDS, check_available, kind_of, name_of
from edgekd.quantize.calibration import activation_ranges
from edgekd.recipe import Recipe
from edgekd.recipe_file import find_recipe, load_recipe, recipe_from_mapping
from edgekd.safe.user_code import code_file


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run: its ``name``, and in one line ``what`` it will do."""

    name: str
    what: str


@dataclass(frozen=True)
class Plan:
    """What a recipe would do.

    Attributes:
        recipe: The recipe, every default filled in.
        threads: CPU threads that training will use.
        data: Classes, counts and three samples.
        stages: In order.
        artifacts: Names of the files that will be made.
    """

    recipe: Recipe
    threads: int
    data: Preview
    stages: tuple[PlannedStage, ...]
    artifacts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"), "threads": self.threads, "data": asdict(self.data),
            "stages": [asdict(stage) for stage in self.stages], "artifacts": list(self.artifacts),
        }  # fmt: skip


def resolve_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that a name, path, mapping or recipe stands for, changed by ``key=value`` overrides.

    Raises:
        RecipeError: Something in it is wrong.
        UsageError: There is no such recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe_from_mapping(recipe.model_dump(mode="json"), overrides) if overrides else recipe
    if isinstance(recipe, Mapping):
        return recipe_from_mapping(recipe, overrides)
    return load_recipe(find_recipe(str(recipe)), overrides)


def plan(recipe: str | Path | Mapping[str, Any] | Recipe = "digits", overrides: Sequence[str] = ()) -> Plan:
    """Return what running a recipe would do; the arguments are those of :func:`edgekd.compress`.

    Raises:
        RecipeError, UsageError: The recipe is wrong, or needs a package that is not installed.
        DataError: Its data folder is missing or not as it should be.
    """
    asked = resolve_recipe(recipe, overrides)
    _check_packages(asked)
    for member in asked.teacher.members:
        check_available(member.model, member.weights, "teacher", member.labels)
    student = _student(asked)
    preview = source_module(asked.data).preview(asked.data)
    if preview.kind == "text" and importlib.util.find_spec("tokenizers") is None:
        raise UsageError("text needs tokenizers, not installed here", "pip install 'edgekd[hub]'")
    training = asked.distill.train
    names = [file_name(name) for name in asked.export.artifacts]
    quantized = [name for name in names if "fp32" not in name]
    ranges = f"; int8 with {activation_ranges(asked.quantize.activations, preview.kind)} ranges of activations"
    host = load_profile("host")
    stages = [
        PlannedStage("data", _data(asked, preview)),
        *_teachers(asked),
        PlannedStage("teacher-check", "on the validation split, beside chance and a linear model" if asked.teacher.check
                     else "on the validation split; whatever it finds, the run goes on"),
        PlannedStage(
            "distill",
            f"train {student}: {training.epochs} epochs, batch {training.batch_size}, "
            f"loss {asked.distill.alpha:g}*CE + {asked.distill.beta:g}*T^2*KL at T = {asked.distill.temperature:g}",
        ),
        PlannedStage("export", ", ".join(name for name in names if "fp32" in name) or "float32 files to quantize from"),
        PlannedStage(
            "quantize", ", ".join(quantized) + (ranges if any("int8" in name for name in quantized) else "") or "nothing"
        ),
        PlannedStage("verify", f"{len(names)} files on the whole test split, in their own runtimes, against the gates"),
        PlannedStage("benchmark", f"{len(names)} files on {host.name}, {asked.benchmark.runs} runs each"),
    ]  # fmt: skip
    return Plan(asked, asked.threads or usable_cores(), preview, tuple(stages), tuple(names))


_SAMPLES = {"image": "images", "text": "texts", "waveform": "sounds", "features": "rows"}


def _data(recipe: Recipe, preview: Preview) -> str:
    what = f"{recipe.data.source}: {sum(preview.counts):,} {_SAMPLES[preview.kind]} in {len(preview.classes)} classes"
    given = ", ".join(f"{name} {count:,}" for name, count in preview.parts.items())
    made = ", ".join(
        f"{share:.0%} for {name}"
        for name, share in (("validation", recipe.data.validation), ("test", recipe.data.test))
        if name not in preview.parts
    )
    if recipe.data.source.startswith("python:"):
        what += f", from the code of {code_file(recipe.data.source.partition(':')[2])}, which ran for this plan"
    return "; ".join([what, *([f"given splits: {given}"] if given else []), *([f"by seed: {made}"] if made else [])])


def _teachers(recipe: Recipe) -> list[PlannedStage]:
    stages = []
    for index, member in enumerate(recipe.teacher.members):
        name = "teacher" if index == 0 else f"teacher-{index + 1}"
        training = recipe.teacher.train
        model = _model(member.model, member.arguments)
        weights = f" with {member.weights}" if member.weights is not None else ""
        if member.is_trained:
            what = f"{model}{weights}, as it is"
        else:
            what = f"train {model}{weights}: {training.epochs} epochs, batch {training.batch_size}"
        stages.append(PlannedStage(name, what))
    if recipe.teacher.ensemble:
        shares = ", ".join(f"{member.weight:g}" for member in recipe.teacher.members)
        stages.append(PlannedStage("ensemble", f"{recipe.teacher.combine}, weights {shares}"))
    return stages


def _student(recipe: Recipe) -> str:
    student = recipe.student
    if student.model != "from-teacher":
        check_available(student.model, student.weights, "student")
        return _model(student.model, student.arguments)
    reference, arguments, kept = derive_student(recipe.teacher, student.arguments)
    layers = f", starting from its layers {', '.join(map(str, kept))}" if kept is not None else ""
    return f"{_model(reference, arguments)}{layers}"


def _model(reference: str, arguments: Mapping[str, Any]) -> str:
    shown = "".join(f", {name} {value}" for name, value in arguments.items())
    kind, name = kind_of(reference), name_of(reference)
    if kind == "python":
        return f"{reference}, which runs the code of {code_file(name)}{shown}"
    return f"{reference} ({ZOO[name].summary if kind == 'zoo' else KINDS[kind].what}{shown})"


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
