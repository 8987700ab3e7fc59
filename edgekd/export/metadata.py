"""The metadata stage: every file says itself what it takes and gives. Last of all changes, so quantizers see plain models.

Free of torch where it runs in a child process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.artifacts import Artifact, file_name
from edgekd.errors import UsageError
from edgekd.export.onnx_metadata import with_onnx_metadata
from edgekd.models.tensors import TensorSpec, spec_from_json
from edgekd.runtimes import describe, open_artifact
from edgekd.safe.child import run_in_child
from edgekd.safe.files import sha256_file, write_bytes

if TYPE_CHECKING:
    from edgekd.data.dataset import Dataset
    from edgekd.distill.training_stage import TrainedModel
    from edgekd.flavours import ArtifactName
    from edgekd.recipe import Recipe
    from edgekd.workspace import Workspace

_SAMPLES = {"image": "images", "tokens": "texts", "waveform": "sounds", "features": "rows of numbers"}


@dataclass(frozen=True)
class ModelFacts:
    """What a file says about itself.

    Attributes:
        name: Of the recipe.
        task: ``classification``.
        license: Of the model; ``None``: not told.
        inputs, outputs: In the file's order, as ``report.json`` has them.
        files: Files that an app needs beside the model, by name: ``tokenizer.json`` and ``vocab.txt`` of texts.
    """

    name: str
    task: str
    license: str | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    files: dict[str, bytes]

    @property
    def description(self) -> str:
        """What the model does, in one sentence."""
        samples = _SAMPLES[self.inputs[0]["meaning"]]
        return f"Classifies {samples} into {self.outputs[0]['shape'][-1]} classes."


def describe_artifacts(
    recipe: Recipe, data: Dataset, student: TrainedModel, artifacts: dict[ArtifactName, Artifact], workspace: Workspace
) -> dict[ArtifactName, Artifact]:
    """Return every artifact with its metadata inside; ONNX Runtime's own format has no place for it and stays as it is.

    Raises:
        UsageError: There are more or fewer labels than outputs.
    """
    return {
        name: artifact if artifact.format == "ort" else _describe(artifact, recipe, data, student, workspace)
        for name, artifact in artifacts.items()
    }


def _describe(artifact: Artifact, recipe: Recipe, data: Dataset, student: TrainedModel, workspace: Workspace) -> Artifact:
    out = file_name(artifact.name)
    facts = {
        "name": recipe.name, "task": recipe.task, "license_name": recipe.export.license, "spec": student.spec.to_json(),
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        files = {name: str(path) for name, path in data.files.items()}
        arguments = {"model": str(artifact.path), "kind": artifact.format, "out": str(folder / out), "files": files, **facts}
        added: dict[str, Any] = run_in_child("edgekd.export.metadata:write_metadata", arguments, log=workspace.log)
        return added

    inputs = {"model": artifact.sha256, "files": {name: sha256_file(path) for name, path in data.files.items()}, **facts}
    what = "what it takes and gives, and its labels, inside the file"
    stage = workspace.stage(f"metadata-{artifact.name}", what, inputs, work, _describe_size)
    return replace(artifact, path=stage.path(out), sha256=stage.files[out])


def _describe_size(result: dict[str, Any]) -> str:
    return f"{result['added_bytes'] / 1024:.1f} KiB more"


def write_metadata(
    model: str, kind: str, out: str, spec: dict[str, Any], name: str, task: str, license_name: str | None,
    files: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Write ``model`` with its metadata to ``out``. Runs in a child process.

    Args:
        model: Path of the file.
        kind: ``onnx`` or ``tflite``.
        out: Path of the file to write.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        name: Of the recipe.
        task: ``classification``.
        license_name: License of the model; ``None``: not told.
        files: Paths of files that an app needs beside the model, by name.

    Raises:
        UsageError: There are more or fewer labels than outputs.
    """
    found = spec_from_json(spec)
    _, inputs, outputs = open_artifact(model, kind, threads=1)
    facts = ModelFacts(
        name, task, license_name, _described(inputs, found.inputs, kind), _described(outputs, found.outputs, kind),
        {key: Path(path).read_bytes() for key, path in files.items()},
    )  # fmt: skip
    check_labels(facts.outputs)
    if kind == "onnx":
        content = with_onnx_metadata(model, facts)
    else:
        from edgekd.export.tflite_metadata import with_tflite_metadata

        content = with_tflite_metadata(model, facts)
    write_bytes(Path(out), content)
    return {"added_bytes": len(content) - Path(model).stat().st_size}


def _described(found: list[dict[str, Any]], specs: tuple[TensorSpec, ...], kind: str) -> list[dict[str, Any]]:
    """Return the inputs or outputs in the order of the file, which is not always that of the network."""
    by_name = {spec.name: spec for spec in specs}
    return describe(found, tuple(by_name[each["name"]] for each in found), kind)


def check_labels(outputs: list[dict[str, Any]]) -> None:
    """Refuse labels that are not one for each value of their output.

    Raises:
        UsageError: There are more or fewer.
    """
    for each in outputs:
        labels, count = each.get("labels"), each["shape"][-1]
        if labels is not None and isinstance(count, int) and len(labels) != count:
            raise UsageError(
                f"output {each['name']} has {count} values, but there are {len(labels)} labels for it",
                "give one label for each value, in their order",
            )
