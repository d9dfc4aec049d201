"""The algorithms, one file each; a new one is a file and a line here."""

from __future__ import annotations

from importlib import import_module

from flp.agents.base import Agent, Spec

AGENTS = {
    "flp": "FLP",
    "bc": "BC",
    "fbc": "FBC",
    "iql": "IQL",
    "rebrac": "ReBRAC",
    "ifql": "IFQL",
    "fql": "FQL",
}


def make_agent(name: str, spec: Spec) -> Agent:
    """Build an agent by its lower-case name. Modules load by need: each is in its own runs' keys only."""
    agent: Agent = getattr(import_module(f"flp.agents.{name}"), AGENTS[name])(spec)
    return agent
