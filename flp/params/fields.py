"""The types of parameters, and the base class of sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def number(value: object) -> object:
    """Read `1e-3` as a number: YAML 1.1 readers (Snakemake's among them) take it for a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def unique(values: list[Any]) -> list[Any]:
    """The values, which may not repeat (`ValueError`)."""
    repeated = {value for value in values if values.count(value) > 1}
    if repeated:
        raise ValueError(f"{sorted(repeated)} appears more than once; name each one once")
    return values


AsReal = BeforeValidator(number)  # of every real number; a bare float would refuse `1e-3`
Float = Annotated[float, AsReal]
Positive = Annotated[float, Field(gt=0), AsReal]
NonNegative = Annotated[float, Field(ge=0), AsReal]
Expectile = Annotated[float, Field(gt=0, lt=1), AsReal]
Count = Annotated[int, Field(gt=0, le=10**12)]
Natural = Annotated[int, Field(ge=0, le=10**12)]
Task = Annotated[int, Field(ge=1, le=5)]
LARGEST_SEED = 2**31 - 1
Seed = Annotated[int, Field(ge=0, lt=LARGEST_SEED + 1)]
Draws = Annotated[int, Field(gt=0, le=1024)]
SolverSteps = Annotated[int, Field(gt=0, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1), AsReal]
Width = Annotated[int, Field(gt=0, le=2**16)]
Distinct = AfterValidator(unique)
Hidden = Annotated[list[Width], Field(min_length=1, max_length=32)]
Strengths = Annotated[list[Positive], Field(min_length=1, max_length=12), Distinct]
Solver = Literal["euler", "midpoint", "heun", "rk4"]
# Parameters that change how fast something is made, not what is made: they are not part of a key.
UNKEYED: dict[str, Any] = {"keyed": False}


class Section(BaseModel):
    """A section of `params.yaml`: exact types, finite numbers, no unknown keys, immutable."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def keyed(self) -> dict[str, Any]:
        """The values a result depends on, for its key."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if not (isinstance(extra := fields[name].json_schema_extra, dict) and extra.get("keyed") is False)
        }
