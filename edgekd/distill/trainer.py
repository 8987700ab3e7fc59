"""The training loop: AdamW under a one-cycle learning rate, resumable to the bit.

Speed on a CPU comes from channels-last tensors and, where asked, bfloat16 autocast.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.batches import augment, batches, steps_per_epoch
from edgekd.data.dataset import Dataset
from edgekd.distill.checkpoint import Place, load_checkpoint, save_checkpoint
from edgekd.errors import ModelError
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener
from edgekd.recipe import Augment, Training
from edgekd.safe import stop
from edgekd.tasks.classification import top1

Loss = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]
"""From (inputs, the model's outputs, target class indices) to a scalar."""

_CHECKPOINT = "checkpoint.safetensors"
_SECONDS_BETWEEN_CHECKPOINTS = 5.0
_SECONDS_BETWEEN_NEWS = 0.1
EVALUATION_BATCH = 500


def one_cycle(step: int, total: int, peak: float) -> float:
    """Return the learning rate of ``step``: up to ``peak`` over the first 30 %, then down to almost 0.

    Both by half a cosine, from ``peak / 25`` and to ``peak / 250,000`` (Smith and Topin, 2018; the
    shape and defaults of ``torch.optim.lr_scheduler.OneCycleLR``).
    """
    first, last = peak / 25, peak / 25 / 1e4
    top = 0.3 * total - 1
    if step <= top:
        start, end, share = first, peak, step / top
    else:
        start, end, share = peak, last, (step - top) / (total - 1 - top) if total - 1 > top else 1.0
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of torch's generator for one step, so that dropout and the like resume exactly."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{step}".encode(), digest_size=7).digest())


def train(
    model: nn.Module,
    spec: ModelSpec,
    data: Dataset,
    training: Training,
    augmentation: Augment,
    loss: Loss,
    seed: int,
    folder: Path,
    listener: Listener,
) -> list[dict[str, float]]:
    """Train ``model`` in place, from the checkpoint in ``folder`` if a killed run left one.

    Returns one entry per epoch: its mean ``loss``, and top-1 accuracy on the ``validation`` split.

    Ends with the weights of the last epoch, in evaluation mode; choosing the epoch that looks best on
    a small validation split would mostly choose luck.

    Raises:
        ModelError: The loss became NaN or infinite.
        Interrupted: A stop signal came; the checkpoint is written.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    checkpoint = folder / _CHECKPOINT
    place = load_checkpoint(checkpoint, model, optimizer) if checkpoint.is_file() else Place()
    per_epoch = steps_per_epoch(len(data.splits.train), training.batch_size)
    total = per_epoch * training.epochs
    saved = news = time.monotonic()
    while place.epoch < training.epochs:
        model.train()
        for indices in batches(data.splits.train, training.batch_size, seed, place.epoch, place.step):
            if stop.stop_requested():
                save_checkpoint(checkpoint, model, optimizer, place)
                stop.check_stop()
            value = _step(model, spec, data, training, augmentation, loss, optimizer, seed, place, per_epoch, total, indices)
            if not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the loss is {value} in epoch {place.epoch + 1} of {training.epochs}",
                    "lower the learning_rate of this training",
                )
            place.loss_sum += value
            place.step += 1
            now = time.monotonic()
            if now - news > _SECONDS_BETWEEN_NEWS:
                listener.stage_advanced(place.epoch * per_epoch + place.step, total, _note(place, training.epochs))
                news = now
            if now - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                save_checkpoint(checkpoint, model, optimizer, place)
                saved = time.monotonic()
        held_out = data.splits.validation
        accuracy = top1(predict(model, spec, data, held_out, training.precision), data.labels[held_out]).value
        place.history.append({"loss": place.loss_sum / per_epoch, "validation": accuracy})
        place.epoch, place.step, place.loss_sum = place.epoch + 1, 0, 0.0
    listener.stage_advanced(total, total, _note(place, training.epochs))
    model.eval()
    return place.history


def clear_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished training. Call it once its weights are saved."""
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def _step(
    model: nn.Module, spec: ModelSpec, data: Dataset, training: Training, augmentation: Augment, loss: Loss,
    optimizer: torch.optim.Optimizer, seed: int, place: Place, per_epoch: int, total: int, indices: NDArray[np.int64],
) -> float:  # fmt: skip
    torch.manual_seed(step_seed(seed, place.epoch, place.step))
    for group in optimizer.param_groups:
        group["lr"] = one_cycle(place.epoch * per_epoch + place.step, total, training.learning_rate)
    arrays = data.batch(indices)
    if data.kind == "image":
        arrays["image"] = augment(arrays["image"], indices, augmentation, seed, place.epoch)
    inputs = tensors(arrays)
    target = torch.from_numpy(data.labels[indices])
    with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
        result = loss(inputs, call(model, spec, inputs), target)
    optimizer.zero_grad(set_to_none=True)
    result.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return result.item()


def tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return a batch as tensors, images in channels-last memory, which convolutions are fastest on."""
    made = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for name, each in made.items()}


def _note(place: Place, epochs: int) -> str:
    known = f", validation {place.history[-1]['validation']:.1%}" if place.history else ""
    return f"epoch {min(place.epoch + 1, epochs)}/{epochs}{known}"


def predict(
    model: nn.Module, spec: ModelSpec, data: Dataset, indices: NDArray[np.int64], precision: str = "fp32"
) -> NDArray[np.float32]:
    """Return the logits of ``model`` in evaluation mode: ``float32 [len(indices), classes]``."""
    model.eval()
    rows = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for arrays in data.batches(indices, EVALUATION_BATCH):
            rows.append(call(model, spec, tensors(arrays))[spec.outputs[0].name].float().numpy())
    return np.concatenate(rows)
