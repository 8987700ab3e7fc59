"""Several files by one quantizer in one child process. Free of torch, which takes longer to import than a file to make."""

from __future__ import annotations

import importlib
from typing import Any


def make_files(function: str, shared: dict[str, Any], each: list[dict[str, Any]]) -> None:
    """Call the quantizer ``module:function`` once for each file, ``shared`` beside its own arguments. Runs in a child."""
    module, _, name = function.partition(":")
    quantize = getattr(importlib.import_module(module), name)
    for own in each:
        quantize(**shared, **own)
