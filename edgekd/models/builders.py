"""Fresh networks from model references. Optional packages are imported only when a reference asks for them."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from edgekd.errors import ModelError, UsageError
from edgekd.models.catalog import ZOO
from edgekd.models.references import kind_of, name_of
from edgekd.models.tensors import ModelSpec
from edgekd.safe.user_code import load_function

_HEADS = {
    "image": "AutoModelForImageClassification",
    "tokens": "AutoModelForSequenceClassification",
    "waveform": "AutoModelForAudioClassification",
}
"""The transformers class for what the first input means."""


def build_module(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec`` with fresh weights, drawn from torch's global generator; of Keras, with the file's own.

    Raises:
        ModelError: The architecture does not fit the data, or does not take these arguments.
        UsageError: User code that a ``python:`` reference names is missing or returns no module.
    """
    return _BUILDERS[kind_of(spec.reference)](spec)


def _zoo(spec: ModelSpec) -> nn.Module:
    try:
        return _zoo_network(spec)
    except (ValueError, RuntimeError) as error:  # an argument out of range, or more weights than memory
        raise ModelError(f"{spec.reference} cannot be built: {_first_line(error)}") from error


def _zoo_network(spec: ModelSpec) -> nn.Module:
    entry = ZOO[name_of(spec.reference)]
    module, _, function = entry.factory.partition(":")
    factory = getattr(importlib.import_module(module), function)
    first, classes = spec.inputs[0], spec.outputs[0].shape[0]
    takes = {"image": {"image"}, "waveform": {"image", "audio"}, "tokens": {"text"}, "features": {"features"}}[first.meaning]
    if entry.inputs not in takes:
        raise ModelError(
            f"{spec.reference} takes {entry.inputs}, the data is {first.meaning}",
            f"models of the zoo for it: {', '.join(name for name, each in ZOO.items() if each.inputs in takes)}",
        )
    if first.meaning == "tokens":
        return _called(factory, spec, first.vocabulary, classes, positions=first.shape[0])
    if first.meaning == "waveform":
        from edgekd.models.log_mel import LogMelNetwork

        assert first.sample_rate is not None
        network: nn.Module = LogMelNetwork(first.shape[0], first.sample_rate, _called(factory, spec, 1, classes))
        return network
    return _called(factory, spec, first.shape[0], classes)


def _called(factory: Callable[..., Any], spec: ModelSpec, *fixed: Any, **defaults: Any) -> nn.Module:
    """Call ``factory``; arguments it does not take are the recipe's mistake."""
    try:
        inspect.signature(factory).bind(*fixed, **{**defaults, **spec.arguments})
    except TypeError as error:
        known = list(inspect.signature(factory).parameters)[len(fixed) :]
        raise ModelError(
            f"{spec.reference} cannot take these arguments: {error}", f"it takes {', '.join(known) or 'none'}"
        ) from None
    model = factory(*fixed, **{**defaults, **spec.arguments})
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec.reference} returned a {type(model).__name__}, not an nn.Module", "return the network itself")
    return model


def _python(spec: ModelSpec) -> nn.Module:
    factory = load_function(name_of(spec.reference))
    first, classes = spec.inputs[0], spec.outputs[0].shape[0]
    known = {"classes": classes, "num_classes": classes, "channels": first.shape[0], "in_channels": first.shape[0],
             "features": first.shape[0], "vocabulary": first.vocabulary}  # fmt: skip
    parameters = inspect.signature(factory).parameters
    return _called(factory, spec, **{name: value for name, value in known.items() if name in parameters})


class OnlyLogits(nn.Module):
    """A transformers model that takes its inputs in the order of the spec and returns the logits alone."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs in the order of ``names`` to logits ``[n, classes]``."""
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def transformers_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return what a transformers model calls the inputs of ``spec``."""
    own = {"image": "pixel_values", "waveform": "input_values", "tokens": "input_ids", "mask": "attention_mask"}
    return tuple(own[each.meaning] for each in spec.inputs)


def transformers_class(spec: ModelSpec) -> Any:
    """Return the class of transformers that has the right head for the inputs of ``spec``.

    Raises:
        ModelError: There is none.
    """
    quiet_transformers()
    import transformers

    meaning = spec.inputs[0].meaning
    if meaning not in _HEADS:
        raise ModelError(f"{spec.reference}: transformers classifies images, text and sounds, the data is {meaning}")
    return getattr(transformers, _HEADS[meaning])


def quiet_transformers() -> None:
    """Keep transformers, and what it imports, from printing warnings and progress bars."""
    import torch.utils._pytree  # noqa: F401 - sets up the logger that the import of torchao writes to
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("transformers", "huggingface_hub", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _hf(spec: ModelSpec) -> nn.Module:
    from transformers import AutoConfig

    head = transformers_class(spec)
    try:
        config = AutoConfig.from_pretrained(
            name_of(spec.reference), trust_remote_code=False, num_labels=spec.outputs[0].shape[0], **spec.arguments
        )
    except (OSError, ValueError) as error:
        raise hub_error(spec.reference, error) from error
    return OnlyLogits(head.from_config(config), transformers_names(spec))


def hub_error(reference: str, error: Exception) -> ModelError:
    """Return one line for whatever a hub library says when it cannot load ``reference``."""
    return ModelError(
        f"cannot load {reference}: {_first_line(error)}", "check the name, the folder, or the connection to the hub"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _timm(spec: ModelSpec, pretrained: bool = False) -> nn.Module:
    import timm

    first = spec.inputs[0]
    options = {"pretrained": pretrained, "num_classes": spec.outputs[0].shape[0], "in_chans": first.shape[0], **spec.arguments}
    try:
        model: nn.Module = timm.create_model(name_of(spec.reference), **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise hub_error(spec.reference, error) from error
    return model


def _torchvision(spec: ModelSpec) -> nn.Module:
    import torchvision

    options = {"weights": None, "num_classes": spec.outputs[0].shape[0], **spec.arguments}
    try:
        model: nn.Module = torchvision.models.get_model(name_of(spec.reference), **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise hub_error(spec.reference, error) from error
    return model


def _keras(spec: ModelSpec) -> nn.Module:
    from edgekd.models.keras_network import keras_network

    if spec.arguments:
        raise ModelError(f"{spec.reference} cannot take arguments: the file says what the network is", "leave them out")
    return keras_network(spec)


_BUILDERS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "zoo": _zoo, "python": _python, "hf": _hf, "timm": _timm, "torchvision": _torchvision, "keras": _keras,
}  # fmt: skip
