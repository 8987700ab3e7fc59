"""What the activations of a float32 file are over calibration samples, and how many samples it takes to know.

Every float tensor that the file computes is seen. Samples come in steps: once a step more changes ranges by less than 1 % on
average, more are not needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.quantize.histogram import Gathering, save_histograms
from edgekd.quantize.onnx_tensors import activations_of, fold_onnx
from edgekd.quantize.tflite import tflite_samples
from edgekd.runtimes import inner_name, open_onnx, open_tflite

STEP = 200
"""Samples of which it is asked whether they changed anything; half of all, where there are fewer than two steps."""
MOST_CHANGE = 0.01
"""By which ranges may still change, on average over tensors, as a share of themselves."""
_BATCH = 4

Arrays = dict[str, NDArray[Any]]


def observe_onnx(model: str, calibration: str, out: str, until_settled: bool) -> dict[str, Any]:
    """Write histograms of the activations of the float32 ONNX file ``model`` to ``out``. Runs in a child process.

    Args:
        model: Path of the file; batch norms are folded first, as the quantizer does.
        calibration: ``.npz`` file of every input by name, ``[n, ...]``; images are normalised and NCHW.
        out: Path of the file to write, see :func:`edgekd.quantize.histogram.load_histograms`.
        until_settled: Whether to stop as soon as ranges no longer change; otherwise every sample is looked at.

    Returns:
        ``samples`` that were looked at; ``change`` of ranges by the last step; whether they have ``settled``; and the names of
        the file's ``outputs``.
    """
    import onnx

    with np.load(calibration, allow_pickle=False) as archive:
        samples = dict(archive)
    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded, watched = Path(scratch, "folded.onnx"), Path(scratch, "watched.onnx")
        fold_onnx(model, folded)
        proto = onnx.load(folded)
        names, inputs = activations_of(proto), {each.name for each in proto.graph.input}
        outputs = [each.name for each in proto.graph.output]
        proto.graph.output.extend(onnx.ValueInfoProto(name=each) for each in sorted(names - inputs - set(outputs)))
        watched.write_bytes(proto.SerializeToString())
        run, described, _ = open_onnx(str(watched))
    free = all(each["shape"] and not isinstance(each["shape"][0], int) for each in described)

    def values(part: Arrays) -> Arrays:
        return {name: array for name, array in {**part, **run(part)}.items() if name in names}

    facts = _gather(values, samples, _BATCH if free else 1, until_settled, Path(out))
    return {**facts, "outputs": outputs}


def observe_tflite(model: str, calibration: str, out: str, until_settled: bool) -> dict[str, Any]:
    """Write histograms of the activations of the float32 TFLite file ``model`` to ``out``. Runs in a child process.

    Arguments and result are those of :func:`observe_onnx`; tensors without dimensions are not looked at.
    """
    from ai_edge_litert import schema_py_generated as schema

    body = schema.ModelT.InitFromPackedBuf(Path(model).read_bytes(), 0).subgraphs[0]
    made = {int(index) for operator in body.operators for index in operator.outputs} | set(map(int, body.inputs))
    seen = {
        inner_name(index): body.tensors[index].name.decode() for index in sorted(made)
        if body.tensors[index].type == schema.TensorType.FLOAT32 and len(body.tensors[index].shape) > 0
    }  # fmt: skip
    run, _, _ = open_tflite(model, inner=[int(name.partition(":")[2]) for name in seen])

    def values(part: Arrays) -> Arrays:
        found = run({name: np.ascontiguousarray(array) for name, array in part.items()})
        return {name: found[inner] for inner, name in seen.items()}

    facts = _gather(values, tflite_samples(calibration), 1, until_settled, Path(out))
    return {**facts, "outputs": [body.tensors[index].name.decode() for index in map(int, body.outputs)]}


def _gather(
    values: Callable[[Arrays], Arrays], samples: Mapping[str, NDArray[Any]], batch: int, until_settled: bool, out: Path
) -> dict[str, Any]:
    count = len(next(iter(samples.values())))
    step = min(STEP, max(count // 2, 1))
    asked = set(range(step, count, step)) if until_settled else {count - step}
    gathered: dict[str, Gathering] = {}
    before: dict[str, float] | None = None
    change, done = None, 0
    while done < count:
        following = min([done + batch, count, *(each for each in asked if each > done)])
        for name, array in values({name: array[done:following] for name, array in samples.items()}).items():
            gathered.setdefault(name, Gathering()).add(array)
        done = following
        if done in asked or done == count:
            now = {name: max(each.high, 0) - min(each.low, 0) for name, each in gathered.items()}
            change = _change(before, now) if before is not None else None
            before = now
            if until_settled and change is not None and change < MOST_CHANGE:
                break
    save_histograms({name: each.result() for name, each in gathered.items()}, out)
    return {"samples": done, "change": change, "settled": change is not None and change < MOST_CHANGE}


def _change(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return by how much spans grew, as a share of what they are, on average over tensors that have one."""
    shares = [(now[name] - before[name]) / now[name] for name in now if np.isfinite(now[name]) and now[name] > 0]
    return float(np.mean(shares)) if shares else 0.0
