"""How fast our files are, beside what other tools convert of the same weights: alternating in one process, on one thread.

Claims: of every network, float32 and int8, the median latency of our ONNX and TFLite file is at most 1.02 times that of the
best other file of its format; our files have no transposes at their borders.

Weights do not change how long an operator takes, so networks have fresh ones of a fixed seed, and int8 files are calibrated on
noise. ``--trained FOLDER`` takes the networks and files that ``quantization_quality.py --out FOLDER`` left: then what is timed
is what is shipped, with the layers that were kept in floating point::

    python -m venv onnx2tf && onnx2tf/bin/pip install onnx2tf==1.29.24
    python benchmarks/artifact_speed.py --peers onnx2tf/bin/python

Beside ours: ``torch.onnx.export`` as it is and ONNX Runtime's default int8 of that; onnx2tf, and TensorFlow's converter on
onnx2tf's SavedModel, float32 and integers alone, of the same file of ``torch.onnx``. A tool that is missing or fails is named.
In every round each file infers ``--runs`` times, one after the other in turn, ours first and last in turn; a ratio is one of
medians within a round, and the median and range over rounds are told. An idle machine is needed, and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import Peers

from edgekd.models.tensors import TensorSpec, classifier, image_input
from edgekd.safe.child import run_in_child

MOST = 1.02
CALIBRATION = 32
"""Samples of noise: ranges do not change how long an operator takes."""


def image(size: int, channels: int = 3) -> tuple[TensorSpec, ...]:
    """Return the input of a network for square images."""
    return (image_input((size, size, channels), (0.5,) * channels, (0.25,) * channels),)


SOUND = (TensorSpec("waveform", "float32", (16_000,), "NC", "waveform", (-1.0, 1.0), sample_rate=16_000),)
TEXT = (
    TensorSpec("input_ids", "int32", (64,), "NC", "tokens", vocabulary=8_000),
    TensorSpec("attention_mask", "int32", (64,), "NC", "mask"),
)
NETWORKS = {
    "shallow_cnn": image(8, 1), "resnet8": image(32), "mobilenet_v2": image(224), "mobilenet_v3_small": image(224),
    "ds_cnn": SOUND, "tiny_transformer": TEXT,
}  # fmt: skip
FORMATS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
PEERS = {
    "onnx-fp32": {"torch.onnx": ("", ())},
    "onnx-int8": {
        "torch.onnx, ORT default": ("ort_static", ("onnxruntime",)),
        "torch.onnx, ORT dynamic": ("ort_dynamic", ("onnxruntime",)),  # of text alone, as it recommends, and ours is, too
    },
    "tflite-fp32": {
        "onnx2tf": ("onnx2tf_float", ("onnx2tf",)),
        "TensorFlow over onnx2tf": ("tensorflow_float", ("onnx2tf", "tensorflow")),
    },
    "tflite-int8": {"TensorFlow over onnx2tf": ("tensorflow_static", ("onnx2tf", "tensorflow"))},
}
"""By format the other tools: function of peers.py and packages. What onnx2tf quantizes by itself is TensorFlow's converter."""


def main() -> None:
    """Make every file, time them, print the table and leave it in files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=[each for each in NETWORKS if each != "shallow_cnn"])
    parser.add_argument("--trained", type=Path, metavar="FOLDER", help="what quantization_quality.py left")
    parser.add_argument("--peers", nargs="+", default=[], metavar="PYTHON", help="interpreters that have other tools")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=200, help="inferences of each file in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/artifact-speed"))
    options = parser.parse_args()
    peers, found = Peers(options.peers), []
    for name in options.models:
        print(f"{name} ...", flush=True)
        found.append(measured(name, peers, options))
        write(found, peers, options.out)


def measured(name: str, peers: Peers, options: argparse.Namespace) -> dict[str, Any]:
    """Make all files of a network and time them."""
    from edgekd.inspect.inspection import inspect_file

    folder = (options.out / name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    own, source = ours(name, folder, options)
    lines, refused = [], {}
    for kind in FORMATS:
        files = {"edgekd": str(own[kind])}
        for title, (function, needs) in PEERS[kind].items():
            if not function:
                files[title] = str(source)
                continue
            if function == "ort_dynamic" and NETWORKS[name] is not TEXT:
                continue
            out = folder / f"{title.replace(', ', '-').replace(' ', '-')}-{kind}.{kind.partition('-')[0]}"
            arguments: dict[str, Any] = {"model": str(source)}
            if kind.endswith("int8"):
                arguments["calibration"] = str(folder / "calibration.npz")
            if function == "tensorflow_static":
                arguments["integer_io"] = True
            refusal = peers.make(function, needs, arguments, out, log)
            if refusal is None:
                files[title] = str(out)
            else:
                refused[f"{kind}, {title}"] = refusal
        timing = {"files": files, "kind": kind.partition("-")[0], "rounds": options.rounds, "runs": options.runs}
        times = run_in_child("artifact_speed:alternate", timing, log=log, threads=1)
        for title, path in files.items():
            layout = inspect_file(Path(path)).layout
            ratios = [mine / other for mine, other in zip(times["edgekd"], times[title], strict=True)]
            lines.append({
                "format": kind, "name": title, "ms": times[title], "ratios": ratios, "transposes": layout.transposes,
                "border_transposes": len(layout.border_transposes), "kib": Path(path).stat().st_size / 1024,
            })  # fmt: skip
    return {"model": name, "trained": str(options.trained) if options.trained else None, "lines": lines, "refused": refused}


def ours(name: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Path], Path]:
    """Return our files by format, and the file that torch.onnx makes of the same weights."""
    log = folder / "log.txt"
    source, calibration = folder / "torch.onnx", folder / "calibration.npz"
    if options.trained:
        told = json.loads((options.trained / name / "network.json").read_text())
        spec, weights, own = told["spec"], told["weights"], {kind: Path(path) for kind, path in told["files"].items()}
    else:
        spec = classifier(f"zoo:{name}", NETWORKS[name], tuple(f"class {each}" for each in range(10))).to_json()
        weights = str(folder / "weights.safetensors")
        own = {kind: folder / f"edgekd-{kind}.{kind.partition('-')[0]}" for kind in FORMATS}
    arguments = {"spec": spec, "weights": weights, "seed": options.seed, "fresh": not options.trained}
    run_in_child("artifact_speed:by_torch", {**arguments, "calibration": str(calibration), "out": str(source)}, log=log)
    if not options.trained:
        text = spec["inputs"][0]["meaning"] == "tokens"
        for kind in ("onnx", "tflite"):
            made = {"spec": spec, "weights": weights, "out": str(own[f"{kind}-fp32"])}
            run_in_child(f"edgekd.export.{kind}:export_{kind}", made, log=log)
            made = {"model": made["out"], "out": str(own[f"{kind}-int8"])}
            made |= {} if text else {"calibration": str(calibration)}
            run_in_child(f"edgekd.quantize.{kind}:quantize_{kind}{'_dynamic' if text else ''}", made, log=log)
    return own, source


def by_torch(spec: dict[str, Any], weights: str, seed: int, fresh: bool, calibration: str, out: str) -> None:
    """Write fresh weights if asked to, samples of noise, and the file of ``torch.onnx`` by its defaults. Runs in a child."""
    import torch

    from edgekd.models.spec import build, example_inputs, load, save_weights
    from edgekd.models.tensors import spec_from_json

    described = spec_from_json(spec)
    if fresh:
        torch.manual_seed(seed)
        save_weights(build(described), Path(weights))
    model = load(described, Path(weights))
    names = [each.name for each in described.inputs]
    torch.onnx.export(
        model, tuple(example_inputs(described).values()), out, input_names=names,
        output_names=[each.name for each in described.outputs], external_data=False, verbose=False,
    )  # fmt: skip
    noise = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for each in described.inputs:
        shape = (CALIBRATION, *each.shape)
        if each.meaning == "tokens":
            values = noise.integers(1, each.vocabulary, shape)
        else:
            values = np.ones(shape) if each.meaning == "mask" else noise.normal(size=shape)
        arrays[each.name] = values.astype(each.dtype)
    np.savez(calibration, **arrays)


def alternate(files: dict[str, str], kind: str, rounds: int, runs: int) -> dict[str, list[float]]:
    """Return the median milliseconds of one inference of each file, for every round. Runs in a child process."""
    from edgekd.runtimes import open_artifact

    opened = {}
    for name, path in files.items():
        run, inputs, _ = open_artifact(path, kind, 1)
        opened[name] = run, {each["name"]: sample(each) for each in inputs}
    for run, given in opened.values():
        for _ in range(20):
            run(given)
    medians: dict[str, list[float]] = {name: [] for name in opened}
    for turn in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in opened}
        order = list(opened.items())[:: -1 if turn % 2 else 1]
        for _ in range(runs):
            for name, (run, given) in order:
                started = time.perf_counter()
                run(given)
                times[name].append(1000 * (time.perf_counter() - started))
        for name, each in times.items():
            medians[name].append(statistics.median(each))
    return medians


def sample(described: dict[str, Any]) -> Any:
    """Return one sample of what an input takes: ones for integers that count, noise for all else."""
    shape = [each if isinstance(each, int) and each > 0 else 1 for each in described["shape"]]
    noise, dtype = np.random.default_rng(0), np.dtype(described["dtype"])
    if np.issubdtype(dtype, np.floating):
        return noise.normal(size=shape).astype(dtype)
    return np.ones(shape, dtype) if dtype.itemsize > 1 else noise.integers(-100, 100, shape).astype(dtype)


def write(found: list[dict[str, Any]], peers: Peers, out: Path) -> None:
    """Leave all lines as JSON, and a table in Markdown, which is printed too."""
    content = {"load": os.getloadavg(), "versions": peers.versions, "models": found}
    (out / "speed.json").write_text(json.dumps(content, indent=2))
    rows = ["| network | format | file | p50, ms | edgekd / it (range) | transposes: at borders, all | KiB | holds |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for model in found:
        for line in model["lines"]:
            ratio = f"{statistics.median(line['ratios']):.3f} ({min(line['ratios']):.3f} to {max(line['ratios']):.3f})"
            is_ours = line["name"] == "edgekd"
            rows.append(
                f"| {model['model']} | {line['format']} | {line['name']} | {statistics.median(line['ms']):.3f} "
                f"| {'' if is_ours else ratio} | {line['border_transposes']}, {line['transposes']} | {line['kib']:.0f} "
                f"| {held(line, model['lines']) if is_ours else ''} |"
            )
        rows += [
            f"| {model['model']} | {title} | {why.replace('|', '/')} | | | | | |" for title, why in model["refused"].items()
        ]
    (out / "speed.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)


def held(line: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    """Return whether one of our files keeps both claims, against the fastest other of its format."""
    others = [each for each in lines if each["format"] == line["format"] and each is not line]
    borders = "" if not line["border_transposes"] else "; TRANSPOSES AT BORDERS"
    if not others:
        return f"no other to compare with{borders}"
    best = max(others, key=lambda each: statistics.median(each["ratios"]))
    ratio = statistics.median(best["ratios"])
    return f"{ratio:.3f} of {best['name']}, {'holds' if ratio <= MOST else f'MORE THAN {MOST}'}{borders}"


if __name__ == "__main__":
    main()
