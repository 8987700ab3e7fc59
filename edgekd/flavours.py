"""The one table of what files can be made: format, precision, how, and for which devices each is of use.

A flavour is what "int8" means to one runtime: TensorRT wants symmetric ranges, an NPU integers at its borders, ONNX Runtime
runs both. Free of torch and of the runtimes: recipes and plans read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

ArtifactName = Literal[
    "onnx-fp32", "onnx-fp16", "onnx-int8", "onnx-int8-dynamic", "onnx-int8-tensorrt", "onnx-int8-weights", "onnx-int4-weights",
    "ort-fp32", "ort-int8",
    "tflite-fp32", "tflite-fp16", "tflite-int8", "tflite-int8-dynamic", "tflite-int8-float-io", "tflite-int16x8",
    "tflite-int8-weights", "tflite-int4-weights",
]  # fmt: skip
ARTIFACT_NAMES: tuple[ArtifactName, ...] = get_args(ArtifactName)
DEFAULT_ARTIFACTS: tuple[ArtifactName, ...] = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "ort": "ONNX Runtime", "tflite": "LiteRT"}


@dataclass(frozen=True)
class Flavour:
    """A kind of file.

    Attributes:
        what: In words.
        source: The file it is made from; ``None``: exported from PyTorch.
        function: Makes it, ``module:function`` for a child process, with ``model`` and ``out`` and ``arguments``.
        dynamic: Takes the place of ``function`` where the ranges of activations are dynamic.
        activations: ``static`` needs training samples, ``dynamic`` does not, ``auto`` is one of the two by the recipe;
            ``None``: activations stay floating-point numbers.
        arguments: Passed to ``function``.
        beside: Endings of further files that ``function`` leaves, put after the name without its own ending.
        simulated: Whether quantization-aware training simulates how it rounds, and sets its ranges.
        devices: Where it is of use, and where not and why: what `edgekd plan` and the documentation tell.
    """

    what: str
    source: ArtifactName | None = None
    function: str | None = None
    dynamic: str | None = None
    activations: Literal["static", "dynamic", "auto"] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    simulated: bool = False
    devices: str = ""


FLAVOURS: dict[ArtifactName, Flavour] = {
    "onnx-fp32": Flavour(
        "floating point", function="edgekd.export.onnx:export_onnx",
        devices="every ONNX Runtime; the source of all other ONNX files",
    ),
    "onnx-fp16": Flavour(
        "16-bit floating point, inputs and outputs 32-bit", "onnx-fp32", "edgekd.quantize.onnx_float16:cast_onnx_fp16",
        devices="GPUs and TensorRT; a CPU without 16-bit arithmetic converts at every operator and is slower than fp32",
    ),
    "onnx-int8": Flavour(
        "int8 for ONNX Runtime on CPUs (QDQ, asymmetric activations, weights per channel)", "onnx-fp32",
        "edgekd.quantize.onnx:quantize_onnx", "edgekd.quantize.onnx:quantize_onnx_dynamic", "auto", simulated=True,
        devices="CPUs of phones, Raspberry Pi and PCs; gains little on cores without dot product, as Cortex-A53 and A72",
    ),
    "onnx-int8-dynamic": Flavour(
        "int8 weights, ranges of activations found as it runs", "onnx-fp32", "edgekd.quantize.onnx:quantize_onnx_dynamic",
        activations="dynamic", devices="CPUs, for transformers; not for TensorRT",
    ),
    "onnx-int8-tensorrt": Flavour(
        "int8 with symmetric ranges, zero point 0 (QDQ)", "onnx-fp32", "edgekd.quantize.onnx_tensorrt:quantize_onnx_tensorrt",
        activations="static", devices="Jetson with TensorRT 10; Jetson Nano and TX2 have no integer units of use: fp16 there",
    ),
    "onnx-int8-weights": Flavour(
        "weights stored as int8, computing in floating point", "onnx-fp32",
        "edgekd.quantize.onnx_weights:store_onnx_weights", arguments={"bits": 8}, devices="every CPU: smaller, not faster",
    ),
    "onnx-int4-weights": Flavour(
        "weights stored as int4 in blocks of 32, computing in floating point", "onnx-fp32",
        "edgekd.quantize.onnx_weights:store_onnx_weights", arguments={"bits": 4},
        devices="CPUs with ONNX Runtime 1.20 or newer, for large transformers: smallest; small networks lose accuracy",
    ),
    "ort-fp32": Flavour(
        "floating point in ONNX Runtime's own format, with the list of its operators for a reduced build", "onnx-fp32",
        "edgekd.export.ort:export_ort", beside=(".required_operators.config",),
        devices="ONNX Runtime Mobile, of the version that wrote it or newer",
    ),
    "ort-int8": Flavour(
        "int8 in ONNX Runtime's own format, with the list of its operators for a reduced build", "onnx-int8",
        "edgekd.export.ort:export_ort", beside=(".required_operators.config",), simulated=True,
        devices="ONNX Runtime Mobile, of the version that wrote it or newer",
    ),
    "tflite-fp32": Flavour(
        "floating point", function="edgekd.export.tflite:export_tflite",
        devices="every LiteRT; the source of all other TFLite files",
    ),
    "tflite-fp16": Flavour(
        "weights stored as 16-bit floating point, computing in 32-bit, or in 16-bit where the runtime has it", "tflite-fp32",
        "edgekd.quantize.tflite:cast_tflite_fp16", devices="GPU delegates of phones; CPUs: half the size, speed of fp32",
    ),
    "tflite-int8": Flavour(
        "int8 all through, inputs and outputs too (weights per channel)", "tflite-fp32",
        "edgekd.quantize.tflite:quantize_tflite", "edgekd.quantize.tflite:quantize_tflite_dynamic", "auto", simulated=True,
        devices="CPUs (XNNPACK), NPUs and Edge TPUs; GPU delegates compute it in floating point",
    ),
    "tflite-int8-dynamic": Flavour(
        "int8 weights, ranges of activations found as it runs", "tflite-fp32",
        "edgekd.quantize.tflite:quantize_tflite_dynamic", activations="dynamic",
        devices="CPUs, for transformers; NPUs and GPU delegates do not take it",
    ),
    "tflite-int8-float-io": Flavour(
        "int8 inside, inputs and outputs floating point", "tflite-fp32", "edgekd.quantize.tflite:quantize_tflite",
        activations="static", arguments={"float_io": True}, simulated=True,
        devices="as tflite-int8, for apps that hand over floating point",
    ),
    "tflite-int16x8": Flavour(
        "int8 weights, int16 activations, inputs and outputs", "tflite-fp32", "edgekd.quantize.tflite:quantize_tflite",
        activations="static", arguments={"bits": 16},
        devices="DSPs and microcontrollers, for sound; CPUs run it by reference kernels, slower than fp32",
    ),
    "tflite-int8-weights": Flavour(
        "weights stored as int8, computing in floating point", "tflite-fp32",
        "edgekd.quantize.tflite:store_tflite_weights", arguments={"bits": 8}, devices="CPUs: smaller, not faster",
    ),
    "tflite-int4-weights": Flavour(
        "weights of fully connected layers and convolutions stored as int4, computing in floating point", "tflite-fp32",
        "edgekd.quantize.tflite:store_tflite_weights", arguments={"bits": 4},
        devices="CPUs, for large networks: smallest; small networks lose accuracy",
    ),
}  # fmt: skip


def format_of(name: str) -> str:
    """Return the file format of an artifact: ``onnx``, ``ort`` or ``tflite``."""
    return name.partition("-")[0]


def precision_of(name: str) -> str:
    """Return the precision of an artifact: ``fp32``, ``fp16``, ``int8``, ``int4`` or ``int16x8``."""
    return name.split("-")[1]


def flavour_of(name: str) -> str:
    """Return what follows format and precision in the name of an artifact: ``tensorrt``, ``weights``, or nothing."""
    return "-".join(name.split("-")[2:])


def sources(names: tuple[ArtifactName, ...]) -> tuple[ArtifactName, ...]:
    """Return ``names`` and all that they are made from, sources first, each once."""
    ordered: list[ArtifactName] = []

    def add(name: ArtifactName) -> None:
        source = FLAVOURS[name].source
        if source is not None:
            add(source)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return tuple(ordered)
