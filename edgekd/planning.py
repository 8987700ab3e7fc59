"""The dry run: what a recipe would do, and what would be refused, without importing torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts import file_name
from edgekd.data import folder
from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.errors import UsageError
from edgekd.models.catalog import ZOO
from edgekd.recipe import Recipe
from edgekd.recipe_file import find_recipe, load_recipe, recipe_from_mapping


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
        stages: In order.
        artifacts: Names of the files that will be made.
    """

    recipe: Recipe
    threads: int
    stages: tuple[PlannedStage, ...]
    artifacts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"), "threads": self.threads,
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
    threads = asked.threads or usable_cores()
    teacher, student = asked.teacher.train, asked.distill.train
    names = [file_name(name) for name in asked.export.artifacts]
    quantized = [name for name in names if "fp32" not in name]
    host = load_profile("host")
    stages = [
        PlannedStage("data", _data(asked)),
        PlannedStage("teacher", f"train {_model(asked.teacher.model)}: {teacher.epochs} epochs, batch {teacher.batch_size}"),
        PlannedStage(
            "distill",
            f"train {_model(asked.student.model)}: {student.epochs} epochs, batch {student.batch_size}, "
            f"loss {asked.distill.alpha:g}*CE + {asked.distill.beta:g}*T^2*KL at T = {asked.distill.temperature:g}",
        ),
        PlannedStage("export", ", ".join(name for name in names if "fp32" in name) or "float32 files to quantize from"),
        PlannedStage("quantize", ", ".join(quantized) or "nothing"),
        PlannedStage("verify", f"{len(names)} files on the whole test split, in their own runtimes, against the gates"),
        PlannedStage("benchmark", f"{len(names)} files on {host.name}, {asked.benchmark.runs} runs each"),
    ]
    return Plan(asked, threads, tuple(stages), tuple(names))


def _data(recipe: Recipe) -> str:
    if recipe.data.source == "digits":
        return "1,797 handwritten digits of 8x8x1 in 10 classes (from scikit-learn)"
    root = folder.source_folder(recipe.data.source)
    listing = folder.list_images(root)
    test = "with a test split of their own" if listing.has_test_folder else f"{recipe.data.test:.0%} of them for test"
    return f"{len(listing.files):,} images in {len(listing.classes)} classes under {root}, {test}"


def _model(reference: str) -> str:
    return f"{reference} ({ZOO[reference.partition(':')[2]].summary})"


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
