"""The baselines' own hyperparameters, one section per algorithm: `offline.baselines` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flp.params.fields import (
    AsReal,
    Count,
    Draws,
    Expectile,
    Float,
    Hidden,
    Natural,
    NonNegative,
    Positive,
    Section,
    SolverSteps,
)


class AlgorithmSection(Section):
    """An algorithm's own hyperparameters."""

    def layers(self, shared: list[int]) -> list[list[int]]:
        """Widths of the hidden layers of its networks, one list for each kind; `shared` are `offline.hidden`."""
        return [shared]

    def unfit(self, batch_size: int) -> str:
        """Why it cannot train with these and a batch of this size, and what to do about it; empty if it can."""
        return ""

    def late(self, steps: int) -> str:
        """What it would not train in so many steps, and what to do about it; empty if it trains everything."""
        return ""


def _starts_late(name: str, value: int, steps: int, what: str) -> str:
    return f"baselines.{name} is {value}: in {steps} steps {what}; lower it, or raise offline.steps"


class DiffusionSettings(AlgorithmSection):
    """What algorithms with a diffusion model of the behaviour and IDQL's value functions share."""

    expectile: Expectile = 0.9
    """Expectile of the value loss: 0.9 on the robot arm, 0.7 in mazes (FQL)."""
    value_hidden: Hidden | None = None
    """Widths of V's and Q's hidden layers, ReLU: 256×2 on the robot arm, 512×2 in mazes; empty: offline.hidden."""
    value_layer_norm: bool = False
    """Layer-normalise V's input, as IDQL's latest code does and its first does not (open); useless for two-dimensional
    observations."""
    diffusion_steps: Annotated[int, Field(gt=0, le=1000)] = 5
    """T, the number of noise levels."""
    width: Annotated[int, Field(ge=4, le=2**12)] = 256
    """Width of the noise network's residual stream; its blocks are four times as wide inside."""
    blocks: Annotated[int, Field(gt=0, le=32)] = 3
    """Residual blocks of the noise network."""
    dropout: Annotated[float, Field(ge=0, lt=1), AsReal] = 0.0
    """Dropout rate of every block's input; IDQL's code has 0.1, which takes much memory (open)."""
    weight_decay: NonNegative = 1e-4
    """Decoupled weight decay of the noise network: 1e-4 in IDQL's latest code, 0 in its first (open)."""
    cosine_steps: Count | None = None
    """Steps over which learning rates with a cosine schedule decay to zero; empty: offline.steps."""

    def layers(self, shared: list[int]) -> list[list[int]]:
        """V's and Q's, and the noise network's blocks."""
        return [self.value_hidden or shared, [self.width, 4 * self.width]]


class CACSettings(AlgorithmSection):
    """Consistency-AC (CAC, agents/ql_consistency.py), with its authors' values for D4RL's antmaze, which FQL's took."""

    eta: NonNegative = 1.0
    """Weight of Q relative to consistency; see presets/ for FQL's value per environment (antsoccer's is open)."""
    hidden: Hidden | None = None
    """Widths of the policy's and the critic's hidden layers, Mish; empty: offline.hidden (open; officially 256×3)."""
    max_backup: Draws = 10
    """Next actions drawn, over which each target critic takes its maximum."""
    normalize_target: bool = False
    """Divide the critic's targets by their standard deviation over the batch; FQL's authors did not."""
    clip_norm: Positive | None = 5.0
    """Gradient norm at which the policy's and the critic's gradients are clipped; empty: no clipping."""
    ema_rate: Annotated[float, Field(gt=0, le=1), AsReal] = 0.005
    """Rate of the policy's moving average, which gives the targets."""
    ema_every: Count = 5
    """Updates between two steps of the moving average."""
    ema_start: Natural = 1000
    """Updates before the moving average starts; until then it is the untrained policy."""
    restart: Count = 50_000
    """Updates over which noise levels grow from 2 to 150 before they restart; officially an evaluation's (open)."""
    candidates: Draws = 50
    """Actions drawn when it acts, one of which is taken with probability softmax(Q)."""

    def layers(self, shared: list[int]) -> list[list[int]]:
        """The policy's and the critic's."""
        return [self.hidden or shared]

    def unfit(self, batch_size: int) -> str:
        """A single target has no standard deviation."""
        if batch_size > 1 or not self.normalize_target:
            return ""
        return (
            "batch_size must be above 1 where baselines.cac.normalize_target divides by a batch's standard deviation; "
            "raise the one, or set the other to false"
        )

    def late(self, steps: int) -> str:
        """Until the average starts, targets come from the untrained policy."""
        what = "all targets come from the untrained policy"
        return _starts_late("cac.ema_start", self.ema_start, steps, what) if self.ema_start >= steps else ""


class CalQLSettings(AlgorithmSection):
    """Calibrated Q-learning (Cal-QL, JaxCQL); online, half of every batch is the dataset's."""

    weight: NonNegative = 5.0
    """Weight of the conservative penalty; see presets/ for FQL's value per environment (five are open)."""
    lagrange_gap: NonNegative | None = None
    """Penalty at which a learnt multiplier holds it, as FQL's in mazes (with weight 5, open); empty: no multiplier."""
    reward_scale: Positive = 10.0
    """Factor on rewards inside, by which Q is divided in the logs; FQL's, without its authors' shift (open)."""
    draws: Draws = 10
    """Actions of each kind in the penalty (uniform, the policy's here and at s'), and in targets."""
    policy_learning_rate: Positive = 1e-4
    """Adam's step size of policy and temperature, its authors' value; the critics have offline.learning_rate."""


class FAWACSettings(AlgorithmSection):
    """Flow advantage-weighted actor-critic (FQL's paper, Eq. 10)."""

    alpha: NonNegative = 3.0
    """Inverse temperature of the weights; see presets/ for FQL's value per environment (antsoccer's is open)."""
    max_weight: Positive = 100.0
    """Largest weight, as IQL's."""
    flow_steps: SolverSteps = 10
    """Euler steps of its flow."""


class FBRACSettings(AlgorithmSection):
    """Flow behaviour-regularised actor-critic (FQL's paper, Eq. 6)."""

    alpha: NonNegative = 100.0
    """Weight of flow matching relative to Q; see presets/ for FQL's value per environment (antsoccer's is open)."""
    flow_steps: SolverSteps = 10
    """Euler steps of its flow, all of which Q's gradient passes through."""


class BehaviorSource(AlgorithmSection):
    """The source of an algorithm's behaviour flow."""

    flow: Literal["joint", "pretrained"] = "joint"
    """Train the behaviour flow jointly, as the authors do, or start from the shared one."""
    flow_steps: SolverSteps = 10
    """Euler steps of its behaviour flow."""


class FQLSettings(BehaviorSource):
    """Flow Q-learning (FQL, agents/fql.py)."""

    alpha: Positive = 10.0
    """Weight of distillation; see presets/ for the authors' value per environment."""
    normalize_q: bool = False
    """Divide the actor's Q by its mean absolute value."""


class IDQLSettings(DiffusionSettings):
    """Implicit diffusion Q-learning (IDQL, jaxrl5), with batch and steps shared (open: 512, and 3M in FQL's runs)."""

    value_every: Count = 1
    """Steps of the diffusion model per step of the values: 2 in FQL's runs (3M and 1.5M), 1 in IDQL's latest code."""
    candidates: Draws = 32
    """Actions drawn from the diffusion model, the best by Q taken."""
    ema_rate: Annotated[float, Field(gt=0, le=1), AsReal] = 0.001
    """Rate at which the acting model tracks the one that is trained."""

    def late(self, steps: int) -> str:
        """The values that choose among its actions may never be trained."""
        what = "its values are never trained"
        return _starts_late("idql.value_every", self.value_every, steps, what) if self.value_every > steps else ""


class IFQLSettings(BehaviorSource):
    """Implicit flow Q-learning (FQL, agents/ifql.py)."""

    expectile: Expectile = 0.9
    """Expectile of the value loss."""
    candidates: Draws = 32
    """Actions drawn from the flow, the best by Q taken."""


class IQLSettings(AlgorithmSection):
    """Implicit Q-learning (FQL, agents/iql.py)."""

    expectile: Expectile = 0.9
    """Expectile of the value loss."""
    alpha: Positive = 10.0
    """Inverse temperature of advantage-weighted regression."""
    max_weight: Positive = 100.0
    """Largest advantage weight."""


class ReBRACSettings(AlgorithmSection):
    """ReBRAC (FQL, agents/rebrac.py)."""

    alpha_actor: NonNegative = 0.003
    """Weight of the actor's behaviour cloning."""
    alpha_critic: NonNegative = 0.01
    """Weight of the critic's behaviour penalty."""
    actor_every: Count = 2
    """Critic updates per actor update."""
    noise: NonNegative = 0.2
    """Standard deviation of target-policy noise."""
    noise_clip: NonNegative = 0.5
    """Magnitude at which target-policy noise is clipped."""


class RLPDSettings(AlgorithmSection):
    """Online learning with offline data in every batch (FQL, agents/sac.py)."""

    target_entropy: Float = -0.5
    """The policy's target entropy per dimension of the action."""
    initial_temperature: Positive = 1.0
    """Initial weight of the entropy."""


class SRPOSettings(DiffusionSettings):
    """Score-regularised policy optimisation (SRPO, SRPO.py), as FQL's authors derived it from IDQL."""

    beta: NonNegative = 0.3
    """Weight of Q's gradient against the score; see presets/ for FQL's value per environment (antsoccer's is open)."""
    actor_hidden: Hidden | None = None
    """Widths of the policy's hidden layers, ReLU; empty: offline.hidden (open; officially 256×4 in mazes, else ×2)."""
    normalize_gradient: bool = False
    """Divide Q's gradient by its root mean square over dimensions, as the official code does in mazes (open)."""
    actor_start: Natural = 0
    """Updates of model and values before the policy's first; the official code trains one after the other (open)."""

    def layers(self, shared: list[int]) -> list[list[int]]:
        """The policy's, besides the diffusion model's and the values'."""
        return [*super().layers(shared), self.actor_hidden or shared]

    def late(self, steps: int) -> str:
        """Its policy may never be trained."""
        what = "its policy is never trained"
        return _starts_late("srpo.actor_start", self.actor_start, steps, what) if self.actor_start >= steps else ""


class Baselines(Section):
    """The baselines' own hyperparameters; networks, discount, batch and learning rates are shared."""

    cac: CACSettings = CACSettings()
    calql: CalQLSettings = CalQLSettings()
    fawac: FAWACSettings = FAWACSettings()
    fbrac: FBRACSettings = FBRACSettings()
    fql: FQLSettings = FQLSettings()
    idql: IDQLSettings = IDQLSettings()
    ifql: IFQLSettings = IFQLSettings()
    iql: IQLSettings = IQLSettings()
    rebrac: ReBRACSettings = ReBRACSettings()
    rlpd: RLPDSettings = RLPDSettings()
    srpo: SRPOSettings = SRPOSettings()
