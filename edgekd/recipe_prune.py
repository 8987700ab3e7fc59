"""The prune section of a recipe: cutting the trained student to a budget, and training what is left. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgekd.errors import UsageError
from edgekd.prune.target import parse_target
from edgekd.recipe_section import Section


def _check_target(value: object) -> object:
    if isinstance(value, str):
        try:
            parse_target(value)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
    return value


class Prune(Section):
    """Cutting the trained student to a budget; what is left goes on learning."""

    to: Annotated[str, BeforeValidator(_check_target)] | None = Field(
        None, description="macs=0.5x | params=200k | bytes=1M | latency=0.5x@pi4 | latency=12ms@pi4 | ratio=0.5; null: not cut"
    )
    criterion: Literal["magnitude", "taylor", "batchnorm", "activation", "random"] = Field(
        "taylor",
        description="what a channel is worth: magnitude: its weights; taylor: what the loss would lose, to the first order; "
        "batchnorm: its factors; activation: what it gives to those that read it; random: nothing, as a control",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="global: layers compete for the budget; layer: every layer loses the same share"
    )
    multiple: int | None = Field(
        None, ge=1, le=1024, description="widths become multiples of it; null: what the kernels of the device like, or 8"
    )
    steps: int = Field(1, ge=1, le=100, description="cuts, each followed by training, to the budget in equal ratios")
    epochs: int = Field(10, ge=0, le=10_000, description="passes over the training samples after each cut; 0: not trained")
    learning_rate: float = Field(
        1e-3, gt=0, le=10, description="of AdamW, falling to 0 by a cosine; all else is as in distill.train, in fp32"
    )
    taught_by: Literal["student", "teacher"] = Field(
        "student", description="student: the student before any cut; teacher: as it was"
    )

    @model_validator(mode="after")
    def _together(self) -> Prune:
        if self.steps > 1 and self.to is not None and self.to.startswith("ratio"):
            raise ValueError("steps goes with a budget like macs=0.5x, not with a ratio; leave steps out")
        return self
