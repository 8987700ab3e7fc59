"""Keras to TFLite by TensorFlow's own converter: the same inputs and outputs as the route over PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekd.models.keras_file import KerasInput, keras_inputs, keras_variables, open_keras
from edgekd.models.references import model_path
from edgekd.models.tensors import TensorSpec, spec_from_json
from edgekd.safe.files import write_bytes


def export_tflite_tensorflow(spec: dict[str, Any], weights: str, out: str) -> dict[str, Any]:
    """Write the Keras network of ``spec`` to ``out`` as float32 TFLite with a batch of 1. Runs in a child process.

    Args:
        spec: A :class:`~edgekd.models.tensors.ModelSpec` of a ``keras:`` reference as plain data.
        weights: Its safetensors file, as :class:`~edgekd.models.keras_network.KerasNetwork` names them.
        out: Path of the file to write.
    """
    described = spec_from_json(spec)
    model = open_keras(model_path(described.reference), "tensorflow")
    import tensorflow as tf  # after keras, which it would import on whatever is set
    from safetensors.numpy import load_file

    tf.config.set_visible_devices([], "GPU")
    stored = load_file(weights)
    for name, variable in keras_variables(model).items():
        variable.assign(stored[name])
    feeds, (output,) = keras_inputs(model, described), described.outputs
    signature = {
        each.name: tf.TensorSpec((1, *_tflite_shape(each)), each.dtype, name=each.name) for each in described.inputs
    }  # fmt: skip

    @tf.function  # type: ignore[untyped-decorator]
    def forward(**inputs: Any) -> dict[str, Any]:
        fed = [_fed(tf, inputs[described.inputs[each.index].name], described.inputs[each.index], each) for each in feeds]
        return {output.name: tf.cast(model(fed if len(fed) > 1 else fed[0], training=False), output.dtype)}

    holder = tf.Module()
    # TensorFlow's own variables: those of Keras around them are not seen, and would be left without values.
    holder.variables_read = [each.value for each in model.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(holder, folder, signatures={"serving_default": forward.get_concrete_function(**signature)})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        write_bytes(Path(out), bytes(converter.convert()))
    return {}


def _tflite_shape(described: TensorSpec) -> tuple[int, ...]:
    """Return the shape of one sample in the file, where images are NHWC."""
    return (*described.shape[1:], described.shape[0]) if described.layout == "NCHW" else described.shape


def _fed(tf: Any, values: Any, described: TensorSpec, fed: KerasInput) -> Any:
    if described.layout == "NCHW" and not fed.channels_last:
        values = tf.transpose(values, (0, 3, 1, 2))
    return values if fed.fixed is None or tuple(values.shape[1:]) == fed.fixed else tf.reshape(values, (1, *fed.fixed))
