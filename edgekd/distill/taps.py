"""What named modules of a network gave in its last forward pass, seen by hooks: no tracing, so any network will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.errors import ModelError

INPUT = ":input"
"""Ends the name of what goes into a module: ``classifier:input``; ``:input1`` is the second input of the network itself."""


def module_of(name: str) -> str:
    """Return the module of a name: ``classifier`` of ``classifier:input``."""
    return name.partition(INPUT)[0]


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor of what a module takes or gives: one tensor, a sequence or a mapping; ``None`` if none is."""
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((each for each in values if isinstance(each, Tensor)), None)


class Taps:
    """Keeps the outputs of named modules, or with ``:input`` what goes into them, until the next forward pass.

    The network goes on with a copy of each, so that an activation that works in place changes nothing here, and gradients
    of everything that follows pass through what is kept. A module that runs several times leaves its last output. A copy
    of the network (``copy.deepcopy``) carries the hooks, but they do nothing there.

    Args:
        module: The network.
        names: Its modules, as ``named_modules()`` has them.

    Raises:
        ModelError: There is no such module.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._seen: dict[str, Tensor] = {}
        self._names = tuple(names)
        self._handles: list[RemovableHandle] = []
        modules = dict(module.named_modules(remove_duplicate=False))
        missing = [name for name in self._names if module_of(name) not in modules]
        if missing:
            raise ModelError(f"the network has no module {', '.join(map(module_of, missing))} to look at")
        for name in self._names:
            owner, marked, position = name.partition(INPUT)
            place = modules[owner]
            if marked:
                hook = _before(self._seen, name, place, int(position or 0))
                self._handles.append(place.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(place.register_forward_hook(_after(self._seen, name, place)))

    def take(self) -> dict[str, Tensor]:
        """Return what was seen, by name, and forget it.

        Raises:
            ModelError: A module has not run since.
        """
        seen = dict(self._seen)
        self._seen.clear()
        silent = [name for name in self._names if name not in seen]
        if silent:
            raise ModelError(
                f"{', '.join(silent)} did not run in the last forward pass, or gave no tensor", "choose layers that always run"
            )
        return seen

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()


# Hooks are plain functions that know their module: copied with the network they stay the same, and see that it is another.


def _after(seen: dict[str, Tensor], name: str, place: nn.Module) -> Callable[..., Any]:
    def keep(called: nn.Module, _inputs: Any, output: Any) -> Any:
        found = first_tensor(output)
        if called is not place or found is None:
            return None
        seen[name] = found
        return _replaced(output, found)

    return keep


def _before(seen: dict[str, Tensor], name: str, place: nn.Module, position: int) -> Callable[..., Any]:
    def keep(called: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        values = [each for each in (*inputs, *named.values()) if isinstance(each, Tensor)]
        if called is not place or position >= len(values):
            return None
        found = values[position]
        seen[name] = found
        copy = found.clone()
        swapped = tuple(copy if each is found else each for each in inputs)
        return swapped, {key: copy if each is found else each for key, each in named.items()}

    return keep


def _replaced(output: Any, found: Tensor) -> Any:
    """Return ``output`` with a copy of ``found``; mappings stay, their tensors are those of modules inside."""
    if isinstance(output, Tensor):
        return found.clone()
    if type(output) in {list, tuple}:
        copy = found.clone()
        return type(output)(copy if each is found else each for each in output)
    return None
