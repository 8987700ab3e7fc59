"""Samples that cannot be used: told by number and name, and left out only where the recipe says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.errors import DataError

if TYPE_CHECKING:
    from edgekd.recipe import Data

NOUNS = {"image": "images", "text": "texts", "waveform": "sounds", "features": "rows"}
"""What samples of each kind are called."""

_NAMED = 5


def skipped_message(skipped: Sequence[str], kind: str, what: str = "were left out: they cannot be decoded") -> str:
    """Return one line that counts ``skipped`` and names the first few."""
    more = f", and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    noun = NOUNS[kind][:-1] if len(skipped) == 1 else NOUNS[kind]
    return f"{len(skipped):,} {noun} {what}: {', '.join(skipped[:_NAMED])}{more}"


def check_bad(bad: Sequence[str], kind: str, options: Data) -> None:
    """Stop if there are bad samples that the recipe does not allow to leave out.

    Args:
        bad: Name and reason of each.
        kind: What the samples are, a key of :data:`NOUNS`.
        options: The recipe's data section.

    Raises:
        DataError: There are.
    """
    if bad and not options.skip_bad:
        raise DataError(
            skipped_message(bad, kind, "cannot be decoded"),
            "mend or remove them, or leave them out with data.skip_bad=true",
        )
