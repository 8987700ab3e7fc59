"""edgekd: distill a large network into a small one, quantize it, and prove that the files are right.

The Python API is one-to-one with the command line, and loads nothing heavy until it is used::

    import edgekd
    report = edgekd.compress("digits", out="runs/digits", overrides=["distill.temperature=2"])
    report.ok, report.artifacts, report.gates
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.compare.models import compare_models
    from edgekd.compare.run import check_run
    from edgekd.pipeline import compress
    from edgekd.planning import plan
    from edgekd.recipe import Recipe
    from edgekd.report.report import Report

__version__ = "0.1.0"

__all__ = ["Recipe", "Report", "check_run", "compare_models", "compress", "plan"]

_HOMES = {
    "Recipe": "edgekd.recipe",
    "Report": "edgekd.report.report",
    "check_run": "edgekd.compare.run",
    "compare_models": "edgekd.compare.models",
    "compress": "edgekd.pipeline",
    "plan": "edgekd.planning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
