"""The prune section of a recipe: cutting the trained student to a budget, setting weights to zero, and training what is left.

Free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator, model_validator

from edgekd.errors import UsageError
from edgekd.prune.sparsity import parse_sparsity
from edgekd.prune.target import WHATS, parse_amount, parse_target
from edgekd.recipe_section import Section, number_or_auto


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Amount = Annotated[str, BeforeValidator(_as_text)]


class TargetParts(Section):
    """A budget as a mapping: one amount, and for latency the device. The recipe keeps it as text, ``latency=0.5x@pi4``."""

    device: str | None = Field(None, min_length=1, max_length=4096, description="a profile of `edgekd devices list`")
    macs: Amount | None = Field(None, description="multiply-accumulates: 0.5x of them, or 20M")
    params: Amount | None = Field(None, description="parameters: 0.5x of them, or 200k")
    bytes: Amount | None = Field(None, description="as stored in float32: 0.5x of them, or 1MiB")
    latency: Amount | None = Field(None, description="predicted for the device: 0.5x of it, or 12ms")
    ratio: Amount | None = Field(None, description="of the channels of every layer: 0.5 cuts half of them")

    @field_validator(*WHATS)
    @classmethod
    def _amount(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            what = next(each for each in WHATS if each == info.field_name)
            try:
                parse_amount(what, value)
            except UsageError as error:
                raise ValueError(f"{error.message}; {error.hint}") from None
        return value

    @model_validator(mode="after")
    def _one_amount(self) -> TargetParts:
        given = [each for each in WHATS if getattr(self, each) is not None]
        if len(given) != 1:
            told = f"{' and '.join(given)} are two budgets" if given else "it names no budget"
            raise ValueError(f"{told}; give one of {', '.join(WHATS)}, for example {{device: pi4, latency: 0.5x}}")
        if (given[0] == "latency") != (self.device is not None):
            raise ValueError(
                "latency is that of a device, and none is named; add for example device: pi4, see `edgekd devices list`"
                if self.device is None
                else f"device goes with latency, and the budget is {given[0]}; leave device out"
            )
        return self

    def text(self) -> str:
        """Return it as :func:`~edgekd.prune.target.parse_target` takes it."""
        amounts = [f"{each}={getattr(self, each)}" for each in WHATS if getattr(self, each) is not None]
        return amounts[0] + (f"@{self.device}" if self.device is not None else "")


def _parsed(text: str) -> str:
    try:
        return str(parse_target(text))
    except UsageError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None


def _in_parts(value: object) -> object:
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text as latency=0.5x@pi4, or a mapping as {device: pi4, latency: 0.5x}")
    what, _, rest = _parsed(value).partition("=")
    amount, _, device = rest.partition("@")
    return {what: amount} | ({"device": device} if device else {})


if TYPE_CHECKING:
    TargetText = str
else:
    TargetText = Annotated[
        TargetParts, BeforeValidator(_in_parts), AfterValidator(lambda parts: _parsed(parts.text())),
        PlainSerializer(lambda text: text, return_type=str),
    ]  # fmt: skip


def _check_sparsity(value: object) -> object:
    try:
        found = parse_sparsity(value if isinstance(value, float) else str(value))
    except UsageError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
    return found.share if found.pattern is None else str(found)


Rate = Annotated[float | Literal["auto"], BeforeValidator(number_or_auto(1e-9, 10))]


class Prune(Section):
    """Cutting the trained student to a budget; what is left goes on learning."""

    target: TargetText | None = Field(
        None,
        description="macs=0.5x | params=200k | bytes=1M | latency=0.5x@pi4 | latency=12ms@pi4 | ratio=0.5, or a mapping as "
        "{device: pi4, latency: 0.5x}; null: not cut",
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
    blocks: int = Field(
        0, ge=0, le=1000,
        description="whole blocks that go before channels do, residual blocks or layers of a transformer: those without which "
        "the loss rises least; budgets refer to the network with them",
    )  # fmt: skip
    sparsity: Annotated[float | str, BeforeValidator(_check_sparsity)] | None = Field(
        None,
        description="weights that are zero: 0.8, that share of them, or 2:4, two left of four neighbours; files compress "
        "better, and are no faster but where a runtime has kernels for zeros; null: none",
    )
    sparse_layers: Literal["all", "pointwise"] = Field(
        "all", description="which get zeros: convolutions and linear layers; pointwise: 1x1 convolutions and linear layers"
    )
    steps: int = Field(
        1, ge=1, le=100, description="cuts, each followed by training: to the budget in equal ratios, to sparsity by a cubic"
    )
    epochs: int = Field(10, ge=0, le=10_000, description="passes over the training samples after each cut; 0: not trained")
    learning_rate: Rate = Field(
        "auto",
        description="of AdamW, falling to 0 by a cosine; all else is as in distill.train, in fp32; auto: 4e-3 after a cut that "
        "took more than half of the accuracy of a network with batch norms, else 1e-3",
    )
    taught_by: Literal["student", "teacher"] = Field(
        "student", description="student: the student before any cut; teacher: as it was"
    )

    @model_validator(mode="after")
    def _together(self) -> Prune:
        if self.steps > 1 and self.target is not None and self.target.startswith("ratio"):
            raise ValueError("steps goes with a budget like macs=0.5x, not with a ratio; leave steps out")
        if self.steps > 1 and self.blocks and self.target is None and self.sparsity is None:
            raise ValueError("all blocks go in the first step, and nothing is left for others; leave steps out")
        return self
