"""Roll out a trained policy: success and return with their intervals.

POLICY is a run's folder, or its policy.safetensors; neither params.yaml nor a dataset is needed. With the seed and
number of episodes of params.yaml (evaluation), these are the pipeline's own episodes. The 95 % interval of the success
rate is Wilson's, that of the return a bootstrap over the episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flp.evaluation.headless import choose_renderer
from flp.experiment.program import OPTIONS, positive, program, seed
from flp.system.errors import FLPError, explained

if TYPE_CHECKING:
    from flp.library.policy import Policy
    from flp.library.trial import Trial

CHOICE: dict[str, dict[str, Any]] = {
    "POLICY": {"help": "a run's folder, such as results/cube-single-play/offline/flp/seed0/task2_seed0"},
    "task": {"type": positive, "metavar": "N", "help": "OGBench's task (default: the one it was trained for)"},
    "episodes": {"type": positive, "default": 50, "metavar": "N", "help": "how many, all at once (default: 50)"},
    "seed": {"type": seed, "default": 0, "metavar": "N", "help": "of episodes and noise (default: 0)"},
    "record": {"metavar": "DIR", "help": "write the episodes there: episodes.npz, and a film of each episode"},
    "json": {"action": "store_true", "help": "print everything as one JSON object"},
    "threads": OPTIONS["threads"],
    "device": OPTIONS["device"],
}


def command(args: argparse.Namespace) -> int:
    """Roll out the policy and print the outcome; return the exit status."""
    if args.record is not None:
        _require_writable(Path(args.record))  # before anything is played
    films = args.record is not None and _can_draw()
    from flp.evaluation.recording import Recording
    from flp.learner.devices import set_up
    from flp.library.policy import load_policy
    from flp.library.trial import evaluate
    from flp.system.progress import Progress

    policy = load_policy(args.policy, device=set_up(1, args.device))
    task = policy.task if args.task is None else args.task
    timing = policy.manifest["model"]["offline"]["success_timing"]
    spec = policy.spec
    films = films and spec.of_ogbench  # a user's environment may not be able to draw
    recording = Recording(spec, task, args.seed, args.episodes, timing)
    with ExitStack() as stack:
        line = stack.enter_context(Progress(f"{policy.agent} {policy.dataset} task {task}", args.episodes, "episodes"))

        def watch(observations: Any, actions: Any, step: Any, active: Any) -> None:
            line.update(args.episodes - int((active & ~(step.terminated | step.truncated)).sum()))
            if args.record is not None:
                recording.add(observations, spec.unscaled(actions), step, active)

        workers = args.threads if args.threads > 1 else 0  # one worker would only add a process
        options = {"episodes": args.episodes, "seed": args.seed, "workers": workers}
        trial = evaluate(policy, task, watch=watch, **options)
    if args.record is not None:
        for path in recording.save(Path(args.record), films=films):
            print(path, file=sys.stderr)
    outcome = summary(policy, task, args.seed, trial)
    print(json.dumps(outcome) if args.json else formatted(outcome))
    return 0


def _require_writable(folder: Path) -> None:
    """Make the folder; `FLPError` if no files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FLPError(f"--record {folder}: {explained(error)}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FLPError(f"--record {folder}: files cannot be written there; name another folder")


def _can_draw() -> bool:
    """Whether films can be drawn; choose the renderer before MuJoCo is imported."""
    try:
        choose_renderer()
    except FLPError as error:
        print(f"no films: {error}", file=sys.stderr)
        return False
    return True


def summary(policy: Policy, task: int, seed_of_episodes: int, trial: Trial) -> dict[str, Any]:
    """The outcome of a trial, as `--json` prints it; `success` is None in a task that does not define it."""
    success = None
    if trial.success is not None and trial.success_interval is not None:
        interval = list(trial.success_interval)
        success = {"mean": float(trial.success.mean()), "interval": interval, "method": "Wilson, 95 %"}
    return {
        "agent": policy.agent,
        "dataset": policy.dataset,
        "task": task,
        "key": policy.manifest.get("key"),
        "step": policy.manifest.get("step"),
        "episodes": len(trial.returns),
        "seed": seed_of_episodes,
        "success": success,
        "return": {
            "mean": float(trial.returns.mean()),
            "interval": list(trial.return_interval),
            "method": "bootstrap, 95 %",
        },
        "length": float(trial.lengths.mean()),
    }


def formatted(summary: dict[str, Any]) -> str:
    """A summary in one line."""
    success, returns = summary["success"], summary["return"]
    least, most = returns["interval"]
    rate, methods = "", "bootstrap"
    if success is not None:
        low, high = success["interval"]
        rate = f"success {100 * success['mean']:.0f} % [{100 * low:.0f}, {100 * high:.0f}], "
        methods = "Wilson, bootstrap"
    return (
        f"{summary['agent']} {summary['dataset']} task {summary['task']}: {rate}"
        f"return {returns['mean']:.1f} [{least:.1f}, {most:.1f}], "
        f"{summary['episodes']} episodes of {summary['length']:.0f} steps (95 %: {methods})"
    )


main = program("rollout", CHOICE, command, __doc__)
