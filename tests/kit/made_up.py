"""Run folders that no run made: a small ONNX network with any names, its report, golden vectors and manifest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.golden_file import golden_file
from edgekd.models.tensors import ModelSpec, TensorSpec

HOSTILE = (
    'a "quote"', "it's", "back\\slash \\n", "new\nline", "carriage\rreturn", "$dollar ${it} $(id) `id`", '"""', "'''", "*/ /*",
    "${{x}}", "{{ 7 * 7 }}", "{% raw %}", "\\(1 + 1)", "tab\there", "nul\x00l", "\x7f\x1b[31m", "\u202eright to left", "ünï¢ødé",
    "日本", "🦊 fox", "??/trigraph", "#include <x>", "end\u2028line", "", " ", "\\", "%s %d %n", "-->", "|pipe|",
)  # fmt: skip
"""Texts that mean something in one of the languages of a kit."""


def image_spec(shape: tuple[int, int, int], name: str = "image", **more: Any) -> TensorSpec:
    """Return an image input of ``shape`` (channels, height, width)."""
    channels = shape[0]
    values: dict[str, Any] = {"value_range": (0.0, 1.0), "mean": (0.25,) * channels, "std": (0.5,) * channels, **more}
    return TensorSpec(name, "float32", shape, "NCHW", "image", **values)


def write_network(path: Path, inputs: tuple[TensorSpec, ...], output: str, classes: int) -> None:
    """Write an ONNX network: random weights from all inputs, as floats, to ``classes`` logits."""
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    size = sum(int(np.prod(each.shape)) for each in inputs)
    weights = np.random.default_rng(0).normal(size=(size, classes)).astype(np.float32)
    nodes = []
    for number, each in enumerate(inputs):
        nodes.append(helper.make_node("Cast", [each.name], [f"_c{number}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Flatten", [f"_c{number}"], [f"_f{number}"]))
    nodes.append(helper.make_node("Concat", [f"_f{number}" for number in range(len(inputs))], ["_all"], axis=1))
    nodes.append(helper.make_node("MatMul", ["_all", "_weights"], [output]))
    graph = helper.make_graph(
        nodes, "made_up",
        [helper.make_tensor_value_info(each.name, kinds[each.dtype], ["batch", *each.shape]) for each in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "_weights")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_run(
    folder: Path, inputs: tuple[TensorSpec, ...], labels: tuple[str, ...], raw: dict[str, np.ndarray],
    full_scale: dict[str, float | None], name: str = "made up", ids: tuple[str, ...] = (), output: str = "logits",
    precision: str = "fp32",
) -> Path:  # fmt: skip
    """Write a run folder with one ONNX artifact and return it.

    Args:
        folder: Gets the run.
        inputs: What the network takes.
        labels: Classes.
        raw: Samples by input name; four more behind them stand for the adversarial ones.
        full_scale: Of each input.
        name: The recipe's name.
        ids: Of the samples; default: their numbers.
        output: The output's name.
        precision: In the artifact's name.
    """
    file = f"student.{precision}.onnx"
    (folder / "artifacts").mkdir(parents=True)
    write_network(folder / "artifacts" / file, inputs, output, len(labels))
    digest = hashlib.sha256((folder / "artifacts" / file).read_bytes()).hexdigest()
    spec = ModelSpec("zoo:none", inputs, (TensorSpec(output, "float32", (len(labels),), "NC", "logits", labels=labels),))
    np.savez(folder / "raw.npz", allow_pickle=False, **raw)
    golden = folder / "golden" / file
    golden.mkdir(parents=True)
    count = len(next(iter(raw.values()))) - 4
    samples = [{"id": ids[row] if ids else str(row), "kind": "test", "label": 0} for row in range(count)]
    path = str(folder / "artifacts" / file)
    artifact = {"name": f"onnx-{precision}", "file": file, "sha256": digest}
    golden_file(path, "onnx", precision, spec.to_json(), str(folder / "raw.npz"), samples, str(golden), full_scale, artifact)
    (folder / "raw.npz").unlink()
    shared = {"scale": None, "zero_point": None}
    given = [
        {
            "name": each.name, "shape": ["batch", *each.shape], "dtype": each.dtype, "layout": each.layout,
            "meaning": each.meaning, **shared,
            **({"value_range": list(each.value_range)} if each.value_range else {}),
            **({"mean": list(each.mean), "std": list(each.std)} if each.mean and each.std else {}),
            **({"sample_rate": each.sample_rate} if each.sample_rate else {}),
        }
        for each in inputs
    ]  # fmt: skip
    taken = {"name": output, "shape": ["batch", len(labels)], "dtype": "float32", "layout": "NC", "meaning": "logits",
             "labels": list(labels), **shared}  # fmt: skip
    entry = {
        "path": f"artifacts/{file}", "format": "onnx", "precision": precision, "sha256": digest, "inputs": given,
        "size_bytes": (folder / "artifacts" / file).stat().st_size, "outputs": [taken],
        "latency": {"host:1": {"kind": "measured", "p50_ms": 1.0}},
    }  # fmt: skip
    report = {"schema": 1, "status": "ok", "name": name, "task": "classification", "artifacts": [entry]}
    (folder / "report.json").write_text(json.dumps(report))
    list_files(folder)
    return folder


def list_files(folder: Path) -> None:
    """Write the manifest of everything in a run folder as it is now."""
    files = [
        {
            "path": str(path.relative_to(folder)),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not {"stages", "kit"} & set(path.relative_to(folder).parts)
    ]
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))


def edit_report(folder: Path, change: Any) -> None:
    """Call ``change`` with the report of a run folder, keep what it changed, and list the files anew."""
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (folder / "report.json").write_text(json.dumps(report))
    list_files(folder)
