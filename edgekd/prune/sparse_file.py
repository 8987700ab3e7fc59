"""Weights of a trained network set to zero, as a file: ``edgekd prune --sparsity`` without a cut. Nothing is traced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.models.spec import save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener, Silent
from edgekd.prune.file import RECORD, REPORT, WEIGHTS
from edgekd.prune.given import given_network
from edgekd.prune.select import Scope
from edgekd.prune.sparse_stored import StoredZeros, store_zeros
from edgekd.prune.sparsity import SparseLayers, parse_sparsity
from edgekd.safe.files import write_json
from edgekd.tasks.classification import Metric


@dataclass(frozen=True)
class ZeroedFiles:
    """What was made.

    Attributes:
        folder: Holds the weights, the report, and the record of earlier cuts if there were any.
        spec: Of the network.
        zeros: What is zero.
        accuracy: On the validation split before and after, without data ``None``; nothing was trained since.
    """

    folder: Path
    spec: ModelSpec
    zeros: StoredZeros
    accuracy: tuple[Metric, Metric] | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data: the content of the report."""
        return {
            "schema": 1, "model": self.spec.reference, "arguments": self.spec.arguments,
            "weights": str(self.folder / WEIGHTS), "record": self._record(),
            "validation_top1": None if self.accuracy is None else {
                name: {"value": each.value, "ci95": list(each.ci95), "n": each.n}
                for name, each in zip(("before", "after"), self.accuracy, strict=True)
            },
            "zeros": self.zeros.to_json(),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        lines = [self.spec.reference]
        if self.accuracy is not None:
            before, after = self.accuracy
            lines.append(f"  untrained since: validation top-1 {before.value:.1%} -> {after.value:.1%} of {after.n}")
        record = self._record()
        return [*lines, *self.zeros.lines(), str(self.folder / WEIGHTS), *([] if record is None else [record])]

    def _record(self) -> str | None:
        return None if self.spec.pruning is None else str(self.folder / RECORD)


def zero_file(
    model: str, sparsity: str, out: Path, weights: str | None = None, data: str | None = None, overrides: Sequence[str] = (), *,
    sparse_layers: SparseLayers = "all", scope: Scope = "global", shape: tuple[int, ...] | None = None,
    classes: int | None = None, listener: Listener | None = None,
) -> ZeroedFiles:  # fmt: skip
    """Set weights of a trained network to zero and leave them and a report in ``out``.

    Args:
        model, out, weights, data, overrides, scope, shape, classes, listener: As of :func:`edgekd.prune.file.prune_file`.
        sparsity, sparse_layers: See :mod:`edgekd.prune.sparsity`.

    Raises:
        UsageError: Arguments do not go together.
        ModelError: No layer can have such zeros.
    """
    wanted = parse_sparsity(sparsity)
    with given_network(model, weights, data, overrides, shape, classes, listener or Silent()) as given:
        spec, sparse = given.spec, copy.deepcopy(given.network)
        zeros = store_zeros(sparse, spec, wanted, sparse_layers, scope)
        accuracy = given.accuracy(sparse, spec)
    save_weights(sparse, out / WEIGHTS)
    if spec.pruning is not None:
        write_json(out / RECORD, spec.pruning)
    else:
        (out / RECORD).unlink(missing_ok=True)  # of an earlier cut into this folder: it is not of these weights
    files = ZeroedFiles(out, spec, zeros, accuracy)
    write_json(out / REPORT, files.to_json())
    return files
