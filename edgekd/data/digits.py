"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8x8 pixels of 17 grey levels.

From the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.data.cache import UNASSIGNED, Advanced, ArrayFile, Preview, write_samples

if TYPE_CHECKING:
    from edgekd.recipe import Data

WHITE = 16
_COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def fingerprint(options: Data) -> dict[str, Any]:
    """Return the name of the set; it never changes."""
    return {"source": options.source}


def preview(options: Data) -> Preview:
    """Return what is known of the set, without loading scikit-learn."""
    samples = tuple(f"digits:{index}, 8x8x1: {index}" for index in range(3))
    return Preview("image", tuple(str(digit) for digit in range(10)), _COUNTS, {}, samples, (8, 8, 1))


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Write the images, labels and names to ``cache``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    with ArrayFile(cache / "image.npy", np.uint8, images.shape[1:]) as file:
        file.append(images)
    write_samples(cache, bunch.target, [UNASSIGNED] * len(images), [f"digits:{index}" for index in range(len(images))])
    classes = [str(digit) for digit in range(10)]
    return {"kind": "image", "classes": classes, "shape": list(images.shape), "full_scale": WHITE, "skipped": []}
