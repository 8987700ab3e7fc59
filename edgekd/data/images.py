"""The data of a run: decoded images in a memory-mapped file, labels, names and splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data import digits, folder
from edgekd.data.splits import Splits, split
from edgekd.errors import DataError
from edgekd.recipe import Recipe
from edgekd.workspace import StageResult, Workspace

IMAGES, LABELS, IDS = "images.npy", "labels.npy", "ids.json"


@dataclass(frozen=True)
class ImageData:
    """Images, labels and splits, ready to train on.

    Attributes:
        path: The ``.npy`` file of ``images``.
        images: Raw pixels as decoded, ``uint8 [n, height, width, channels]``, memory-mapped read-only.
        labels: Class index of each image, ``int64 [n]``.
        ids: A name of each image by which its owner finds it again: a relative path or ``digits:INDEX``.
        classes: Class names in index order.
        white: Raw value of white: pixels are divided by it, to the value range [0, 1].
        mean, std: Per channel, of the scaled training images.
        splits: Indices of the train, validation and test images.
        digest: SHA-256 over pixels, labels, names and splits: the content key of everything downstream.
        skipped: Images left out because they cannot be decoded.
    """

    path: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Splits
    digest: str
    skipped: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def normalised(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return images as a model takes them: ``float32 [len(indices), channels, height, width]``."""
        scaled = self.images[indices].astype(np.float32) / np.float32(self.white)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def load_data(recipe: Recipe, workspace: Workspace) -> ImageData:
    """Decode the recipe's data source once, and split it.

    Raises:
        DataError: The source is missing, broken, has one class only, or is too small to split.
    """
    source = recipe.data.source
    work: Callable[[Path], dict[str, Any]]
    if source == "digits":
        inputs: dict[str, Any] = {"source": source}
        work = digits.write_cache
        what = "scikit-learn's handwritten digits"
    else:
        root = folder.source_folder(source)
        listing = folder.list_images(root)
        inputs = {"images": listing.fingerprint(), "image_size": recipe.data.image_size, "skip_bad": recipe.data.skip_bad}
        what = f"decode {len(listing.files):,} images of {len(listing.classes)} classes under {root}"

        def work(cache: Path) -> dict[str, Any]:
            return folder.write_cache(
                cache, root, listing, recipe.data.image_size, recipe.data.skip_bad, workspace.listener.stage_advanced
            )

    stage = workspace.stage("data", what, inputs, work, _describe)
    if stage.result["skipped"]:
        workspace.listener.warned(folder.skipped_message(stage.result["skipped"]))
    return _open(stage, recipe)


def _describe(result: dict[str, Any]) -> str:
    count, height, width, channels = result["shape"]
    return f"{count:,} images of {height}x{width}x{channels} in {len(result['classes'])} classes"


def _open(stage: StageResult, recipe: Recipe) -> ImageData:
    images = np.load(stage.path(IMAGES), mmap_mode="r", allow_pickle=False)
    labels = np.load(stage.path(LABELS), allow_pickle=False)
    listed = json.loads(stage.path(IDS).read_text())
    classes = tuple(stage.result["classes"])
    if recipe.data.image_size is not None and images.shape[1] != recipe.data.image_size:
        raise DataError(
            f"data.image_size is {recipe.data.image_size}, but {recipe.data.source} has images of {images.shape[1]} pixels",
            "leave data.image_size out for this source",
        )
    fixed_test = np.asarray(listed["in_test_folder"], bool) if listed["has_test_folder"] else None
    splits = split(labels, classes, recipe.data.validation, recipe.data.test, recipe.seed, fixed_test)
    mean, std = channel_statistics(images[splits.train], stage.result["white"])
    digest = hashlib.sha256(
        json.dumps([stage.files[IMAGES], stage.files[LABELS], listed["ids"], classes, splits.digest()]).encode()
    ).hexdigest()
    return ImageData(
        path=stage.path(IMAGES), images=images, labels=labels, ids=tuple(listed["ids"]), classes=classes,
        white=stage.result["white"], mean=mean, std=std, splits=splits, digest=digest, skipped=tuple(stage.result["skipped"]),
    )  # fmt: skip


def channel_statistics(images: NDArray[np.uint8], white: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of ``images / white``, rounded to six digits.

    Counted from the histogram of raw values, which is exact whatever the order of the images.
    A channel that never changes gets a deviation of 1.
    """
    values = np.arange(256) / white
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        deviation = float(np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum()))
        means.append(round(mean, 6))
        deviations.append(round(deviation, 6) or 1.0)
    return tuple(means), tuple(deviations)
