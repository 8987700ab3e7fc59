"""Keras files as networks, in PyTorch or in TensorFlow: one way to open, feed and name them for both. Free of torch.

Keras 3 runs one model on several frameworks, but a process on one of them only, chosen when keras is first imported.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.errors import ModelError, UsageError
from edgekd.models.tensors import ModelSpec, TensorSpec
from edgekd.safe.model_files import check_file, check_keras

_SEED = "seed_generator_state"


@dataclass(frozen=True)
class KerasInput:
    """How an input of a Keras model is fed.

    Attributes:
        index: Of the input of the spec that it gets.
        channels_last: Whether images go in as NHWC.
        shape: Of one sample as the model declares it; ``None`` where any size is taken.
    """

    index: int
    channels_last: bool
    shape: tuple[int | None, ...]

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape if all of it is known: what a sample is brought to, so that ``(8, 8)`` takes a grey image."""
        known = tuple(size for size in self.shape if size is not None)
        return known if len(known) == len(self.shape) else None


def import_keras(backend: Literal["torch", "tensorflow"]) -> Any:
    """Return the module ``keras``, running on ``backend`` and on the CPU.

    Raises:
        UsageError: It was imported before, in this process, on another one.
    """
    if "keras" not in sys.modules:
        # Set for this import only: children choose for themselves.
        chosen = {"KERAS_BACKEND": backend, "KERAS_TORCH_DEVICE": "cpu"}
        before = {name: os.environ.get(name) for name in chosen}
        os.environ.update(chosen)
        try:
            import keras
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    import keras

    if keras.backend.backend() != backend:
        raise UsageError(
            f"keras was imported on {keras.backend.backend()} in this process, a Keras student needs it on {backend}",
            "run edgekd in a process that has imported neither keras nor tensorflow",
        )
    return keras


def open_keras(path: Path, backend: Literal["torch", "tensorflow"]) -> Any:
    """Return the model of a ``.keras`` or ``.h5`` file that gives logits: a softmax at its end is taken off.

    Raises:
        ModelError: The file is broken, holds code, or is not of one output.
        UsageError: Keras runs on another framework in this process.
    """
    if path.is_dir():
        raise ModelError(
            f"{path} is a SavedModel, which runs in TensorFlow only, so it cannot be a student, nor be trained",
            "save it with model.save('NAME.keras')",
        )
    check_file(path)
    check_keras(path, allow_code=False)
    keras = import_keras(backend)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a layer's constructor raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"Keras cannot load {path}: {first}") from None
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelError(f"{path} does not tell its inputs and outputs", "save a functional or sequential model")
    if len(model.outputs) != 1:
        raise ModelError(f"{path} has {len(model.outputs)} outputs, a student has one", "save a model of the logits alone")
    return _without_softmax(model, keras, path)


def _without_softmax(model: Any, keras: Any, path: Path) -> Any:
    owner, last = model, _last(model)
    while hasattr(last, "layers") and getattr(last, "outputs", None):
        owner, last = last, _last(last)
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    elif isinstance(last, keras.layers.Softmax):
        if owner is not model:
            raise ModelError(f"{path} ends in a softmax inside another model", "save it without the softmax")
        return keras.Model(model.inputs, last.input)
    return model


def _last(model: Any) -> Any:
    return model.outputs[0]._keras_history.operation


def keras_inputs(model: Any, spec: ModelSpec) -> tuple[KerasInput, ...]:
    """Return how the inputs of a Keras model are fed, in its order: by name where names agree, else in order.

    Raises:
        ModelError: It has another number of inputs, or takes samples of another shape.
    """
    names, ours = [each.name for each in model.inputs], [each.name for each in spec.inputs]
    if len(names) != len(ours):
        raise ModelError(f"{spec.reference} takes {len(names)} inputs ({', '.join(names)}), the data has {', '.join(ours)}")
    order = [ours.index(name) for name in names] if sorted(names) == sorted(ours) else list(range(len(ours)))
    return tuple(_fed(tensor, spec, index) for tensor, index in zip(model.inputs, order, strict=True))


def _fed(tensor: Any, spec: ModelSpec, index: int) -> KerasInput:
    described = spec.inputs[index]
    shape = tuple(None if size is None else int(size) for size in tensor.shape[1:])
    plain, last = described.shape, _channels_last(described)
    channels_last = described.layout == "NCHW" and (_fits(last, shape) or not _fits(plain, shape))
    fed = KerasInput(index, channels_last, shape)
    given = last if channels_last else plain
    if not _fits(given, shape) and (fed.fixed is None or math.prod(fed.fixed) != math.prod(given)):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise ModelError(
            f"{spec.reference} takes {described.name} of {wanted}, the data has {' x '.join(map(str, given))}",
            "set data.image_size" if described.meaning == "image" else None,
        )
    return fed


def _channels_last(described: TensorSpec) -> tuple[int, ...]:
    return (*described.shape[1:], described.shape[0])


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(each in (None, size) for size, each in zip(shape, wanted, strict=True))


def keras_variables(model: Any) -> dict[str, Any]:
    """Return the variables of a Keras model by a name that is the same on every framework: ``conv2d/kernel``."""
    named: dict[str, Any] = {}
    for index, each in enumerate((*model.trainable_variables, *model.non_trainable_variables)):
        name = each.path.replace(".", "_")  # a dot is a level of modules in PyTorch
        if name.endswith(_SEED):  # of dropout: Keras counts these through the process, whatever the file says
            name = f"{_SEED}_{index}"
        named[f"{name}_{index}" if name in named else name] = each
    return named
