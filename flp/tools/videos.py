"""`flp videos`: rollouts to look at. The frozen flow, the policy and the fine-tuned policy, side by side.

For every task, the first seed's policies play the first episode of their evaluation. Writes
results/videos/{dataset}/{agent}/: one animated WebP per task, and videos.json last. They are made on request and enter
no statistic; the report shows those of the policies that it reports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flp.evaluation.headless import choose_renderer
from flp.experiment.fingerprint import fingerprint
from flp.experiment.graph import require_current
from flp.experiment.keys import Keys
from flp.experiment.program import OPTIONS, tool
from flp.params.online import CHOICE
from flp.params.run import Run
from flp.report.recordings import shown
from flp.system import layout
from flp.system.artifacts import atomic_write, read_entries, write_json
from flp.system.errors import FLPError, nearest
from flp.system.forced import discard_if_forced

if TYPE_CHECKING:
    from flp.evaluation.film import Episode

WHICH = {
    "dataset": {"metavar": "NAME", "help": "one of the experiment's datasets (default: all)"},
    "agent": {"metavar": "NAME", "help": "whose policies (default: flp, or else the first)"},
}


def command(keys: Keys, args: argparse.Namespace) -> int:
    """Make the videos that are not there yet; return the exit status."""
    # A user's environment may not be able to draw.
    ours = [dataset for dataset in keys.params.datasets if dataset not in keys.params.tasks]
    if not ours:
        raise FLPError("videos are of OGBench's environments alone, of which there are none here: see datasets")
    for dataset in [args.dataset] if args.dataset else ours:
        if dataset not in keys.params.datasets:
            raise FLPError(f"--dataset {dataset}: not of this experiment{nearest(dataset, keys.params.datasets)}")
        agents = keys.agents(dataset)
        agent = args.agent or ("flp" if "flp" in agents else agents[0])
        if agent not in agents:
            raise FLPError(f"--agent {agent}: not trained on {dataset} in this experiment ({', '.join(agents)} are)")
        if dataset not in ours:
            raise FLPError(f"--dataset {dataset}: videos are of OGBench's environments alone")
        make(keys, dataset, agent, args.device)
    return 0


def make(keys: Keys, dataset: str, agent: str, device: str) -> None:
    """Make the videos of one dataset and agent, unless there are some of the same policies.

    Raises:
        FLPError: a policy is missing or of other parameters, or there is no renderer.
    """
    folder = Path(layout.VIDEOS.format(dataset=dataset, agent=agent))
    runs = dict(policies(keys, dataset, agent))
    require_flows(keys, dataset, agent, runs)
    sources = shown(path for paths in runs.values() for path, _ in paths.values())
    online = keys.agent_params(dataset, agent).online.model_dump(include={*CHOICE})
    made_of = {"policies": sources, "source": fingerprint("flp.evaluation.film"), "online": online}
    manifest = folder / "videos.json"
    discard_if_forced(folder, [manifest])
    made = read_entries(manifest)
    if made_of.items() <= made.items() and all((folder / video["file"]).exists() for video in made["videos"]):
        print(f"{folder} is up to date")
        return
    choose_renderer()  # before MuJoCo is imported
    from flp.evaluation.film import film

    manifest.unlink(missing_ok=True)
    videos = []
    for run, files in runs.items():
        episodes = dict(play_run(keys, dataset, agent, run, files, device))
        name = f"{run.name}.webp"
        with atomic_write(folder / name) as file:
            file.write(film(list(episodes.items())))
        outcomes = {title: {"success": e.success, "length": e.length} for title, e in episodes.items()}
        videos.append({"file": name, "task": run.task, "seed": run.seed, "outcomes": outcomes})
        print(f"{folder / name}: " + ", ".join(f"{t} {outcome(o)}" for t, o in outcomes.items()), file=sys.stderr)
    write_json(manifest, {**made_of, "dataset": dataset, "agent": agent, "videos": videos})
    print(f"{folder}: {len(videos)} videos")


def require_flows(keys: Keys, dataset: str, agent: str, runs: Mapping[Run, Mapping[str, tuple[Path, str]]]) -> None:
    """Refuse to film policies through flows other than those they were trained in (`FLPError`)."""
    from flp.runs.run_folder import flow_digests, require_flow

    require_current(keys, dataset, [run.seed for run in runs] if keys.reads_flow(dataset, agent) else ())
    flows = flow_digests(dataset, agent, keys.agent_params(dataset, agent).offline, list(runs))
    for run, files in runs.items():
        for path, _ in files.values():
            require_flow(path, flows.get(run.name))


def outcome(episode: dict[str, Any]) -> str:
    """`succeeds in 84 steps`, or `fails`."""
    return f"succeeds in {episode['length']} steps" if episode["success"] else "fails"


def policies(keys: Keys, dataset: str, agent: str) -> Iterator[tuple[Run, dict[str, tuple[Path, str]]]]:
    """The first seed's runs, each with its files (offline, and online if there is one) and the keys they must carry."""
    stages = [("offline", layout.OFFLINE, keys.runs, keys.offline_run)]
    if keys.learns_online(dataset, agent):
        stages.append(("online", layout.ONLINE, keys.online_runs, keys.online_run))
    job = next(job for job in keys.jobs() if (job.dataset, job.agent) == (dataset, agent))
    files: dict[Run, dict[str, tuple[Path, str]]] = {}
    for stage, pattern, runs, key in stages:
        for run in runs(*job):
            if run.seed == job.seeds[0] and not run.variant:
                file = Path(job.folder(pattern), run.name, "policy.safetensors")
                files.setdefault(run, {})[stage] = (file, key(dataset, agent, run))
    yield from files.items()


def play_run(
    keys: Keys, dataset: str, agent_name: str, run: Run, files: dict[str, tuple[Path, str]], device: str
) -> Iterator[tuple[str, Episode]]:
    """Play one run's episode with the behaviour policy (where it has one) and its policies, by their titles."""
    from flp.evaluation.film import open_scene, pictures_apart, play
    from flp.learner.devices import set_up
    from flp.parts.base import Agent
    from flp.runs.run_batch import RunBatch
    from flp.runs.run_folder import restore_parameters
    from flp.system.artifacts import load_tensors

    params = keys.agent_params(dataset, agent_name)
    spec, place = params.spec(dataset), set_up(1, device, params.offline.precision)
    every = pictures_apart(spec)

    def played(act: Any) -> Episode:
        scene = open_scene(spec, run.task, params.offline.success_timing)
        try:
            return play(act, scene, run.task, params.evaluation, every=every, device=place)
        finally:
            scene.close()

    agent: Agent | None = None
    for stage, title in (("offline", "policy"), ("online", "fine-tuned")):
        if stage in files:
            path, key = files[stage]
            acting = params.fine_tuning(agent_name) if stage == "online" else params
            if agent is None or acting.offline != params.offline:
                acted = replace(run, candidates=acting.offline.candidates)
                agent, _ = RunBatch(dataset, agent_name, [acted], acting, place).load()
            restore_parameters(agent, [load_tensors(path, place, key=key)[0]])
            if stage == "offline" and type(agent).behave is not Agent.behave:
                yield "frozen flow", played(agent.behave)
            yield title, played(agent.act)


main = tool("videos", WHICH | {"device": OPTIONS["device"]}, command, __doc__)
