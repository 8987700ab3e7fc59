"""The search for an int8 file with some layers in floating point: all of it in one child process, because it makes dozens."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact
from edgekd.evaluate import RUNTIME_ERRORS, evaluate_file
from edgekd.flavours import FLAVOURS, ArtifactName, format_of
from edgekd.quantize.candidates import HISTOGRAMS, Attempt, Source, candidate_stage, range_attempts
from edgekd.quantize.choice import Candidate, Goal, Means
from edgekd.quantize.histogram import load_histograms
from edgekd.quantize.layers import count_layers, layers_from_json, list_layers
from edgekd.quantize.mixing import mix_precision
from edgekd.quantize.quality import Quality, Reference, quality, worthless
from edgekd.quantize.range_file import Ranges, read_ranges, write_ranges
from edgekd.quantize.ranges import minmax
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.verify import sample_set
from edgekd.workspace import Workspace

_MOST_SAMPLES = 512
"""Validation samples that files of the search are run on; what it ends with is judged on all of them like any candidate."""


def mixed_candidates(
    name: ArtifactName, best: Candidate, source: Source, reference: Reference, goal: Goal, workspace: Workspace
) -> tuple[list[Candidate], dict[str, Any]]:
    """Search for layers to keep in floating point; return the file that it ends with, and what the report tells of it.

    Two stages: the search, and a candidate of what it ends with, on top of the means of the best so far.

    Args:
        name: The artifact.
        best: The best candidate so far: its ranges are the ones that rules change, its layers in floating point stay so.
        source: The float32 file that ``best`` was made from.
        reference: What files are judged against.
        goal: When to stop.
        workspace: The run.
    """
    found = _search_stage(name, best, source, reference, goal, workspace)
    ranges = {tensor: (low, high) for tensor, (low, high) in found["ranges"].items()}
    told = best.means.ranges + (", ends set by rules" if ranges else "")
    means = Means(told, best.means.weights, tuple(found["keep"]))
    attempt = Attempt(means, _ranges_of(name, best, source) | ranges)
    what = f"{count_layers(len(means.keep))} in floating point"
    inputs = {"observed": source.observed.files, "ranges": found["ranges"]}
    candidates = candidate_stage(
        f"mixed-{name}", what, name, source.artifact, [attempt], reference, goal, inputs, workspace
    )  # fmt: skip
    return candidates, found["facts"]


def _ranges_of(name: ArtifactName, best: Candidate, source: Source) -> Ranges:
    return range_attempts(name, source, best.means.ranges)[0].ranges


def _search_stage(
    name: ArtifactName, best: Candidate, source: Source, reference: Reference, goal: Goal, workspace: Workspace
) -> dict[str, Any]:
    step = -(-len(reference.indices) // _MOST_SAMPLES)

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            return _search(name, best, source, reference, goal, step, Path(scratch), workspace.log)

    inputs = {
        "model": source.artifact.sha256, "data": reference.data.digest, "goal": vars(goal), "means": best.means.to_json(),
        "validation": reference.indices[::step].tolist(), "observed": source.observed.files,
        "arguments": FLAVOURS[name].arguments,
    }  # fmt: skip
    what = f"layers that must compute in floating point, on {len(reference.indices[::step]):,} validation samples"
    return workspace.stage(f"mix-{name}", what, inputs, work, _told).result


def _told(result: dict[str, Any]) -> str:
    facts = result["facts"]
    reached = "" if facts["holds"] else ", which is not enough"
    return f"{count_layers(len(facts['kept']))}, the best of {len(facts['curve'])} sets{reached}"


def _search(
    name: ArtifactName, best: Candidate, source: Source, reference: Reference, goal: Goal, step: int, scratch: Path, log: Path
) -> dict[str, Any]:
    data, indices = reference.data, reference.indices[::step]
    # Every range is given: the quantizer wants one sample to run the file on.
    np.savez(scratch / "calibration.npz", allow_pickle=False, **data.batch(data.splits.train[:1]))
    write_ranges(_ranges_of(name, best, source), scratch / "base.json")
    histograms = load_histograms(source.observed.path(HISTOGRAMS))
    write_ranges({tensor: minmax(each) for tensor, each in histograms.items()}, scratch / "observed.json")
    np.save(scratch / "labels.npy", data.labels[indices], allow_pickle=False)
    np.save(scratch / "logits.npy", np.load(reference.logits, allow_pickle=False)[::step], allow_pickle=False)
    samples = sample_set(data, indices, scratch / "indices.npy", scratch / "outputs.npy")
    arguments = {
        "model": str(source.artifact.path), "kind": format_of(name), "function": FLAVOURS[name].function,
        "arguments": FLAVOURS[name].arguments, "keep": list(best.means.keep), "spec": reference.spec.to_json(),
        "samples": samples, "goal": vars(goal), "folder": str(scratch),
    }  # fmt: skip
    found: dict[str, Any] = run_in_child("edgekd.quantize.mixed_file:search_file", arguments, log=log)
    return found


def search_file(
    model: str, kind: str, function: str, arguments: dict[str, Any], keep: list[str], spec: dict[str, Any],
    samples: dict[str, Any], goal: dict[str, float], folder: str,
) -> dict[str, Any]:  # fmt: skip
    """Find the ranges and layers in floating point that make a file reach the goal. Runs in a child process.

    Args:
        model: Path of the float32 file.
        kind: ``onnx`` or ``tflite``.
        function: The quantizer, ``module:function``.
        arguments: More arguments of it.
        keep: Layers that are in floating point in any case.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        samples: Validation samples, see :func:`edgekd.evaluate.run_sets`.
        goal: Fields of :class:`edgekd.quantize.choice.Goal`.
        folder: Holds ``base.json`` and ``observed.json``, ranges of all tensors; ``calibration.npz``; ``labels.npy`` and the
            student's ``logits.npy`` of the samples.

    Returns:
        ``ranges`` that rules set, layers to ``keep``, and the ``facts`` of :meth:`edgekd.quantize.mixing.Mixed.to_json`.
    """
    place = Path(folder)
    module, _, called = function.partition(":")
    quantize = getattr(importlib.import_module(module), called)
    base, observed = read_ranges(place / "base.json"), read_ranges(place / "observed.json")
    labels, logits = (np.load(place / f"{each}.npy", allow_pickle=False) for each in ("labels", "logits"))
    out, ranges_file = place / f"trial.{kind}", place / "ranges.json"

    def judge(ranges: Ranges, kept: tuple[str, ...]) -> Quality:
        write_ranges(base | ranges, ranges_file)
        given = {"calibration": str(place / "calibration.npz"), "ranges": str(ranges_file), **arguments}
        try:
            quantize(model=model, out=str(out), keep=kept, **given)
            evaluate_file(str(out), kind, spec, [samples])
        except RUNTIME_ERRORS as error:
            print(f"no {kind} file with {count_layers(len(kept))} in floating point: {error}")  # the log says why
            return worthless(logits, labels)
        return quality(np.load(samples["out"], allow_pickle=False), logits, labels)

    layers = layers_from_json(list_layers(model, kind))
    mixed = mix_precision(layers, observed, judge, Goal(**goal).holds, tuple(keep))
    return {"ranges": {name: list(each) for name, each in mixed.ranges.items()}, "keep": list(mixed.keep),
            "facts": mixed.to_json()}  # fmt: skip


def known_layers(artifact: Artifact, log: Path) -> list[str]:
    """Return the names of the layers of a float32 file that can be in int8 or in floating point."""
    listed = run_in_child(
        "edgekd.quantize.layers:list_layers", {"model": str(artifact.path), "kind": artifact.format}, log=log, threads=1
    )
    return [each.name for each in layers_from_json(listed).layers if each.quantizable]
