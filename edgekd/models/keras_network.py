"""A Keras model as a module of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgekd.models.keras_file import KerasInput, keras_inputs, keras_variables, open_keras
from edgekd.models.references import model_path
from edgekd.models.tensors import ModelSpec


class KerasNetwork(nn.Module):
    """Owns the weights of a Keras model and runs it on them; images come as NCHW, as everywhere in edgekd.

    Trainable variables are parameters and all others buffers, by their paths in Keras: ``conv2d/kernel``.

    Args:
        model: Of Keras, on the backend torch.
        inputs: How its inputs are fed.
    """

    def __init__(self, model: Any, inputs: tuple[KerasInput, ...]) -> None:
        super().__init__()
        # In a tuple, because it is a module too, whose parameters would be counted and saved a second time.
        self._keras, self._inputs = (model,), inputs
        self._learned: list[str] = []
        self._kept: list[str] = []
        trainable = {id(each) for each in model.trainable_variables}
        for name, variable in keras_variables(model).items():
            value = variable.value.detach().clone()
            if id(variable) in trainable:
                self.register_parameter(name, nn.Parameter(value))
                self._learned.append(name)
            else:
                self.register_buffer(name, value)
                self._kept.append(name)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs in the order of the spec to logits ``[n, classes]``."""
        (model,) = self._keras
        fed = [_fed(inputs[each.index], each) for each in self._inputs]
        kept = [self._buffers[name] for name in self._kept]
        # Stateless: the tensors are arguments, so that training and export see those of this module.
        logits, changed = model.stateless_call(
            [self._parameters[name] for name in self._learned], kept, fed if len(fed) > 1 else fed[0], training=self.training
        )
        if self.training:
            with torch.no_grad():
                for name, value in zip(self._kept, changed, strict=True):
                    self.get_buffer(name).copy_(value)
        found: Tensor = logits
        return found.float()


def _fed(values: Tensor, fed: KerasInput) -> Tensor:
    if fed.channels_last:
        values = values.permute(0, 2, 3, 1)
    if fed.fixed is None or tuple(values.shape[1:]) == fed.fixed:
        return values
    return values.reshape(values.shape[0], *fed.fixed)


def keras_network(spec: ModelSpec) -> nn.Module:
    """Return the network of a ``keras:`` reference with the weights that its file holds.

    Raises:
        ModelError: The file is broken, holds code, or does not fit the data.
        UsageError: Keras runs on another framework in this process.
    """
    model = open_keras(model_path(spec.reference), "torch")
    return KerasNetwork(model, keras_inputs(model, spec))
