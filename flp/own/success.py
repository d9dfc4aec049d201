"""A user's rule of success: parsed from one line, never run as code."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_RULE = re.compile(r"(return|info(?:\.\w+)+)(?:\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:e[-+]?\d+)?))?", re.IGNORECASE)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_EXPECTED = "write 'info.success', 'return >= 300' (or info.… with >=, >, <= or < and a number), or 'none'"


@dataclass(frozen=True)
class Success:
    """A rule; call it with a step's info and the episode's return so far.

    Attributes:
        path: the keys that lead to the value in the info; empty for the return.
        comparison: the operator; None takes the value as a truth value.
        level: the number compared with.
    """

    path: tuple[str, ...]
    comparison: str | None
    level: float

    def __call__(self, info: Mapping[str, Any], total: float) -> bool:
        """Whether a step is a success.

        Raises:
            LookupError, TypeError: the info lacks what the rule names.
            ValueError: the value is no number or truth value, or NaN.
        """
        value: Any = total
        if self.path:
            value = info
            for name in self.path:
                value = value[name]
        array = np.asarray(value)  # an array of one is a number
        if array.dtype.kind not in "biuf" or array.size != 1 or np.isnan(array).any():
            raise ValueError(f"{'.'.join(self.path)} is {value!r}, neither a number nor a truth value")
        if self.comparison is None:
            return bool(array.item())
        return _COMPARE[self.comparison](float(array.item()), self.level)


def success_rule(text: str) -> Success | None:
    """Parse a rule; None for the rule `none`.

    Raises:
        ValueError: it is not a rule.
    """
    if text.strip() == "none":
        return None
    match = _RULE.fullmatch(text.strip())
    if match is None or (match[1].lower() == "return" and match[2] is None):
        raise ValueError(f"{text!r} is no rule of success; {_EXPECTED}")
    path = tuple(match[1].split(".")[1:])
    try:
        level = float(match[3]) if match[3] else 0.0
    except ValueError:
        raise ValueError(f"{text!r}: {match[3]} is no number; {_EXPECTED}") from None
    if not math.isfinite(level):
        raise ValueError(f"{text!r}: {match[3]} is no finite number; {_EXPECTED}")
    return Success(path, match[2], level)
