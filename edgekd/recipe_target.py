"""The part of a recipe that names the devices files are for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgekd.recipe_section import Section


class Target(Section):
    """A device that files are for, how it is reached, and what it may not exceed."""

    device: str = Field(..., min_length=1, max_length=4096, description="a profile of `edgekd devices list`, or a .toml file")
    via: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="how it is reached, to measure there: ssh://USER@HOST[:PORT] | adb[:SERIAL] | local; or emulated, which "
        "checks outputs on an emulated ARM processor; null: it is not reached, and latency is predicted",
    )
    threads: int | None = Field(None, ge=1, le=64, description="of the runtime there; null: the cores of the fastest cluster")
    python: str = Field("python3", min_length=1, max_length=4096, description="Python there, with its runtime; ~/ is its home")
    max_latency_ms: float | None = Field(None, gt=0, le=1e6, description="of its file, median; null: no limit")
    max_size_kib: float | None = Field(None, gt=0, le=1e12, description="of its file; null: no limit")
    max_memory_mib: float | None = Field(
        None, gt=0, le=1e9, description="peak memory of its file: measured, or weights and activations; null: no limit"
    )

    @model_validator(mode="after")
    def _not_the_host(self) -> Target:
        if self.device == "host":
            raise ValueError("host is always measured; name the devices that files are for")
        return self


def _by_name(value: object) -> object:
    return {"device": value} if isinstance(value, str) else value


def _once(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    names = [each.device for each in targets]
    if len(set(names)) != len(names):
        raise ValueError("it names one device twice; name each once")
    return targets


Targets = Annotated[tuple[Annotated[Target, BeforeValidator(_by_name)], ...], Field(max_length=32), AfterValidator(_once)]
