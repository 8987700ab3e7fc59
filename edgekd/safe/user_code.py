"""The user's own code, run only where a recipe names it by an explicit ``python:`` reference."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.names import did_you_mean
from edgekd.safe.files import sha256_file


def code_file(reference: str) -> Path:
    """Return the file of ``FILE.py:function`` or ``package.module:function``, running nothing of it.

    Raises:
        UsageError: There is no such file or module.
    """
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(os.path.expanduser(place))  # noqa: PTH111 - Path.expanduser raises
        if not path.is_file():
            raise UsageError(f"python:{reference}: there is no file {path}",
                             f"paths are relative to the current folder, {Path.cwd()}")  # fmt: skip
        return path
    parent, _, _ = place.partition(".")
    with _current_folder_importable():
        # Only the outermost package is looked up: finding a module inside a package would run the package.
        found = importlib.util.find_spec(parent) if parent.isidentifier() else None
    if found is None or found.origin is None:
        raise UsageError(f"python:{reference}: there is no module '{place}'",
                         "install it, or start edgekd in the folder that holds it; a file is named with its .py")  # fmt: skip
    root = Path(found.origin)
    inner = root.parent.joinpath(*place.split(".")[1:])
    for candidate in (inner.with_suffix(".py"), inner / "__init__.py"):
        if "." in place and candidate.is_file():
            return candidate
    return root


def code_digest(reference: str) -> str:
    """Return a SHA-256 over the file that ``reference`` names, and the Python files beside or below it.

    User code imports its neighbours, so a change of theirs is a change of it.
    """
    path = code_file(reference)
    if path.name == "__init__.py" or not reference.rpartition(":")[0].endswith(".py"):
        files = sorted(path.parent.rglob("*.py"))
    else:
        files = sorted(path.parent.glob("*.py"))
    joined = hashlib.sha256()
    for each in files:
        joined.update(str(each.relative_to(path.parent)).encode() + b"\0" + sha256_file(each).encode() + b"\0")
    return joined.hexdigest()


def load_function(reference: str) -> Callable[..., Any]:
    """Import the function that ``FILE.py:function`` or ``package.module:function`` names. Runs its module.

    Raises:
        UsageError: There is no such file, module or function. What the code itself raises keeps its traceback.
    """
    place, _, name = reference.rpartition(":")
    path = code_file(reference)
    with _current_folder_importable():
        if place.endswith(".py"):
            module_name = f"_edgekd_user_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"
            module = sys.modules.get(module_name)
            if module is None:
                spec = importlib.util.spec_from_file_location(module_name, path)
                assert spec is not None and spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[module_name] = module  # dataclasses and typing look their module up there
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[module_name]
                    raise
        else:
            module = importlib.import_module(place)
    function = getattr(module, name, None)
    if function is None:
        known = [each for each in vars(module) if callable(getattr(module, each)) and not each.startswith("_")]
        raise UsageError(f"python:{reference}: {path} has no '{name}'" + did_you_mean(name, known), "check its spelling")
    if not callable(function):
        raise UsageError(f"python:{reference}: '{name}' is a {type(function).__name__}, not a function", "name a function")
    return function  # type: ignore[no-any-return]


class _current_folder_importable:  # noqa: N801 - used like a function
    """Lets imports find modules in the current folder, as ``python FILE.py`` there would."""

    def __enter__(self) -> None:
        self.added = str(Path.cwd()) not in sys.path
        if self.added:
            sys.path.insert(0, str(Path.cwd()))

    def __exit__(self, *error: object) -> None:
        if self.added and str(Path.cwd()) in sys.path:
            sys.path.remove(str(Path.cwd()))
