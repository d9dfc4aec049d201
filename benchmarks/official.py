"""Updates of FQL's official agents, for `benchmarks.peers`: run by the Python that has JAX, without flp.

`python official.py CHECKOUT CLOCK AGENT WIDTH DEPTH BATCH OBSERVATION ACTION` prints `ready`, then for each number that
it reads the seconds of that many updates, by Python's clock of that name. As in the authors' `main.py`, every update
draws a batch.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

ROWS, EPISODE = 100_000, 1000


def patched() -> None:
    """Restore what older versions of distrax and others still look for in JAX."""
    xla, core = importlib.import_module("jax.interpreters.xla"), importlib.import_module("jax._src.core")
    if not hasattr(xla, "pytype_aval_mappings"):
        xla.pytype_aval_mappings = core.pytype_aval_mappings  # type: ignore[attr-defined]


def main() -> None:
    checkout, clock, name, *sizes = sys.argv[1:]
    width, depth, batch_size, observation, action = map(int, sizes)
    seconds = getattr(time, clock)
    sys.path.insert(0, checkout)
    patched()
    jax, np = importlib.import_module("jax"), importlib.import_module("numpy")
    config = importlib.import_module(f"agents.{name}").get_config()
    with config.unlocked():
        config.actor_hidden_dims = config.value_hidden_dims = (width,) * depth
        config.batch_size = batch_size
    random = np.random.default_rng(0)

    def drawn(columns: int) -> Any:
        return random.standard_normal((ROWS, columns)).astype(np.float32)

    data = importlib.import_module("utils.datasets").Dataset.create(
        observations=drawn(observation),
        actions=np.clip(drawn(action), -1, 1),
        next_observations=drawn(observation),
        rewards=-np.ones(ROWS, np.float32),
        masks=np.ones(ROWS, np.float32),
        terminals=np.arange(1, ROWS + 1, dtype=np.float32) % EPISODE == 0,
    )
    data.return_next_actions = name == "rebrac"
    batch = data.sample(1)
    kind = importlib.import_module("agents").agents[name]
    agent, step = kind.create(0, batch["observations"], batch["actions"], config), 0

    def take(updates: int) -> float:
        nonlocal agent, step
        start = seconds()
        for _ in range(updates):
            step += 1
            # As main.py has it for the agent whose policy moves in some updates only.
            options = {"full_update": step % config.actor_freq == 0} if name == "rebrac" else {}
            agent, _ = agent.update(data.sample(batch_size), **options)
        jax.block_until_ready(agent.network.params)
        return float(seconds() - start)

    take(4)
    print("ready", flush=True)
    for line in sys.stdin:
        print(take(int(line)), flush=True)


if __name__ == "__main__":
    main()
