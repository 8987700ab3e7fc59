"""Opens many model files one after the other, as a worker opens one."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.models.black_box import open_model


def open_all(kind: str, paths: list[str], progress: str) -> dict[str, Any]:
    """Open and run each file; return how many were refused, how many ran, and what else was raised. Runs in a child.

    Before each file its number is written to ``progress``, so that it is known which one a runtime crashed on.
    """
    refused, ran, others = 0, 0, []
    for index, path in enumerate(paths):
        Path(progress).write_text(str(index))
        try:
            described, answer = open_model(kind, path, allow_code=False)
            samples = described["batch"] or 2
            if samples * sum(int(np.prod([size or 2 for size in each["shape"]])) for each in described["inputs"]) < 1_000_000:
                answer({each["name"]: np.zeros([2, *(size or 2 for size in each["shape"])]) for each in described["inputs"]})
            ran += 1
        except EdgekdError as error:
            refused += 1
            if "\n" in error.message or not error.message:
                others.append(f"{path}: {error.message!r}")
        except Exception as error:  # what the test is to find
            others.append(f"{path}: {type(error).__name__}: {str(error)[:300]}")
    return {"refused": refused, "ran": ran, "others": others}
