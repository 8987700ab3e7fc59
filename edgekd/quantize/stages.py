"""The quantization stages: files in fewer bits, and in other formats, from the float32 ones.

A file with static ranges is chosen among several, see :mod:`edgekd.quantize.choice`; all others are made one way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from edgekd.artifacts import Artifact, file_name, files_beside
from edgekd.data.dataset import Dataset
from edgekd.distill.training_stage import TrainedModel
from edgekd.errors import UsageError
from edgekd.export.stages import describe_size
from edgekd.flavours import FLAVOURS, ArtifactName, format_of, sources
from edgekd.names import did_you_mean
from edgekd.quantize.calibration import activation_ranges
from edgekd.quantize.candidates import Attempt, Source, candidate_stage, observe, range_attempts
from edgekd.quantize.choice import Candidate, Choice, Means, Step, choose, goal_of
from edgekd.quantize.layers import count_layers
from edgekd.quantize.mixed_file import known_layers, mixed_candidates
from edgekd.quantize.qat.file_ranges import learned_stage
from edgekd.quantize.quality import Reference, validation_reference
from edgekd.quantize.range_file import Ranges
from edgekd.quantize.weights import TREATMENTS
from edgekd.quantize.weights.stages import treated_source
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import disk_errors
from edgekd.workspace import Workspace


def quantize_exports(
    recipe: Recipe, data: Dataset, student: TrainedModel, exported: dict[ArtifactName, Artifact], workspace: Workspace
) -> dict[ArtifactName, Artifact]:
    """Return every artifact of the recipe, in its order: the exported ones and those made from them.

    Raises:
        ExportError: A quantizer refused the model or crashed.
    """
    made = dict(exported)
    reference = cache(lambda: validation_reference(data, student, recipe.seed, workspace))
    kept = cache(lambda name: _kept_by_name(made, name, recipe, data, workspace))

    @cache
    def prepare(source: ArtifactName, weights: str) -> Source:
        if weights == "as-trained":
            return observe(made[source], weights, recipe, data, workspace)
        return treated_source(weights, source, recipe, data, student, workspace)

    for name in sources(recipe.export.artifacts):
        if name in made:
            continue
        source = FLAVOURS[name].source
        assert source is not None
        if _activations(name, recipe, data) == "static":
            if student.simulation is not None and FLAVOURS[name].simulated:
                learned = partial(learned_stage, made[source], student, data, workspace)
                made[name] = _by_training(
                    name, recipe, prepare(source, "as-trained"), learned, kept(source), reference(), workspace
                )
            else:
                made[name] = _by_choice(name, recipe, partial(prepare, source), kept(source), reference(), workspace)
        else:
            made[name] = _make(name, recipe, data, made[source], workspace)
    return {name: made[name] for name in recipe.export.artifacts}


def _activations(name: ArtifactName, recipe: Recipe, data: Dataset) -> str | None:
    wanted = FLAVOURS[name].activations
    return activation_ranges(recipe.quantize.activations, data.kind) if wanted == "auto" else wanted


def _by_training(
    name: ArtifactName, recipe: Recipe, source: Source, learned: Callable[[], Ranges], keep: tuple[str, ...],
    reference: Reference, workspace: Workspace,
) -> Artifact:  # fmt: skip
    """Make the file with the ranges that quantization-aware training learned; there is nothing to choose."""
    goal, ranges = goal_of(recipe), learned()
    # Tensors that training did not round keep all that was seen.
    attempt = Attempt(Means("learned", keep=keep), {**range_attempts(name, source, "minmax")[0].ranges, **ranges})
    found = candidate_stage(
        f"try-{name}", "ranges learned in training, measured on validation samples", name, source.artifact, [attempt],
        reference, goal, {"observed": source.observed.files, "ranges": ranges}, workspace,
    )  # fmt: skip
    return _take(name, choose([lambda _best: found], goal), source, None, workspace)


def _by_choice(
    name: ArtifactName, recipe: Recipe, prepare: Callable[[str], Source], keep: tuple[str, ...], reference: Reference,
    workspace: Workspace,
) -> Artifact:  # fmt: skip
    """Try means until the goal holds on validation samples, and make the best file the artifact."""
    goal, wanted = goal_of(recipe), recipe.quantize.weights
    used: dict[str, Source] = {}

    def attempt(weights: str, _best: Candidate | None) -> list[Candidate]:
        source = used[weights] = prepare(weights)
        attempts = range_attempts(name, source, recipe.quantize.ranges, keep)
        plain = weights == "as-trained"
        return candidate_stage(
            f"try-{name}" + ("" if plain else f"-{weights}"),
            "ways to set ranges" + ("" if plain else f", with {weights} weights") + ", compared on validation samples",
            name, source.artifact, attempts, reference, goal, {"observed": source.observed.files}, workspace,
        )  # fmt: skip

    mixed: dict[str, Any] = {}

    def floats(best: Candidate | None) -> list[Candidate]:
        assert best is not None
        found, facts = mixed_candidates(name, best, used[best.means.weights], reference, goal, workspace)
        mixed.update(facts)
        return [each for each in found if _has_int8_weights(each, name, recipe, workspace)]

    order = ("as-trained", *TREATMENTS) if wanted == "auto" else (wanted,)
    steps: list[Step] = [partial(attempt, weights) for weights in order]
    if recipe.quantize.keep == "auto":
        steps.append(floats)
    choice = choose(steps, goal)
    return _take(name, choice, used[choice.chosen.means.weights], mixed or None, workspace)


def _has_int8_weights(candidate: Candidate, name: ArtifactName, recipe: Recipe, workspace: Workspace) -> bool:
    """Return whether so much of a file is in int8 that it may be called so: kept layers have float weights."""
    arguments = {"path": str(candidate.file), "kind": format_of(name)}
    shares = run_in_child("edgekd.census:census", arguments, log=workspace.log)
    return bool(shares["int8_weights"] >= recipe.gates.int8_weight_share)


def _kept_by_name(
    made: dict[ArtifactName, Artifact], source: ArtifactName, recipe: Recipe, data: Dataset, workspace: Workspace
) -> tuple[str, ...]:
    """Return the layers that the recipe names, those of one float32 file; formats call their layers by other names.

    Raises:
        UsageError: A layer is in none of the files that ones with static ranges are made from.
    """
    wanted = recipe.quantize.keep
    if wanted == "auto" or not wanted:
        return ()
    static = [each for each in sources(recipe.export.artifacts) if _activations(each, recipe, data) == "static"]
    names = {each: known_layers(made[each], workspace.log) for each in {FLAVOURS[one].source for one in static} if each in made}
    everything = {name for each in names.values() for name in each}
    unknown = [each for each in wanted if each not in everything]
    if unknown:
        close = did_you_mean(unknown[0], everything)
        raise UsageError(f"quantize.keep: no float32 file has a layer '{unknown[0]}'{close}", "`edgekd inspect` lists layers")
    return tuple(each for each in wanted if each in names[source])


def _take(
    name: ArtifactName, choice: Choice, source: Source, mixed: dict[str, Any] | None, workspace: Workspace
) -> Artifact:  # fmt: skip
    chosen = choice.chosen.file
    assert chosen is not None
    facts = {**choice.to_json(), "calibration": source.calibration, "mixed": mixed}

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(name)
        with disk_errors(folder):
            shutil.copyfile(chosen, out)
        return {"size_bytes": out.stat().st_size, "quantization": facts}

    inputs = {"model": source.artifact.sha256, "facts": facts}
    what = f"{FLAVOURS[name].what}; {_chosen(choice)}"
    stage = workspace.stage(name, what, inputs, work, describe_size)
    return Artifact(
        name, stage.path(file_name(name)), stage.files[file_name(name)], "static",
        quantization=stage.result["quantization"],
    )  # fmt: skip


def _chosen(choice: Choice) -> str:
    means, quality = choice.chosen.means, choice.chosen.quality
    made = "" if means.weights == "as-trained" else f"{means.weights} weights, "
    floats = f", {count_layers(len(means.keep))} in floating point" if means.keep else ""
    lost = f"loses {quality.drop:.2f} points on validation"
    told = f"{made}ranges by {means.ranges}{floats}, of {len(choice.tried)} tried; {lost}"
    return told if choice.held else f"{told}; not as good as asked for"


def _make(name: ArtifactName, recipe: Recipe, data: Dataset, source: Artifact, workspace: Workspace) -> Artifact:
    """Make a file that there is one way to make."""
    flavour, activations = FLAVOURS[name], _activations(name, recipe, data)
    dynamic = flavour.activations == "auto" and activations == "dynamic"
    function, what = (flavour.dynamic, "int8 weights, ranges of activations as it runs") if dynamic else (
        flavour.function, flavour.what
    )  # fmt: skip
    assert function is not None

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(name)
        arguments = {"model": str(source.path), "out": str(out), **flavour.arguments}
        with disk_errors(folder):
            run_in_child(function, arguments, log=workspace.log)
        return {"size_bytes": out.stat().st_size}

    inputs: dict[str, Any] = {"model": source.sha256, "activations": activations, "arguments": flavour.arguments}
    stage = workspace.stage(name, what, inputs, work, describe_size)
    beside = tuple(stage.path(each) for each in files_beside(name))
    # A file made from another inherits how that computes.
    computes = activations or (source.activations if source.precision.startswith("int") else None)
    return Artifact(name, stage.path(file_name(name)), stage.files[file_name(name)], computes, beside)
