"""The main path: from a recipe to a folder of proven artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.benchmark.stages import benchmark
from edgekd.benchmark.target_stage import benchmark_targets
from edgekd.data.load import load_data
from edgekd.devices.profiles import load_profile
from edgekd.distill.stages import check_student, distill_student, prepare_teacher, settle_training, train_control
from edgekd.export.metadata import describe_artifacts
from edgekd.export.stages import export_student
from edgekd.golden import make_golden
from edgekd.per_class import cost_per_class
from edgekd.planning import plan, resolve_recipe
from edgekd.progress import Listener, Silent
from edgekd.prune.measured import measure_cuts
from edgekd.prune.sparse_proof import find_zeros, zero_gates
from edgekd.prune.stages import check_pruning, prune_student
from edgekd.quantize.qat.stage import train_quantized
from edgekd.quantize.stages import quantize_exports
from edgekd.recipe import Recipe
from edgekd.report.publish import publish
from edgekd.report.report import Report
from edgekd.safe.stop import stop_signals
from edgekd.verify import check_gates, verify
from edgekd.workspace import open_workspace


def compress(
    recipe: str | Path | Mapping[str, Any] | Recipe = "digits",
    out: str | Path = "runs/digits",
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    allow_code: bool = False,
) -> Report:
    """Run a recipe and return what was measured. Running it again continues, or replays what is done.

    Args:
        recipe: A shipped recipe's name, a path, a mapping, or a :class:`~edgekd.recipe.Recipe`.
        out: The run folder.
        overrides: ``key=value`` changes to the recipe, for example ``"distill.temperature=2"``.
        listener: Who is told of progress; nobody by default.
        allow_code: Whether a Keras teacher may hold code of its own, which would then run.

    Raises:
        EdgekdError: See :mod:`edgekd.errors`. A missed gate does not raise: ``report.ok`` is false.
    """
    asked = resolve_recipe(recipe, overrides)
    planned = plan(asked)
    with stop_signals(), open_workspace(Path(out), listener or Silent()) as workspace:
        data = load_data(asked, workspace)
        check_student(asked, data)
        check_pruning(asked, data)
        asked = settle_training(asked, data, planned.threads, workspace)
        teacher = prepare_teacher(asked, data, planned.threads, allow_code, workspace)
        student = distill_student(asked, data, teacher, planned.threads, workspace)
        control = train_control(asked, data, student, teacher, planned.threads, workspace)
        student = prune_student(asked, data, student, teacher, planned.threads, workspace)
        student = train_quantized(asked, data, student, teacher, planned.threads, workspace)
        exported = export_student(asked, student, workspace)
        artifacts = quantize_exports(asked, data, student, exported, workspace)
        artifacts = describe_artifacts(asked, data, student, artifacts, workspace)
        verified = verify(data, student, artifacts, workspace)
        classes = cost_per_class(data, teacher, student, verified)
        zeros = find_zeros(student, verified, workspace)
        gates = [*check_gates(asked, teacher, student, verified, classes), *zero_gates(student, zeros)]
        golden = make_golden(data, student.spec, verified, gates, workspace)
        student = measure_cuts(asked, student, exported, workspace)
        latency = benchmark(asked, data, verified, load_profile("host"), workspace)
        targets, limits = benchmark_targets(asked, verified, gates, golden, workspace)
        return publish(asked, data, teacher, student, verified, [*gates, *limits], latency, planned.threads, workspace,
                       control=control, classes=classes, golden=golden, targets=targets, zeros=zeros)  # fmt: skip
