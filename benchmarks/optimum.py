"""A task whose parts take several steps each, as a small decision process with a computable optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flp import Policy
from flp.agents.flp import FLP


@dataclass(frozen=True)
class Parts:
    """A task in which a step costs as many points as parts are wrong, and which ends where none is.

    Attributes:
        start: its first state.
        wrong: how many parts are wrong in every state, `[states]`.
        after: the state that each move leads to, `[states, moves]`; where a move is impossible, the same state.
    """

    start: int
    wrong: NDArray[np.int64]
    after: NDArray[np.int64]

    def optimum(self, discount: float, steps: ArrayLike) -> NDArray[np.float64]:
        """Values of moves, `[states, moves]`: R + γ^steps max(V, stay).

        Args:
            discount: γ.
            steps: how many a move takes: one number, or `[moves]`.
        """
        lasting = discount ** np.asarray(steps, float)
        stay, while_moving = self.stay(discount), -self.wrong[:, None] * (1 - lasting) / (1 - discount)
        values = stay
        while True:
            moves = while_moving + lasting * values[self.after]
            better = np.maximum(stay, moves.max(1))
            if np.allclose(better, values, rtol=0, atol=1e-9):
                return moves
            values = better

    def stay(self, discount: float) -> NDArray[np.float64]:
        """Values of never moving again, `[states]`."""
        return -self.wrong / (1 - discount)

    def way(self, moves: NDArray[np.float64], discount: float) -> list[int]:
        """The states along the way of an optimum, `moves`, until it stays."""
        stay, way = self.stay(discount), [self.start]
        while self.wrong[way[-1]] and moves[way[-1]].max() > stay[way[-1]] + 1e-9:
            way.append(int(self.after[way[-1], moves[way[-1]].argmax()]))
        return way

    def along_the_way(self, discount: float, steps: ArrayLike) -> str:
        """How many parts are wrong along the optimal way, with the values of continuing and of staying."""
        moves, stay = self.optimum(discount, steps), self.stay(discount)
        way = self.way(moves, discount)
        stops = [f"{self.wrong[s]} wrong ({moves[s].max():.0f}, stay {stay[s]:.0f})" for s in way if self.wrong[s]]
        return ", ".join(stops) + (" | stays" if self.wrong[way[-1]] else " | solves it")

    def to_go(self) -> NDArray[np.int64]:
        """The fewest moves from each state to one where nothing is wrong, `[states]`; -1 if none lead there."""
        left = np.where(self.wrong == 0, 0, -1)
        for moves in range(len(left)):
            near = (left < 0) & (left[self.after] == moves).any(1)
            if not near.any():
                break
            left[near] = moves + 1
        return left


def compared(
    policy: Policy, task: Parts, observations: NDArray[np.float32], states: NDArray[np.int64], steps: ArrayLike
) -> list[str]:
    """A critic's values of what is observed beside the optimum's of its state, by wrong parts and by moves to go."""
    agent, discount = policy._learner, float(policy.manifest["model"]["offline"]["discount"])
    if not isinstance(agent, FLP):
        raise SystemExit(f"error: {policy.dataset}: it reads policies of FLP")
    values = np.maximum(task.stay(discount), task.optimum(discount, steps).max(1))
    with torch.inference_mode():
        seen = torch.from_numpy(observations.astype(np.float32))[None]
        said = agent.critic(seen, agent.policy(seen)[0]).mean(1)[0].numpy()
    wrong, best = task.wrong[states], values[states]
    return [f"  discount {discount} | correlation {np.corrcoef(said, best)[0, 1]:.2f}"] + [
        f"  {n} {what}, {here.sum()} states: critic {said[here].mean():.0f}, optimum {best[here].mean():.0f}"
        for what, numbers in (("wrong", wrong), ("moves to go", task.to_go()[states]))
        for n, here in ((n, numbers == n) for n in np.unique(numbers))
    ]
