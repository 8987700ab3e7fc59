"""A trained network cut to a budget, as files: ``edgekd prune``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.devices.profiles import load_profile
from edgekd.errors import UsageError
from edgekd.models.references import kind_of
from edgekd.models.spec import Cost, call, load, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener, Silent
from edgekd.prune.chart import sensitivity_chart
from edgekd.prune.costs import device_time
from edgekd.prune.criteria import CRITERIA, Criterion, Samples, loss_of
from edgekd.prune.depth import remove_blocks
from edgekd.prune.given import given_network
from edgekd.prune.groups import Found, find_groups, random_inputs
from edgekd.prune.measured import Timed, ratio_said, time_networks, verdict_of
from edgekd.prune.prune import Pruned, prune_model
from edgekd.prune.select import Scope
from edgekd.prune.sensitivity import RATIOS, Curves, judged_layers, spare
from edgekd.prune.sparse_stored import StoredZeros, store_zeros
from edgekd.prune.sparsity import SparseLayers, parse_sparsity
from edgekd.prune.target import PruningTarget, parse_target
from edgekd.prune.transformers_config import sayable
from edgekd.prune.transformers_folder import TransformersFolder, check_place, write_transformers
from edgekd.safe.files import write_json, write_text
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import Metric

WEIGHTS, RECORD, REPORT, CHART = "pruned.safetensors", "prune.json", "report.json", "sensitivity.svg"


@dataclass(frozen=True)
class PrunedFiles:
    """What ``edgekd prune`` made.

    Attributes:
        folder: Holds :data:`WEIGHTS`, :data:`RECORD`, :data:`REPORT`, and with data :data:`CHART`.
        pruned: What was cut.
        target, criterion: As asked; no target: no channel was cut.
        device: Id of the profile that latency was predicted for.
        loss: On training samples before and after, without data ``None``.
        accuracy: On the validation split before and after, without data ``None``; nothing was trained since.
        sensitivity: Of every layer that can be cut; ``None`` without data.
        zeros: What was set to zero after the cut, if a sparsity was asked for.
        transformers: Of an ``hf:`` model, whether transformers loads what is left.
        latency: Of the float32 ONNX file on this host, before and after; why it was not measured; ``None``: not asked for.
    """

    folder: Path
    pruned: Pruned
    target: PruningTarget | None
    criterion: Criterion
    device: str | None
    loss: tuple[float, float] | None
    accuracy: tuple[Metric, Metric] | None
    sensitivity: Curves | None
    zeros: StoredZeros | None = None
    transformers: TransformersFolder | None = None
    latency: Timed | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data: the content of the report."""
        made = self.pruned
        latency = None
        if made.predicted is not None:
            latency = {"device": self.device, "before": _short(made.predicted[0].to_json()),
                       "after": _short(made.predicted[1].to_json())}  # fmt: skip
        return {
            "schema": 1, "model": made.spec.reference, "arguments": made.spec.arguments,
            "target": None if self.target is None else str(self.target),
            "criterion": self.criterion, "multiple": made.multiple, "weights": str(self.folder / WEIGHTS),
            "record": str(self.folder / RECORD), "before": _cost(made.before), "after": _cost(made.after),
            "predicted_latency": latency,
            "host_latency": self.latency.to_json() if isinstance(self.latency, Timed) else None,
            "layers": made.widths(), "kept_whole": made.found.refused,
            "slower_if_cut": list(made.selection.slower),
            "loss": None if self.loss is None else {"before": self.loss[0], "after": self.loss[1]},
            "validation_top1": None if self.accuracy is None else {
                name: {"value": each.value, "ci95": list(each.ci95), "n": each.n}
                for name, each in zip(("before", "after"), self.accuracy, strict=True)
            },
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_json(),
            **({} if made.shallow is None else {"blocks": made.shallow.to_json()}),
            **({} if self.zeros is None else {"zeros": self.zeros.to_json()}),
            **({} if self.transformers is None else {"transformers": self.transformers.to_json()}),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        made = self.pruned
        before, after = made.before, made.after
        how = "" if self.target is None else f", {self.target}, by {self.criterion}, widths in multiples of {made.multiple}"
        fewer = "" if made.shallow is None else f", {len(made.shallow.removed)} of its blocks removed"
        lines = [f"{made.spec.reference}{fewer}{how}"]
        for what, old, new in (
            ("MACs", before.macs, after.macs), ("parameters", before.params, after.params),
            ("bytes", before.size_bytes, after.size_bytes),
        ):  # fmt: skip
            assert old is not None and new is not None
            lines.append(f"  {what:<10} {old:>13,} -> {new:>13,}   {new / old:.2f}x")
        if made.predicted is not None:
            old_ms, new_ms = made.predicted
            lines.append(
                f"  predicted on {self.device}: {old_ms.p50_ms:.3g} ms ({old_ms.low_ms:.3g} to {old_ms.high_ms:.3g}) -> "
                f"{new_ms.p50_ms:.3g} ms ({new_ms.low_ms:.3g} to {new_ms.high_ms:.3g})   {new_ms.p50_ms / old_ms.p50_ms:.2f}x"
            )
        if isinstance(self.latency, Timed):
            timed = self.latency.to_json()
            verdict = "".join(
                f", {each}" for each in (verdict_of(timed), "the host was busy" if timed["noise"] else "") if each
            )
            lines.append(
                f"  on this host, {timed['file']}, 1 thread: {timed['before']:.3g} ms -> {timed['after']:.3g} ms   "
                f"{ratio_said(timed)}{verdict}"
            )
        elif self.latency is not None:
            lines.append(f"  on this host: not measured, {self.latency}")
        if self.loss is not None and self.accuracy is not None:
            old_top1, new_top1 = self.accuracy
            lines.append(
                f"  untrained since: loss {self.loss[0]:.3f} -> {self.loss[1]:.3f}, validation top-1 {old_top1.value:.1%} -> "
                f"{new_top1.value:.1%} of {new_top1.n}"
            )
        lines += made.shallow.lines() if made.shallow is not None else []
        rises = {} if self.sensitivity is None else {each.layer: each.losses for each in self.sensitivity.layers}
        for row in made.widths():
            curve = rises.get(row["layer"])
            shown = "" if curve is None else "   loss " + " ".join(f"{each:.3f}" for each in curve)
            lines.append(f"    {row['layer']:<40} {row['before']:>5} -> {row['after']:>5} {row['kind']}{shown}")
        if rises:
            lines.append("    loss: of the network where that layer alone loses " + ", ".join(f"{each:.0%}" for each in RATIOS))
        lines += [f"    {name:<40} stays whole: {why}" for name, why in made.found.refused.items()]
        lines += [f"    {name:<40} stays whole: a cut would make it slower" for name in made.selection.slower]
        lines += self.zeros.lines() if self.zeros is not None else []
        lines += [f"{self.folder / name}" for name in (WEIGHTS, RECORD, *([CHART] if rises else []))]
        return lines + (self.transformers.lines() if self.transformers is not None else [])


def prune_file(
    model: str, target: str | None, out: Path, weights: str | None = None, data: str | None = None,
    overrides: Sequence[str] = (), *, blocks: int = 0, criterion: str = "magnitude", scope: Scope = "global",
    multiple: int | None = None, device: str | None = None,
    shape: tuple[int, ...] | None = None, classes: int | None = None, sparsity: str | None = None,
    sparse_layers: SparseLayers = "all", for_transformers: bool = False, measure: bool = True,
    listener: Listener | None = None,
) -> PrunedFiles:  # fmt: skip
    """Cut a trained network and leave its weights, the record of the cuts and a report in ``out``.

    Args:
        model: A reference that can be a student.
        target: See :mod:`edgekd.prune.target`; ``None``: only blocks go.
        out: Folder of the files.
        weights: File of trained weights; ``None``: those that come with the model.
        data: Source as ``data.source`` of a recipe; for criteria that look at samples, and to measure what was lost.
        overrides: ``key=value`` of a recipe: ``student.*``, ``data.*`` and ``seed``.
        blocks: How many whole blocks go before channels, see :mod:`edgekd.prune.depth`.
        criterion: One of :data:`~edgekd.prune.criteria.CRITERIA`.
        scope: ``global`` or ``layer``.
        multiple: Widths become multiples of it; ``None``: as the device likes it, or 8.
        device: Profile that latency is predicted for, where the target names none.
        shape, classes: Of a sample, without the batch, and how many classes there are, where there is no data.
        sparsity, sparse_layers: Weights that are set to zero after the cut, see :mod:`edgekd.prune.sparsity`.
        for_transformers: Only what the configuration of an ``hf:`` model has fields for is cut, alike in every layer.
        measure: Whether latency before and after is measured on this host.
        listener: Who is told of progress.

    Raises:
        UsageError: Arguments do not go together.
        ModelError: The model cannot be cut so far.
    """
    wanted = None if target is None else parse_target(target)
    asked_zeros = None if sparsity is None else parse_sparsity(sparsity)
    chosen = _criterion(criterion)
    check_place(model, out, REPORT)
    if for_transformers and kind_of(model) != "hf":
        raise UsageError(f"{model} is no network of transformers", "leave --for-transformers out, or name hf:ID_OR_DIR")
    device = (wanted.device if wanted is not None else None) or device
    clock = None if device is None else device_time(load_profile(device))
    listener = listener or Silent()
    with given_network(model, weights, data, overrides, shape, classes, listener) as given:
        network, spec, samples = given.network, given.spec, given.samples()
        base, base_spec, shallow = network, spec, None
        if blocks:
            shallow = remove_blocks(network, spec, blocks, criterion=chosen, samples=samples, time=clock, seed=given.seed)
            base, base_spec = shallow.model, shallow.spec
        found = Found((), {}) if wanted is None else find_groups(base, base_spec)
        if for_transformers and wanted is not None:
            found, scope = sayable(base, found, model), "layer"
        curves = None
        if samples is not None and found.groups:
            curves = _curves(base, base_spec, found, chosen, samples, given.seed, listener)
        made = spare(
            found, curves.sensitive() if curves is not None and wanted is not None and wanted.competes(scope) else {},
            lambda some: prune_model(
                network, spec, wanted, criterion=chosen, scope=scope, multiple=multiple, samples=samples, time=clock,
                seed=given.seed, found=some, shallow=shallow,
            ),
        )  # fmt: skip
        zeros = None
        if asked_zeros is not None:
            zeros = store_zeros(made.model, made.spec, asked_zeros, sparse_layers, scope)
        loss = None
        if samples is not None:
            loss = loss_of(network, spec, samples), loss_of(made.model, made.spec, samples)
        accuracy = given.accuracy(made.model, made.spec)
    save_weights(made.model, out / WEIGHTS)
    assert made.spec.pruning is not None
    write_json(out / RECORD, made.spec.pruning)
    check_replay(made, out / WEIGHTS)
    beside = write_transformers(made.model, network, made.spec, out) if kind_of(model) == "hf" else None
    with stop_signals():
        timed = time_networks((network, spec), (made.model, made.spec), listener) if measure else None
    files = PrunedFiles(out, made, wanted, chosen, device, loss, accuracy, curves, zeros, beside, timed)
    _write_report(files)
    return files


def _criterion(name: str) -> Criterion:
    chosen = next((each for each in CRITERIA if each == name), None)
    if chosen is None:
        raise UsageError(f"no criterion '{name}'", f"allowed: {', '.join(CRITERIA)}")
    return chosen


def _write_report(files: PrunedFiles) -> None:
    """Leave the report, and the drawing of the sensitivity if that was measured."""
    write_json(files.folder / REPORT, files.to_json())
    chart = files.folder / CHART
    if files.sensitivity is not None:
        lost = {each["layer"]: 1 - each["after"] / each["before"] for each in files.pruned.widths()}
        write_text(chart, sensitivity_chart(files.sensitivity.to_json(), lost))
    else:
        chart.unlink(missing_ok=True)  # of an earlier cut into this folder


def _curves(
    network: nn.Module, spec: ModelSpec, found: Found, criterion: Criterion, samples: Samples, seed: int, listener: Listener
) -> Curves:  # fmt: skip
    started = time.monotonic()
    listener.stage_started("sensitivity", f"the loss without some channels of each of {len(found.groups)} layers")
    curves = judged_layers(network, spec, found, criterion, samples, seed, listener)
    told = ", ".join(curves.sensitive()) or "none"
    listener.stage_finished("sensitivity", f"must not be cut: {told}", time.monotonic() - started, False)
    return curves


def check_replay(made: Pruned, weights: Path) -> None:
    """Rebuild what was cut from its spec and file, and compare outputs bit for bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = random_inputs(made.spec)
    inputs = {name: each.float() if each.is_floating_point() else each for name, each in given.items()}
    again = load(made.spec, weights)
    with torch.no_grad():
        old, new = call(made.model.eval(), made.spec, inputs), call(again, made.spec, inputs)
    if not all(torch.equal(old[name], new[name]) for name in old):
        raise AssertionError(f"{made.spec.reference} rebuilt from its record computes something else; this is a bug")


def _cost(found: Cost) -> dict[str, Any]:
    return {"params": found.params, "macs": found.macs, "size_bytes": found.size_bytes}


def _short(prediction: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prediction.items() if name != "layers"}
