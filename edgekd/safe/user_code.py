"""The user's own code, run only where a recipe names it by an explicit ``python:`` reference."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
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
    for folder in _package_folders(place):
        inner = folder.joinpath(*place.split(".")[1:])
        for candidate in (inner / "__init__.py", inner.with_name(f"{inner.name}.py")):
            if candidate.is_file():
                return candidate
    found = _found(place) if "." not in place else None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise UsageError(f"python:{reference}: there is no module '{place}' in Python",
                         "install it, or start edgekd in the folder that holds it; a file is named with its .py")  # fmt: skip
    return Path(found.origin)


def _found(name: str) -> ModuleSpec | None:
    """Return the import specification of an outermost package or module, running nothing of it."""
    if not name.isidentifier():
        return None
    try:
        return PathFinder.find_spec(name, [str(Path.cwd()), *sys.path]) or importlib.util.find_spec(name)
    except ValueError:  # __main__ has none
        return None


def _package_folders(place: str) -> list[Path]:
    """Return the folders of the outermost package of ``place``: finding a module inside a package would run the package."""
    found = _found(place.partition(".")[0])
    return [Path(each) for each in found.submodule_search_locations or ()] if found is not None else []


def code_digest(reference: str) -> str:
    """Return a SHA-256 over the file that ``reference`` names, and the Python files beside it or in its package.

    User code imports its neighbours, so a change of theirs is a change of it.
    """
    path = code_file(reference)
    place = reference.rpartition(":")[0]
    folders = [] if place.endswith(".py") else _package_folders(place)
    root = next((each for each in folders if path.is_relative_to(each)), None)
    files = root.rglob("*.py") if root is not None else path.parent.glob("*.py")
    joined = hashlib.sha256()
    for each in sorted(files):
        joined.update(str(each.relative_to(root or path.parent)).encode() + b"\0" + sha256_file(each).encode() + b"\0")
    return joined.hexdigest()


def load_function(reference: str) -> Callable[..., Any]:
    """Import the function that ``FILE.py:function`` or ``package.module:function`` names. Runs its module.

    Raises:
        UsageError: There is no such file, module or function. What the code itself raises keeps its traceback.
    """
    place, _, name = reference.rpartition(":")
    path = code_file(reference)
    with _importable(Path.cwd(), path.parent if place.endswith(".py") else None):
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


@contextmanager
def _importable(*folders: Path | None) -> Iterator[None]:
    """Let imports find modules in ``folders`` first, as ``python FILE.py`` would; and last from then on.

    They stay, because functions of the user's import more when they are called.
    """
    named = list(dict.fromkeys(str(each.absolute()) for each in folders if each is not None))
    sys.path[:0] = named
    try:
        yield
    finally:
        for each in named:
            if each in sys.path:
                sys.path.remove(each)
        sys.path += [each for each in named if each not in sys.path]
