"""Kill every long stage at random moments, again and again, and compare with an undisturbed run.

Run as `make torture` or `python -m benchmarks.torture [--kills N] [--seed S] [--stage NAME] [--dataset NAME]
[--folder DIR]`; with a folder, the undisturbed pipeline is kept for the next call.

Each stage runs at a tiny size as the real program, is killed with SIGKILL (its whole process group) at a random moment,
restarted, and so on; each time it finishes, every file must be identical byte for byte, except for times in manifests.
No process and no temporary file may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent
DATASET = "pointmaze-medium-navigate"
STAGES = {  # and the folders that each makes
    "download_dataset": ["data"],
    "pretrain_flow": ["results/{dataset}/flow/model"],
    "invert_to_latent": ["results/{dataset}/latent", "results/{dataset}/flow/quality"],
    "offline_train": ["results/{dataset}/offline"],
    "online_finetune": ["results/{dataset}/online"],
}
# An inversion saves its state every 32,768 actions, so it needs more of them than the others; and small batches.
LARGER = {
    "invert_to_latent": {
        "download": {"episodes": 300},
        "flow": {"solver_steps": 10},
        "invert": {"batch_size": 64},
    }
}
TIMES = {"created", "seconds"}


def tiny_params(dataset: str, **changes: Any) -> dict[str, Any]:
    """The default experiment at a scale of seconds."""
    values: dict[str, Any] = yaml.safe_load((REPO / "params.yaml").read_text())
    values["datasets"] = [dataset]
    values["download"] |= {"episodes": 16, "steps_per_episode": 500}
    values["flow"] |= {"hidden": [32, 32], "steps": 1500, "batch_size": 64, "validate_every": 500, "solver_steps": 2}
    values["invert"] |= {"max_roundtrip_error": 10.0, "likelihood_samples": 16}
    values["offline"] |= {"tasks": [1, 4], "hidden": [32, 32], "steps": 200, "batch_size": 64}
    values["online"] |= {"steps": 60}
    values["evaluation"] |= {"every": 100, "episodes": 1}
    for section, overlay in changes.items():
        values[section] |= overlay
    return values


def dataset_in(folder: Path) -> str:
    """The dataset of a pipeline's folder."""
    dataset: str = yaml.safe_load((folder / "params.yaml").read_text())["datasets"][0]
    return dataset


def outputs_in(folder: Path, stage: str) -> list[Path]:
    """The folders that a stage makes there."""
    return [folder / output.format(dataset=dataset_in(folder)) for output in STAGES[stage]]


def command(stage: str, dataset: str = DATASET) -> list[str]:
    """The stage's program with its options."""
    threads = "1" if stage == "pretrain_flow" else "2"
    line = [sys.executable, "-m", f"flp.stages.{stage}", "--dataset", dataset, "--threads", threads]
    line += ["--device", "cpu"] if stage != "download_dataset" else []
    return [*line, "--seed", "0"] if stage in {"pretrain_flow", "invert_to_latent"} else line


def start(folder: Path, stage: str, **env: str) -> subprocess.Popen[str]:
    """Start a stage in a process group of its own, with frequent checkpoints."""
    source = {"PYTHONPATH": str(folder.parent / "source")}
    environment = {
        **os.environ,
        **source,
        "FLP_CHECKPOINT_SECONDS": "0.2",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "",
        **env,
    }
    return subprocess.Popen(
        command(stage, dataset_in(folder)),
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a stage; return its exit status and what it said."""
    _, said = process.communicate()
    return process.returncode, said


def run(folder: Path, stage: str, **env: str) -> float:
    """Run a stage to its end; return the seconds it took."""
    began = time.monotonic()
    status, said = finish(start(folder, stage, **env))
    if status != 0:
        raise RuntimeError(f"{stage} ended with status {status}:\n{said}")
    return time.monotonic() - began


def prepare(folder: Path, dataset: str = DATASET, last: str = "online_finetune", **changes: Any) -> dict[str, float]:
    """Run the stages up to a last one in a folder, undisturbed, from a copy of the source; return their seconds.

    What has been done in the folder is not repeated.
    """
    done = folder.with_suffix(".json")
    if done.exists():
        known: dict[str, float] = json.loads(done.read_text())
        return known
    folder.mkdir(parents=True)
    # A copy: an edit in the meantime would change keys.
    source, ignored = folder.parent / "source" / "flp", shutil.ignore_patterns("__pycache__")
    if not source.exists():
        shutil.copytree(REPO / "flp", source, ignore=ignored)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_params(dataset, **changes)))
    stages = list(STAGES)[: list(STAGES).index(last) + 1]
    seconds = {stage: run(folder, stage) for stage in stages}
    done.write_text(json.dumps(seconds))
    return seconds


def before(whole: Path, folder: Path, stage: str) -> None:
    """Copy a finished pipeline as it was before a stage ran."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".flp")
    shutil.copytree(whole, folder, ignore=ignored)
    for output in outputs_in(folder, stage):
        shutil.rmtree(output)


def differences(whole: Path, folder: Path, stage: str) -> list[str]:
    """Files that differ between an undisturbed run and another, except for times in manifests."""
    found, roots = [], (whole, folder)
    made = [(root, path) for root in roots for output in outputs_in(root, stage) for path in output.rglob("*")]
    for name in sorted({path.relative_to(root) for root, path in made if path.is_file()}):
        first, second = (root / name for root in roots)
        if not (first.exists() and second.exists()):
            found.append(f"{name} is only in one")
        elif _content(first) != _content(second):
            found.append(f"{name} differs")
    return found


def _content(path: Path) -> Any:
    if path.suffix != ".json":
        return path.read_bytes()
    return {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name not in TIMES}


def survivors(folder: Path, patience: float = 10.0) -> list[int]:
    """Processes that still run in a folder after some seconds."""
    until = time.monotonic() + patience
    while (found := list(_working_in(folder))) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _working_in(folder: Path) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve() and (process / "stat").read_text().split()[-50] != "Z":
                yield int(process.name)
        except OSError:
            continue  # it has just ended, or is another user's


@dataclass
class Outcome:
    """What happened to a stage under torture."""

    stage: str
    kills: int = 0
    ends: int = 0
    resumed: int = 0
    problems: list[str] = field(default_factory=list)


def torture(
    whole: Path,
    folder: Path,
    stage: str,
    kills: int,
    seconds: float,
    seed: int,
    number: int = signal.SIGKILL,
) -> Outcome:
    """Kill a stage until it has been killed often enough, then let it end; compare at every end.

    Args:
        whole: a finished pipeline.
        folder: where to work.
        stage: the stage.
        kills: how often.
        seconds: the stage's undisturbed duration, at most which it runs before it is killed.
        seed: of the random moments.
        number: the signal to send to the process group.
    """
    moments, outcome = random.Random(seed), Outcome(stage)
    before(whole, folder, stage)
    while True:
        after = moments.uniform(0, 1.2 * seconds) if outcome.kills < kills else None
        with start(folder, stage) as process:
            # Half the kills come by the clock, half soon after a checkpoint of this very session.
            if after is not None and moments.random() < 0.5:
                _await_checkpoint(process, folder, time.time())
                after = moments.uniform(0, 2)
            status = _interrupt(process, after, number)
            said = process.stderr.read() if process.stderr else ""
        outcome.resumed += "resuming from" in said
        if alive := survivors(folder):
            outcome.problems.append(f"processes {alive} outlive the stage")
        if status == 0:
            outcome.ends += 1
            outcome.problems += differences(whole, folder, stage)
            states = [path for path in (folder / ".flp" / "resume").rglob("*") if path.is_file()]
            outcome.problems += [f"{path.relative_to(folder)} is left" for path in states]
            if outcome.kills >= kills:
                return outcome
            before(whole, folder, stage)
        elif outcome.kills >= kills or (status > 0 and number == signal.SIGKILL):
            outcome.problems.append(f"exit status {status}: {said}")
            return outcome
        else:
            outcome.kills += 1


def _await_checkpoint(process: subprocess.Popen[str], folder: Path, since: float) -> None:
    """Wait until a resume state is newer than a time, or the process ends."""
    while process.poll() is None:
        for path in (folder / ".flp" / "resume").rglob("*"):
            try:
                if path.suffix in {".safetensors", ".npz"} and path.stat().st_mtime > since:
                    return
            except OSError:
                continue  # replaced at this moment
        time.sleep(0.02)


def _interrupt(process: subprocess.Popen[str], after: float | None, number: int) -> int:
    """Wait for a process, or send its group a signal after some seconds; return its exit status."""
    try:
        return process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
        return process.wait()


def main() -> int:
    """Torture the stages; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--dataset", default=DATASET)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        print(f"{args.dataset}, seed {args.seed}; a pipeline in peace ...", flush=True)
        prepare(root / "whole", args.dataset)
        print(f"{'stage':<18} {'in peace':>8} {'kills':>6} {'resumed':>8} {'ends':>5}  bit-identical", flush=True)
        failed = False
        for stage in args.stage or STAGES:
            whole = root / f"whole-{stage}" if stage in LARGER else root / "whole"
            seconds = prepare(whole, args.dataset, stage, **LARGER.get(stage, {}))
            outcome = torture(whole, root / stage, stage, args.kills, seconds[stage], args.seed)
            failed |= bool(outcome.problems)
            print(
                f"{stage:<18} {seconds[stage]:7.1f}s {outcome.kills:6} {outcome.resumed:8} {outcome.ends:5}  "
                f"{'NO: ' + '; '.join(outcome.problems) if outcome.problems else 'yes'}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
