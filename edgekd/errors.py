"""The errors edgekd raises on purpose, and the exit code of each.

::

    EdgekdError                 1   never raised itself
    ├── UsageError              2   the command line or an input is wrong
    │   ├── RecipeError         2   the recipe is wrong: every problem at once
    │   ├── DataError           2   the data set is missing, broken or too small
    │   └── FolderInUse         2   another run holds the output folder
    ├── ModelError              3   this model cannot do what was asked
    │   └── ExportError         3   a converter or quantizer refused or crashed
    ├── GateMissed              4   an artifact broke a promise of the recipe
    ├── DeviceError             5   a device cannot be reached, died, or is too noisy to measure
    ├── ResourceError           6   out of disk, memory or time
    └── Interrupted           130   stopped by Ctrl+C or SIGTERM (143); state is saved

Anything else that escapes is a bug: exit code 1, with its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class EdgekdError(Exception):
    """An expected failure: one clear message and an exit code.

    Args:
        message: What is wrong, and where. One line, no full stop at its end.
        hint: How to mend it, printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(EdgekdError):
    """The command line, or something it names, is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class RecipeProblem:
    """One thing wrong with a recipe.

    Attributes:
        where: ``file:line`` of the entry, or ``override 'key=value'``.
        key: Dotted key, for example ``distill.temperature``; empty for the whole file.
        message: What is wrong and what is allowed instead.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class RecipeError(UsageError):
    """The recipe is wrong; ``problems`` lists everything that is, in file order."""

    def __init__(self, problems: list[RecipeProblem], hint: str | None = None) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems), hint)


class DataError(UsageError):
    """The data set is missing, broken or too small."""


class FolderInUse(UsageError):
    """Another live run holds the output folder."""


class ModelError(EdgekdError):
    """This model cannot do what was asked."""

    exit_code = 3


class ExportError(ModelError):
    """A converter or quantizer refused the model, crashed or hung."""


class GateMissed(EdgekdError):
    """An artifact broke a promise of the recipe; the evidence is in the report."""

    exit_code = 4


class DeviceError(EdgekdError):
    """A device cannot be reached, lacks what is needed, died or hung, or is too noisy to measure."""

    exit_code = 5


class ResourceError(EdgekdError):
    """Out of disk, memory or time."""

    exit_code = 6


class Interrupted(EdgekdError):
    """Stopped by a signal after saving state."""

    exit_code = 130

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
