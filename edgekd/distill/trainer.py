"""The training loop: one optimizer over everything a lesson trains, resumable to the bit.

Speed on a CPU comes from channels-last tensors and bfloat16 autocast, where the probe found them faster
(:mod:`edgekd.distill.probe`), and from targets that are asked for once (:mod:`edgekd.distill.soft_targets`).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgekd.data.batches import augment, batches, steps_per_epoch
from edgekd.data.dataset import Dataset
from edgekd.data.mixing import draw_mixing, mix_images, mix_targets
from edgekd.distill.automatic import Weighting
from edgekd.distill.batch import Batch
from edgekd.distill.checkpoint import Place, load_checkpoint, save_checkpoint
from edgekd.distill.lesson import Lesson
from edgekd.distill.processes import Processes
from edgekd.distill.schedule import learning_rate
from edgekd.distill.watch import overtaken, wild_weights
from edgekd.errors import Interrupted, ModelError
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener
from edgekd.recipe import Augment, Training
from edgekd.safe import stop
from edgekd.safe.files import atomic_path
from edgekd.tasks.classification import top1

_CHECKPOINT = "checkpoint.safetensors"
BAD_BATCH = "bad_batch.npz"
_SECONDS_BETWEEN_CHECKPOINTS = 5.0
_SECONDS_BETWEEN_NEWS = 0.1
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Augmentations:
    """Which random augmentation an image has in which epoch.

    Attributes:
        options: What is done.
        seed: Decides how.
        keys: How many there are before they come back in turn; ``None``: a new one in every epoch.
    """

    options: Augment
    seed: int
    keys: int | None = None

    def key(self, epoch: int) -> int:
        """Return the key of the augmentations of ``epoch``."""
        return epoch if self.keys is None else epoch % self.keys


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights.

    Attributes:
        history: One entry per epoch: its mean ``loss``, and top-1 accuracy on the ``validation`` split, of networks beside
            the first one as ``validation NAME``.
        weighting: Weights of the terms, and what was measured for them.
        warnings: What the user should know; the listener was told as soon as it showed.
    """

    history: list[dict[str, float]]
    weighting: Weighting
    warnings: tuple[str, ...]


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of torch's generator for one step, so that dropout and the like resume exactly."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{step}".encode(), digest_size=7).digest())


def train(
    lesson: Lesson, data: Dataset, training: Training, augmentations: Augmentations, seed: int, folder: Path,
    listener: Listener, processes: Processes,
) -> Trained:  # fmt: skip
    """Train the networks of ``lesson`` in place, from the checkpoint in ``folder`` if a killed run left one.

    Ends with the weights of the last epoch, of their average with ``training.ema``, or of the best epoch with
    ``training.early_stopping``; without it, choosing the epoch that looks best on a small validation split would mostly
    choose luck. ``training.precision`` and ``training.layout`` must be settled, see :func:`edgekd.distill.probe.settled`.

    Raises:
        ModelError: The loss became NaN or infinite; the batch is saved beside the checkpoint.
        Interrupted: A stop signal came; the checkpoint is written.
    """
    return _Run(lesson, data, training, augmentations, seed, folder, listener, processes).train()


class _Run:
    """State of one training: everything a step needs."""

    def __init__(
        self, lesson: Lesson, data: Dataset, training: Training, augmentations: Augmentations, seed: int, folder: Path,
        listener: Listener, processes: Processes,
    ) -> None:  # fmt: skip
        self.lesson, self.data, self.training, self.augmentations = lesson, data, training, augmentations
        self.seed, self.folder, self.listener, self.processes = seed, folder, listener, processes
        if training.layout == "channels_last":
            lesson.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if training.compile:
            lesson.compile_networks()
        lesson.to(processes.device)
        self.averages = _averages(lesson, training.ema)
        learned = [each for each in lesson.parameters() if each.requires_grad]
        optimizer = _optimizer(learned, training)
        self.place, self.best = Place(), dict[str, Tensor]()
        self.per_epoch = steps_per_epoch(len(data.splits.train), training.batch_size)
        self.total = self.per_epoch * training.epochs
        self.weighting = lesson.weighting()
        self.weighting.steps = self.total
        if (folder / _CHECKPOINT).is_file():
            self._resume(optimizer)
        self.wrapped, self.optimizer = processes.prepare(lesson, optimizer)
        self.saved = self.news = time.monotonic()

    def train(self) -> Trained:
        while self.place.epoch < self.training.epochs and not self._waited_enough():
            self.wrapped.train()
            self.lesson.train()
            order = batches(self.data.splits.train, self.training.batch_size, self.seed, self.place.epoch, self.place.step)
            for indices in order:
                self._stop_if_asked()
                self.place.loss_sum += self._step(indices)
                self.place.step += 1
                self._tell_and_save()
            self._end_epoch()
        if self.best:
            self.lesson.load_state_dict(self.best)
        elif self.averages is not None:
            for name, average in self.averages.items():
                self.lesson.networks[name].load_state_dict(average.module.state_dict())
        self.processes.release(self.lesson)
        self.lesson.close()
        self.lesson.to("cpu").eval()
        self.listener.stage_advanced(self.total, self.total, self._note())
        reached = self.place.history[-1]["validation"]
        warnings = (*wild_weights(self.weighting), *overtaken(reached, self.lesson.teacher_accuracy))
        return Trained(self.place.history, self.weighting, warnings)

    def _step(self, indices: NDArray[np.int64]) -> float:
        place, training = self.place, self.training
        torch.manual_seed(step_seed(self.seed, place.epoch, place.step))
        at = place.epoch * self.per_epoch + place.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training.schedule, at, self.total, training.learning_rate)
        batch = self._batch(indices, at)
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            values, reaches = self.wrapped(batch)
        if self.weighting.due(at):
            self._measure(values, reaches)
        if at + 1 == self.weighting.window:
            self._tell(wild_weights(self.weighting))
        result = self.weighting.total(values, at / self.total)
        value = result.item()
        if self.processes.count > 1:
            value = self.processes.sum(value)[0] / self.processes.count
        if not math.isfinite(value):
            self._diverged(batch, values)
        self.optimizer.zero_grad(set_to_none=True)
        self.processes.backward(result)
        if training.clip_norm is not None:
            self.processes.clip_grad_norm(self.lesson.parameters(), training.clip_norm)
        self.optimizer.step()
        if self.averages is not None:
            for name, average in self.averages.items():
                average.update_parameters(self.lesson.networks[name])
        self.lesson.after_step()
        return value

    def _batch(self, indices: NDArray[np.int64], at: int) -> Batch:
        data, place, device = self.data, self.place, self.processes.device
        share = self.processes.share(indices)
        labels = data.labels[indices]
        key = self.augmentations.key(place.epoch)
        arrays = self._augmented(share, key)
        target = torch.from_numpy(labels)
        image = arrays.get("image")
        if image is not None and image.ndim == 4:
            mixing = draw_mixing(
                len(indices), image.shape[2:], self.training.mixup, self.training.cutmix, self.seed, place.epoch, place.step
            )
            if mixing is not None:
                partners = self._augmented(self.processes.share(indices[mixing.partner]), key)["image"]
                arrays["image"] = mix_images(image, partners, mixing)
                target = torch.from_numpy(mix_targets(labels, mixing, len(data.classes)))
        inputs = tensors(arrays, self.training.layout, device)
        return Batch(indices, place.epoch, at / self.total, key, inputs, target.to(device))

    def _augmented(self, indices: NDArray[np.int64], key: int) -> dict[str, NDArray[Any]]:
        arrays = self.data.batch(indices)
        if self.data.kind == "image":
            arrays["image"] = augment(arrays["image"], indices, self.augmentations.options, self.augmentations.seed, key)
        return arrays

    def _measure(self, values: Mapping[str, Tensor], reaches: Mapping[str, Tensor]) -> None:
        found = self.weighting.measure(values, reaches)
        if self.processes.count > 1 and found:
            sums = self.processes.sum(*found.values())
            found = {name: value / self.processes.count for name, value in zip(found, sums, strict=True)}
        self.weighting.learn(found)

    def _diverged(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        guilty = [name.replace("_", "-") for name, value in values.items() if not bool(torch.isfinite(value))]
        path = self.folder / BAD_BATCH
        if self.processes.is_main:
            arrays = {f"input_{name}": each.float().cpu().numpy() for name, each in batch.inputs.items()}
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, indices=batch.indices, target=batch.target.cpu().numpy(), **arrays)  # type: ignore[arg-type]
        what = f"{' and '.join(guilty)} became NaN or infinite" if guilty else "the loss became NaN or infinite"
        raise ModelError(
            f"training diverged: {what} in epoch {self.place.epoch + 1} of {self.training.epochs}, step {self.place.step + 1}; "
            f"the batch is saved in {path}",
            "lower the learning_rate of this training, or set its clip_norm",
        )

    def _stop_if_asked(self) -> None:
        asked = stop.stop_requested()
        if self.processes.count > 1:  # all stop at one step, or those that go on would wait for the others for ever
            asked = self.processes.sum(float(asked))[0] > 0
        if asked:
            self._save()
            stop.check_stop()
            raise Interrupted("stopped with the other processes; what is done so far is saved")

    def _tell_and_save(self) -> None:
        now = time.monotonic()
        if now - self.news > _SECONDS_BETWEEN_NEWS:
            self.listener.stage_advanced(self.place.epoch * self.per_epoch + self.place.step, self.total, self._note())
            self.news = now
        if now - self.saved > _SECONDS_BETWEEN_CHECKPOINTS:
            self._save()
            self.saved = time.monotonic()

    def _end_epoch(self) -> None:
        place, held_out = self.place, self.data.splits.validation
        entry = {"loss": place.loss_sum / self.per_epoch}
        for index, (name, network) in enumerate(self.lesson.networks.items()):
            judged = self.averages[name].module if self.averages is not None else network
            logits = predict(
                judged, self.lesson.specs[name], self.data, held_out, self.training.precision, self.processes.device
            )
            entry["validation" if index == 0 else f"validation {name}"] = top1(logits, self.data.labels[held_out]).value
        if not any(overtaken(each["validation"], self.lesson.teacher_accuracy) for each in place.history):
            self._tell(overtaken(entry["validation"], self.lesson.teacher_accuracy))
        place.history.append(entry)
        place.epoch, place.step, place.loss_sum = place.epoch + 1, 0, 0.0
        if self.training.early_stopping is not None:
            reached = max(value for name, value in entry.items() if name != "loss")
            if place.best is None or reached > place.best[0]:
                place.best = (reached, place.epoch)
                self.best = {name: each.detach().clone() for name, each in self.lesson.state_dict().items()}
                for name, average in (self.averages or {}).items():
                    self.best |= {f"networks.{name}.{key}": each.clone() for key, each in average.module.state_dict().items()}

    def _waited_enough(self) -> bool:
        patience, best = self.training.early_stopping, self.place.best
        return patience is not None and best is not None and self.place.epoch - best[1] >= patience

    def _save(self) -> None:
        if not self.processes.is_main:
            return
        groups = {"lesson": self.lesson.state_dict(), "best": self.best}
        for name, average in (self.averages or {}).items():
            groups[f"average {name}"] = average.state_dict()
        self.place.weighting = self.weighting.to_json()
        save_checkpoint(self.folder / _CHECKPOINT, groups, self.optimizer, self.place)

    def _resume(self, optimizer: torch.optim.Optimizer) -> None:
        self.place, groups = load_checkpoint(self.folder / _CHECKPOINT, optimizer)
        self.lesson.load_state_dict(groups["lesson"], strict=True)
        self.best = groups.get("best", {})
        for name, average in (self.averages or {}).items():
            average.load_state_dict(groups[f"average {name}"], strict=True)
        self.weighting.restore(self.place.weighting)

    def _tell(self, warnings: tuple[str, ...]) -> None:
        for warning in warnings:
            self.listener.warned(warning)

    def _note(self) -> str:
        known = f", validation {self.place.history[-1]['validation']:.1%}" if self.place.history else ""
        return f"epoch {min(self.place.epoch + 1, self.training.epochs)}/{self.training.epochs}{known}"


def _optimizer(learned: list[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            learned, lr=training.learning_rate, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
        )
    return torch.optim.AdamW(learned, lr=training.learning_rate, weight_decay=training.weight_decay)


def _averages(lesson: Lesson, decay: float) -> dict[str, AveragedModel] | None:
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return {name: AveragedModel(network, multi_avg_fn=average, use_buffers=True) for name, network in lesson.networks.items()}


def clear_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished training. Call it once its weights are saved."""
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def tensors(
    arrays: dict[str, NDArray[Any]], layout: str = "channels_last", device: torch.device | None = None
) -> dict[str, Tensor]:
    """Return a batch as tensors, images in the layout asked for."""
    made = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return {name: each.contiguous(memory_format=order) if each.ndim == 4 else each for name, each in made.items()}


def predict(
    model: nn.Module, spec: ModelSpec, data: Dataset, indices: NDArray[np.int64], precision: str = "fp32",
    device: torch.device | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Return the logits of ``model`` in evaluation mode: ``float32 [len(indices), classes]``."""
    model.eval()
    rows = []
    kind = device.type if device is not None else "cpu"
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
        for arrays in data.batches(indices, EVALUATION_BATCH):
            rows.append(call(model, spec, tensors(arrays, device=device))[spec.outputs[0].name].float().cpu().numpy())
    return np.concatenate(rows)
