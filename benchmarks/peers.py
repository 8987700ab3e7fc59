"""What other tools make of a float32 file, each by the defaults that it documents. The other benchmarks call this.

Free of edgekd, and run by an interpreter of its own, for these tools do not all agree on versions::

    python benchmarks/peers.py versions                  # which of them this interpreter has
    python benchmarks/peers.py FUNCTION < arguments.json

Calibration samples are an ``.npz`` file of every input by name, ``[n, ...]``, images in NCHW. ONNX files take them so, TFLite
files take images in NHWC. All samples that are given are used, whatever number a tool would take by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PACKAGES = ("onnxruntime", "ai-edge-quantizer", "nncf", "onnx2tf", "tensorflow")


def versions() -> dict[str, str]:
    """Return the versions of the tools that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Peers:
    """The interpreters that have other tools; of each tool the first that has it is taken.

    Args:
        interpreters: Paths of Python interpreters; this one, which has what edgekd itself uses, is asked first.
    """

    def __init__(self, interpreters: Sequence[str]) -> None:
        self.versions: dict[str, dict[str, str]] = {}
        # Not resolved: what a link of an environment leads to does not know its packages.
        for python in (sys.executable, *map(os.path.abspath, interpreters)):
            answer = subprocess.run([python, __file__, "versions"], env=_environment(), stdout=subprocess.PIPE, check=True)
            self.versions[python] = json.loads(answer.stdout)

    def make(self, function: str, needs: Sequence[str], arguments: dict[str, Any], out: Path, log: Path) -> str | None:
        """Let ``function`` write ``out``, unless it has from the same files; return what stands in the way, if anything.

        Args:
            function: Of this module.
            needs: Packages.
            arguments: Of the function, without ``out``.
            out: The file.
            log: Gets what the tool prints; appended to.
        """
        python = next((each for each, found in self.versions.items() if all(name in found for name in needs)), None)
        if python is None:
            return f"missing: no interpreter has {' and '.join(needs)}"
        told = {name: self.versions[python][name] for name in needs}
        files = {name: _digest(value) for name, value in arguments.items() if name in {"model", "calibration"}}
        key = json.dumps([function, arguments, files, told], sort_keys=True)
        made_from = out.with_name(f"{out.name}.key")
        if out.is_file() and made_from.is_file() and made_from.read_text() == key:
            return None
        with log.open("ab") as file:
            done = subprocess.run(
                [python, __file__, function], input=json.dumps({**arguments, "out": str(out)}).encode(), env=_environment(),
                stdout=file, stderr=file, cwd=out.parent,
            )  # fmt: skip
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1]
            return f"failed: {last[:200]}"
        made_from.write_text(key)
        return None


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _environment() -> dict[str, str]:
    """Return this environment without what would mix the packages of two interpreters; chatter is turned off."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def samples(calibration: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return calibration samples by input."""
    import numpy as np

    with np.load(calibration, allow_pickle=False) as archive:
        return dict(archive)


def rows(calibration: str) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Return calibration samples one by one, each with a batch of 1."""
    arrays = samples(calibration)
    return [{name: each[i : i + 1] for name, each in arrays.items()} for i in range(len(next(iter(arrays.values()))))]


def ort_static(model: str, calibration: str, out: str, per_channel: bool = False) -> None:
    """ONNX Runtime's ``quantize_static`` after its ``quant_pre_process``: QDQ, int8, min-max; weights per tensor by default.

    Its documentation recommends QDQ with int8 for both as the first to try, and ``per_channel`` where accuracy is lost.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(rows(calibration))

        def get_next(self) -> Any:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, "prepared.onnx"))
        quant_pre_process(model, prepared)
        quantize_static(prepared, out, Reader(), **({"per_channel": True} if per_channel else {}))


def ort_dynamic(model: str, calibration: str, out: str) -> None:
    """ONNX Runtime's ``quantize_dynamic``, which it recommends for transformers; no sample is needed."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, "prepared.onnx"))
        quant_pre_process(model, prepared)
        quantize_dynamic(prepared, out)


def nncf_static(model: str, calibration: str, out: str, transformer: bool = False) -> None:
    """NNCF's ``quantize`` on ONNX; ``transformer`` as its documentation asks for such networks."""
    import nncf
    import onnx

    given = rows(calibration)
    options = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(given), subset_size=len(given), **options), out)


def ai_edge_static(model: str, calibration: str, out: str) -> None:
    """ai-edge-quantizer's ``static_wi8_ai8`` with its own calibration, a moving average of ranges."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    def in_nhwc(row: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        turned = {name: each.transpose(0, 2, 3, 1) if each.ndim == 4 else each for name, each in row.items()}
        return {name: np.ascontiguousarray(each) for name, each in turned.items()}

    (signature,) = Interpreter(model).get_signature_list()
    work = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    found = work.calibrate({signature: [in_nhwc(row) for row in rows(calibration)]})
    Path(out).write_bytes(bytes(work.quantize(found).quantized_model))


def ai_edge_dynamic(model: str, calibration: str, out: str) -> None:
    """ai-edge-quantizer's ``dynamic_wi8_afp32``; no sample is needed."""
    from ai_edge_quantizer import quantizer, recipe

    Path(out).write_bytes(bytes(quantizer.Quantizer(model, recipe.dynamic_wi8_afp32()).quantize().quantized_model))


def onnx2tf_float(model: str, out: str) -> None:
    """onnx2tf's own float32 TFLite file."""
    with tempfile.TemporaryDirectory() as folder:
        _saved_model(model, folder)
        Path(out).write_bytes(Path(folder, f"{Path(model).stem}_float32.tflite").read_bytes())


def tensorflow_float(model: str, out: str) -> None:
    """TensorFlow's converter on the SavedModel that onnx2tf makes of an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        _saved_model(model, folder)
        import tensorflow as tf

        Path(out).write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def tensorflow_static(model: str, calibration: str, out: str, integer_io: bool = False) -> None:
    """TensorFlow's full integer quantization of the SavedModel that onnx2tf makes of an ONNX file.

    ``integer_io``: "integer only" as its documentation calls it, else "integer with float fallback".
    """
    with tempfile.TemporaryDirectory() as folder:
        _saved_model(model, folder)
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        wanted = tf.saved_model.load(folder).signatures["serving_default"].structured_input_signature[1]
        given = rows(calibration)

        def fitted(row: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
            names = dict(zip(sorted(wanted), sorted(row), strict=True))
            return {name: _as_wanted(row[names[name]], wanted[name]) for name in wanted}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: map(fitted, given)
        if integer_io:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        Path(out).write_bytes(converter.convert())


def _as_wanted(value: np.ndarray[Any, Any], wanted: Any) -> np.ndarray[Any, Any]:
    """Return a sample in the layout and type of a SavedModel's input: onnx2tf turns images to NHWC."""
    import numpy as np

    if value.ndim == 4 and tuple(value.shape[1:]) != tuple(wanted.shape[1:]):
        value = value.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(value, wanted.dtype.as_numpy_dtype)


def _saved_model(model: str, folder: str) -> None:
    import numpy as np
    import onnx2tf

    # It checks itself on photographs that it would download, unless they are in the current folder; any values do.
    os.chdir(folder)
    random = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
    np.save("calibration_image_sample_data_20x128x128x3_float32.npy", random)
    onnx2tf.convert(
        input_onnx_file_path=model, output_folder_path=folder, batch_size=1, non_verbose=True,
        copy_onnx_input_output_names_to_tflite=True, output_signaturedefs=True,
    )  # fmt: skip


def main() -> None:
    """Answer ``versions``, or call a function with the arguments on standard input."""
    name = sys.argv[1]
    if name == "versions":
        print(json.dumps(versions()))
    else:
        globals()[name](**json.load(sys.stdin))


if __name__ == "__main__":
    main()
