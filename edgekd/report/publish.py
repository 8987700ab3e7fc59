"""The last step of a run: put the files and every form of the report where the user looks for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd import __version__
from edgekd.benchmark.stages import Latency
from edgekd.benchmark.target_stage import OnTarget, with_targets
from edgekd.data.classes import labels_text
from edgekd.data.dataset import Dataset
from edgekd.distill.control import Control
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import TrainedModel
from edgekd.flavours import ArtifactName
from edgekd.per_class import PerClass
from edgekd.prune.sparse_proof import FileZeros
from edgekd.recipe import Recipe
from edgekd.recipe_file import dump_recipe
from edgekd.report.model_card import model_card
from edgekd.report.page import report_page
from edgekd.report.report import MeasuredArtifact, Report
from edgekd.safe.files import sha256_file, write_bytes, write_json, write_text
from edgekd.verify import Gate, Verified
from edgekd.versions import library_versions
from edgekd.workspace import StageResult, Workspace


def publish(
    recipe: Recipe, data: Dataset, teacher: Teacher | None, student: TrainedModel, verified: dict[ArtifactName, Verified],
    gates: list[Gate], latency: dict[ArtifactName, Latency], threads: int, workspace: Workspace, *,
    control: Control | None = None, classes: Mapping[ArtifactName, PerClass] | None = None,
    golden: Mapping[ArtifactName, StageResult] = {}, targets: tuple[OnTarget, ...] = (),
    zeros: Mapping[ArtifactName, FileZeros] = {},
) -> Report:  # fmt: skip
    """Write artifacts, labels, reports and manifest to the run folder; remove what an earlier run left there.

    Each file is replaced whole; the manifest comes last, so a kill in between is mended by running again.
    """
    folder = workspace.folder
    missed = {gate.artifact for gate in gates if not gate.passed}
    latency = with_targets(latency, targets)
    measured = tuple(
        MeasuredArtifact(
            each, latency[name], "rejected" if name in missed else "artifacts", each.artifact.path.stat().st_size,
            (classes or {}).get(name), zeros.get(name),
        )
        for name, each in verified.items()
    )  # fmt: skip
    report = Report(
        recipe, folder, teacher, student, measured, tuple(gates),
        {"train": len(data.splits.train), "validation": len(data.splits.validation), "test": len(data.splits.test)},
        threads, tuple(workspace.redone), control, targets,
    )  # fmt: skip
    if workspace.follows:
        return report  # the main process writes
    before = _listed(folder / "manifest.json")
    for each in measured:
        for name, path in each.files.items():
            write_bytes(folder / name, path.read_bytes())
        other = "artifacts" if each.folder == "rejected" else "rejected"
        for name in each.files:
            (folder / other / Path(name).name).unlink(missing_ok=True)
    write_text(folder / "artifacts" / "labels.txt", labels_text(data.classes))
    for name, path in data.files.items():
        write_bytes(folder / "artifacts" / name, path.read_bytes())
    golden_files = {
        f"golden/{Path(each.relative_path).name}/{name}": golden[each.name].path(name)
        for each in measured if each.name in golden for name in golden[each.name].files
    }  # fmt: skip
    for place, path in golden_files.items():
        write_bytes(folder / place, path.read_bytes())
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    write_json(folder / "splits.json", _splits(data))
    content = report.to_json()
    write_json(folder / "report.json", content)
    write_text(folder / "MODEL_CARD.md", model_card(report))
    write_text(report.html, report_page(report, content["environment"]))
    written = {name for each in measured for name in each.files} | {
        "artifacts/labels.txt", "recipe.yaml", "splits.json", "report.json", "MODEL_CARD.md", "report.html",
    } | {f"artifacts/{name}" for name in data.files} | golden_files.keys()  # fmt: skip
    for stale in before - written:
        (folder / stale).unlink(missing_ok=True)
    for emptied in (folder / "rejected", *(folder / "golden").glob("*"), folder / "golden"):
        with contextlib.suppress(OSError):
            emptied.rmdir()  # only if it is empty
    write_json(folder / "manifest.json", _manifest(folder, sorted(written), recipe.seed))
    return report


def _splits(data: Dataset) -> dict[str, Any]:
    """Return which sample is in which split, by the names their owner knows."""
    parts = {"train": data.splits.train, "validation": data.splits.validation, "test": data.splits.test}
    ids = data.ids
    return {name: [ids[index] for index in indices] for name, indices in parts.items()}


def _manifest(folder: Path, names: list[str], seed: int) -> dict[str, Any]:
    files = [{"path": name, "bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in names]
    return {"schema": 1, "edgekd": __version__, "seed": seed, "versions": library_versions(), "files": files}


def _listed(manifest: Path) -> set[str]:
    """Return what the manifest of an earlier run lists, only paths inside the run folder."""
    if not manifest.is_file():
        return set()
    try:
        names = {str(each["path"]) for each in json.loads(manifest.read_text())["files"]}
    except (ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}
