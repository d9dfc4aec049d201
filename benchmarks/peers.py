"""An update of ours against the same algorithm's in FQL's official code (JAX), measured in turn.

`python -m benchmarks.peers --fql CHECKOUT --peer-python PYTHON` needs a checkout of
https://github.com/seohongpark/fql and a Python with jax, flax, distrax, optax and ml_collections. Both sides have the
same cores, and random transitions of the same size, from which they draw a batch for every update. A round measures
everything once; the minimum over rounds is an update's time, the median includes interference from other programs. If
that is large, compare processor time on one core: `--threads 1 --clock process_time`.

With `--device cuda` both run on the first GPU, ours as a captured graph. There JAX computes float32 products in tf32,
so compare `--settings tf32`. Every update of the official code copies its batch to the GPU, as its training does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.subject import make_trainer
from flp.learner.devices import available_cores, set_up
from flp.learner.trainer import CHUNK
from flp.system.errors import FLPError

OFFICIAL = {"fql": "fql", "iql": "iql", "rebrac": "rebrac", "ifql": "ifql", "rlpd": "sac"}
SIZES = {"512x4": (512, 4), "256x2": (256, 2)}
OBSERVATION, ACTION, BATCH = 28, 5, 256
SETTINGS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"compile": True},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
    "tf32": {"precision": "tf32"},
    "tf32, compiled": {"precision": "tf32", "compile": True},
}
USUAL = {"cpu": ["eager", "compiled", "bfloat16, compiled"], "cuda": ["eager", "tf32", "tf32, compiled"]}
NEEDED = "jax flax distrax optax ml_collections"


def checked(checkout: Path, python: str) -> None:
    """Refuse a checkout that lacks something, and a Python that cannot run it."""
    for name in ("__init__", *OFFICIAL.values()):
        file = checkout / "agents" / f"{name}.py"
        if not file.is_file():
            raise FLPError(f"--fql {checkout}: {file} is missing; give a checkout of github.com/seohongpark/fql")
    try:
        done = subprocess.run([python, "-c", f"import {NEEDED.replace(' ', ', ')}"], capture_output=True, text=True)
    except OSError as error:
        raise FLPError(f"--peer-python {python}: {error.strerror}; give a Python with {NEEDED}") from error
    if done.returncode and "No module named" in done.stderr:
        reason = done.stderr.strip().splitlines()[-1]
        raise FLPError(f"--peer-python {python}: {reason}; `{python} -m pip install {NEEDED}`")


@contextmanager
def official(args: argparse.Namespace, name: str, size: str) -> Iterator[Callable[[int], float]]:
    """The official agent in a process of its own: seconds of so many updates."""
    width, depth = SIZES[size]
    numbers = map(str, (width, depth, BATCH, OBSERVATION, ACTION))
    program = Path(__file__).with_name("official.py")
    command = [args.peer_python, str(program), str(args.fql.resolve()), args.clock, OFFICIAL[name], *numbers]
    # XLA takes as many threads as it may use cores, which are this process's.
    env = {**os.environ, "JAX_PLATFORMS": args.device, "OMP_NUM_THREADS": str(args.threads)}
    env |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    if args.peer_python != sys.executable:  # our packages are none of another Python's
        env.pop("PYTHONPATH", None)
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def answer() -> str:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise FLPError(f"{args.peer_python} could not run {OFFICIAL[name]}: see above; it needs {NEEDED}")
            return line

        def seconds(updates: int) -> float:
            assert process.stdin is not None
            print(updates, file=process.stdin, flush=True)
            return float(answer())

        try:
            while answer().strip() != "ready":
                pass
            yield seconds
        finally:
            process.stdin.close()


def ours(args: argparse.Namespace, name: str, size: str, changes: dict[str, Any]) -> Callable[[int], float]:
    """Our agent, warm (and captured, on a GPU): seconds of so many updates."""
    width, depth = SIZES[size]
    place = set_up(args.threads, args.device, changes.get("precision", "float32"))
    trainer = make_trainer(1, OBSERVATION, ACTION, [width] * depth, place, BATCH, agent=name, **changes)
    for _ in range(2 if args.device == "cuda" else 1):
        trainer.run_chunk()
    now = getattr(time, args.clock)

    def seconds(updates: int) -> float:
        start: float = now()
        for _ in range(updates // CHUNK):
            trainer.run_chunk()
        if args.device == "cuda":
            torch.cuda.synchronize()
        taken: float = now() - start
        return taken

    return seconds


def compare(args: argparse.Namespace, name: str, size: str) -> list[str]:
    """Rows of the table: milliseconds of an update, the least and the median of the rounds, and how many times as
    fast as the official code."""
    mine = {setting: ours(args, name, size, SETTINGS[setting]) for setting in args.settings}
    with official(args, name, size) as theirs:
        work = {"official": theirs, **mine}
        times: dict[str, list[float]] = {setting: [] for setting in work}
        for _ in range(args.rounds):
            for setting, seconds in work.items():
                times[setting].append(1000 * seconds(args.updates) / args.updates)
    least = {setting: min(taken) for setting, taken in times.items()}
    return [
        f"{name:<7} {size:<6} {setting:<19} {least[setting]:8.2f} {statistics.median(taken):8.2f}"
        f" {least['official'] / least[setting]:6.2f}"
        for setting, taken in times.items()
    ]


def main() -> None:
    """Measure every agent at every size; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fql", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON", help="default: this one")
    parser.add_argument("--agents", nargs="+", choices=OFFICIAL, default=[*OFFICIAL])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: those of the device")
    parser.add_argument("--device", choices=USUAL, default="cpu")
    parser.add_argument("--threads", type=int, default=available_cores(), help="cores of either side")
    parser.add_argument("--clock", choices=["perf_counter", "process_time"], default="perf_counter")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=CHUNK, help=f"per round, a multiple of {CHUNK}")
    args = parser.parse_args()
    args.settings = args.settings or USUAL[args.device]
    if args.updates < 1 or args.updates % CHUNK:
        parser.error(f"--updates {args.updates}: give a multiple of {CHUNK}, which are taken at a time")
    try:
        checked(args.fql, args.peer_python)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        print(f"{'agent':<7} {'size':<6} {'':<19} {'least ms':>8} {'median':>8} {'ratio':>6}", flush=True)
        for size in args.sizes:
            for name in args.agents:
                print("\n".join(compare(args, name, size)), flush=True)
    except FLPError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
