"""``edgekd models``."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import click

from edgekd.models.catalog import ZOO
from edgekd.models.references import KINDS, Kind


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print kinds and zoo as JSON.")
def command(as_json: bool) -> None:
    """List what can be a teacher or a student, and what each is able to.

    \b
    teacher   it can be imitated
    student   it can be trained, rebuilt from its spec, exported and shipped
    layers    methods that look at inner layers can use it; others see its outputs alone
    weights   trained: they come with it; from a file: teacher.weights or student.weights
    """
    kinds = [_ability(kind) for kind in KINDS.values()]
    zoo = [{"name": f"zoo:{name}", "inputs": entry.inputs, "what": entry.summary} for name, entry in ZOO.items()]
    if as_json:
        click.echo(json.dumps({"kinds": kinds, "zoo": zoo}, indent=2))
        return
    click.echo("A model is named by a reference, as teacher.model or student.model:\n")
    for each in kinds:
        click.echo(f"  {each['reference']}\n      {each['what']}\n      {_line(each)}")
    click.echo("\nThe zoo:\n")
    for inputs in dict.fromkeys(entry.inputs for entry in ZOO.values()):
        click.echo(f"  {inputs}")
        for name, entry in ZOO.items():
            if entry.inputs == inputs:
                click.echo(f"    zoo:{name:<20} {entry.summary}")
    click.echo(
        "\n  student.model=from-teacher derives a student: half the layers of a transformer, half the width of a zoo network"
    )


def _ability(kind: Kind) -> dict[str, Any]:
    missing = [package for module, package in kind.needs.items() if importlib.util.find_spec(module) is None]
    return {
        "reference": kind.grammar, "what": kind.what, "teacher": True, "student": kind.student, "layers": kind.layers,
        "trained": kind.brings_weights, "install": f"pip install {' '.join(missing)}" if missing else None,
    }  # fmt: skip


def _line(each: dict[str, Any]) -> str:
    roles = "teacher, student" if each["student"] else "teacher only"
    seen = "inner layers seen" if each["layers"] else "outputs only"
    weights = "comes with weights" if each["trained"] else "weights from a file, or trained here"
    missing = f"; not installed: {each['install']}" if each["install"] else ""
    return f"{roles}; {seen}; {weights}{missing}"
