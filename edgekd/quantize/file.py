"""One float file from elsewhere in fewer bits, proven against itself: ``edgekd quantize``.

How the file is fed is found out as for teachers; ranges come from training samples fed that way; what is made is compared with
the float file on the test split and on extreme inputs, as ``edgekd verify`` does.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.compare.models import Comparison, Limits, compare_sides
from edgekd.compare.sides import Side, ask, open_side, recipe_of
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.teacher import VALIDATION_LOGITS
from edgekd.distill.trainer import tensors
from edgekd.errors import ModelError, UsageError
from edgekd.extremes import COUNT, extreme_samples
from edgekd.flavours import FLAVOURS, ArtifactName, format_of
from edgekd.models.adapter import teacher_inputs
from edgekd.models.black_box import as_input, open_model
from edgekd.models.references import kind_of, model_path
from edgekd.names import did_you_mean
from edgekd.progress import Listener, Silent
from edgekd.quantize.audit import audit
from edgekd.quantize.calibration import activation_ranges, calibration_order
from edgekd.quantize.candidates import HISTOGRAMS, most_samples, ranges_by_method
from edgekd.quantize.choice import Candidate, Means, best_of, goal_of
from edgekd.quantize.quality import quality
from edgekd.quantize.range_file import write_ranges
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import atomic_path
from edgekd.safe.stop import stop_signals
from edgekd.workspace import Workspace, open_workspace

_FEW_BITS = 0.1
"""Share of weight bytes in int8 or int4 from which a file counts as quantized already."""


@dataclass(frozen=True)
class QuantizedFile:
    """What came of a float file.

    Attributes:
        path: The file that was made: in the folder that was asked for, or in its ``rejected/`` if it missed a limit.
        artifact: Which kind of file it is.
        size_bytes: Of it and of the float file.
        comparison: The float file as A, the new one as B.
    """

    path: Path
    artifact: ArtifactName
    size_bytes: tuple[int, int]
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, as ``edgekd quantize --json`` prints it."""
        made, source = self.size_bytes
        return {
            "path": str(self.path), "artifact": self.artifact, "size_bytes": made, "source_size_bytes": source,
            "comparison": self.comparison.to_json(),
        }  # fmt: skip


def quantize_file(
    file: str, data: str | None = None, artifact: str | None = None, out: Path | None = None, overrides: Sequence[str] = (), *,
    limits: Limits | None = None, layers: bool = False, listener: Listener | None = None,
) -> QuantizedFile:  # fmt: skip
    """Make a form in fewer bits of a float32 ONNX or TFLite file and compare it with that file.

    Args:
        file: Path of the float32 file.
        data: Source of the data, as ``data.source`` of a recipe; ``None``: that of the run that the file is from.
        artifact: Which form, see :mod:`edgekd.flavours`; ``None``: int8 of its format.
        out: Folder of the new file; ``None``: beside ``file``. Its name is that of ``file`` with the form: ``net.int8.onnx``.
        overrides: ``key=value``: ``data.*``, ``seed`` and ``quantize.*`` as in a recipe; ``a.*`` of the file, as ``teacher.*``.
        limits: What it may lose; ``None``: the recipe's defaults for such files.
        layers: Look for the layer that differs first even if every limit is kept.
        listener: Who is told of progress; nobody by default.

    Raises:
        UsageError: It is no ONNX or TFLite file, is quantized already, or cannot become what is asked for.
        EdgekdError: See :mod:`edgekd.errors`. A missed limit does not raise: ``comparison.ok`` is false.
    """
    own = [each[2:] for each in overrides if each.startswith("a.")]
    shared = [each for each in overrides if not each.startswith("a.")]
    asked = ask(file, overrides=own)
    kind = kind_of(asked.reference)
    if kind not in {"onnx", "tflite"}:
        raise UsageError(f"{file} is no .onnx or .tflite file", "`edgekd export` makes files of a trained network")
    name, source = _form(kind, artifact), model_path(asked.reference)
    recipe = recipe_of(asked, asked, data, shared, ("quantize",))
    with (
        tempfile.TemporaryDirectory(prefix="edgekd-quantize-") as folder,
        stop_signals(),
        open_workspace(Path(folder, "run"), listener or Silent()) as workspace,
    ):
        loaded = load_data(recipe, workspace)
        extremes = extreme_samples(loaded, Path(folder))
        float_side = open_side("a", asked, recipe, loaded, extremes, COUNT, False, workspace)
        _check_float(file, float_side)
        made_name = f"{source.stem}.{name.partition('-')[2]}{source.suffix}"
        files = _make(name, source, Path(folder), made_name, float_side, recipe, loaded, workspace)
        sides = {
            method: open_side("b", ask(str(made)), recipe, loaded, extremes, COUNT, False, workspace, float_side)
            for method, made in files.items()
        }
        best = _best(float_side, sides, recipe, loaded)
        made, new = files[best], sides[best]
        compared = compare_sides(float_side, new, recipe.data.source, loaded, limits or Limits(), layers, False, workspace)
        target = (out or source.absolute().parent) / ("" if compared.ok else "rejected") / made.name
        sizes = made.stat().st_size, source.stat().st_size
        with atomic_path(target) as temporary:
            shutil.copyfile(made, temporary)
    return QuantizedFile(target, name, sizes, compared)


def _form(kind: str, artifact: str | None) -> ArtifactName:
    possible = [each for each, flavour in FLAVOURS.items() if flavour.source == f"{kind}-fp32" and format_of(each) == kind]
    for name in possible:
        if name == (artifact or f"{kind}-int8"):
            return name
    raise UsageError(
        f"a .{kind} file cannot become {artifact}" + did_you_mean(artifact or "", possible), f"allowed: {', '.join(possible)}"
    )


def _check_float(file: str, side: Side) -> None:
    assert side.dtypes is not None
    few = side.dtypes["int8_weights"] + side.dtypes["int4_weights"]
    if few > _FEW_BITS:
        raise UsageError(f"{file} is quantized already: {few:.0%} of its weight bytes are integers", "name the float32 file")
    if side.dtypes["fp16_weights"] > _FEW_BITS:
        raise UsageError(f"{file} has weights of 16 bits", "name the float32 file it was made from")


def what_it_takes(kind: str, path: str) -> dict[str, Any]:
    """Return ``inputs`` and ``batch`` of a file as :func:`edgekd.models.black_box.open_model` tells them. Runs in a child."""
    return open_model(kind, path, allow_code=False)[0]


def _best(float_side: Side, sides: Mapping[str, Side], recipe: Recipe, data: Dataset) -> str:
    """Return by which ranges the best file was made: on the validation split, beside the float file."""
    labels = data.labels[data.splits.validation]
    said = {name: np.load(each.member.folder / VALIDATION_LOGITS, allow_pickle=False) for name, each in sides.items()}
    reference = np.load(float_side.member.folder / VALIDATION_LOGITS, allow_pickle=False)
    judged = [Candidate(Means(name), quality(outputs, reference, labels)) for name, outputs in said.items()]
    return best_of(judged, goal_of(recipe)).means.ranges


def _make(
    name: ArtifactName, source: Path, folder: Path, file: str, side: Side, recipe: Recipe, data: Dataset, workspace: Workspace
) -> dict[str, Path]:
    """Write the form ``name`` of ``source``: once for every way to set ranges where they are fixed, else once."""
    flavour, started = FLAVOURS[name], time.monotonic()
    function, activations = flavour.function, flavour.activations
    if activations == "auto":
        activations = "dynamic" if activation_ranges(recipe.quantize.activations, data.kind) == "dynamic" else "static"
        function = flavour.dynamic if activations == "dynamic" else function
    assert function is not None
    workspace.listener.stage_started("quantize", flavour.what)
    shared: dict[str, Any] = {"model": str(source.absolute()), **flavour.arguments}
    own: dict[str, dict[str, str]] = {"one way": {}}
    told = flavour.what
    if activations == "static":
        shared["calibration"] = str(folder / "calibration.npz")
        seen = _observe(name, shared["calibration"], source, folder / HISTOGRAMS, side, recipe, data, workspace)
        found = ranges_by_method(name, folder / HISTOGRAMS, seen["outputs"], recipe.quantize.ranges)
        told = f"{told}; {seen['samples']:,} training samples, ranges by {', '.join(found)}"
        own = {method: {"ranges": str(folder / f"{method}.json")} for method in found}
        for method, ranges in found.items():
            write_ranges(ranges, Path(own[method]["ranges"]))
    files = {method: folder / method / file for method in own}
    for each in files.values():
        each.parent.mkdir()
    arguments = {"function": function, "shared": shared, "each": [{"out": str(files[one]), **own[one]} for one in files]}
    run_in_child("edgekd.quantize.making:make_files", arguments, log=workspace.log)
    workspace.listener.stage_finished("quantize", told, time.monotonic() - started, False)
    return files


def _observe(
    name: ArtifactName, calibration: str, source: Path, out: Path, side: Side, recipe: Recipe, data: Dataset,
    workspace: Workspace,
) -> dict[str, Any]:  # fmt: skip
    """Look at the activations of ``source`` on training samples, fed as ``side`` is; leave the samples in ``calibration``."""
    described = run_in_child(
        "edgekd.quantize.file:what_it_takes", {"kind": format_of(name), "path": str(source)}, log=workspace.log
    )
    if described["batch"] not in {None, 1}:
        raise ModelError(f"{source} takes {described['batch']} samples at a time", "export it with a batch of 1, or any")
    wanted = recipe.quantize.calibration_samples
    order = calibration_order(data.splits.train, data.labels, recipe.seed)
    kept, _ = audit(data, order[: most_samples(data) if wanted == "auto" else wanted])
    fed = teacher_inputs(side.adapter, tensors(data.batch(kept)), data.inputs)
    arrays = {each["name"]: as_input(fed[each["name"]].numpy(), each, None) for each in described["inputs"]}
    if format_of(name) == "tflite":  # what quantizes takes images in NCHW, whatever the file does
        arrays = {each: value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for each, value in arrays.items()}
    np.savez(calibration, allow_pickle=False, **arrays)
    arguments = {
        "model": str(source.absolute()), "calibration": calibration, "out": str(out), "until_settled": wanted == "auto",
    }  # fmt: skip
    seen: dict[str, Any] = run_in_child(f"edgekd.quantize.observe:observe_{format_of(name)}", arguments, log=workspace.log)
    return seen
