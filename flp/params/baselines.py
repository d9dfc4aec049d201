"""What each baseline has for itself, one section per algorithm: `offline.baselines` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flp.params.fields import AsReal, Count, Expectile, Float, Hidden, Natural, NonNegative, Positive, Section


class Diffusion(Section):
    """What algorithms with a diffusion model of the behaviour and IDQL's values share."""

    expectile: Expectile = 0.9
    """Expectile of the value loss: 0.9 on the robot arm, 0.7 in mazes (FQL)."""
    value_hidden: Hidden | None = None
    """Widths of V's and Q's hidden layers, ReLU: 256×2 on the robot arm, 512×2 in mazes; empty: offline.hidden."""
    value_layer_norm: bool = False
    """Normalise what V sees over its dimensions, as IDQL's last code does, its first not (open); no use in two."""
    diffusion_steps: Annotated[int, Field(gt=0, le=1000)] = 5
    """T, the levels of noise."""
    width: Annotated[int, Field(ge=4, le=2**12)] = 256
    """Width of the noise network's residual stream; its blocks are four times as wide inside."""
    blocks: Annotated[int, Field(gt=0, le=32)] = 3
    """Residual blocks of the noise network."""
    dropout: Annotated[float, Field(ge=0, lt=1), AsReal] = 0.0
    """Share of every block's inputs that is dropped in training; IDQL's code has 0.1, at much memory (open)."""
    weight_decay: NonNegative = 1e-4
    """Decoupled weight decay of the noise network: 1e-4 in IDQL's last code, 0 in its first (open)."""
    cosine_steps: Count | None = None
    """Steps over which rates with a cosine fall to zero; empty: offline.steps."""


class CAC(Section):
    """Consistency-AC (CAC, agents/ql_consistency.py), with what its authors took for D4RL's antmaze, as FQL's did."""

    eta: NonNegative = 1.0
    """Weight of Q beside consistency; see presets/ for FQL's value per environment (antsoccer's is open)."""
    hidden: Hidden | None = None
    """Widths of policy's and critic's hidden layers, Mish; empty: offline.hidden (open; officially 256×3)."""
    max_backup: Annotated[int, Field(gt=0, le=1024)] = 10
    """Next actions drawn, of which each target critic counts the best."""
    normalize_target: bool = False
    """Divide the critic's targets by their standard deviation in the batch; FQL's authors did not."""
    clip_norm: Positive | None = 5.0
    """Largest norm of the policy's gradient, and of the critic's; empty: any."""
    ema_rate: Annotated[float, Field(gt=0, le=1), AsReal] = 0.005
    """Rate at which the policy's average, which gives the targets, follows it."""
    ema_every: Count = 5
    """Updates between two steps of the average."""
    ema_start: Natural = 1000
    """Updates before the average begins to follow: until then it is the untrained policy."""
    restart: Count = 50_000
    """Updates in which noise levels grow from 2 to 150, time and again; officially those between evaluations (open)."""
    candidates: Annotated[int, Field(gt=0, le=1024)] = 50
    """Actions drawn when it acts, one of which is taken with probability softmax(Q)."""


class CalQL(Section):
    """Calibrated Q-learning (Cal-QL, JaxCQL); online, half of every batch is the dataset's."""

    weight: NonNegative = 5.0
    """Weight of the conservative penalty; see presets/ for FQL's value per environment (five are open)."""
    lagrange_gap: NonNegative | None = None
    """Penalty that a learnt factor of the weight holds it at, as FQL's in mazes (weight 5 then, open); empty: none."""
    reward_scale: Positive = 10.0
    """What rewards are multiplied by inside, and Q in the logs divided by; FQL's, without its authors' shift (open)."""
    draws: Annotated[int, Field(gt=0, le=1024)] = 10
    """Actions of each kind in the penalty (uniform, the policy's here and at s'), and in targets."""
    policy_learning_rate: Positive = 1e-4
    """Adam's step size of policy and temperature, its authors'; the critics have offline.learning_rate."""


class FAWAC(Section):
    """Flow advantage-weighted actor-critic (FQL's paper, Eq. 10)."""

    alpha: NonNegative = 3.0
    """Inverse temperature of the weights; see presets/ for FQL's value per environment (antsoccer's is open)."""
    max_weight: Positive = 100.0
    """Largest weight, as IQL's."""
    flow_steps: Count = 10
    """Euler steps of its flow."""


class FBRAC(Section):
    """Flow behaviour-regularised actor-critic (FQL's paper, Eq. 6)."""

    alpha: NonNegative = 100.0
    """Weight of flow matching beside Q; see presets/ for FQL's value per environment (antsoccer's is open)."""
    flow_steps: Count = 10
    """Euler steps of its flow, all of which Q's gradient passes through."""


class BehaviorSource(Section):
    """Where an algorithm's behaviour flow comes from."""

    flow: Literal["joint", "pretrained"] = "joint"
    """Train the behaviour flow jointly, as the authors do, or start from the shared one."""
    flow_steps: Count = 10
    """Euler steps of its behaviour flow."""


class FQL(BehaviorSource):
    """Flow Q-learning (FQL, agents/fql.py)."""

    alpha: Positive = 10.0
    """Weight of distillation; see presets/ for the authors' value per environment."""
    normalize_q: bool = False
    """Divide the actor's Q by its mean absolute value."""


class IDQL(Diffusion):
    """Implicit diffusion Q-learning (IDQL, jaxrl5), with batch and steps shared (open: 512, and 3M in FQL's runs)."""

    value_every: Count = 1
    """Steps of the model to one of the values: 2 in FQL's runs (3M and 1.5M), 1 in IDQL's last code."""
    candidates: Count = 32
    """Actions drawn from the diffusion model, the best by Q taken."""
    ema_rate: Annotated[float, Field(gt=0, le=1), AsReal] = 0.001
    """Rate at which the model that acts follows the one that is trained."""


class IFQL(BehaviorSource):
    """Implicit flow Q-learning (FQL, agents/ifql.py)."""

    expectile: Expectile = 0.9
    """Expectile of the value loss."""
    candidates: Count = 32
    """Actions drawn from the flow, the best by Q taken."""


class IQL(Section):
    """Implicit Q-learning (FQL, agents/iql.py)."""

    expectile: Expectile = 0.9
    """Expectile of the value loss."""
    alpha: Positive = 10.0
    """Inverse temperature of advantage-weighted regression."""
    max_weight: Positive = 100.0
    """Largest advantage weight."""


class ReBRAC(Section):
    """ReBRAC (FQL, agents/rebrac.py)."""

    alpha_actor: NonNegative = 0.003
    """Weight of the actor's behaviour cloning."""
    alpha_critic: NonNegative = 0.01
    """Weight of the critic's behaviour penalty."""
    actor_every: Count = 2
    """Critic updates per actor update."""
    noise: NonNegative = 0.2
    """Target-policy noise, standard deviation."""
    noise_clip: NonNegative = 0.5
    """Largest target-policy noise."""


class RLPD(Section):
    """Online learning with offline data in every batch (FQL, agents/sac.py)."""

    target_entropy: Float = -0.5
    """The policy's target entropy per dimension of the action."""
    initial_temperature: Positive = 1.0
    """Weight of the entropy at first."""


class SRPO(Diffusion):
    """Score-regularised policy optimisation (SRPO, SRPO.py), as FQL's authors made it from IDQL."""

    beta: NonNegative = 0.3
    """Weight of Q's gradient beside the score; see presets/ for FQL's value per environment (antsoccer's is open)."""
    actor_hidden: Hidden | None = None
    """Widths of the policy's hidden layers, ReLU; empty: offline.hidden (open; officially 256×4 in mazes, else ×2)."""
    normalize_gradient: bool = False
    """Divide Q's gradient by its root mean square over dimensions, as the official code does in mazes (open)."""
    actor_start: Natural = 0
    """Updates of model and values before the policy moves; the official code trains one after the other (open)."""


class Baselines(Section):
    """What each baseline has for itself; networks, discount, batch and rates are shared."""

    cac: CAC = CAC()
    calql: CalQL = CalQL()
    fawac: FAWAC = FAWAC()
    fbrac: FBRAC = FBRAC()
    fql: FQL = FQL()
    idql: IDQL = IDQL()
    ifql: IFQL = IFQL()
    iql: IQL = IQL()
    rebrac: ReBRAC = ReBRAC()
    rlpd: RLPD = RLPD()
    srpo: SRPO = SRPO()
