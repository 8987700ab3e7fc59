"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8x8 pixels of 17 grey levels.

From the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.safe.files import write_bytes, write_json

WHITE = 16


def write_cache(cache: Path) -> dict[str, Any]:
    """Write the images, labels and ids to ``cache``; return classes, shape and the raw value of white."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    for name, array in (("images.npy", images), ("labels.npy", bunch.target.astype(np.int64))):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_bytes(cache / name, buffer.getvalue())
    ids = [f"digits:{index}" for index in range(len(images))]
    write_json(cache / "ids.json", {"ids": ids, "has_test_folder": False, "in_test_folder": []})
    return {"classes": [str(digit) for digit in range(10)], "shape": list(images.shape), "white": WHITE, "skipped": []}
