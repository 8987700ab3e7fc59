"""What int8 costs on real data: our files beside those that other tools make of the same float32 files.

Claims: an int8 file of edgekd is never worse than the best of the other tools in its format beyond noise, and at most 0.5
points under the float32 network.

Run it on images and sounds in class folders, ``FOLDER/{train,test}/CLASS/``, as CIFAR-10 and the Free Spoken Digit Dataset
unpack, and on sentences, ``TEXTS/{train,dev,test}.tsv``, as SST-2 has them::

    python benchmarks/quantization_quality.py --images IMAGES --sounds SOUNDS --texts TEXTS --out runs/quantization

Each network is trained on the labels alone, or taken from ``--weights MODEL=FILE``. Then edgekd makes its default files, and
every other tool makes its own from the same float32 ONNX or TFLite file, with the training samples that edgekd calibrated on.
All of them run in their runtime on the whole test split. Intervals of accuracies are Wilson's, those of differences are
paired, 95 % both. The best other tool is the best on the test split, which flatters it.

Tools that want other versions of packages live in environments of their own, named by ``--peers``. The two cannot share one:
NNCF needs a newer protobuf than onnx2tf allows::

    python -m venv nncf && nncf/bin/pip install nncf onnx onnxruntime
    python -m venv onnx2tf && onnx2tf/bin/pip install onnx2tf==1.29.24
    python benchmarks/quantization_quality.py ... --peers nncf/bin/python onnx2tf/bin/python

PyTorch networks have no route of their own to TensorFlow's converter: it gets the SavedModel that onnx2tf makes of the ONNX
file. A tool that is not there, refuses a network or makes a file that does not run is named in the table.
``--models shallow_cnn`` takes the embedded digits and needs no folder. Hours on two cores; killed, it continues.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import Peers

import edgekd
from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.control import paired_difference
from edgekd.distill.stages import prepare_teacher, settle_training
from edgekd.planning import plan
from edgekd.progress import Silent
from edgekd.quantize.audit import audit
from edgekd.quantize.calibration import calibration_order
from edgekd.quantize.candidates import most_samples
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.report import Report
from edgekd.runtimes import describe, open_artifact
from edgekd.safe.child import run_in_child
from edgekd.tasks.classification import top1
from edgekd.verify import sample_set
from edgekd.workspace import open_workspace

MOST_DROP = 0.5
DEFAULT_SAMPLES = 400
"""Calibration samples of the other tools where edgekd takes none: its default for text is dynamic."""
SGD = {"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 5e-4}
ADAM = {"batch_size": 128, "learning_rate": 4e-3}
AUGMENT = {"crop_padding": 4, "flip": True}


@dataclass(frozen=True)
class Network:
    """A network, the data it learns, and how."""

    data: str
    epochs: int
    train: dict[str, Any]
    arguments: dict[str, Any]
    options: dict[str, Any]


NETWORKS = {
    "resnet8": Network("images", 15, SGD, {}, {"augment": AUGMENT, "validation": 0.1}),
    "mobilenet_v2": Network("images", 15, ADAM, {"stem_stride": 1}, {"augment": AUGMENT, "validation": 0.1}),
    "mobilenet_v3_small": Network("images", 15, ADAM, {"stem_stride": 1}, {"augment": AUGMENT, "validation": 0.1}),
    "ds_cnn": Network("sounds", 30, {"batch_size": 64, "learning_rate": 5e-3}, {}, {"validation": 0.1}),
    "tiny_transformer": Network(
        "texts", 4, {"batch_size": 64, "learning_rate": 1e-3}, {"dropout": 0.2}, {"max_tokens": 48}
    ),
    "shallow_cnn": Network("digits", 30, {"batch_size": 64, "learning_rate": 5e-3}, {}, {"augment": {"crop_padding": 1}}),
}  # fmt: skip
SOURCES = {"images": "folder", "sounds": "audio-folder", "texts": "tsv"}


@dataclass(frozen=True)
class Peer:
    """A way of another tool to make an int8 file: from which of our files, by what, and for what data."""

    source: str
    function: str
    needs: tuple[str, ...]
    arguments: dict[str, Any]
    only: tuple[str, ...] = ("images", "sounds", "texts", "digits")


TENSORFLOW = ("onnx2tf", "tensorflow")
PEERS = {
    "ORT static, default": Peer("onnx-fp32", "ort_static", ("onnxruntime",), {}),
    "ORT static, per channel": Peer("onnx-fp32", "ort_static", ("onnxruntime",), {"per_channel": True}),
    "ORT dynamic": Peer("onnx-fp32", "ort_dynamic", ("onnxruntime",), {}, ("texts",)),
    "NNCF": Peer("onnx-fp32", "nncf_static", ("nncf",), {}, ("images", "sounds", "digits")),
    "NNCF, transformer": Peer("onnx-fp32", "nncf_static", ("nncf",), {"transformer": True}, ("texts",)),
    "ai-edge-quantizer static": Peer("tflite-fp32", "ai_edge_static", ("ai-edge-quantizer",), {}),
    "ai-edge-quantizer dynamic": Peer("tflite-fp32", "ai_edge_dynamic", ("ai-edge-quantizer",), {}, ("texts",)),
    "TensorFlow over onnx2tf": Peer("onnx-fp32", "tensorflow_static", TENSORFLOW, {}),
}
TFLITE = {"ai_edge_static", "ai_edge_dynamic", "tensorflow_static"}


def main() -> None:
    """Train or load every network, make all files, judge them, print the table and leave it in files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in SOURCES:
        parser.add_argument(f"--{name}", type=Path, help=f"folder of the {name}; without it their networks are left out")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, help="default: all whose data is given")
    parser.add_argument("--weights", nargs="+", default=[], metavar="MODEL=FILE", help="trained weights, instead of training")
    parser.add_argument("--epochs", type=int, help="of every training; default: 4 to 30, by network")
    parser.add_argument("--width", type=float, default=1.0, help="of the MobileNets")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--compile", action="store_true", help="train by torch.compile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", nargs="+", default=[], metavar="PYTHON", help="interpreters that have other tools")
    parser.add_argument("--out", type=Path, default=Path("runs/quantization"))
    options = parser.parse_args()
    given = {"digits"} | {name for name in SOURCES if getattr(options, name)}
    usual = [name for name, each in NETWORKS.items() if each.data in given and each.data != "digits"]
    chosen = options.models or usual
    missing = [f"{name} needs --{NETWORKS[name].data}" for name in chosen if NETWORKS[name].data not in given]
    if missing or not chosen:
        parser.error("; ".join(missing) or "give --images, --sounds or --texts, or --models shallow_cnn")
    weights = dict(each.partition("=")[::2] for each in options.weights)
    peers, found = Peers(options.peers), []
    for name in chosen:
        found.append(judged(name, weights.get(name), peers, options))
        write(found, peers, options.out)


def recipe(name: str, options: argparse.Namespace, student: dict[str, Any] | None) -> dict[str, Any]:
    """Return the recipe of training network ``name``, or with ``student``, its weights, that of its files."""
    network = NETWORKS[name]
    source = "digits" if network.data == "digits" else f"{SOURCES[network.data]}:{getattr(options, network.data).absolute()}"
    arguments = {**network.arguments, **({"width": options.width} if name.startswith("mobilenet") else {})}
    model = {"model": f"zoo:{name}", "arguments": arguments}
    train = {**network.train, "epochs": options.epochs or network.epochs, "precision": options.precision,
             "compile": options.compile}  # fmt: skip
    common = {
        "name": name, "seed": options.seed, "threads": options.threads, "data": {"source": source, **network.options},
        "benchmark": {"runs": 10, "warmup": 0},
        "export": {"artifacts": ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]},
    }  # fmt: skip
    if student is not None:
        return {**common, "student": {**model, **student}, "distill": {"scheme": "none"}}
    return {**common, "teacher": {**model, "check": False, "train": train}, "student": model}


def trained(name: str, options: argparse.Namespace) -> str:
    """Train a network on the labels alone, as teachers are; return its weights."""
    asked = recipe_from_mapping(recipe(name, options, None))
    with open_workspace(options.out / name / "training", Silent()) as workspace:
        data = load_data(asked, workspace)
        threads = plan(asked).threads
        settled = settle_training(asked, data, threads, workspace)
        teacher = prepare_teacher(settled, data, threads, False, workspace)
    assert teacher is not None and teacher.members[0].weights is not None
    return str(teacher.members[0].weights.absolute())


def judged(name: str, weights: str | None, peers: Peers, options: argparse.Namespace) -> dict[str, Any]:
    """Return what every file of a network is worth on the test split."""
    print(f"{name} ...", flush=True)
    folder = (options.out / name).absolute()
    asked = recipe_from_mapping(recipe(name, options, {"weights": str(Path(weights or trained(name, options)).absolute())}))
    report = edgekd.compress(asked, folder / "files")
    (folder / "spec.json").write_text(
        json.dumps({"spec": report.student.spec.to_json(), "weights": str(report.student.weights)})
    )
    with open_workspace(folder / "files", Silent()) as workspace:
        data = load_data(asked, workspace)
    test = data.splits.test
    labels = data.labels[test]
    logits = {"fp32": np.load(report.student.test_logits)}
    for each in report.artifacts:
        assert each.verified.logits is not None
        if each.name in {"onnx-int8", "tflite-int8"}:
            logits[f"edgekd {each.name}"] = np.load(each.verified.logits)
    refused: dict[str, str] = {}
    (folder / "peers").mkdir(exist_ok=True)
    samples, count = calibration(data, report, options.seed, folder / "peers")
    for title, peer in PEERS.items():
        if NETWORKS[name].data not in peer.only:
            continue
        kind = "tflite" if peer.function in TFLITE else "onnx"
        out = folder / "peers" / f"{title.replace(', ', '-').replace(' ', '-')}.{kind}"
        arguments = {"model": str(report.path(peer.source)), "calibration": str(samples), **peer.arguments}
        refusal = peers.make(peer.function, peer.needs, arguments, out, folder / "peers" / "log.txt")
        if refusal is None:
            try:
                logits[title] = outputs(out, kind, data, report, folder / "peers")
            except edgekd.errors.EdgekdError as error:
                refusal = f"does not run: {error.message[:200]}"
        if refusal is not None:
            refused[title] = refusal
    lines = compared(logits, labels)
    facts = {each.name: each.verified.artifact.quantization for each in report.artifacts}
    return {"model": name, "epochs": options.epochs or NETWORKS[name].epochs, "weights": weights, "calibration": count,
            "lines": lines, "refused": refused, "quantization": facts}  # fmt: skip


def calibration(data: Dataset, report: Report, seed: int, folder: Path) -> tuple[Path, int]:
    """Write the training samples that edgekd calibrated on; return their file and number."""
    found = [each.verified.artifact.quantization for each in report.artifacts]
    count = max((each["calibration"]["samples"] for each in found if each), default=DEFAULT_SAMPLES)
    ordered = calibration_order(data.splits.train, data.labels, seed)[: most_samples(data)]
    kept = audit(data, ordered)[0][:count]
    np.savez(folder / "calibration.npz", allow_pickle=False, **data.batch(kept))
    return folder / "calibration.npz", len(kept)


def outputs(path: Path, kind: str, data: Dataset, report: Report, folder: Path) -> Any:
    """Run a file of another tool in its runtime on the test split; return its logits."""
    out = folder / f"{path.name}.npy"
    sets = [sample_set(data, data.splits.test, folder / "test.npy", out)]
    arguments = {"path": str(path), "kind": kind, "spec": report.student.spec.to_json(), "sets": sets}
    run_in_child("quantization_quality:run_renamed", arguments, log=folder / "log.txt")
    return np.load(out, allow_pickle=False)


def run_renamed(path: str, kind: str, spec: dict[str, Any], sets: list[dict[str, Any]]) -> None:
    """Run a file whose inputs and outputs may have other names than the student's. Runs in a child process."""
    from edgekd.evaluate import run_sets
    from edgekd.models.tensors import spec_from_json

    model = spec_from_json(spec)
    run, *found = open_artifact(path, kind)
    sides = list(zip(found, (model.inputs, model.outputs), strict=True))
    names = {each.name: given["name"] for side, specs in sides for each, given in paired(specs, side)}
    described = [
        describe([{**given, "name": each.name} for each, given in paired(specs, side)], specs, kind) for side, specs in sides
    ]

    def renamed(arrays: dict[str, Any]) -> dict[str, Any]:
        given = run({names[name]: each for name, each in arrays.items()})
        return {each.name: given[names[each.name]] for each in model.outputs}

    run_sets(renamed, described[0], described[1], sets)


def paired(specs: Any, found: list[dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    """Return each spec with what the file calls it: the only one, or the one whose name has the spec's in it."""
    if len(specs) == len(found) == 1:
        return [(specs[0], found[0])]
    return [(each, next(given for given in found if each.name in given["name"])) for each in specs]


def compared(logits: dict[str, Any], labels: Any) -> list[dict[str, Any]]:
    """Return a line for each file: accuracy, difference to fp32, and of our files to the best of the others in the format."""
    right = {name: each.argmax(1) == labels for name, each in logits.items()}
    formats = {name: "tflite" if PEERS[name].function in TFLITE else "onnx" for name in logits if name in PEERS}
    lines = []
    for name, each in right.items():
        drop, interval, _ = paired_difference(each, right["fp32"])
        line = {**asdict(top1(logits[name], labels)), "name": name, "to_fp32": drop, "to_fp32_ci95": interval}
        if name.startswith("edgekd"):
            own = name.split()[1].partition("-")[0]
            others = [other for other, kind in formats.items() if kind == own]
            line["within_drop"] = drop >= -MOST_DROP
            if others:
                best = max(others, key=lambda other: float(right[other].mean()))
                gain, between, _ = paired_difference(each, right[best])
                line |= {"best": best, "to_best": gain, "to_best_ci95": between, "not_worse": between[1] >= 0}
        lines.append(line)
    return lines


def write(found: list[dict[str, Any]], peers: Peers, out: Path) -> None:
    """Leave all lines as JSON, and a table in Markdown, which is printed too."""
    (out / "quality.json").write_text(json.dumps({"versions": peers.versions, "models": found}, indent=2))
    rows = ["| network | file | top-1 (95 %) | to fp32, points | to the best other of its format, points | holds |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for model in found:
        for line in model["lines"]:
            low, high = (100 * each for each in line["ci95"])
            to_fp32 = "" if line["name"] == "fp32" else points(line["to_fp32"], line["to_fp32_ci95"])
            to_best = f"{points(line['to_best'], line['to_best_ci95'])}, {line['best']}" if "best" in line else ""
            value = f"{100 * line['value']:.2f} % ({low:.1f}-{high:.1f})"
            rows.append(f"| {model['model']} | {line['name']} | {value} | {to_fp32} | {to_best} | {held(line)} |")
        rows += [f"| {model['model']} | {title} | {why.replace('|', '/')} | | | |" for title, why in model["refused"].items()]
    (out / "quality.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)


def points(value: float, interval: tuple[float, float]) -> str:
    """Return a difference with its interval."""
    return f"{value:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def held(line: dict[str, Any]) -> str:
    """Return whether a line of ours keeps both claims; of a claim that nothing was there to judge by, that."""
    if "within_drop" not in line:
        return ""
    beside = {None: "no other to compare with", True: "not worse", False: "WORSE than the best other"}[line.get("not_worse")]
    if line["within_drop"]:
        return f"within {MOST_DROP} points, {beside}"
    sure = line["to_fp32_ci95"][1] < -MOST_DROP
    return f"{'MORE THAN' if sure else 'over, not beyond noise,'} {MOST_DROP} points, {beside}"


if __name__ == "__main__":
    main()
