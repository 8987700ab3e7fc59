"""Golden vectors: a few inputs of an artifact with the outputs it gave, to be asserted again on the device.

They are exactly what the file takes and gives, integers for an integer input: whoever feeds the ``.bin`` files to it
and compares has tested file, runtime and device without this package. Format: :func:`edgekd.golden_file.golden_file`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.artifacts import Artifact, file_name
from edgekd.data.dataset import Dataset, Raw
from edgekd.flavours import ArtifactName
from edgekd.golden_file import ADVERSARIAL
from edgekd.models.tensors import ModelSpec, TensorSpec
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.verify import Gate, Verified
from edgekd.workspace import StageResult, Workspace

TEST_SAMPLES = 16
_NOISE_SEED = 20_240_229
_BATCH = 4_096
Arrays = dict[str, NDArray[Any]]


def make_golden(
    data: Dataset, spec: ModelSpec, verified: dict[ArtifactName, Verified], gates: list[Gate], workspace: Workspace
) -> dict[ArtifactName, StageResult]:
    """Leave golden vectors of every artifact that passed its gates: ``golden.npz``, ``golden.json`` and ``.bin`` files.

    Raises:
        ExportError: A file does not load or run in its runtime.
    """
    missed = {gate.artifact for gate in gates if not gate.passed}
    chosen = evenly_over_classes(data.splits.test, data.labels, TEST_SAMPLES)
    return {name: _make(each.artifact, chosen, data, spec, workspace) for name, each in verified.items() if name not in missed}


def evenly_over_classes(test: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ``count`` indices of the test split (all, if there are fewer): the first ones of every class, in turn.

    Of more classes than that, every so many-th is taken.
    """
    members = [test[labels[test] == label] for label in np.unique(labels[test])]
    chosen: list[int] = []
    for turn in range(max(map(len, members))):
        ready = [int(each[turn]) for each in members if len(each) > turn]
        wanted = min(len(ready), count - len(chosen))
        chosen += [ready[index * len(ready) // wanted] for index in range(wanted)]
    return np.asarray(chosen, np.int64)


def _make(artifact: Artifact, chosen: NDArray[np.int64], data: Dataset, spec: ModelSpec, workspace: Workspace) -> StageResult:
    def work(folder: Path) -> dict[str, Any]:
        ids = data.ids
        samples = [{"id": ids[index], "kind": "test", "label": int(data.labels[index])} for index in chosen]
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            raw = Path(scratch, "raw.npz")
            np.savez(raw, allow_pickle=False, **raw_samples(data, chosen))
            made: dict[str, Any] = run_in_child(
                "edgekd.golden_file:golden_file",
                {
                    "path": str(artifact.path), "kind": artifact.format, "precision": artifact.precision,
                    "spec": spec.to_json(), "raw": str(raw), "samples": samples, "folder": str(folder),
                    "full_scale": {name: each.full_scale for name, each in data.raw.items()},
                    "artifact": {"name": artifact.name, "file": file_name(artifact.name), "sha256": artifact.sha256},
                },
                log=workspace.log,
            )  # fmt: skip
        return made

    inputs = {"artifact": artifact.sha256, "data": data.digest, "samples": chosen.tolist()}
    what = f"outputs of {len(chosen)} test samples and {len(ADVERSARIAL)} extreme ones"
    stage = workspace.stage(f"golden-{artifact.name}", what, inputs, work, _describe)
    for reason in stage.result["left_out"]:
        workspace.listener.warned(f"{artifact.name}: golden vector left out: {reason}")
    return stage


def _describe(result: dict[str, Any]) -> str:
    return f"{result['count']} vectors, {result['files']} files"


def raw_samples(data: Dataset, chosen: NDArray[np.int64]) -> Arrays:
    """Return raw values of the chosen samples by input name, and behind them one row for each of :data:`ADVERSARIAL`."""
    noise = np.random.default_rng(_NOISE_SEED)
    length = int(noise.integers(1, 1 << 30))  # one for all inputs of a text: tokens and mask belong together
    return {
        each.name: np.concatenate([
            data.raw[each.name].array[chosen],
            _adversarial(each, data.raw[each.name], data.splits.test, noise, length),
        ])
        for each in data.inputs
    }  # fmt: skip


def _adversarial(spec: TensorSpec, raw: Raw, test: NDArray[np.int64], noise: np.random.Generator, length: int) -> NDArray[Any]:
    shape, dtype = raw.array.shape[1:], raw.array.dtype
    if spec.meaning == "mask":
        ends = [1, shape[0], (shape[0] + 1) // 2, 1 + length % shape[0]]
        return np.stack([np.arange(shape[0]) < end for end in ends]).astype(dtype)
    low, high = _legal_range(spec, raw, test)
    is_integer = dtype.kind in "iu"
    unit = noise.random(shape)
    middle = (low + high) // 2 if is_integer else (low + high) / 2
    drawn = low + (np.floor(unit * (high - low + 1)) if is_integer else unit * (high - low))
    return np.stack([np.broadcast_to(each, shape) for each in (low, high, middle, drawn)]).astype(dtype)


def _legal_range(spec: TensorSpec, raw: Raw, test: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest raw value: of the format, or of features, which have none, those of the test split."""
    if spec.meaning == "tokens":
        assert spec.vocabulary is not None
        return np.asarray(0.0), np.asarray(spec.vocabulary - 1.0)
    if spec.meaning == "features":
        ranges = []
        for start in range(0, len(test), _BATCH):  # a part at a time: they may not fit into memory together
            part = raw.array[test[start : start + _BATCH]]
            ranges.append((part.min(axis=0), part.max(axis=0)))
        lows, highs = zip(*ranges, strict=True)
        return np.min(lows, axis=0).astype(np.float64), np.max(highs, axis=0).astype(np.float64)
    assert raw.full_scale is not None
    full = float(raw.full_scale)
    return (np.asarray(-full), np.asarray(full - 1)) if spec.meaning == "waveform" else (np.asarray(0.0), np.asarray(full))
