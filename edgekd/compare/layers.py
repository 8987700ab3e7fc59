"""Which layer differs first.

Layers of both models are paired (:mod:`edgekd.compare.pairing`) and walked in order of execution along the graph of B, or of A
where B does not tell its graph. The rule:

* A layer is *as good as clean* at the level that its precision allows: 100 dB between float32 models, 70 dB where one has
  16-bit weights, 40 dB where one is int8.
* A layer *falls* by the difference between the worst of its inputs and itself in signal-to-quantization-noise ratio, where
  inputs count for no more than the clean level. Unpaired layers pass on the worst of their inputs.
* A fall of 10 dB or more, which is ten times the noise, is sharp, unless a layer computed from this one in eight steps or fewer
  is back within 5 dB of what went in: then this layer was paired with something else, as happens inside an activation that one
  side computes in several steps.
* The first sharp fall in order of execution is the answer. Without one, errors have built up over many layers.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.compare.activations import Activation, capture_module
from edgekd.compare.pairing import Pair, pair_layers
from edgekd.compare.sides import Side
from edgekd.data.dataset import Dataset
from edgekd.distill.trainer import tensors
from edgekd.models.adapter import teacher_inputs
from edgekd.models.pretrained import open_pretrained
from edgekd.models.references import kind_of, model_path
from edgekd.safe.child import run_in_child
from edgekd.workspace import Workspace

CLEAN_DB = {"fp32": 100.0, "fp16": 70.0, "int8": 40.0}
"""What a layer that is as it should be reaches, by the coarser precision of the two models."""
SHARP_DB = 10.0
_RECOVERED_DB = 5.0
_STEPS = 8
"""In which a decomposed activation is whole again, and that do not reach the pooling that evens out what went wrong."""
_SAMPLES = 32
_WORST = 10
_NAME_WIDTH = 44
_WRAPPER = "Named.model."
"""The path to the network in files of :mod:`edgekd.export.tflite`."""


@dataclass(frozen=True)
class Layer:
    """A pair of layers.

    Attributes:
        a, b: Names on both sides.
        a_operator, b_operator: What they are: ``Conv2d``, ``CONV_2D``.
        sqnr_db: Signal-to-quantization-noise ratio of B to A.
        fall_db: How far it is under the worst of its inputs.
        max_error: Largest difference, as a share of the range of A.
        correlation: Of their values.
        sharp: Whether the fall is sharp, by the rule.
    """

    a: str
    b: str
    a_operator: str
    b_operator: str
    sqnr_db: float
    fall_db: float
    max_error: float | None
    correlation: float
    sharp: bool


@dataclass(frozen=True)
class LayerReport:
    """Every pair of layers in order of execution, and the first that differs.

    Attributes:
        layers: The pairs; empty where a side shows no layers.
        first: The first sharp fall; ``None``: there is none.
        samples: On how many test samples.
        counts: How many layers each side shows.
        note: Why there are no layers, if there are none.
    """

    layers: tuple[Layer, ...]
    first: Layer | None
    samples: int
    counts: tuple[int, int]
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "samples": self.samples, "layers_of_a": self.counts[0], "layers_of_b": self.counts[1], "note": self.note,
            "first": None if self.first is None else vars(self.first), "pairs": [vars(each) for each in self.layers],
        }  # fmt: skip

    def text(self) -> str:
        """Return the ten worst pairs and the first, for a terminal."""
        if self.note is not None:
            return f"layers\n  {self.note}"
        lines = [
            f"layers: {len(self.layers)} pairs of {self.counts[0]} and {self.counts[1]}, on {self.samples} samples; "
            f"the {min(_WORST, len(self.layers))} that fall most",
            f"  {'SQNR dB':>8} {'fall dB':>8} {'max err':>8}  {'A':<{_NAME_WIDTH}} B",
        ]
        for each in sorted(self.layers, key=lambda each: -each.fall_db)[:_WORST]:
            error = "inf" if each.max_error is None else f"{100 * each.max_error:.2f} %"
            own = f"{each.a_operator} {short_name(each.a)}"
            other = f"{each.b_operator} {short_name(each.b)}"
            lines.append(f"  {each.sqnr_db:>8.1f} {each.fall_db:>8.1f} {error:>8}  {own:<{_NAME_WIDTH}} {other}")
        if self.first is None:
            return "\n".join([*lines, f"first: none, no layer falls {SHARP_DB:g} dB under its inputs"])
        each = self.first
        lines.append(
            f"first: {each.b_operator} {short_name(each.b)} of B, {each.a_operator} {short_name(each.a)} of A: "
            f"{each.sqnr_db:.1f} dB, {each.fall_db:.1f} dB under its inputs"
        )
        return "\n".join(lines)


def short_name(name: str) -> str:
    """Return the module path in a name of LiteRT's converter, which is a path of classes; any other name as it is."""
    if "/" not in name:
        return name
    first, _, rest = name.partition(";")
    steps = [each.rpartition(".")[2].partition("_")[2] for each in first.split("/")]
    number = rest.rpartition(";")[2] if rest.rpartition(";")[2].isdigit() else ""
    short = ".".join(each for each in steps if each).removeprefix(_WRAPPER)
    return (short + (f":{number}" if number else "")) or name


def compare_layers(a: Side, b: Side, precision: str, data: Dataset, allow_code: bool, workspace: Workspace) -> LayerReport:
    """Run both sides on the same test samples, pair their layers and find the one that differs first.

    Args:
        a, b: The models.
        precision: Of the coarser one: ``fp32``, ``fp16`` or ``int8``.
        data: Has the samples.
        allow_code: Whether a Keras file may hold code of its own.
        workspace: Its log gets what runtimes print.
    """
    test = data.splits.test
    chosen = test[np.linspace(0, len(test) - 1, min(_SAMPLES, len(test))).astype(np.int64)]
    with tempfile.TemporaryDirectory(dir=workspace.stages, prefix=".", suffix=".tmp") as folder:
        found = []
        for name, side in (("a", a), ("b", b)):
            place = Path(folder, name)
            place.mkdir()
            activations = _capture(side, data, chosen, place, allow_code, workspace)
            if activations is None:
                note = f"{side.asked.reference} shows no layers: only PyTorch modules, ONNX and TFLite files do"
                return LayerReport((), None, 0, (0, 0), note)
            found.append(activations)
        pairs = pair_layers([each.file for each in found[0]], [each.file for each in found[1]])
        samples = min(len(np.load(each[0].file, mmap_mode="r")) for each in found if each) if all(found) else 0
    layers = walk(found[0], found[1], pairs, CLEAN_DB[precision])
    first = next((each for each in layers if each.sharp), None)
    return LayerReport(tuple(layers), first, samples, (len(found[0]), len(found[1])))


def _capture(
    side: Side, data: Dataset, chosen: Any, place: Path, allow_code: bool, workspace: Workspace
) -> list[Activation] | None:
    fed = teacher_inputs(side.adapter, tensors(data.batch(chosen)), data.inputs)
    arrays = {name: each.contiguous().numpy() for name, each in fed.items()}
    kind = kind_of(side.asked.reference)
    if kind in {"onnx", "tflite"}:
        np.savez(place / "inputs.npz", allow_pickle=False, **arrays)
        path = str(model_path(side.asked.reference).absolute())
        arguments = {"path": path, "kind": kind, "inputs": str(place / "inputs.npz"), "out": str(place)}
        rows = run_in_child("edgekd.compare.activations:capture_file", arguments, log=workspace.log)
        return [Activation(each["name"], each["operator"], tuple(each["sources"]), Path(each["file"])) for each in rows]
    with ExitStack() as stack:
        classes = (side.asked.labels and None) or data.classes
        opened = stack.enter_context(open_pretrained(side.member.source, data.inputs, classes, workspace.log, allow_code))
        if opened.module is None:
            return None

        def run(given: dict[str, Any]) -> Any:
            return opened.run({name: torch.from_numpy(value) for name, value in given.items()})

        return capture_module(opened.module, run, arrays, place)


def walk(a: list[Activation], b: list[Activation], pairs: list[Pair], clean: float) -> list[Layer]:
    """Return every pair with how far it falls under its inputs, in order of execution; see the rule above.

    Args:
        a, b: Activations of both sides, in order of execution.
        pairs: Of their indices.
        clean: Level in dB over which a layer is as good as clean.
    """
    along_b = all(each.sources is not None for each in b) or any(each.sources is None for each in a)
    walked = b if along_b else a
    by_place: dict[int, Pair] = {}
    for each in pairs:  # along A, the last of several that share a layer: the one that later layers are computed from
        by_place[each.b if along_b else each.a] = each
    sources = _sources(walked, by_place)
    level: dict[int, float] = {}
    falls: dict[int, float] = {}
    entering: dict[int, float] = {}
    for index in range(len(walked)):
        entering[index] = min([clean, *(level[each] for each in sources[index])])
        paired = by_place.get(index)
        level[index] = entering[index] if paired is None else paired.sqnr_db
        if paired is not None:
            falls[index] = entering[index] - paired.sqnr_db
    consumers = _consumers(sources)
    layers = []
    for index in sorted(by_place):
        pair = by_place[index]
        back = entering[index] - _RECOVERED_DB
        sharp = falls[index] >= SHARP_DB and _best_after(index, consumers, by_place) < back
        error = pair.max_error if np.isfinite(pair.max_error) else None
        layers.append(
            Layer(a[pair.a].name, b[pair.b].name, a[pair.a].operator, b[pair.b].operator, pair.sqnr_db, falls[index], error,
                  pair.correlation, sharp)
        )  # fmt: skip
    return layers


def _sources(walked: list[Activation], paired: dict[int, Pair]) -> list[tuple[int, ...]]:
    """Return the sources of each layer; where a side does not tell them, the paired layer before it."""
    found = []
    before: tuple[int, ...] = ()
    for index, each in enumerate(walked):
        found.append(before if each.sources is None else each.sources)
        if index in paired:
            before = (index,)
    return found


def _consumers(sources: list[tuple[int, ...]]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in sources]
    for index, given in enumerate(sources):
        for each in given:
            found[each].append(index)
    return found


def _best_after(index: int, consumers: list[list[int]], paired: dict[int, Pair]) -> float:
    """Return the best ratio of the layers computed from layer ``index`` in a few steps, -infinity without any."""
    best = float("-inf")
    seen, here = {index}, [index]
    for _ in range(_STEPS):
        here = sorted({after for each in here for after in consumers[each]} - seen)
        seen |= set(here)
        best = max([best, *(paired[each].sqnr_db for each in here if each in paired)])
    return best
