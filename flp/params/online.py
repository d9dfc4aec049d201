"""Fine-tuning in the environment, and how FLP chooses its actions meanwhile."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flp.params.fields import UNKEYED, Distinct, Draws, Natural, Positive, Section, Share, Task
from flp.params.sections import OfflineSettings


class OnlineSettings(Section):
    """Fine-tuning in the environment: one environment step per gradient step, flow frozen."""

    steps: Natural
    """Environment steps, which are gradient steps too; 0 leaves the stage out."""
    learning_rate: Positive | None = None
    """Adam's step size for what was trained offline; empty for `offline.learning_rate`. An algorithm's own rates change
    in the same proportion."""
    tasks: Annotated[list[Task], Field(min_length=1), Distinct] | None = Field(default=None, json_schema_extra=UNKEYED)
    """Tasks to fine-tune on; null for all of `offline.tasks`."""
    selection: Literal["argmax", "resample"] | None = None
    """FLP's `offline.selection` meanwhile; empty: as offline, like the following."""
    candidates: Draws | None = None
    """Its `offline.candidates`."""
    target_candidates: Draws | None = None
    """Its `offline.target_candidates`."""
    acting_noise: Share | None = None
    """Its `offline.acting_noise`; in the environment it acts with all of its noise between evaluations."""

    def of_flp(self, offline: OfflineSettings) -> OfflineSettings:
        """The offline values with those by which FLP chooses while it is fine-tuned."""
        own = {name: value for name in CHOICE if (value := getattr(self, name)) is not None}
        return offline.model_copy(update=own)


CHOICE = ("selection", "candidates", "target_candidates", "acting_noise")
