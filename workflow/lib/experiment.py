"""The experiment as the rules see it: its jobs, what each reads, and which must run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import snakemake_patches as patches
from bookkeeping import (
    machine_cores,
    machine_gpus,
    require_no_links,
    require_single_options,
    require_targets,
    write_params,
)
from forcing import Forced, write_markers
from snakemake.exceptions import WorkflowError
from snakemake.io import ancient
from snakemake.logging import logger

from flp.experiment.graph import ON_REQUEST, Artifact, graph
from flp.experiment.keys import Keys
from flp.params.loading import Params, merge, parse
from flp.params.yamlfile import read_given, read_yaml
from flp.system import layout
from flp.system.errors import FLPError, user_error
from flp.system.forced import VARIABLE
from flp.system.portability import name_user

_NAMES = {
    "download_dataset": "{w.dataset}",
    "pretrain_flow": "{w.dataset}/seed{w.seed}",
    "invert_to_latent": "{w.dataset}/seed{w.seed}",
    "offline_train": "{w.dataset}/{w.agent}/seed{w.seeds}",
    "online_finetune": "{w.dataset}/{w.agent}/seed{w.seeds}",
    "offline_sweep": "{w.dataset}/{w.figure}/seed{w.seeds}",
}


def _read(workflow: Any) -> Params:
    """The experiment, read as `flp` reads it.

    Snakemake's own `config` will not do: it has the first of two equal keys forgotten, and the numbers inside brackets
    as strings, which cannot be told from strings that look like numbers.

    Raises:
        FLPError: as `parse` does.
    """
    settings = workflow.config_settings
    count = len(settings.configfiles)  # of --configfile, which come before params.yaml and are overlays on it
    files = [] if settings.replace_workflow_config else workflow.configfiles[count:]
    names = [os.path.relpath(file) for file in [*files, *workflow.configfiles[:count]]]
    given = list(settings.config_args)
    values: dict[str, Any] = {}
    for name in names:
        values = merge(values, read_yaml(name))
    return parse(merge(values, read_given(given)), " + ".join([*names, *(["--config"] if given else [])]))


def log_file(stage: str, name: str) -> str:
    """The log of a job."""
    return f".flp/logs/{stage}/{name}.log"


def _folder(artifact: Artifact) -> str:
    """The folder of an artifact with runs, or of the report, with everything it consists of."""
    return str(Path(artifact.files[0]).parent)


class Experiment:
    """The checked parameters, and the artifacts with whether they are current.

    Args:
        workflow: Snakemake's, with params.yaml, --configfile and --config.

    Exits with one line if the parameters are wrong.
    """

    def __init__(self, workflow: Any) -> None:
        self.workflow = workflow
        self.root = str(Path(workflow.basedir).parent)
        self.gpus = machine_gpus()
        self.forced: set[Artifact] = set()
        self._keys_applied = False
        try:
            self.params = _read(workflow)
            self.keys = Keys(self.params)
            self.artifacts = graph(self.keys)
            if workflow.is_main_process:
                require_single_options(sys.argv)
                require_targets(file for artifact in self.artifacts.values() for file in artifact.every_file())
            if "DVC_STAGE" in os.environ:
                require_no_links(file for artifact in self.artifacts.values() for file in artifact.files)
            # Jobs parse the workflow again (on a cluster, in a subprocess): only the main process checks.
            self.current = {a: workflow.is_main_process and a.is_current() for a in self.artifacts.values()}
            self._set_environment(write_params(self.params))
        except FLPError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            sys.exit(f"error: {user_error(error) or error}")
        if workflow.is_main_process:
            self._bound_cores()

    def _set_environment(self, params_file: str) -> None:
        """Give the jobs this checkout's flp, this Python (unless conda has one for them) and the parameters.

        The parameters' path is not in a rule's `params:`, where --cache would hash it, and so the whole experiment.
        """
        programs = str(Path(sys.executable).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [self.root, os.environ.get("PYTHONPATH")]))
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
        os.environ["FLP_PARAMS"] = params_file
        name_user()  # Snakemake asks for it

    def _bound_cores(self) -> None:
        """Lower `--cores` to what the machine has: more threads than cores make everything slower."""
        given = self.workflow.global_resources["_cores"].value
        if given is not None and given > machine_cores():
            self.workflow.global_resources["_cores"] = machine_cores()

    def artifact(self, stage: str, wildcards: Any, name: str | None = None) -> Artifact:
        """The artifact that a job makes; a rule without wildcards gives its name."""
        place = f"{stage}/{name or _NAMES[stage].format(w=wildcards)}"
        if stage == "figure" and (reason := self.keys.nothing_in(name or "")):
            sys.exit(f"error: {reason}")  # Snakemake would show an input function's exception with its traceback
        if place not in self.artifacts:
            raise WorkflowError(f"{place} is no part of this experiment; see datasets, seeds and agents in params.yaml")
        return self.artifacts[place]

    def dataset(self, wildcards: Any) -> Params:
        """The parameters of a job's dataset."""
        return self.keys.dataset_params(wildcards.dataset)

    def agent(self, wildcards: Any) -> Params:
        """The parameters of a job's algorithm on its dataset; the figures' runs are FLP's."""
        return self.keys.agent_params(wildcards.dataset, getattr(wildcards, "agent", "flp"))

    def all(self, *stages: str) -> list[str]:
        """A target for each artifact of these stages, or of all stages except those made on request."""
        return [
            artifact.files[0]
            for artifact in self.artifacts.values()
            if (artifact.stage in stages if stages else artifact.stage not in ON_REQUEST)
        ]

    def key(self, stage: str, name: str | None = None) -> Callable[[Any], str]:
        """A job's key, as a `params:` by which --cache distinguishes jobs (it does not hash wildcards)."""
        return lambda wildcards: self.artifact(stage, wildcards, name).key

    def runs(self, stage: str) -> Callable[[Any], int]:
        """How many runs a job trains."""
        return lambda wildcards: len(self.artifact(stage, wildcards).runs)

    def inputs(self, stage: str, name: str | None = None) -> Callable[[Any], dict[str, Any]]:
        """The files a job reads, by role.

        A job that need not run names only those that exist. Files are `ancient` where their times could make Snakemake
        run a job: the keys decide that. Files that are made again first are not, and so rerun the jobs that read them.
        """

        def inputs(wildcards: Any) -> dict[str, Any]:
            self._apply_keys()
            artifact = self.artifact(stage, wildcards, name)
            settled = self._settled(artifact)
            return {
                role: [
                    ancient(source.files[0]) if settled or self._settled(source) else source.files[0]
                    for source in sources
                    if not settled or source.exists()
                ]
                for role, sources in artifact.inputs.items()
            }

        return inputs

    def _settled(self, artifact: Artifact) -> bool:
        return self.current[artifact] and artifact not in self.forced

    def _apply_keys(self) -> None:
        """When Snakemake builds its graph, let it run exactly what is missing, stale or forced."""
        if self._keys_applied:
            return
        self._keys_applied = True
        dag, settings = self.workflow.dag, self.workflow.dag_settings
        patches.accept_any_clock(dag)
        patches.replace_read_only()
        if not self.workflow.is_main_process:  # a job on a cluster was told what to make
            return
        patches.ignore_records(dag, settings)
        patches.trust_whole(dag, {file for a in self.artifacts.values() if self.current[a] for file in a.files})
        patches.delete_undeclared(dag, self._undeclared_folders)
        requested = Forced(settings)
        self.forced = requested.artifacts(self.artifacts.values())
        stale = [a for a in self.artifacts.values() if not self.current[a] and any(map(os.path.lexists, a.files))]
        patches.force(dag, {file for artifact in {*stale, *self.forced} for file in artifact.files})
        _log_stale(stale)
        self._mark_forced(requested)

    def _mark_forced(self, requested: Forced) -> None:
        """Tell the jobs that must begin anew; they would keep what is finished, and resume what is half done."""
        folders = [job.folder(layout.VIDEOS) for job in self.keys.jobs() if requested.rule("videos")]
        folders += [_folder(a) for a in self.forced if a.runs or a.stage in ("pretrain_flow", "invert_to_latent")]
        os.environ.pop(VARIABLE, None)
        if folders:
            write_markers(folders)
            self.workflow.register_envvars(VARIABLE)  # for jobs that do not inherit the environment

    def _undeclared_folders(self, jobs: list[Any]) -> list[str]:
        """The folders of these jobs' outputs that hold more than the rules declare."""
        files = {file for job in jobs for file in job.output}
        artifacts = [a for a in self.artifacts.values() if (a.runs or a.stage == "report") and a.files[0] in files]
        videos = [str(Path(layout.VIDEOS).parents[1]) for job in jobs if job.rule.name == "videos"]
        return [*map(_folder, artifacts), *videos]


def _log_stale(artifacts: list[Artifact]) -> None:
    if artifacts:
        counts = Counter(artifact.stage for artifact in artifacts)
        text = ", ".join(f"{stage} {count}" for stage, count in counts.items())
        logger.info(f"Stale, by their keys: {text}. Where a target needs them, they are made again (forced).")
