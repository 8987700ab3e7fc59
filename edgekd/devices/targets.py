"""Which files of a recipe are for which of its targets. Free of torch and of the runtimes, for plans ask it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekd.abilities import usable, why_not
from edgekd.devices.profiles import Profile, load_profile
from edgekd.errors import UsageError
from edgekd.flavours import ARTIFACT_NAMES, ArtifactName
from edgekd.recipe import Recipe
from edgekd.recipe_target import Target


@dataclass(frozen=True)
class TargetFiles:
    """A target of a recipe.

    Attributes:
        target: What was asked for.
        profile: The device.
        files: Those of the recipe that run there, the best first.
    """

    target: Target
    profile: Profile
    files: tuple[ArtifactName, ...]

    @property
    def threads(self) -> int:
        """Threads of the runtime there: those asked for, or the most that its profile measures."""
        if self.target.threads is not None:
            return self.target.threads
        return max((each for each in self.profile.threads if isinstance(each, int)), default=1)

    @property
    def place(self) -> str:
        """The key of its latencies in ``report.json``, for example ``pi4:4``."""
        return f"{self.profile.id}:{self.threads}"


def target_files(recipe: Recipe) -> tuple[TargetFiles, ...]:
    """Return every target of a recipe with the files that are for it.

    Raises:
        UsageError: There is no such device, or the recipe makes no file that runs on it.
    """
    found = []
    for target in recipe.targets:
        profile = load_profile(target.device)
        files = runnable(recipe.export.artifacts, profile)
        if not files:
            reasons = "; ".join(f"{name}: {why_not(name, profile.kind)}" for name in recipe.export.artifacts)
            raise UsageError(
                f"no file of export.artifacts runs on {profile.name}: {reasons}",
                f"add {' or '.join(profile.artifacts[:2])} to export.artifacts, or leave that out: targets then name their own",
            )
        found.append(TargetFiles(target, profile, files))
    return tuple(found)


def runnable(artifacts: Iterable[ArtifactName], profile: Profile) -> tuple[ArtifactName, ...]:
    """Return those of ``artifacts`` that run on a device, those that its profile names first and in its order."""
    able = usable(artifacts, profile.kind)
    best = profile.artifacts
    return tuple(sorted(able, key=lambda name: best.index(name) if name in best else len(best)))


def with_target_files(recipe: Recipe) -> Recipe:
    """Return a recipe that also makes the best file for each of its targets, unless it says itself which files are made.

    Raises:
        UsageError: There is no such device.
    """
    if not recipe.targets or "artifacts" in recipe.export.model_fields_set:
        return recipe
    wanted = {load_profile(each.device).artifacts[0] for each in recipe.targets}
    artifacts = tuple(name for name in ARTIFACT_NAMES if name in wanted or name in recipe.export.artifacts)
    return recipe.model_copy(update={"export": recipe.export.model_copy(update={"artifacts": artifacts})})
