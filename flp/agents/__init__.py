"""The algorithms, one file each, looked up by name."""

from __future__ import annotations

from importlib import import_module

from flp.parts.base import Agent, Spec
from flp.system.errors import FLPError


def make_agent(name: str, spec: Spec) -> Agent:
    """Build the agent of `flp/agents/{name}.py`: the one subclass of `Agent` that is defined there.

    Raises:
        FLPError: the module breaks the contract of docs/adding-an-algorithm.md; the message says how.

    There is deliberately no table of algorithms: it would be part of every run's key, so that a new algorithm would
    make the others' runs stale.
    """
    module = import_module(f"flp.agents.{name}")
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        found = " and ".join(each.__name__ for each in defined) or "none"
        raise FLPError(f"{module.__name__} must define one subclass of Agent, but defines {found}")
    if defined[0].uses_latents and spec.flow is None:
        raise FLPError(
            f"{module.__name__} has uses_latents, so '{name}' must be in IN_LATENTS (flp/params/sections.py) for the "
            "flow and the latents to be its inputs"
        )
    return defined[0](spec)
