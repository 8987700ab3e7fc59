"""Arguments that several commands share."""

from __future__ import annotations

import os.path

import click

DEFAULT_RECIPE = "digits"


def recipe_and_overrides(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Split ``[RECIPE] [KEY=VALUE]...``: the first argument is the recipe unless it looks like an override.

    Raises:
        click.UsageError: A later argument has no ``=``.
    """
    recipe, overrides = DEFAULT_RECIPE, arguments
    if arguments and ("=" not in arguments[0] or os.path.isfile(arguments[0])):  # noqa: PTH113 - Path.is_file raises on some names
        recipe, overrides = arguments[0], arguments[1:]
    for each in overrides:
        if "=" not in each:
            raise click.UsageError(f"'{each}' is neither the recipe nor KEY=VALUE; give one recipe, then changes to it")
    return recipe, overrides


def target_override(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``--target DEVICE[=WAY]`` as a change to the recipe; none for none."""
    import json

    entries = []
    for each in targets:
        device, equals, via = each.partition("=")
        entries.append({"device": device, "via": via} if equals else {"device": device})
    return (f"targets={json.dumps(entries)}",) if entries else ()
