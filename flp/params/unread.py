"""Which of the shared hyperparameters an algorithm does not read: changing them leaves its runs as they are."""

from __future__ import annotations

_ONLY_FLPS = (
    "alpha",
    "candidates",
    "target_candidates",
    "selection",
    "temperature",
    "acting_noise",
    "kl_budget",
    "log_std_min",
    "log_std_max",
)
_OF_VALUES = (
    "critic_layer_norm",
    "critic_start",
    "critics",
    "aggregation",
    "discount",
    "discount_start",
    "n_step",
    "target_rate",
)
_OWN_NORM = ("critic_layer_norm", "aggregation")  # their papers say which networks are normalised
# By algorithm, in addition to FLP's. One that is not listed here is taken to read everything.
_MORE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bc", "fbc"), _OF_VALUES),
    **dict.fromkeys(("iql", "rebrac", "ifql", "rlpd"), ("aggregation",)),  # their papers say how
    **dict.fromkeys(("idql", "srpo", "cac", "calql"), _OWN_NORM),
    **dict.fromkeys(("fql", "fawac", "fbrac"), ()),
}


def unread(agent: str, *, judged_by_values: bool = False) -> frozenset[str]:
    """Names in `offline` that make no difference to an algorithm's runs.

    Args:
        agent: the algorithm.
        judged_by_values: whether critics estimate what its policies are worth; they read the hyperparameters of values.
    """
    if agent not in _MORE:
        return frozenset()
    return frozenset(_ONLY_FLPS if judged_by_values else (*_ONLY_FLPS, *_MORE[agent]))
