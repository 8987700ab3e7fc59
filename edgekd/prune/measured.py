"""What the cuts brought: latency of the network before and after them, as the same kind of file, on this host and elsewhere.

On this host both files run in one measurement, in turns, on one thread: what disturbs the host disturbs both. On the targets
of a recipe it is predicted, from the files, as for every file of a run.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.artifacts import Artifact, file_name
from edgekd.benchmark.on_device import Protocol, benchmark_files
from edgekd.benchmark.statistics import Summary
from edgekd.benchmark.target_stage import coefficients_digest
from edgekd.benchmark.transports.local import LocalTransport
from edgekd.devices.file_latency import predict_file
from edgekd.devices.latency import RUNTIMES, Prediction
from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.devices.targets import TargetFiles, target_files
from edgekd.distill.training_stage import TrainedModel
from edgekd.errors import DeviceError, ExportError
from edgekd.export.stages import exporter_of
from edgekd.flavours import ArtifactName, format_of
from edgekd.models.spec import save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import Workspace

IN_TURNS = Protocol(seconds=1.0, warmup_s=0.2, turn_s=0.1, canary_s=0.2, idle_s=0.0)
"""Three blocks of a second of each file, with new processes, in turns of a tenth of a second."""


@dataclass(frozen=True)
class Timed:
    """A file of the network before the cuts, and one after them, timed in turns on one thread of this host.

    Attributes:
        file: For example ``onnx-fp32``.
        before, after: Median in milliseconds.
        ratio: ``after`` over ``before``.
        low, high: 95 % interval of the ratio.
        runs: Inferences of each.
        noise: Why the host was too busy to tell more; empty: it was not.
    """

    file: ArtifactName
    before: float
    after: float
    ratio: float
    low: float
    high: float
    runs: int
    noise: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "noise": list(self.noise)}


def time_pair(file: ArtifactName, before: Path, after: Path, listener: Listener | None = None) -> Timed:
    """Time two files in turns on this host.

    Raises:
        DeviceError: One of them does not run.
    """
    result = benchmark_files(
        [before, after], load_profile("host"), LocalTransport(), threads=(1,), protocol=IN_TURNS, runner="python",
        listener=listener,
    )  # fmt: skip
    if result.failed:
        name, _, why = result.failed[0]
        raise DeviceError(f"{name}, before or after the cuts, does not run here: {why}")
    old, new = result.measurements
    noise = tuple(dict.fromkeys((*old.verdict.reasons, *new.verdict.reasons)))
    runs = min(old.summary.runs, new.summary.runs)
    if result.comparisons:
        found = result.comparisons[0]
        return Timed(file, _p50(old.summary), _p50(new.summary), found.ratio, found.low, found.high, runs, noise)
    low, high = (_bounds(each.summary) for each in (old, new))
    ratio = _p50(new.summary) / _p50(old.summary)
    return Timed(
        file, _p50(old.summary), _p50(new.summary), ratio, high[0] / low[1], high[1] / low[0], runs, noise
    )  # fmt: skip


def time_networks(before: tuple[nn.Module, ModelSpec], after: tuple[nn.Module, ModelSpec], listener: Listener) -> Timed | str:
    """Time two networks on this host as float32 ONNX files, or return why that cannot be: what they compute is done already."""
    started = time.monotonic()
    listener.stage_started("latency", "onnx-fp32 before and after the cuts, in turns on one thread of this host")
    with tempfile.TemporaryDirectory(prefix="edgekd-latency-") as folder:
        files = []
        try:
            for name, (network, spec) in (("before", before), ("after", after)):
                weights, out = Path(folder, f"{name}.safetensors"), Path(folder, f"{name}.onnx")
                save_weights(network, weights)
                arguments = {"spec": spec.to_json(), "weights": str(weights), "out": str(out)}
                run_in_child("edgekd.export.onnx:export_onnx", arguments, log=Path(folder, "log.txt"))
                files.append(out)
            timed = time_pair("onnx-fp32", files[0], files[1], listener)
        except (ExportError, DeviceError) as error:
            listener.warned(f"latency is not measured: {error.message}")
            return error.message
    listener.stage_finished("latency", latency_said([timed.to_json()]), time.monotonic() - started, False)
    return timed


def ratio_said(timed: Mapping[str, Any]) -> str:
    """Return the ratio with its interval, of what :meth:`Timed.to_json` gives: ``0.55x (0.54-0.56)``."""
    return f"{timed['ratio']:.2f}x ({timed['low']:.2f}-{timed['high']:.2f})"


def verdict_of(timed: Mapping[str, Any]) -> str:
    """Return in words what the ratio does not say by itself; empty where the network is faster than before."""
    if timed["low"] > 1:
        return "slower here than before the cuts, although it computes less"
    return "no difference beyond noise" if timed["high"] >= 1 else ""


def latency_said(host: Sequence[Mapping[str, Any]]) -> str:
    """Return what the cuts brought on this host in words, for the files of one run."""
    if not host:
        return ""
    parts = []
    for each in host:
        verdict = f", {verdict_of(each)}" if verdict_of(each) else ""
        parts.append(ratio_said(each) + (f" as {each['file']}" if len(host) > 1 else "") + verdict)
    return f"latency on this host {' and '.join(parts)}"


def measure_cuts(
    recipe: Recipe, student: TrainedModel, exported: Mapping[ArtifactName, Artifact], workspace: Workspace
) -> TrainedModel:
    """Measure on this host, and predict for the recipe's targets, what the cuts of the student brought.

    Args:
        recipe: Its targets, and how files are exported.
        student: After all training.
        exported: Its float32 files.
        workspace: Of the run.

    Returns:
        ``student`` with ``pruning.latency``; itself, if nothing was cut from it.

    Raises:
        ExportError: The network before the cuts cannot be exported.
        DeviceError: Its files do not run here. That the host is busy is no error.
    """
    pruning = student.pruning
    if pruning is None or not pruning.cuts or pruning.whole is None:
        return student
    whole, targets = pruning.whole, target_files(recipe)

    def work(folder: Path) -> dict[str, Any]:
        timed, predicted = [], []
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            pairs = {}
            for name, artifact in exported.items():
                before = Path(scratch, file_name(name))
                arguments = {"spec": whole.spec.to_json(), "weights": str(whole.weights), "out": str(before)}
                run_in_child(exporter_of(name, recipe), arguments, log=workspace.log)
                pairs[name] = before, artifact.path
                timed.append(time_pair(name, before, artifact.path, workspace.listener).to_json())
            for target in targets:
                predicted += _predicted(target, pairs)
        return {"host": timed, "predicted": predicted}

    inputs = {
        "before": [whole.spec.to_json(), whole.digest], "after": {name: each.sha256 for name, each in exported.items()},
        "exporters": [exporter_of(name, recipe) for name in exported], "protocol": asdict(IN_TURNS),
        "host": [platform.node(), platform.machine(), usable_cores()],
        "targets": [[repr(each.profile), each.threads, coefficients_digest(each.profile.id)] for each in targets],
    }  # fmt: skip
    what = f"{' and '.join(exported)} before and after the cuts, in turns on one thread of this host"
    result = workspace.stage("prune-latency", what, inputs, work, _describe).result
    return replace(student, pruning=replace(pruning, latency=result))


def _predicted(target: TargetFiles, pairs: Mapping[ArtifactName, tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Return what is predicted for one device: of the float32 file whose runtime its best file takes; nothing, if unknown."""
    wanted = [name for name in pairs if target.profile.runtimes.get(format_of(name)) in RUNTIMES]
    best = format_of(target.files[0])
    for name in sorted(wanted, key=lambda each: format_of(each) != best):
        before, after = (predict_file(each, target.profile, threads=target.threads).prediction for each in pairs[name])
        if before is not None and after is not None:
            return [{
                "device": target.profile.id, "file": name, "threads": target.threads, "before": _short(before),
                "after": _short(after),
            }]  # fmt: skip
    return []


def _short(prediction: Prediction) -> dict[str, Any]:
    return {key: getattr(prediction, key) for key in ("p50_ms", "low_ms", "high_ms", "basis")}


def _p50(summary: Summary) -> float:
    return summary.mean if summary.p50 is None else summary.p50


def _bounds(summary: Summary) -> tuple[float, float]:
    middle = _p50(summary)
    return (middle if summary.low is None else summary.low), (middle if summary.high is None else summary.high)


def _describe(result: dict[str, Any]) -> str:
    return latency_said(result["host"])
