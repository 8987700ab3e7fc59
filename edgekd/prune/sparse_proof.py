"""The proof that files have the zeros that were asked for, and what zeros are good for: how well the files compress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts import Artifact
from edgekd.distill.training_stage import TrainedModel
from edgekd.flavours import ArtifactName
from edgekd.prune.sparsity import parse_sparsity
from edgekd.safe.child import run_in_child
from edgekd.verify import Gate, Verified
from edgekd.workspace import Workspace


@dataclass(frozen=True)
class FileZeros:
    """The zeros of one file.

    Attributes:
        size_bytes: Of the file.
        deflated_bytes: What deflate makes of it at level 9, as a zip, an APK or gzip does.
        weights: Of the layers that have zeros; this and all that follow ``None``: it was not looked into the file.
        zeros: How many of them are zero in the file; rounding to integers adds some.
        lost: How many should be zero and are not.
        broken_groups: How many groups of neighbours have more weights left than the pattern allows.
        missing: Names of layers that were not found; all their zeros are ``lost``.
    """

    size_bytes: int
    deflated_bytes: int
    weights: int | None = None
    zeros: int | None = None
    lost: int | None = None
    broken_groups: int | None = None
    missing: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as ``report.json`` has it."""
        return asdict(self)


def find_zeros(
    student: TrainedModel, verified: Mapping[ArtifactName, Verified], workspace: Workspace
) -> dict[ArtifactName, FileZeros]:  # fmt: skip
    """Look for the zeros of the student in every file, in a child process each; nothing if it was given none.

    They are those of the stage that set them, so that whatever was trained, folded, quantized and exported since had to
    keep them.
    """
    zeroed = None if student.pruning is None else student.pruning.zeroed
    if zeroed is None:
        return {}
    return {name: _find(each.artifact, student, zeroed, workspace) for name, each in verified.items()}


def _find(artifact: Artifact, student: TrainedModel, zeroed: tuple[Path, str], workspace: Workspace) -> FileZeros:
    assert student.pruning is not None
    last = student.pruning.zeros[-1]
    pattern = parse_sparsity(last["asked"]).pattern
    layers = [each["layer"] for each in last["layers"]]
    weights, digest = zeroed

    def work(_folder: Path) -> dict[str, Any]:
        arguments = {
            "path": str(artifact.path), "kind": artifact.format, "expected": str(weights), "layers": layers,
            "pattern": pattern,
        }  # fmt: skip
        found: dict[str, Any] = run_in_child("edgekd.prune.sparse_reader:look_at_zeros", arguments, log=workspace.log)
        return {"size_bytes": artifact.path.stat().st_size, **found}

    inputs = {"artifact": artifact.sha256, "weights": digest, "layers": layers, "pattern": pattern}
    stage = workspace.stage(f"zeros-{artifact.name}", f"zeros of {len(layers)} layers in the file", inputs, work, _describe)
    return FileZeros(**stage.result)


def _describe(result: dict[str, Any]) -> str:
    deflated = f"{result['size_bytes']:,} bytes, {result['deflated_bytes']:,} deflated"
    if result["weights"] is None:
        return f"not looked for in this format; {deflated}"
    lost = f", {result['lost']:,} were lost" if result["lost"] else ""
    return f"{result['zeros'] / result['weights']:.1%} are zero{lost}; {deflated}"


def zero_gates(student: TrainedModel, found: Mapping[ArtifactName, FileZeros]) -> list[Gate]:
    """Return, for every file that was looked into, the gates that its zeros and their pattern must pass."""
    gates = []
    for name, each in found.items():
        if each.lost is None or each.broken_groups is None:
            continue
        gates.append(Gate(f"{name} weights that must be zero and are not", name, 0, each.lost, each.lost == 0))
        assert student.pruning is not None
        asked = student.pruning.zeros[-1]["asked"]
        if ":" in asked:
            what = f"{name} groups that break the pattern {asked}"
            gates.append(Gate(what, name, 0, each.broken_groups, each.broken_groups == 0))
    return gates
