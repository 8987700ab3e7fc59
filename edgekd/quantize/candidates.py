"""Candidates for one artifact: files that differ in ranges, weights or layers kept in float, made and measured at once."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact, file_name
from edgekd.data.dataset import Dataset
from edgekd.flavours import FLAVOURS, ArtifactName, format_of
from edgekd.quantize.audit import audit, balance
from edgekd.quantize.calibration import calibration_order, calibration_said
from edgekd.quantize.choice import Candidate, Goal, Means, best_of
from edgekd.quantize.histogram import load_histograms
from edgekd.quantize.observe import STEP
from edgekd.quantize.quality import Quality, Reference, measure_quality
from edgekd.quantize.range_file import Ranges, write_ranges
from edgekd.quantize.ranges import RANGE_METHODS, RangeMethod, ranges_by
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import StageResult, Workspace

HISTOGRAMS = "histograms.npz"
_FACTS = ("samples", "change", "settled", "per_class", "copies_left_out")
_MOST_CALIBRATION = 2048
_MOST_BYTES = 512 << 20
"""Of calibration samples, which lie in memory; large ones are fewer, but two steps at least."""


@dataclass(frozen=True)
class Source:
    """A float32 file that int8 ones are made from.

    Attributes:
        artifact: The file.
        weights: What was done to its weights, see :class:`edgekd.quantize.choice.Means`.
        observed: The stage that looked at its activations.
    """

    artifact: Artifact
    weights: str
    observed: StageResult

    @property
    def calibration(self) -> dict[str, Any]:
        """What is told of the samples: how many ``samples`` were looked at, the last ``change`` of ranges and whether they have
        ``settled``, how many the least and the most frequent class has, ``per_class``, and ``copies_left_out`` that validation
        or test hold as well."""
        return {name: self.observed.result[name] for name in _FACTS}


def observe(artifact: Artifact, weights: str, recipe: Recipe, data: Dataset, workspace: Workspace) -> Source:
    """Look at the activations of a float32 file on training samples, as many as it takes or as the recipe says."""
    wanted = recipe.quantize.calibration_samples
    settle = wanted == "auto"
    indices = calibration_order(data.splits.train, data.labels, recipe.seed)
    indices = indices[: _most_samples(data) if wanted == "auto" else wanted]

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            samples = Path(scratch, "calibration.npz")
            kept, copies = audit(data, indices)
            np.savez(samples, allow_pickle=False, **data.batch(kept))
            arguments = {
                "model": str(artifact.path), "calibration": str(samples), "out": str(folder / HISTOGRAMS),
                "until_settled": settle,
            }  # fmt: skip
            found: dict[str, Any] = run_in_child(
                f"edgekd.quantize.observe:observe_{artifact.format}", arguments, log=workspace.log
            )
        return {**found, "per_class": list(balance(data, kept[: found["samples"]])), "copies_left_out": len(copies)}

    name = f"observe-{artifact.format}" + ("" if weights == "as-trained" else f"-{weights}")
    inputs = {"model": artifact.sha256, "data": data.digest, "calibration": indices.tolist(), "settle": settle}
    what = f"ranges of activations on {'' if settle else f'{len(indices)} '}training samples"
    return Source(artifact, weights, workspace.stage(name, what, inputs, work, calibration_said))


def _most_samples(data: Dataset) -> int:
    """Return how many training samples are looked at, at most, where ranges decide how many it takes."""
    bytes_each = sum(4 * math.prod(each.shape) for each in data.inputs)
    return min(_MOST_CALIBRATION, max(_MOST_BYTES // bytes_each, 2 * STEP))


@dataclass(frozen=True)
class Attempt:
    """A candidate before it is made: its means, and the ranges that go into the file."""

    means: Means
    ranges: Ranges


def range_attempts(name: ArtifactName, source: Source, wanted: str, keep: tuple[str, ...] = ()) -> list[Attempt]:
    """Return one attempt for each way to set ranges, from one observation.

    Args:
        name: The artifact; 16-bit activations have steps enough for all that was seen, whatever is wanted.
        source: What it is made from.
        wanted: ``quantize.ranges`` of the recipe.
        keep: Layers that compute in float.
    """
    methods: tuple[RangeMethod, ...] = RANGE_METHODS
    if FLAVOURS[name].arguments.get("bits", 8) > 8:
        methods = ("minmax",)
    elif wanted != "auto":
        methods = tuple(each for each in RANGE_METHODS if each == wanted)
    histograms = load_histograms(source.observed.path(HISTOGRAMS))
    symmetric, outputs = name == "onnx-int8-tensorrt", source.observed.result["outputs"]
    return [
        Attempt(Means(each, source.weights, keep), ranges_by(each, histograms, symmetric, outputs)) for each in methods
    ]  # fmt: skip


def make_and_measure(
    name: ArtifactName, source: Artifact, attempts: Sequence[Attempt], reference: Reference, folder: Path, log: Path
) -> list[Candidate]:  # fmt: skip
    """Make a file for each attempt in ``folder``, and measure all of them; two child processes do it.

    Args:
        name: The artifact that they are candidates for.
        source: The float32 file that they are made from.
        attempts: What they are to be.
        reference: What they are judged against.
        folder: Gets the files.
        log: File that gets what libraries print.

    Raises:
        ExportError: The quantizer refused the file, or a candidate does not run.
    """
    function = FLAVOURS[name].function
    assert function is not None
    files = [folder / f"{index}-{file_name(name)}" for index in range(len(attempts))]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
        samples = Path(scratch, "calibration.npz")
        # Every range is given: the quantizer wants one sample to run the file on.
        np.savez(samples, allow_pickle=False, **reference.data.batch(reference.data.splits.train[:1]))
        each: list[dict[str, Any]] = []
        for index, (attempt, out) in enumerate(zip(attempts, files, strict=True)):
            ranges = Path(scratch, f"{index}.json")
            write_ranges(attempt.ranges, ranges)
            each.append({"out": str(out), "ranges": str(ranges), "keep": list(attempt.means.keep)})
        shared = {"model": str(source.path), "calibration": str(samples), **FLAVOURS[name].arguments}
        arguments = {"function": function, "shared": shared, "each": each}
        run_in_child("edgekd.quantize.making:make_files", arguments, log=log)
        measured = measure_quality(files, format_of(name), reference, Path(scratch), log)
    return [
        Candidate(attempt.means, quality, file)
        for attempt, quality, file in zip(attempts, measured, files, strict=True)
    ]  # fmt: skip


def candidate_stage(
    stage: str, what: str, name: ArtifactName, source: Artifact, attempts: Sequence[Attempt], reference: Reference,
    goal: Goal, inputs: Mapping[str, Any], workspace: Workspace,
) -> list[Candidate]:  # fmt: skip
    """Make and measure candidates as a stage of the run; the file of the best of them is kept.

    Args:
        stage: Name of the stage.
        what: One line on what it does.
        name: The artifact that they are candidates for.
        source: The float32 file that they are made from.
        attempts: What they are to be.
        reference: What they are judged against.
        goal: Decides which is the best.
        inputs: What the result depends on besides ``source``, means, data and goal.
        workspace: The run.
    """
    everything = {
        **inputs, "model": source.sha256, "data": reference.data.digest, "validation": reference.indices.tolist(),
        "means": [each.means.to_json() for each in attempts], "goal": vars(goal), "arguments": FLAVOURS[name].arguments,
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder):
            made = make_and_measure(name, source, attempts, reference, folder, workspace.log)
            kept = best_of(made, goal)
            for each in made:
                if each is not kept and each.file is not None:
                    each.file.unlink()
        assert kept.file is not None
        return {"qualities": [each.quality.to_json() for each in made], "kept": made.index(kept), "file": kept.file.name}

    done = workspace.stage(stage, what, everything, work, lambda result: _told(result, attempts))
    kept, file = done.result["kept"], done.path(done.result["file"])
    return [
        Candidate(attempt.means, Quality(**quality), file if index == kept else None)
        for index, (attempt, quality) in enumerate(zip(attempts, done.result["qualities"], strict=True))
    ]


def _told(result: dict[str, Any], attempts: Sequence[Attempt]) -> str:
    rows = zip(attempts, result["qualities"], strict=True)
    shown = ", ".join(f"{each.means.ranges} {quality['drop']:+.2f}" for each, quality in rows)
    return f"points lost on {result['qualities'][0]['n']:,} validation samples: {shown}"
