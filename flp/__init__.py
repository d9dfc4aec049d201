"""Flow Latent Policies: offline reinforcement learning in the latent space of a frozen flow.

What one imports is here; it loads PyTorch when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flp.data.environments import make_environment
    from flp.data.load import Dataset
    from flp.library.frozen import BehaviorFlow, load_flow
    from flp.library.policy import Policy, load_policy
    from flp.library.trial import Trial, evaluate, load_dataset
    from flp.system.errors import FLPError

__version__ = "0.1.0"
__all__ = [
    "BehaviorFlow",
    "Dataset",
    "FLPError",
    "Policy",
    "Trial",
    "evaluate",
    "load_dataset",
    "load_flow",
    "load_policy",
    "make_environment",
]
_WHERE = {
    "BehaviorFlow": "library.frozen",
    "Dataset": "data.load",
    "FLPError": "system.errors",
    "Policy": "library.policy",
    "Trial": "library.trial",
    "evaluate": "library.trial",
    "load_dataset": "library.trial",
    "load_flow": "library.frozen",
    "load_policy": "library.policy",
    "make_environment": "data.environments",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'flp' has no attribute {name!r}")
    return getattr(import_module(f"flp.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
