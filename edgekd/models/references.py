"""Model references: one grammar for teachers and students. Free of torch.

::

    zoo:NAME                            an architecture of the zoo
    python:FILE.py:FACTORY              a function that returns an nn.Module; the only reference that runs code of its own
    python:package.module:FACTORY
    hf:ID_OR_DIR                        transformers, with a classification head
    timm:NAME  torchvision:NAME         image classification
    pt2:FILE                            saved by torch.export.save
    onnx:FILE  keras:FILE_OR_DIR  tflite:FILE    black boxes: teachers by their outputs alone; a Keras file also a student
    store:FOLDER                        a teacher of whom there is nothing but its outputs, kept by `edgekd teach`
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import UsageError
from edgekd.models.catalog import ZOO
from edgekd.names import did_you_mean


@dataclass(frozen=True)
class Kind:
    """What a kind of reference can be.

    Attributes:
        grammar: How it is written.
        what: One line for people.
        student: Whether it can be a student: it can be trained, rebuilt and exported.
        brings_weights: Whether it comes with trained weights, so that a teacher is used as it is.
        starts_trained: Whether a student begins with these weights; others begin afresh.
        layers: Whether inner layers can be seen, as feature and relation distillation need.
        is_path: Whether it names a file or folder that must exist.
        needs: ``{module: pip requirement}`` of what must be installed.
    """

    grammar: str
    what: str
    student: bool
    brings_weights: bool
    layers: bool
    is_path: bool
    needs: dict[str, str]
    starts_trained: bool = False


KINDS: dict[str, Kind] = {
    "zoo": Kind("zoo:NAME", "an architecture that comes with edgekd", True, False, True, False, {}),
    "python": Kind(
        "python:FILE.py:FACTORY or python:package.module:FACTORY", "your own function that returns an nn.Module; runs its code",
        True, False, True, False, {},
    ),
    "hf": Kind(
        "hf:ID_OR_DIR", "Hugging Face transformers: image, text or audio classification", True, True, True, False,
        {"transformers": "'edgekd[hub]'"},
    ),
    "timm": Kind("timm:NAME", "PyTorch Image Models", True, True, True, False, {"timm": "timm"}),
    "torchvision": Kind(
        "torchvision:NAME", "torchvision's classification models", True, True, True, False, {"torchvision": "torchvision"}
    ),
    "pt2": Kind("pt2:FILE", "a program saved by torch.export.save", False, True, False, True, {}),
    "onnx": Kind("onnx:FILE", "a black box, in ONNX Runtime", False, True, False, True, {}),
    "keras": Kind(
        "keras:FILE_OR_DIR", "Keras: .keras and .h5; as a teacher a black box, SavedModels too", True, True, False, True,
        {"tensorflow": "'edgekd[keras]'"}, starts_trained=True,
    ),
    "tflite": Kind(
        "tflite:FILE", "a black box, in LiteRT", False, True, False, True, {"ai_edge_litert": "'edgekd[tflite]'"}
    ),
    "store": Kind("store:FOLDER", "outputs on this data, kept by `edgekd teach`", False, True, False, True, {}),
}  # fmt: skip
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def kind_of(reference: str) -> str:
    """Return ``zoo``, ``python``, ``hf``, ... of a well-written reference."""
    return reference.partition(":")[0]


def name_of(reference: str) -> str:
    """Return what follows the kind."""
    return reference.partition(":")[2]


def check_reference(value: str) -> str:
    """Return ``value`` if it is well written; whether its file exists is for the plan to see.

    Raises:
        ValueError: It is not; the message says what is allowed.
    """
    kind, _, name = value.partition(":")
    if kind not in KINDS or not name:
        close = did_you_mean(value, [f"zoo:{each}" for each in ZOO]) or did_you_mean(kind, list(KINDS))
        raise ValueError(
            f"'{value}' is no model reference, allowed: {', '.join(each.grammar for each in KINDS.values())}{close}"
        )
    if kind == "zoo" and name not in ZOO:
        raise ValueError(f"no model '{name}' in the zoo, allowed: {', '.join(ZOO)}" + did_you_mean(name, list(ZOO)))
    if kind == "python" and not (name.rpartition(":")[0] and name.rpartition(":")[2].isidentifier()):
        raise ValueError(f"'{value}' names no function, allowed: {KINDS['python'].grammar}")
    return value


def check_student(value: str) -> str:
    """Return ``value`` if it is a reference that can be trained, or ``from-teacher``.

    Raises:
        ValueError: It is not.
    """
    if value == "from-teacher":
        return value
    kind = kind_of(check_reference(value))
    if not KINDS[kind].student:
        able = ", ".join(name for name, each in KINDS.items() if each.student)
        raise ValueError(f"'{value}' cannot be a student: {KINDS[kind].what} cannot be trained, allowed kinds: {able}")
    return value


def model_path(reference: str) -> Path:
    """Return the path of a reference that is one; ``~`` of an unknown user stays as it is."""
    return Path(os.path.expanduser(name_of(reference)))  # noqa: PTH111 - Path.expanduser raises


def check_available(reference: str, weights: str | None, role: str, labels: str | None = None) -> None:
    """Check that files exist and packages are installed.

    Args:
        reference: The model.
        weights: Path of a file of weights beside it.
        role: ``teacher`` or ``student``, for messages.
        labels: Path of a file of class names beside it.

    Raises:
        UsageError: Something is missing; the hint is the pip line, or what to check.
    """
    kind = KINDS[kind_of(reference)]
    missing = {module: package for module, package in kind.needs.items() if importlib.util.find_spec(module) is None}
    if missing:
        raise UsageError(
            f"{role} {reference} needs {', '.join(missing)}, not installed here", f"pip install {' '.join(missing.values())}"
        )
    if kind.is_path:
        _check_exists(model_path(reference), role)
    if kind is KINDS["store"]:
        return  # its weights and labels were needed when it was filled
    if labels is not None:
        _check_exists(Path(os.path.expanduser(labels)), f"{role} labels")  # noqa: PTH111 - Path.expanduser raises
    if weights is not None:
        path = Path(os.path.expanduser(weights))  # noqa: PTH111 - Path.expanduser raises
        _check_exists(path, f"{role} weights")
        if path.suffix not in WEIGHT_SUFFIXES:
            raise UsageError(
                f"{role} weights {path} are of no known format, allowed: {', '.join(WEIGHT_SUFFIXES)}",
                "save them with safetensors, or torch.save(model.state_dict(), ...)",
            )


def _check_exists(path: Path, what: str) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(
            f"{what} file {path} does not exist" + did_you_mean(path.name, siblings),
            f"paths are relative to the current folder, {Path.cwd()}",
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {what} file {path}: {getattr(error, 'strerror', None) or error}") from error
