"""The operations an experiment consists of, down to an update or an environment step, and what each costs by default.

The default is the time on one typical core (AMD EPYC, Zen 4), from the sizes of networks and batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

from flp.data.environments import EnvironmentSpec
from flp.params.loading import Params
from flp.params.sections import OfflineSettings
from flp.system.hashing import hash_of

COMPILE_SECONDS = 35.0
# Floating-point operations per second; seconds per activation, and per call of a network.
_FLOPS, _PER_ACTIVATION, _PER_CALL = 200e9, 2.5e-9, 0.06e-3
# Passes of the batch through a network as wide as the hidden layers: in an update, and in a choice of actions.
_PASSES: dict[str, tuple[float, float]] = {
    "flp": (19, 21),
    "bc": (3, 0.5),
    "fbc": (3.5, 2.5),
    "iql": (13.5, 0.5),
    "rebrac": (12, 0.5),
    "idql": (16, 100),
    "srpo": (23, 0.5),
    "cac": (80, 70),
    "fawac": (28, 2.5),
    "fbrac": (50, 2.5),
    "calql": (105, 0.5),
    "rlpd": (14, 0.5),
    "ifql": (13, 80),
    "fql": (22, 0.5),
}
_PASSES_OF_OTHERS = 20.0, 0.5  # of an algorithm nobody has measured: a policy, two critics and their targets
# Relative cost of an update on such a core, which has bfloat16 arithmetic (docs/performance.md).
_IN_SETTING = {"float32 compiled": 0.8, "bfloat16": 0.9, "bfloat16 compiled": 0.5}
_STEP_SECONDS = {"pointmaze": 1e-4, "antmaze": 6e-4, "humanoidmaze": 8e-4, "antsoccer": 8e-4, "own": 1e-4}
_ARM_STEP_SECONDS, _RESET_SECONDS = 1.2e-3, 10e-3
_SOLVER_EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
# Fields of `offline` that do not change an update's time, or that are compared. Of the others real numbers do not.
_IRRELEVANT = (
    "agents",
    "tasks",
    "steps",
    "seeds_per_job",
    "sweep",
    "baselines",
    "precision",
    "compile",
    "success_timing",
)


@dataclass(frozen=True)
class Operation:
    """Something that is timed.

    Attributes:
        kind: update, compile, act, flow, invert, step, reset or generate.
        of: the algorithm, or the dataset.
        shape: a hash of everything else that its time depends on.
        setting: precision and compilation, such as `bfloat16 compiled`.
        runs: how many runs at once.
        default: seconds on one typical core.
    """

    kind: str
    of: str = ""
    shape: str = ""
    setting: str = ""
    runs: int = 1
    default: float = field(default=1.0, compare=False)


def setting_of(offline: OfflineSettings) -> str:
    """Precision and compilation in words."""
    return f"{offline.precision} compiled" if offline.compile else offline.precision


class Operations:
    """The operations on one dataset, with the parameters of the dataset or of an algorithm on it."""

    def __init__(self, spec: EnvironmentSpec, params: Params) -> None:
        self.spec, self.params = spec, params
        flow = params.flow
        solved = flow.solver, flow.solver_steps, flow.batch_size
        self.flow_shape = hash_of(self._sizes, flow.hidden, flow.encoder, flow.draws, *solved)

    @property
    def _sizes(self) -> list[int]:
        return [self.spec.observation_dim, self.spec.action_dim]

    def update(self, agent: str, runs: int = 1, setting: str = "") -> Operation:
        """An update of this many runs at once, in the parameters' own setting if none is given."""
        offline = self.params.offline
        setting = setting or setting_of(offline)
        passes, _ = _PASSES.get(agent, _PASSES_OF_OTHERS)
        seconds = self._pass_seconds(offline.hidden, offline.batch_size) * passes * runs
        seconds *= _IN_SETTING.get(setting, 1.0)
        if agent == "flp":
            seconds *= (8 + (offline.target_candidates or offline.candidates)) / 12
        return Operation("update", agent, self._shape(agent), setting, runs, seconds)

    def compilation(self, agent: str, setting: str = "") -> Operation:
        """The compilation of an update."""
        return replace(self.update(agent, 1, setting), kind="compile", default=COMPILE_SECONDS)

    def act(self, agent: str, runs: int = 1, episodes: int = 1) -> Operation:
        """A choice of actions for every episode of every run."""
        _, passes = _PASSES.get(agent, _PASSES_OF_OTHERS)
        seconds = self._pass_seconds(self.params.offline.hidden, runs * episodes) * passes
        return Operation("act", agent, self._shape(agent, episodes), "", runs, seconds)

    def flow(self) -> Operation:
        """A step of flow matching."""
        flow = self.params.flow
        forward = self._pass_seconds(flow.hidden, flow.draws * flow.batch_size) + self._encoder_seconds(flow.batch_size)
        return Operation("flow", "", self.flow_shape, "", 1, 3 * forward)

    def inversion(self) -> Operation:
        """The inversion of one action, and the way back."""
        flow = self.params.flow
        evaluations = 2 * flow.solver_steps * _SOLVER_EVALUATIONS[flow.solver]
        seconds = evaluations * self._pass_seconds(flow.hidden, 1, 0.0) + 2 * self._encoder_seconds(1, 0.0)
        return Operation("invert", "", self.flow_shape, "", 1, seconds)

    def step(self) -> Operation:
        """A step of the environment."""
        return self._of_environment("step", self._step_seconds)

    def reset(self) -> Operation:
        """A reset of the environment."""
        return self._of_environment("reset", _RESET_SECONDS)

    def generation(self) -> Operation:
        """A row of generated data."""
        return self._of_environment("generate", 1.3 * self._step_seconds)

    @property
    def _step_seconds(self) -> float:
        kind = self.spec.dataset.partition("-")[0] if self.spec.of_ogbench else "own"
        return _STEP_SECONDS.get(kind, _ARM_STEP_SECONDS)

    def _of_environment(self, kind: str, seconds: float) -> Operation:
        return Operation(kind, self.spec.dataset, default=seconds)

    def _encoder_seconds(self, batch: int, per_call: float = _PER_CALL) -> float:
        """Seconds of a batch's pass through the flow's encoder, if it has one."""
        encoder = self.params.flow.encoder
        return self._pass_seconds(encoder, batch, per_call) if encoder else 0.0

    def _pass_seconds(self, hidden: list[int], batch: int, per_call: float = _PER_CALL) -> float:
        """Seconds of a batch's pass through a network."""
        operations = 2 * batch * sum(a * b for a, b in pairwise([sum(self._sizes), *hidden, 1]))
        return per_call + operations / _FLOPS + batch * sum(hidden) * _PER_ACTIVATION

    def _shape(self, agent: str, *more: int) -> str:
        offline = self.params.offline.model_dump(mode="json", exclude=set(_IRRELEVANT))
        own = self.params.offline.baselines.model_dump(mode="json").get(agent, {})
        sizes = [{k: v for k, v in part.items() if not isinstance(v, float | None)} for part in (offline, own)]
        return hash_of(self._sizes, sizes, self.flow_shape, *more)
