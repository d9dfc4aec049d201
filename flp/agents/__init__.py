"""The algorithms, one file each, looked up by name."""

from __future__ import annotations

from importlib import import_module

from flp.parts.base import Agent, Spec


def make_agent(name: str, spec: Spec) -> Agent:
    """Build the agent of `flp/agents/{name}.py`: the one subclass of `Agent` that is defined there.

    There is deliberately no table of algorithms: it would be part of every run's key, so that a new algorithm would
    make the others' runs stale.
    """
    module = import_module(f"flp.agents.{name}")
    (agent_class,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module.__name__
    ]
    return agent_class(spec)
