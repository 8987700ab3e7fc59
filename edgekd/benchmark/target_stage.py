"""The target stages: every file on every device it is for, measured where the device is connected, else predicted.

Latency that was predicted never stands in for one that was measured: each says which of the two it is, and a device that was
to be measured and cannot be reached ends the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.benchmark.stages import Latency
from edgekd.benchmark.transports import Transport
from edgekd.devices.profiles import user_file
from edgekd.devices.targets import TargetFiles, target_files
from edgekd.errors import DeviceError, UsageError
from edgekd.flavours import ArtifactName
from edgekd.recipe import Recipe
from edgekd.verify import Gate, Verified
from edgekd.workspace import StageResult, Workspace


@dataclass(frozen=True)
class OnTarget:
    """What is known of the files on one target.

    Attributes:
        device, name: The profile's id, and its name for people.
        place: Key of its latencies, for example ``pi4:4``.
        via: How it was reached; ``None``: it was not, and latency is predicted.
        chosen: The file to ship there, the best that passed its gates; ``None``: none did.
        latency: By file; files without are in ``without``.
        memory_bytes: Peak memory by file: measured, or weights and activations.
        without: Why there is no latency, by file.
        checked: Golden vectors that were run there, or on an emulated processor, by file: how many ``vectors``, how many
            ``differ`` and how many are ``identical``.
    """

    device: str
    name: str
    place: str
    via: str | None
    chosen: ArtifactName | None
    latency: dict[ArtifactName, dict[str, Any]]
    memory_bytes: dict[ArtifactName, int]
    without: dict[ArtifactName, str]
    checked: dict[ArtifactName, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return it as ``report.json`` has it; latencies stand with their files there."""
        return {
            "device": self.device, "name": self.name, "place": self.place, "via": self.via, "chosen": self.chosen,
            "memory_bytes": self.memory_bytes, "without_latency": self.without, "checked": self.checked,
        }  # fmt: skip


def benchmark_targets(
    recipe: Recipe, verified: Mapping[ArtifactName, Verified], gates: list[Gate], golden: Mapping[ArtifactName, StageResult],
    workspace: Workspace,
) -> tuple[tuple[OnTarget, ...], list[Gate]]:  # fmt: skip
    """Return what is known of the files on every target of the recipe, and the gates of targets.

    Args:
        recipe: Its targets.
        verified: Every file.
        gates: Those judged so far; a file that missed one is not shipped.
        golden: Golden vectors of files, which are run on devices.
        workspace: Of the run.

    Raises:
        UsageError: There is no such device, or no such way to it.
        DeviceError: A device that is to be measured cannot be reached, lacks something, or died.
    """
    missed = {gate.artifact for gate in gates if not gate.passed}
    found, more = [], []
    for each in target_files(recipe):
        ready = [name for name in each.files if name not in missed]
        facts = _facts(each, {name: verified[name] for name in each.files}, golden, workspace)
        on_target = OnTarget(
            each.profile.id, each.profile.name, each.place, each.target.via, ready[0] if ready else None,
            facts["latency"], facts["memory_bytes"], facts["without"], facts["checked"],
        )  # fmt: skip
        found.append(on_target)
        more += _gates(each, on_target, verified)
    return tuple(found), more


def with_targets(latency: dict[ArtifactName, Latency], targets: tuple[OnTarget, ...]) -> dict[ArtifactName, Latency]:
    """Return the latencies of files with those on targets beside them."""
    return {
        name: {**known, **{each.place: each.latency[name] for each in targets if name in each.latency}}
        for name, known in latency.items()
    }


def _facts(
    each: TargetFiles, files: dict[ArtifactName, Verified], golden: Mapping[ArtifactName, StageResult], workspace: Workspace
) -> dict[str, Any]:  # fmt: skip
    via = each.target.via

    def work(folder: Path) -> dict[str, Any]:
        memory = {name: _planned_memory(one.artifact.path) for name, one in files.items()}
        checked: dict[ArtifactName, dict[str, int]] = {}
        if via is None:
            latency, without = _predict(each, files)
        else:
            with _reached(each) as transport:
                checked = _check(each, files, golden, transport)
                if via == "emulated":
                    latency, without = _predict(each, files)
                else:
                    latency, without, peaks = _measure(each, files, transport, workspace)
                    memory |= peaks
        return {"latency": latency, "memory_bytes": memory, "without": without, "checked": checked}

    what = f"{len(files)} file{'s' if len(files) > 1 else ''} on {each.profile.name}, "
    what += f"by {via}" if via is not None else "predicted"
    inputs = {
        "target": each.target.model_dump(exclude={"max_latency_ms", "max_size_kib", "max_memory_mib"}),
        "files": {name: one.artifact.sha256 for name, one in files.items()},
        "golden": {name: golden[name].files for name in files if name in golden},
        "profile": repr(each.profile), "coefficients": coefficients_digest(each.profile.id),
    }  # fmt: skip
    return workspace.stage(f"target-{each.profile.id}", what, inputs, work, _describe).result


def coefficients_digest(profile: str) -> str:
    """Return the SHA-256 of what predictions for a profile are computed from."""
    from edgekd.devices.coefficients import coefficients_folder

    digest = hashlib.sha256()
    shipped = (coefficients_folder() / f"{name}.toml" for name in (profile, "families"))
    for path in (*shipped, user_file(profile)):
        digest.update(path.read_bytes() if path.is_file() else b"none")
    return digest.hexdigest()


def _planned_memory(path: Path) -> int:
    """Return the bytes of a file and of its activations at their peak: what a runtime needs at least."""
    from edgekd.inspect.inspection import FORMATS, inspect_file

    size = path.stat().st_size
    if path.suffix not in FORMATS:  # ONNX Runtime's own format: what it holds is not read
        return size
    return size + (inspect_file(path).peak.bytes or 0)


def _predict(
    each: TargetFiles, files: dict[ArtifactName, Verified]
) -> tuple[dict[ArtifactName, dict[str, Any]], dict[ArtifactName, str]]:
    from edgekd.devices.file_latency import predict_file
    from edgekd.devices.latency import RUNTIMES

    latency: dict[ArtifactName, dict[str, Any]] = {}
    without: dict[ArtifactName, str] = {}
    for name, one in files.items():
        if one.artifact.format == "ort":
            without[name] = "prediction reads .onnx and .tflite files"
            continue
        if each.profile.runtimes[one.artifact.format] not in RUNTIMES:
            without[name] = f"not predicted: {each.profile.runtimes[one.artifact.format]} runs on an accelerator"
            continue
        found = predict_file(one.artifact.path, each.profile, threads=each.threads)
        if found.prediction is None:
            without[name] = "not predicted: nothing like it was measured, and the profile does not tell its cores"
            continue
        latency[name] = {
            "kind": "predicted", "p50_ms": found.prediction.p50_ms, "p90_ms": None, "low_ms": found.prediction.low_ms,
            "high_ms": found.prediction.high_ms, "runs": 0, "threads": each.threads,
            "runtime": each.profile.runtimes[one.artifact.format], "basis": found.prediction.basis,
            "from": found.prediction.from_what,
        }  # fmt: skip
    return latency, without


@contextmanager
def _reached(each: TargetFiles) -> Iterator[Transport]:
    """Open the way to a device; whatever fails there says how the run goes on."""
    from edgekd.benchmark.transports.open import open_transport

    try:
        with open_transport(str(each.target.via), each.profile) as transport:
            yield transport
    except DeviceError as error:
        again = "everything before is done: mend that and run again, or leave out `via` to have latency predicted"
        raise DeviceError(
            f"target {each.profile.id}: {error.message}", f"{error.hint}; {again}" if error.hint else again
        ) from error


def _measure(
    each: TargetFiles, files: dict[ArtifactName, Verified], transport: Transport, workspace: Workspace
) -> tuple[dict[ArtifactName, dict[str, Any]], dict[ArtifactName, str], dict[ArtifactName, int]]:
    from edgekd.benchmark.on_device import benchmark_files

    by_path = {one.artifact.path: name for name, one in files.items()}
    result = benchmark_files(
        list(by_path),
        each.profile,
        transport,
        threads=(each.threads,),
        python=each.target.python,
        opened=True,
        listener=workspace.listener,
    )
    latency: dict[ArtifactName, dict[str, Any]] = {}
    peaks: dict[ArtifactName, int] = {}
    for found in result.measurements:
        name, summary = by_path[found.path], found.summary
        latency[name] = {
            "kind": "measured", "p50_ms": summary.mean if summary.p50 is None else summary.p50, "p90_ms": summary.p90,
            "low_ms": summary.low, "high_ms": summary.high, "runs": summary.runs, "threads": found.threads,
            "runtime": each.profile.runtimes[files[name].artifact.format], "verdict": found.verdict.word,
        }  # fmt: skip
        if found.peak_bytes is not None:
            peaks[name] = found.peak_bytes
    why = {name: reason for name, _, reason in result.failed}
    without = {name: why.get(path.name, why.get(str(path), "not measured")) for path, name in by_path.items()
               if name not in latency}  # fmt: skip
    return latency, without, peaks


def _check(
    each: TargetFiles, files: dict[ArtifactName, Verified], golden: Mapping[ArtifactName, StageResult], transport: Transport
) -> dict[ArtifactName, dict[str, int]]:
    """Run golden vectors on a device; TensorRT is left out, for its tool takes no inputs of ours."""
    from edgekd.benchmark.golden_vectors import verify_on_device

    found: dict[ArtifactName, dict[str, int]] = {}
    for name, one in files.items():
        if name in golden and (each.target.via == "emulated" or each.profile.runtimes[one.artifact.format] != "tensorrt"):
            check = verify_on_device(
                one.artifact.path, each.profile, transport, golden=golden[name].folder, python=each.target.python, opened=True
            )
            found[name] = {"vectors": len(check.vectors), "differ": len(check.differing), "identical": check.identical}
    return found


def _describe(result: dict[str, Any]) -> str:
    said = [f"{name} {each['p50_ms']:.3g} ms" for name, each in result["latency"].items()]
    said += [f"{name} not predicted" for name in result["without"]]
    checks = result["checked"].values()
    if checks:
        count, differ, same = (sum(each[key] for each in checks) for key in ("vectors", "differ", "identical"))
        said.append(f"golden vectors: {differ} of {count} differ, {same} identical")
    return ", ".join(said)


def _gates(each: TargetFiles, found: OnTarget, verified: Mapping[ArtifactName, Verified]) -> list[Gate]:
    """Return the gates of a target: its limits are for the file that is shipped there."""
    gates: list[Gate] = []
    where = f"emulated arm64 for {found.device}" if found.via == "emulated" else found.device
    for file, check in found.checked.items():
        what = f"{file} golden vectors that differ on {where}"
        gates.append(Gate(what, file, 0.0, float(check["differ"]), check["differ"] == 0))
    name, limits = found.chosen, each.target
    if name is None:
        return gates

    def at_most(what: str, limit: float | None, value: float) -> None:
        if limit is not None:
            gates.append(Gate(f"{name} {what} on {found.device}", name, limit, value, value <= limit + 1e-9))

    known = found.latency.get(name)
    if known is not None:
        at_most(f"median latency in ms, {known['kind']},", limits.max_latency_ms, known["p50_ms"])
    elif limits.max_latency_ms is not None:
        raise UsageError(
            f"targets: max_latency_ms of {found.device} cannot be judged: {found.without.get(name, 'no latency is known')}",
            "say how it is reached with via, or leave the limit out",
        )
    at_most("size in KiB", limits.max_size_kib, verified[name].artifact.path.stat().st_size / 1024)
    at_most("peak memory in MiB", limits.max_memory_mib, found.memory_bytes[name] / 2**20)
    return gates
