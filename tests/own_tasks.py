"""Logs of a pendulum that nobody made for these tests: gymnasium's own, with a simple noisy controller."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import yaml
from repository import REPO

TINY: dict[str, dict[str, Any]] = {
    "flow": {"hidden": [16], "steps": 40, "validate_every": 20, "batch_size": 32, "solver_steps": 2},
    "invert": {"likelihood_samples": 16, "max_roundtrip_error": 100.0},
    "offline": {"steps": 20, "hidden": [16], "batch_size": 16},
    "online": {"steps": 8},
    "evaluation": {"every": 20, "episodes": 2},
    "report": {"bootstrap": 100, "average_last": 1},
}


def swing(observation: Any, noise: float) -> np.ndarray:
    """Pump energy in, balance near the top; noisily."""
    cosine, sine, speed = observation
    angle = np.arctan2(sine, cosine)
    torque = -10 * angle - 2 * speed if abs(angle) < 0.5 else 2 * np.sign(speed)
    return np.clip([torque + noise], -2, 2).astype(np.float32)


def logged(episodes: int = 6, steps: int = 50, noise: float = 1.0) -> dict[str, np.ndarray]:
    """Transitions in D4RL's layout."""
    env, rng = gymnasium.make("Pendulum-v1", max_episode_steps=steps), np.random.default_rng(0)
    rows: dict[str, list[Any]] = {}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        cut = False
        while not cut:
            action = swing(observation, rng.normal(0, noise))
            after, reward, end, cut, _ = env.step(action)
            row = {"observations": observation, "actions": action, "rewards": reward, "terminals": end}
            for key, value in (row | {"timeouts": cut, "next_observations": after}).items():
                rows.setdefault(key, []).append(value)
            observation = after
    env.close()
    return {key: np.array(values) for key, values in rows.items()}


def experiment(tasks: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """The default experiment on tasks of one's own, at a scale of seconds."""
    values: dict[str, Any] = yaml.safe_load((REPO / "params.yaml").read_text())
    for section, settings in TINY.items():
        values[section] |= settings
    for section, settings in changes.items():
        values[section] |= settings
    return values | {"tasks": tasks, "datasets": list(tasks)}
