"""Which code made a result: versions of libraries, and a digest of edgekd's own source."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

MATTERING = (
    "torch", "numpy", "scipy", "scikit-learn", "pillow", "onnx", "onnx-ir", "onnxscript", "onnxruntime",
    "litert-torch", "litert-converter", "ai-edge-litert", "ai-edge-quantizer", "flatbuffers",
    "tensorflow", "keras", "transformers", "tokenizers", "datasets", "timm", "torchvision",
)  # fmt: skip
"""Packages whose version can change an artifact."""

_PRESENTATION = {"cli", "kit", "report"}
"""Folders of edgekd that cannot change a result."""


@functools.cache
def library_versions() -> dict[str, str]:
    """Return ``{package: version}`` for the packages of :data:`MATTERING` that are installed, and Python's."""
    found = {"python": platform.python_version()}
    for package in MATTERING:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def source_digest() -> str:
    """Return a SHA-256 over edgekd's source files, without those that only present results."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.parts[0] not in _PRESENTATION:
            digest.update(str(relative).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
