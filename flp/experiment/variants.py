"""What the paper's Figures 3, 4 and 5 compare: values of one quantity, everything else equal.

A figure requested while the experiment sweeps nothing takes the paper's values. Runs that the experiment does not train
itself are trained separately (`flp offline-sweep`), so that requesting a figure changes none of its artifacts.
"""

from __future__ import annotations

from typing import Any

from flp.params.sections import OfflineSettings
from flp.system.layout import exact

QUANTITY = {"figure3": "candidates", "figure4": "alpha", "figure5": "candidates"}
PAPER: dict[str, tuple[float, ...]] = {"figure4": (0.1, 0.3, 1.0, 3.0, 10.0), "figure5": (1, 2, 4, 8, 16, 32)}
WITHOUT, WITH = 1, 4  # candidates without best-of-N, and the paper's N
# The figures whose extra runs a figure shows: N = 1 is trained once, for Figures 3 and 5.
LENDERS = {"figure3": ("figure3",), "figure4": ("figure4",), "figure5": ("figure3", "figure5")}


def given(figure: str, offline: OfflineSettings) -> list[float]:
    """The experiment's sweep of a figure's quantity; empty if there is none."""
    return list(getattr(offline.sweep, QUANTITY[figure]))


def is_implied(figure: str, offline: OfflineSettings) -> bool:
    """Whether a figure takes the paper's values because there is no sweep, which it then mentions."""
    return figure in PAPER and not given(figure, offline) and not offline.without_effect(QUANTITY[figure])


def values(figure: str, offline: OfflineSettings) -> list[float]:
    """The values that a figure compares, ascending, the experiment's own among them, or that alone if others would have
    no effect.
    """
    own: float = getattr(offline, QUANTITY[figure])
    if offline.without_effect(QUANTITY[figure]):
        return [own]
    if figure == "figure3":
        return [WITHOUT, own if own > WITHOUT else WITH]
    return sorted({own, *(given(figure, offline) or PAPER[figure])})


def extra_values(figure: str, offline: OfflineSettings) -> list[float]:
    """The values that neither the experiment nor another figure trains."""
    if figure != "figure3" and given(figure, offline):
        return []
    others = {getattr(offline, QUANTITY[figure]), *given(figure, offline)}
    others.update(*(extra_values(lender, offline) for lender in LENDERS[figure] if lender != figure))
    return [value for value in values(figure, offline) if value not in others]


def variants(offline: OfflineSettings, quantity: str, swept: list[float]) -> list[dict[str, Any]]:
    """A run's `variant`, `alpha` and `candidates` for each value except the experiment's own."""
    base = {"alpha": offline.alpha, "candidates": offline.candidates}
    others = [value for value in swept if value != base[quantity]]
    return [base | {"variant": f"{quantity}={exact(value)}", quantity: value} for value in others]
