"""Make an int8 file of a float32 one, run it in its runtime, and compare it with what PyTorch says."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import call, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.parity import measure_parity
from edgekd.quantize.histogram import load_histograms
from edgekd.quantize.layers import Layers, layers_from_json, list_layers
from edgekd.quantize.observe import observe_onnx, observe_tflite
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges, write_ranges
from edgekd.quantize.ranges import minmax
from edgekd.quantize.tflite import quantize_tflite
from edgekd.runtimes import open_artifact, real_values

Arrays = dict[str, NDArray[Any]]
EXPORT = {"onnx": export_onnx, "tflite": export_tflite}
OBSERVE: dict[str, Any] = {"onnx": observe_onnx, "tflite": observe_tflite}
QUANTIZE: dict[str, Any] = {"onnx": quantize_onnx, "tflite": quantize_tflite}


@dataclass
class Judged:
    """A network as a float32 file of one format, and files made of it.

    Attributes:
        kind: ``onnx`` or ``tflite``.
        folder: Where all files are.
        samples: Inputs, images NCHW: the first half calibrates, the second is judged on.
        expected: What PyTorch gives for the second half.
    """

    kind: str
    folder: Path
    samples: Arrays
    expected: NDArray[np.float32]
    numbers: Any = field(default_factory=itertools.count)
    seen: Ranges = field(default_factory=dict)

    @property
    def path(self) -> str:
        return str(self.folder / f"fp32.{self.kind}")

    @property
    def half(self) -> int:
        return len(self.expected)

    def layers(self) -> Layers:
        return layers_from_json(list_layers(self.path, self.kind))

    def made(self, ranges: Ranges, keep: tuple[str, ...]) -> Path:
        """Make an int8 file; ranges not given are those of the float file, so that nothing is calibrated again."""
        out = self.folder / f"int8-{next(self.numbers)}.{self.kind}"
        write_ranges(self.observed() | ranges, self.folder / "ranges.json")
        few = {name: each[:10] for name, each in self.samples.items()}
        np.savez(self.folder / "few.npz", allow_pickle=False, **few)
        given = {"ranges": str(self.folder / "ranges.json"), "keep": list(keep)}
        QUANTIZE[self.kind](self.path, str(self.folder / "few.npz"), str(out), **given)
        return out

    def observed(self) -> Ranges:
        """Run the float file on the first half, once, and return what each activation is at least and at most."""
        if self.seen:
            return self.seen
        given = {name: each[: self.half] for name, each in self.samples.items()}
        np.savez(self.folder / "observed.npz", allow_pickle=False, **given)
        out = str(self.folder / "histograms.npz")
        OBSERVE[self.kind](self.path, str(self.folder / "observed.npz"), out, until_settled=False)
        self.seen = {name: minmax(each) for name, each in load_histograms(Path(out)).items()}
        return self.seen

    def quality(self, ranges: Ranges, keep: tuple[str, ...]) -> Quality:
        """Make an int8 file and judge it; one that its runtime refuses is worth nothing."""
        try:
            outputs = run(self.made(ranges, keep), self.kind, {name: each[self.half :] for name, each in self.samples.items()})
        except RuntimeError as error:
            assert "failed to prepare" in str(error)
            return Quality(0.0, 1.0, 0.0, -200.0, self.half)
        parity = measure_parity(outputs, self.expected)
        # Each output by its own variance: beside boxes in pixels, scores are no signal.
        worst = min(measure_parity(outputs[:, [each]], self.expected[:, [each]]).sqnr_db for each in range(outputs.shape[1]))
        return Quality(parity.agreement, 1 - parity.agreement, parity.agreement, worst, parity.n)


def in_layout(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """Return NCHW images as the format takes them, and all else as it is."""
    return values.transpose(0, 2, 3, 1) if kind == "tflite" and values.ndim == 4 else values


def run(path: Path, kind: str, samples: Arrays) -> NDArray[np.float32]:
    """Run a file on real numbers."""
    answer, inputs, outputs = open_artifact(str(path), kind, 1)
    fed = {}
    for each in inputs:
        values = in_layout(samples[each["name"]], kind)
        if each["scale"] is not None:
            limits = np.iinfo(each["dtype"])
            values = np.clip(np.round(values / each["scale"] + each["zero_point"]), limits.min, limits.max)
        fed[each["name"]] = np.ascontiguousarray(values.astype(each["dtype"]))
    return real_values(answer(fed)[outputs[0]["name"]], outputs[0])


def judged(spec: ModelSpec, model: torch.nn.Module, samples: Arrays, kind: str, folder: Path) -> Judged:
    """Export a network."""
    save_weights(model, folder / "w.safetensors")
    EXPORT[kind](spec.to_json(), str(folder / "w.safetensors"), str(folder / f"fp32.{kind}"))
    half = {name: torch.from_numpy(each[len(each) // 2 :]) for name, each in samples.items()}
    with torch.no_grad():
        expected = call(model.eval(), spec, half)["logits"].numpy()
    return Judged(kind, folder, samples, expected)
