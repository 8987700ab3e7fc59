"""Networks for tests of what looks inside them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.models.spec import build, call
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input

CLASSES = tuple("abcd")
TEXT = (
    TensorSpec("input_ids", "int64", (16,), "NC", "tokens", vocabulary=100),
    TensorSpec("attention_mask", "int64", (16,), "NC", "mask"),
)
SOUND = (TensorSpec("waveform", "float32", (16_000,), "NC", "waveform", sample_rate=16_000),)


@dataclass(frozen=True)
class Network:
    """A network and how it is called."""

    module: nn.Module
    spec: ModelSpec

    def run(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return logits."""
        return call(self.module, self.spec, inputs)["logits"]

    @property
    def ask(self) -> Callable[[dict[str, Tensor]], Tensor]:
        """Run it as a teacher."""

        def asked(inputs: dict[str, Tensor]) -> Tensor:
            self.module.eval()
            with torch.no_grad():
                return self.run(inputs)

        return asked


def image_inputs(size: int = 32) -> tuple[TensorSpec, ...]:
    """Return the input of networks on square colour images."""
    return (image_input((size, size, 3), (0.5,) * 3, (0.5,) * 3),)


def network(model: str, inputs: tuple[TensorSpec, ...], seed: int = 0, **arguments: object) -> Network:
    """Return a fresh network of the zoo."""
    torch.manual_seed(seed)
    spec = classifier(f"zoo:{model}", inputs, CLASSES, arguments)
    return Network(build(spec), spec)


def as_network(module: nn.Module, inputs: tuple[TensorSpec, ...]) -> Network:
    """Return a module of one's own as a network."""
    return Network(module, classifier("python:own:network", inputs, CLASSES))


def images(count: int = 8, size: int = 32) -> dict[str, Tensor]:
    """Return a batch of noise."""
    return {"image": torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))}


def texts(count: int = 8, padded_from: int = 10) -> dict[str, Tensor]:
    """Return random tokens, padding from a place on."""
    mask = torch.ones(count, 16, dtype=torch.long)
    mask[:, padded_from:] = 0
    tokens = torch.randint(0, 100, (count, 16), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "attention_mask": mask}
