"""Fill a store of soft targets by itself: where the teacher is, for wherever the student will be trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.data.load import load_data
from edgekd.devices.profiles import usable_cores
from edgekd.distill.soft_target_use import why_live
from edgekd.distill.soft_targets import SoftTargets, open_soft_targets, useful_keys
from edgekd.distill.stages import prepare_teacher, settle_training
from edgekd.distill.training_stage import set_threads
from edgekd.errors import UsageError
from edgekd.models.references import check_available, kind_of
from edgekd.planning import check_teaching, resolve_recipe
from edgekd.progress import Listener, Silent
from edgekd.recipe import Recipe
from edgekd.safe.stop import stop_signals
from edgekd.workspace import open_workspace


def teach(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    store: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    allow_code: bool = False,
) -> SoftTargets:
    """Compute the teacher's outputs that distilling by ``recipe`` takes, and keep them in the folder ``store``.

    The other arguments are those of :func:`edgekd.compress`. ``out`` gets the data and, if it is trained here, the teacher.

    Raises:
        EdgekdError: See :mod:`edgekd.errors`. UsageError if the recipe's student cannot learn from kept outputs.
    """
    asked = resolve_recipe(recipe, overrides)
    check_can_teach(asked)
    with stop_signals(), open_workspace(Path(out), listener or Silent()) as workspace:
        data = load_data(asked, workspace)
        threads = asked.threads or usable_cores()
        # As in a run, so that the teacher is the same, and a run on this machine can use the store as its own.
        asked = settle_training(asked, data, threads, workspace)
        teacher = prepare_teacher(asked, data, threads, allow_code, workspace)
        assert teacher is not None
        options = asked.distill
        keys = useful_keys(data, asked.data.augment, options.soft_targets.augmentations, options.train.epochs)
        set_threads(threads)
        times = f"{keys:,} augmentations of " if keys > 1 else ""
        workspace.listener.stage_started("soft-targets", f"{teacher.name} on {times}{len(data.splits.train):,} samples")
        started = time.monotonic()
        folder = Path(store).expanduser()
        kept = open_soft_targets(teacher, data, asked.data.augment, keys, folder, workspace, options.train.precision)
        workspace.listener.stage_finished(
            "soft-targets", kept.described.removeprefix("stored: "), time.monotonic() - started, kept.computed == 0
        )
        return kept


def check_can_teach(recipe: Recipe) -> None:
    """Check that keeping the outputs of the recipe's teacher makes sense.

    Raises:
        UsageError: There is no teacher, or the student needs to see more of it than outputs.
    """
    if not recipe.distill.has_teacher:
        raise UsageError(f"distill.scheme={recipe.distill.scheme} has no teacher", "set distill.scheme=offline")
    check_teaching(recipe)
    reason = why_live(recipe)
    if reason is not None:
        raise UsageError(f"the teacher's outputs cannot be kept: {reason}", "leave that out of the recipe")
    for member in recipe.teacher.members:
        if kind_of(member.model) == "store":
            raise UsageError(f"teacher {member.model} is kept outputs already", "copy the folder, or name their teacher")
        check_available(member.model, member.weights, "teacher", member.labels)
