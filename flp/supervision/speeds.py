"""How long pieces of work take: as measured on this machine, reckoned from what was, or as on a usual core.

A piece is as small as an update, or a step in an environment; `flp.supervision.stopwatch` measures them, and
`flp bench` keeps what it found in `.flp/bench.json`.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from flp.data.environments import EnvironmentSpec
from flp.params.loading import Params
from flp.params.sections import Offline
from flp.system.artifacts import read_entries, write_json
from flp.system.hashing import hash_of

FILE = Path(".flp/bench.json")
CROWDING = "crowding"  # the piece that is no time: how much slower a core is when all are busy
# A usual core (AMD EPYC, Zen 4): products per second, seconds for every number between them and for a layer's start.
_PRODUCTS, _NUMBER, _START = 200e9, 2.5e-9, 0.06e-3
# Passes of the batch through a network as wide as the hidden layers: in an update, and in a choice of actions.
_PASSES: dict[str, tuple[float, float]] = {
    "flp": (19, 21),
    "bc": (3, 0.5),
    "fbc": (3.5, 2.5),
    "iql": (13.5, 0.5),
    "rebrac": (12, 0.5),
    "idql": (16, 100),
    "srpo": (23, 0.5),
    "cac": (80, 70),
    "fawac": (28, 2.5),
    "fbrac": (50, 2.5),
    "calql": (105, 0.5),
    "rlpd": (14, 0.5),
    "ifql": (13, 80),
    "fql": (22, 0.5),
}
_PASSES_OF_OTHERS = 20.0, 0.5  # of an algorithm that nobody has measured yet: a policy, two critics and their targets
# What other settings make of an update's time on such a core, which computes in bfloat16 itself (docs/performance.md).
_IN_SETTING = {"float32 compiled": 0.8, "bfloat16": 0.9, "bfloat16 compiled": 0.5}
_STEP = {"pointmaze": 1e-4, "antmaze": 6e-4, "humanoidmaze": 8e-4, "antsoccer": 8e-4, "own": 1e-4}
_ARM, _RESET = 1.2e-3, 10e-3
COMPILE = 35.0
# Fields of `offline` that shape no update's time, or are compared; and of all that are left real numbers shape none.
_ASIDE = ("agents", "tasks", "steps", "seeds_per_job", "sweep", "baselines", "precision", "compile", "success_timing")


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        kind: update, compile, act, flow, invert, step, reset or generate.
        of: the algorithm, or the dataset.
        shape: all else that its time depends on, as a hash.
        setting: precision and compilation, such as `bfloat16 compiled`.
        runs: how many at once.
        usual: seconds on one usual core.
    """

    kind: str
    of: str = ""
    shape: str = ""
    setting: str = ""
    runs: int = 1
    usual: float = field(default=1.0, compare=False)


def setting_of(offline: Offline) -> str:
    """Precision and compilation in words."""
    return offline.precision + " compiled" * offline.compile


def machine() -> dict[str, Any]:
    """What a measurement holds for."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    cores = len(os.sched_getaffinity(0))
    return {"host": platform.node(), "cpu": model, "cores": cores, "torch": version("torch")}


class Pieces:
    """The pieces of one dataset's work, with the parameters of the dataset or of an algorithm on it."""

    def __init__(self, spec: EnvironmentSpec, params: Params) -> None:
        self.spec, self.params = spec, params
        flow = params.flow
        solved = flow.solver, flow.solver_steps, flow.batch_size
        self.flow_shape = hash_of(self._sizes, flow.hidden, flow.encoder, flow.draws, *solved)

    @property
    def _sizes(self) -> list[int]:
        return [self.spec.observation_dim, self.spec.action_dim]

    def update(self, agent: str, runs: int = 1, setting: str = "") -> Piece:
        """An update of so many runs at once, in the setting of the parameters if none is given."""
        offline = self.params.offline
        setting = setting or setting_of(offline)
        passes, _ = _PASSES.get(agent, _PASSES_OF_OTHERS)
        usual = self._passes(offline.hidden, offline.batch_size) * passes * runs
        usual *= _IN_SETTING.get(setting, 1.0)
        if agent == "flp":
            usual *= (8 + (offline.target_candidates or offline.candidates)) / 12
        return Piece("update", agent, self._shape(agent), setting, runs, usual)

    def compilation(self, agent: str, setting: str = "") -> Piece:
        """The compilation of an update."""
        return replace(self.update(agent, 1, setting), kind="compile", usual=COMPILE)

    def act(self, agent: str, runs: int = 1, episodes: int = 1) -> Piece:
        """A choice of actions for every episode of every run."""
        _, passes = _PASSES.get(agent, _PASSES_OF_OTHERS)
        usual = self._passes(self.params.offline.hidden, runs * episodes) * passes
        return Piece("act", agent, self._shape(agent, episodes), "", runs, usual)

    def flow(self) -> Piece:
        """A step of flow matching."""
        flow = self.params.flow
        passed = self._passes(flow.hidden, flow.draws * flow.batch_size) + self._encoded(flow.batch_size)
        return Piece("flow", "", self.flow_shape, "", 1, 3 * passed)

    def inversion(self) -> Piece:
        """An action inverted and mapped back."""
        flow = self.params.flow
        evaluations = 2 * flow.solver_steps * {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}[flow.solver]
        passed = evaluations * self._passes(flow.hidden, 1, start=0.0) + 2 * self._encoded(1, start=0.0)
        return Piece("invert", "", self.flow_shape, "", 1, passed)

    def step(self) -> Piece:
        """A step in the environment."""
        return self._of_environment("step", self._step)

    def reset(self) -> Piece:
        """A reset of the environment."""
        return self._of_environment("reset", _RESET)

    def generation(self) -> Piece:
        """A row of generated data."""
        return self._of_environment("generate", 1.3 * self._step)

    @property
    def _step(self) -> float:
        return _STEP.get(self.spec.dataset.partition("-")[0] if self.spec.of_ogbench else "own", _ARM)

    def _of_environment(self, kind: str, usual: float) -> Piece:
        return Piece(kind, self.spec.dataset, usual=usual)

    def _encoded(self, batch: int, start: float = _START) -> float:
        """Seconds in which a batch goes once through the flow's encoder, where it has one."""
        encoder = self.params.flow.encoder
        return self._passes(encoder, batch, start) if encoder else 0.0

    def _passes(self, hidden: list[int], batch: int, start: float = _START) -> float:
        """Seconds in which a batch goes once through a network."""
        products = 2 * batch * sum(a * b for a, b in pairwise([sum(self._sizes), *hidden, 1]))
        return start + products / _PRODUCTS + batch * sum(hidden) * _NUMBER

    def _shape(self, agent: str, *more: int) -> str:
        offline = self.params.offline.model_dump(mode="json", exclude=set(_ASIDE))
        own = self.params.offline.baselines.model_dump(mode="json").get(agent, {})
        counted = [{k: v for k, v in part.items() if not isinstance(v, float | None)} for part in (offline, own)]
        return hash_of(self._sizes, counted, self.flow_shape, *more)


class Book:
    """What is known of pieces' times.

    Args:
        measured: seconds of the pieces that were measured.
    """

    def __init__(self, measured: dict[Piece, float] | None = None) -> None:
        self.measured: dict[Piece, float] = measured or {}

    def seconds(self, piece: Piece) -> float:
        """Seconds of a piece: measured; or by others of its like; or usual."""
        precision = piece.setting.partition(" ")[0]
        alike = sorted(self.settings(), key=lambda name: (name.partition(" ")[0] != precision, len(name)))
        for points in (2, 1):  # by a line through numbers of runs, in this setting or another; else in proportion
            for setting in dict.fromkeys([piece.setting, *(alike if piece.kind == "update" else [])]):
                if (known := self._measured(replace(piece, setting=setting), points)) is not None:
                    return known * self.gain(setting, piece.setting)
        return piece.usual * self.pace(piece.kind, piece.setting)

    def how(self, piece: Piece) -> str:
        """How its seconds are known: measured, reckoned or usual."""
        if piece in self.measured:
            return "measured"
        return "reckoned" if any(known.kind == piece.kind for known in self.measured) else "usual"

    @property
    def crowding(self) -> float:
        """How many times longer a core takes when all are busy."""
        return max(1.0, self.measured.get(Piece(CROWDING), 1.0))

    def settings(self) -> list[str]:
        """Those in which updates were measured."""
        return list(dict.fromkeys(piece.setting for piece in self.measured if piece.kind == "update"))

    def gain(self, setting: str, other: str) -> float:
        """By which factor updates take longer in another setting, by those that were measured in both.

        Where none was, compilation counts as it does in other precisions.
        """
        if setting == other:
            return 1.0
        pairs = [(setting, other)]
        if setting.split()[0] == other.split()[0]:
            ways = [(name.split()[0], name) for name in self.settings() if "compiled" in name]
            pairs += ways if "compiled" in other else [(there, here) for here, there in ways]
        for here, there in pairs:
            ratios = [
                self.measured[as_there] / seconds
                for piece, seconds in self.measured.items()
                if piece.kind == "update" and piece.setting == here
                if (as_there := replace(piece, setting=there)) in self.measured
            ]
            if ratios:
                return geometric_mean(ratios)
        return 1.0

    def _measured(self, piece: Piece, points: int = 1) -> float | None:
        """Its seconds, or what at least so many other numbers of runs say."""
        if piece in self.measured:
            return self.measured[piece]
        like = sorted((of.runs, took) for of, took in self.measured.items() if replace(of, runs=piece.runs) == piece)
        if len(like) < points:
            return None
        (few, least), (many, most) = like[0], like[-1]
        if few == many:
            return least * piece.runs / few
        return max(least, least + (most - least) * (piece.runs - few) / (many - few))

    def pace(self, kind: str, setting: str | None = None) -> float:
        """How much slower than usual this machine was at pieces of a kind, in this setting if any was in it."""
        ratios = [(of.setting == setting, took / of.usual) for of, took in self.measured.items() if of.kind == kind]
        alike = [ratio for same, ratio in ratios if same] or [ratio for _, ratio in ratios]
        return geometric_mean(alike) if alike else 1.0

    def keep(self, file: Path = FILE, **more: Any) -> None:
        """Write it down, with the machine that it holds for."""
        pieces = [asdict(piece) | {"seconds": seconds} for piece, seconds in self.measured.items()]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"machine": machine(), "when": time.strftime("%Y-%m-%d %H:%M"), **more, "pieces": pieces})


def kept(file: Path = FILE) -> tuple[Book, dict[str, Any]] | None:
    """What was measured on this very machine, and what is told beside; None where nothing was, or it cannot be read."""
    found = read_entries(file)
    if found.get("machine") != machine():
        return None
    types = {name: type(value) for name, value in asdict(Piece("")).items()} | {"seconds": float}
    try:
        entries = [{name: kind(entry[name]) for name, kind in types.items()} for entry in found["pieces"]]
        pieces = {Piece(**entry): seconds for entry in entries if (seconds := entry.pop("seconds"))}
    except (KeyError, TypeError, ValueError):
        return None
    sound = all(0 < number < 1e9 for piece, took in pieces.items() for number in (took, piece.usual, piece.runs))
    return (Book(pieces), found) if sound else None
