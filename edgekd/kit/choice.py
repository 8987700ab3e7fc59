"""Which file of a run goes on which device."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.abilities import check_device
from edgekd.errors import ModelError
from edgekd.kit.run_folder import ReportedArtifact, RunReport


@dataclass(frozen=True)
class Choice:
    """The file for a target, and why it is this one, in words."""

    artifact: ReportedArtifact
    reason: str


def choose(target: str, report: RunReport) -> Choice:
    """Return the file for a target.

    Raises:
        ModelError: The run has none that passed its gates.
        UsageError: There is no such target.
    """
    device = check_device(target)
    passed = {each.name: each for each in report.artifacts if each.passed}
    rejected = {each.name for each in report.artifacts if not each.passed}
    passed_over: list[str] = []
    for names in device.kit:
        ready = [passed[name] for name in names if name in passed]
        if ready:
            chosen, why = _fastest(ready, target)
            return Choice(chosen, "; ".join([why, *passed_over]))
        passed_over += [f"{name} {'missed a gate' if name in rejected else 'was not made'}" for name in names]
    missing = [name for names in device.kit for name in names if name not in rejected]
    hint = f"add {' or '.join(missing)} to export.artifacts of the recipe" if missing else "see gates in report.html"
    unusable = [f"not {name}: {reason}" for name, reason in device.no.items() if name in passed]
    raise ModelError("; ".join([f"the run has no file for {target}: {', '.join(passed_over)}", *unusable]), hint)


def _fastest(ready: list[ReportedArtifact], target: str) -> tuple[ReportedArtifact, str]:
    if len(ready) == 1:
        return ready[0], f"{ready[0].name} passed its gates"
    shared = set.intersection(*({name for name, each in one.latency.items() if each.kind == "measured"} for one in ready))
    # A measurement on the device itself says more than one on the machine that made the files.
    ranked = sorted(shared, key=lambda name: (not name.startswith(target), name != "host:1", name))
    if not ranked:
        return ready[0], f"{ready[0].name} passed its gates, and nothing was measured"
    place = ranked[0]
    ordered = sorted(ready, key=lambda each: each.latency[place].p50_ms)
    figures = ", ".join(f"{each.name} {each.latency[place].p50_ms:.3f} ms" for each in ordered)
    return ordered[0], f"{ordered[0].name} was the fastest that passed, measured on {place}: {figures}"
