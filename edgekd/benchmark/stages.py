"""The benchmark stage: every artifact on every thread setting of the target."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.benchmark.protocol import summarise
from edgekd.data.dataset import Dataset
from edgekd.devices.profiles import Profile, usable_cores
from edgekd.flavours import ArtifactName
from edgekd.recipe import Recipe
from edgekd.runtimes import feed
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.verify import Verified
from edgekd.workspace import Workspace

Latency = dict[str, dict[str, Any]]
"""``{"host:1": {"kind": "measured", "p50_ms": ...}, ...}``, as in ``report.json``."""


def benchmark(
    recipe: Recipe, data: Dataset, verified: dict[ArtifactName, Verified], profile: Profile, workspace: Workspace
) -> dict[ArtifactName, Latency]:
    """Measure the latency of every artifact on this host, in a child process each."""
    return {name: _benchmark(recipe, data, each, profile, workspace) for name, each in verified.items()}


def _benchmark(recipe: Recipe, data: Dataset, each: Verified, profile: Profile, workspace: Workspace) -> Latency:
    artifact = each.artifact
    settings = {str(setting): usable_cores() if setting == "all" else setting for setting in profile.threads}

    def work(folder: Path) -> dict[str, Any]:
        measured: Latency = {}
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            sample = Path(scratch, "sample.npz")
            first = data.splits.test[:1]
            fed = {one["name"]: feed(data.raw[one["name"]].array[first], data.raw[one["name"]].full_scale, one)
                   for one in each.inputs}  # fmt: skip
            np.savez(sample, allow_pickle=False, **fed)
            for setting, threads in settings.items():
                arguments = {
                    "path": str(artifact.path), "kind": artifact.format, "sample": str(sample),
                    "warmup": recipe.benchmark.warmup, "runs": recipe.benchmark.runs, "threads": threads,
                }  # fmt: skip
                times = run_in_child("edgekd.benchmark.protocol:measure", arguments, log=workspace.log)
                measured[f"{profile.id}:{setting}"] = {
                    "kind": "measured", **summarise(np.asarray(times)), "threads": threads,
                    "runtime": profile.runtimes[artifact.format],
                }  # fmt: skip
        return {"latency": measured}

    inputs = {
        "artifact": artifact.sha256, "benchmark": recipe.benchmark.model_dump(), "settings": settings,
        "host": [platform.node(), platform.machine(), usable_cores()],
    }  # fmt: skip
    what = f"{recipe.benchmark.runs} runs of one sample on {profile.name}, at {' and '.join(settings)} threads"
    stage = workspace.stage(f"benchmark-{artifact.name}", what, inputs, work, _describe)
    latency: Latency = stage.result["latency"]
    return latency


def _describe(result: dict[str, Any]) -> str:
    return ", ".join(f"{target} p50 {each['p50_ms']:.3f} ms" for target, each in result["latency"].items())
