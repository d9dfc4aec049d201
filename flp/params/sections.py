"""The sections of `params.yaml`: every parameter with its type, its limits and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flp.params.baselines import AlgorithmSection, Baselines
from flp.params.fields import (
    UNKEYED,
    AsReal,
    Count,
    Distinct,
    Draws,
    Float,
    Hidden,
    Natural,
    Positive,
    Section,
    Seed,
    Share,
    Solver,
    SolverSteps,
    Strengths,
    Task,
    Width,
)


class DownloadSettings(Section):
    """Where the transitions come from."""

    source: Literal["ogbench", "generate", "path"]
    """`ogbench` downloads, `generate` makes them here, `path` copies a file of yours."""
    path: str | None = None
    """The `.npz` to take when `source` is `path`; its validation file is `{stem}-val.npz` next to it."""
    episodes: Count | None = None
    """Training episodes to generate; empty for OGBench's own number."""
    steps_per_episode: Annotated[int, Field(ge=2, le=10**7)] | None = None
    """Rows per generated episode; empty for OGBench's own number."""
    noise: Annotated[float, Field(ge=0, le=10), AsReal] | None = None
    """Standard deviation of the controller's action noise; empty for OGBench's own."""
    policy: Literal["scripted", "random"] = "scripted"
    """`random` takes uniform actions: for trying environments that have no expert here."""
    seed: Seed = 0
    """Seed of generation."""
    mirrors: list[str] = Field(default=[], json_schema_extra=UNKEYED)
    """Base URLs tried after OGBench's own."""
    retries: Natural = Field(default=3, json_schema_extra=UNKEYED)
    """Retries per URL, with growing pauses."""
    timeout: Positive = Field(default=60.0, json_schema_extra=UNKEYED)
    """Seconds without a byte after which an attempt is given up."""

    @model_validator(mode="after")
    def _path_given(self) -> DownloadSettings:
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path' but download.path is empty; name your .npz file there")
        return self

    def keyed(self) -> dict[str, Any]:
        """The source with the values that it reads; the others, which cannot change the data, are None."""
        generation = ("episodes", "steps_per_episode", "noise", "policy", "seed")
        read = {"generate": generation, "path": ("path",), "ogbench": ()}[self.source]
        return {name: value if name in ("source", *read) else None for name, value in super().keyed().items()}


class FlowSettings(Section):
    """The behaviour flow (Eq. 3)."""

    hidden: Hidden
    """Widths of the velocity field's hidden layers."""
    encoder: Annotated[list[Width], Field(max_length=32)] = Field(default=[])
    """Widths of a network that encodes the state once for all solver steps; empty: the field itself sees the state."""
    draws: Draws = 1
    """Draws of noise and time per transition, which share one encoding of the state; 1: the paper."""
    observation_scale: Positive | None = None
    """The network sees (s - mean) / std of the dataset, times this; empty: observations as they are."""
    steps: Count
    """Gradient steps."""
    batch_size: Count
    """Transitions per step."""
    learning_rate: Positive
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the step size: `cosine` decays it to zero over `steps`."""
    saturation_noise: Annotated[float, Field(ge=0, le=10), AsReal] = 0.0
    """Action coordinates at ±1 are fitted at ±(1 + this * |N(0, 1)|), which the environment clips; 0: as they are."""
    solver: Solver
    """ODE solver, the same for decoding and inversion."""
    solver_steps: SolverSteps
    """Solver steps from t = 0 to t = 1."""
    solver_grading: Annotated[float, Field(ge=1, le=10), AsReal]
    """The times are t_i = 1 - (1 - i / solver_steps) ** solver_grading: 1 makes equal steps, more shortens the last."""
    validate_every: Count
    """Steps between validation losses."""


class InvertSettings(Section):
    """Mapping the dataset's actions to latents."""

    batch_size: Count = Field(json_schema_extra=UNKEYED)
    """Actions inverted at a time, by each thread."""
    max_roundtrip_error: Positive
    """Largest mean |a - f(f^-1(a))| that training accepts."""
    likelihood_samples: Natural
    """Validation actions whose log-density is computed."""
    max_distinguishable: Annotated[float, Field(ge=0.5, le=1), AsReal] = 0.6
    """Accuracy at telling latents from draws of the prior above which a classifier leads to a warning."""


class SweepSettings(Section):
    """Extra runs on the run axis, one per value, everything else equal."""

    alpha: Annotated[list[Positive], Distinct] = Field(default=[])
    """Values of `offline.alpha` (Figure 4)."""
    candidates: Annotated[list[Draws], Distinct] = Field(default=[])
    """Values of `offline.candidates` (Figure 5)."""


AgentName = Literal[
    "flp", "bc", "fbc", "iql", "rebrac", "idql", "srpo", "cac", "fawac", "fbrac", "calql", "rlpd", "ifql", "fql"
]
# Behaviour cloning has nothing to fine-tune with; of IDQL and SRPO only the critics could continue; how CAC's schedule
# of noise levels should continue is not published.
OFFLINE_ONLY = ("bc", "fbc", "idql", "srpo", "cac")
# They act in the latents of the pretrained flow; the others read it only where their `flow` is `pretrained`.
IN_LATENTS = ("flp",)
# Their policies are still untrained after the offline stage.
ONLINE_ONLY = ("rlpd",)


class OfflineSettings(Section):
    """Offline training of every algorithm; FLP's own values are among these, the baselines' in `baselines`."""

    agents: Annotated[list[AgentName], Field(min_length=1), Distinct] = Field(json_schema_extra=UNKEYED)
    """Algorithms to train."""
    tasks: Annotated[list[Task], Field(min_length=1), Distinct] = Field(json_schema_extra=UNKEYED)
    """OGBench's tasks of every dataset, 1 to 5."""
    steps: Count
    """Gradient steps."""
    alpha: Positive
    """Weight of the KL to the behaviour (Eq. 4)."""
    candidates: Draws
    """N, the latents among which the policy chooses when it acts, and in targets if `target_candidates` is empty."""
    target_candidates: Draws | None = None
    """The same in targets; empty: as many as `candidates`."""
    selection: Literal["argmax", "resample"] = "argmax"
    """How one of N is chosen: the best by Q (the paper), or by its weight in Eq. 4's optimum p(z) exp(Q / alpha)."""
    temperature: Positive = 1.0
    """Of resampling, in units of alpha: below 1 it is greedier."""
    acting_noise: Share = 1.0
    """Factor on the policy's standard deviation in evaluations; 0: it acts by its mean, whatever `candidates` is."""
    kl_budget: Positive | None = None
    """Target of Eq. 4's mean KL in nats, to which alpha adapts from its initial value; empty: alpha is fixed."""
    hidden: Hidden
    """Widths of the policy's and the critic's hidden layers."""
    observation_scale: Positive | None = None
    """The networks see (s - mean) / std of the dataset, times this; empty: observations as they are."""
    observation_noise: Annotated[float, Field(ge=0, le=10), AsReal] = 0.0
    """Standard deviation of Gaussian noise on each batch's observations, in those of the dataset; none on s'."""
    critic_layer_norm: bool
    """Layer normalisation in the critic."""
    critic_start: Literal["zero", "average"] = "zero"
    """Initial critic value: `zero` (the papers), or `average`: of the mean reward, lasting or ending as in the data,
    whichever is lower."""
    critics: Annotated[int, Field(gt=0, le=64)]
    """Members of the critic ensemble."""
    aggregation: Literal["mean", "min", "lower_bound"]
    """How the ensemble becomes one number; `lower_bound`: its mean minus its standard deviation."""
    batch_size: Count
    """Transitions per step and run."""
    learning_rate: Positive
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the step size: `cosine` decays it to zero over `steps`; in fine-tuning it is constant."""
    discount: Annotated[float, Field(ge=0, lt=1), AsReal]
    """Discount factor."""
    discount_start: Annotated[float, Field(ge=0, lt=1), AsReal] | None = None
    """Initial discount factor: one minus it decays geometrically to one minus `discount` by half of `steps`; empty:
    `discount` throughout (the papers), as always in fine-tuning."""
    n_step: Annotated[int, Field(gt=0, le=100)] = 1
    """Rewards summed along the data in a target before it bootstraps from the critic (the paper: 1)."""
    target_rate: Annotated[float, Field(gt=0, le=1), AsReal]
    """Rate at which the target critic tracks the critic."""
    log_std_min: Float
    """Lower clamp of the policy's log standard deviation."""
    log_std_max: Float
    """Upper clamp of the policy's log standard deviation."""
    success_timing: Literal["pre", "post"]
    """Whether reward and success are judged in the state before or after the action."""
    precision: Literal["float32", "tf32", "bfloat16"]
    """Precision of matrix products; tf32 needs a GPU, bfloat16 a GPU or a CPU with avx512_bf16 or amx_bf16."""
    compile: bool = False
    """Compile the updates, which takes a minute and changes rounding. Needs a C++ compiler (on a GPU, Triton)."""
    seeds_per_job: Count = Field(default=1, json_schema_extra=UNKEYED)
    """Seeds trained together in one job; 8 fills a large GPU."""
    sweep: SweepSettings = Field(default=SweepSettings(), json_schema_extra=UNKEYED)
    baselines: Baselines = Field(default=Baselines(), json_schema_extra=UNKEYED)

    @model_validator(mode="after")
    def _clamps_ordered(self) -> OfflineSettings:
        if not self.log_std_min < 0 < self.log_std_max:
            raise ValueError("log_std_min < 0 < log_std_max must hold, for the policy starts at the prior (log std 0)")
        return self

    @model_validator(mode="after")
    def _discount_grows(self) -> OfflineSettings:
        if self.discount_start is not None and self.discount_start > self.discount:
            raise ValueError(f"discount_start must not be above discount, {self.discount}: it grows to that")
        return self

    def unfit(self, agent: str) -> str:
        """Why an algorithm cannot train with these, its own values, and what to do about it; empty if it can."""
        if agent == "calql" and self.discount_start is not None:
            return (
                "discount_start must be null for calql, which holds values against returns at one discount; "
                "set agents.calql.offline.discount_start to null"
            )
        for quantity in ("candidates", "alpha") if agent == "flp" else ():
            if getattr(self.sweep, quantity) and (why := self.without_effect(quantity)):
                return f"sweep.{quantity} would train one policy again and again: {why}"
        own: AlgorithmSection | None = getattr(self.baselines, agent, None)
        return "" if own is None else own.unfit(self.batch_size)

    def late(self, agent: str) -> str:
        """What an algorithm would not train in so few steps, and what to do about it; empty if it trains everything."""
        own: AlgorithmSection | None = getattr(self.baselines, agent, None)
        return "" if own is None else own.late(self.steps)

    def without_effect(self, quantity: str) -> str:
        """Why sweeping a quantity would not change the policies, and what to do about it; empty if it would."""
        if quantity == "candidates" and self.acting_noise == 0 and self.target_candidates is not None:
            return (
                "with acting_noise 0 it acts by its mean, and targets have a number of their own; raise acting_noise, "
                "or set target_candidates to null"
            )
        if quantity == "alpha" and self.kl_budget is not None:
            return "with kl_budget alpha is only where it starts, and follows from the budget; set kl_budget to null"
        return ""


class EvaluationSettings(Section):
    """How success is measured."""

    every: Count
    """Gradient steps between evaluations."""
    episodes: Count
    """Episodes per run and evaluation."""
    seed: Seed
    """Seed of the episodes: the same for every agent."""


class ReportSettings(Section):
    """The page."""

    average_last: Count
    """How many of the last evaluations the tables average."""
    bootstrap: Annotated[int, Field(ge=100, le=10**6)]
    """Resamples of the confidence intervals."""
    title: str = "Flow Latent Policy"
    """Heading of the page."""
    tensorboard: bool = Field(default=False, json_schema_extra=UNKEYED)
    """Write live curves to results/tensorboard (the extra `tensorboard`)."""
    wandb: bool = Field(default=False, json_schema_extra=UNKEYED)
    """Send live curves to Weights & Biases (the extra `wandb`), configured by its environment variables."""


class Figure2Settings(Section):
    """The toy problem of the paper's Figure 2, which no other stage reads."""

    steps: Count = 2000
    """Gradient steps of each algorithm; the flow takes four times as many."""
    flp_alpha: Strengths = Field(default=[3.0, 1.0, 0.3, 0.1, 0.03])
    """Weights of the KL, one column of the figure each."""
    fql_alpha: Strengths = Field(default=[30.0, 10.0, 3.0, 1.0, 0.3])
    """Weights of distillation, one column of the figure each."""
    seed: Seed = 0
    """Seed of all its random numbers."""


def starts_from_flow(agent: str, offline: OfflineSettings) -> bool:
    """Whether an algorithm's policies are built on the pretrained flow, and so depend on it."""
    own = getattr(offline.baselines, agent, None)
    return agent in IN_LATENTS or getattr(own, "flow", None) == "pretrained"


def offline_steps(agent: str, offline: OfflineSettings) -> int:
    """Gradient steps of an algorithm's offline stage: none if it only learns online."""
    return 0 if agent in ONLINE_ONLY else offline.steps


def hidden_layers(agent: str, offline: OfflineSettings) -> list[list[int]]:
    """Widths of the hidden layers of an algorithm's networks, one list for each kind of network."""
    own = getattr(offline.baselines, agent, None)
    return [offline.hidden] if own is None else own.layers(offline.hidden)
