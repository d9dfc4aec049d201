"""What operations cost on this machine: as measured, estimated from what was measured, or by default.

`flp.supervision.stopwatch` measures them, and `flp bench` saves them to `.flp/bench.json`.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from flp.supervision.operations import Operation
from flp.system.artifacts import read_entries, write_json

FILE = Path(".flp/bench.json")


class CostModel:
    """What is known of operations' times.

    Args:
        measured: seconds of the operations that were measured.
        contention: how many times longer a core takes when all are busy, if that was measured.
    """

    def __init__(self, measured: dict[Operation, float] | None = None, contention: float | None = None) -> None:
        self.measured: dict[Operation, float] = measured or {}
        self.contention = contention

    def seconds(self, operation: Operation) -> float:
        """Seconds of an operation, by the first of these estimates that can be made."""
        estimates = (self._measured, self._interpolated, self._in_other_settings, self._proportional)
        known = (seconds for estimate in estimates if (seconds := estimate(operation)) is not None)
        return next(known, operation.default * self.slowdown(operation.kind, operation.setting))

    def source(self, operation: Operation) -> str:
        """How its seconds are known: `measured`, `estimated` from others of its kind, or by `default`."""
        if operation in self.measured:
            return "measured"
        return "estimated" if any(other.kind == operation.kind for other in self.measured) else "default"

    def settings(self) -> list[str]:
        """The settings in which updates were measured."""
        return list(dict.fromkeys(operation.setting for operation in self.measured if operation.kind == "update"))

    def slowdown(self, kind: str, setting: str | None = None) -> float:
        """How much slower than by default this machine is at operations of a kind, in this setting if it was used."""
        ratios = [(op.setting == setting, took / op.default) for op, took in self.measured.items() if op.kind == kind]
        alike = [ratio for same, ratio in ratios if same] or [ratio for _, ratio in ratios]
        return geometric_mean(alike) if alike else 1.0

    def _measured(self, operation: Operation) -> float | None:
        return self.measured.get(operation)

    def _interpolated(self, operation: Operation) -> float | None:
        """By a line through the fewest and the most runs at once that were measured."""
        points = self._other_runs(operation)
        if len(points) < 2:
            return None
        (few, least), (many, most) = points[0], points[-1]
        return max(least, least + (most - least) * (operation.runs - few) / (many - few))

    def _in_other_settings(self, operation: Operation) -> float | None:
        """Measured or interpolated in another setting, times the relative cost of this one."""
        for other in self._settings_by_likeness(operation):
            there = replace(operation, setting=other)
            for estimate in (self._measured, self._interpolated):
                if (seconds := estimate(there)) is not None:
                    return seconds * self._relative_cost(operation.setting, other)
        return None

    def _proportional(self, operation: Operation) -> float | None:
        """In proportion to the one number of runs that was measured, in this setting or another."""
        for setting in (operation.setting, *self._settings_by_likeness(operation)):
            if points := self._other_runs(replace(operation, setting=setting)):
                (runs, seconds), *_ = points
                return seconds * operation.runs / runs * self._relative_cost(operation.setting, setting)
        return None

    def _other_runs(self, operation: Operation) -> list[tuple[int, float]]:
        """The numbers of runs at which the operation was measured, ascending, with their seconds."""
        alike = ((op.runs, took) for op, took in self.measured.items() if replace(op, runs=operation.runs) == operation)
        return sorted(alike)

    def _settings_by_likeness(self, operation: Operation) -> list[str]:
        """The other settings of an update, those of the same precision first."""
        if operation.kind != "update":
            return []
        precision = operation.setting.partition(" ")[0]
        others = [setting for setting in self.settings() if setting != operation.setting]
        return sorted(others, key=lambda name: (name.partition(" ")[0] != precision, len(name)))

    def _relative_cost(self, setting: str, base: str) -> float:
        """Time of an update in a setting relative to a base, by the updates that were measured in both.

        Where there are none, compilation is taken to help as much as it does in other precisions.
        """
        if setting == base:
            return 1.0
        pairs = [(setting, base)]
        if setting.split()[0] == base.split()[0]:
            compiled = [(name, name.split()[0]) for name in self.settings() if "compiled" in name]
            pairs += compiled if "compiled" in setting else [(plain, name) for name, plain in compiled]
        return next((geometric_mean(ratios) for pair in pairs if (ratios := list(self._ratios(*pair)))), 1.0)

    def _ratios(self, setting: str, base: str) -> Iterator[float]:
        for operation, seconds in self.measured.items():
            if operation.kind == "update" and operation.setting == base:
                in_setting = self.measured.get(replace(operation, setting=setting))
                if in_setting is not None:
                    yield in_setting / seconds

    def save(self, **more: Any) -> None:
        """Write it to `.flp/bench.json`, with the machine that it holds for."""
        operations = [asdict(operation) | {"seconds": seconds} for operation, seconds in self.measured.items()]
        about = {"machine": machine(), "when": time.strftime("%Y-%m-%d %H:%M"), "contention": self.contention, **more}
        FILE.parent.mkdir(parents=True, exist_ok=True)
        write_json(FILE, about | {"operations": operations})


def load_costs() -> tuple[CostModel, dict[str, Any]] | None:
    """What was measured on this very machine, and all else in its file; None where there is no such readable file."""
    entries = read_entries(FILE)
    if entries.get("machine") != machine():
        return None
    types = {name: type(value) for name, value in asdict(Operation("")).items()}
    try:
        measured = {
            Operation(**{name: kind(entry[name]) for name, kind in types.items()}): float(entry["seconds"])
            for entry in entries["operations"]
        }
        contention = None if entries["contention"] is None else float(entries["contention"])
    except (KeyError, TypeError, ValueError):
        return None
    numbers = [number for op, took in measured.items() for number in (took, op.default, op.runs)]
    if not all(0 < number < 1e9 for number in (*numbers, contention or 1.0)):
        return None
    return CostModel(measured, contention), entries


def machine() -> dict[str, Any]:
    """What a measurement holds for."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    return {
        "host": platform.node(),
        "cpu": next(models, platform.machine()),
        "cores": cores,
        "torch": version("torch"),
    }
