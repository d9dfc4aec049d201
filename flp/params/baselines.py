"""What each baseline has for itself, one section per algorithm: `offline.baselines` of params.yaml."""

from __future__ import annotations

from typing import Literal

from flp.params.fields import Count, Expectile, NonNegative, Positive, Section


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


class FQL(Section):
    """Flow Q-learning (FQL, agents/fql.py)."""

    alpha: Positive = 10.0
    """Weight of distillation; see presets/ for the authors' value per environment."""
    normalize_q: bool = False
    """Divide the actor's Q by its mean absolute value."""
    flow: Literal["joint", "pretrained"] = "joint"
    """Train the behaviour flow jointly, as the authors do, or start from the shared one."""
    flow_steps: Count = 10
    """Euler steps of its behaviour flow."""


class IFQL(Section):
    """Implicit flow Q-learning (FQL, agents/ifql.py)."""

    expectile: Expectile = 0.9
    """Expectile of the value loss."""
    candidates: Count = 32
    """Actions drawn from the flow, the best by Q taken."""
    flow: Literal["joint", "pretrained"] = "joint"
    """Train the behaviour flow jointly, as the authors do, or start from the shared one."""
    flow_steps: Count = 10
    """Euler steps of its behaviour flow."""


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


class Baselines(Section):
    """What each baseline has for itself; networks, discount, batch and rates are shared."""

    fawac: FAWAC = FAWAC()
    fbrac: FBRAC = FBRAC()
    fql: FQL = FQL()
    ifql: IFQL = IFQL()
    iql: IQL = IQL()
    rebrac: ReBRAC = ReBRAC()
