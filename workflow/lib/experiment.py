"""The experiment as the rules see it: which jobs there are, what each reads, and which must run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from bookkeeping import machine_cores, machine_gpus, require_no_links, write_params
from forcing import Forced, write_markers
from snakemake.exceptions import WorkflowError
from snakemake.io import ancient
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

from flp.experiment.graph import ON_REQUEST, Artifact, graph
from flp.experiment.keys import Keys
from flp.params import loading as parameters
from flp.params.loading import Params
from flp.params.yamlfile import read_yaml
from flp.system import layout
from flp.system.errors import FLPError, user_error
from flp.system.forced import VARIABLE
from flp.system.locks import remove
from flp.system.portability import name_user

_NAMES = {
    "download_dataset": "{w.dataset}",
    "pretrain_flow": "{w.dataset}/seed{w.seed}",
    "invert_to_latent": "{w.dataset}/seed{w.seed}",
    "offline_train": "{w.dataset}/{w.agent}/seed{w.seeds}",
    "online_finetune": "{w.dataset}/{w.agent}/seed{w.seeds}",
    "offline_sweep": "{w.dataset}/{w.figure}/seed{w.seeds}",
}


def _typed(value: Any) -> Any:
    """What --config says, as a parameter file would: Snakemake leaves numbers inside brackets strings."""
    if isinstance(value, dict):
        return {name: _typed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_typed(inner) for inner in value]
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def log_file(stage: str, name: str) -> str:
    """Where a job's output is kept."""
    return f".flp/logs/{stage}/{name}.log"


def _folder(artifact: Artifact) -> str:
    """Where an artifact with runs, or the report, has all that it consists of."""
    return str(Path(artifact.files[0]).parent)


async def _at_any_time(job: Any, outputs: Any) -> None:
    """In place of a check that would fail jobs whose inputs seem to be from the future: clocks differ."""


class Experiment:
    """The parameters, checked; the artifacts, judged.

    Args:
        workflow: Snakemake's.
        config: what params.yaml, --configfile and --config say together.

    Exits with one line if the parameters are wrong.
    """

    def __init__(self, workflow: Any, config: dict[str, Any]) -> None:
        self.workflow = workflow
        self.root = str(Path(workflow.basedir).parent)
        self.gpus = machine_gpus()
        self.forced: set[Artifact] = set()
        self._decided = False
        try:
            files = [os.path.relpath(file) for file in workflow.configfiles]
            files = files[-1:] + files[:-1]  # params.yaml, then what is laid over it
            for file in files:
                read_yaml(file)
            given = _typed(dict(workflow.config_settings.config))
            files += ["--config"] if given else []
            self.params = parameters.parse(parameters.merge(config, given), " + ".join(files))
            self.keys = Keys(self.params)
            self.artifacts = graph(self.keys)
            if "DVC_STAGE" in os.environ:
                require_no_links(file for artifact in self.artifacts.values() for file in artifact.files)
            # Jobs parse the workflow again (on a cluster, in a subprocess): only the main process judges.
            self.current = {a: workflow.is_main_process and a.is_current() for a in self.artifacts.values()}
            self._set_environment(write_params(self.params))
        except FLPError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            sys.exit(f"error: {user_error(error) or error}")
        if workflow.is_main_process:
            self._bound_cores()

    def _set_environment(self, params_file: str) -> None:
        """Give the jobs this checkout's flp, this Python (but where conda has one for them) and the parameters.

        The parameters' path is no `params:` of a rule: --cache would hash it, and the whole experiment with it.
        """
        programs = str(Path(sys.executable).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [self.root, os.environ.get("PYTHONPATH")]))
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
        os.environ["FLP_PARAMS"] = params_file
        name_user()  # Snakemake asks for it

    def _bound_cores(self) -> None:
        """Take `--cores 8` on a smaller machine for what it has: more threads than cores make everything slower."""
        given = self.workflow.global_resources["_cores"].value
        if given is not None and given > machine_cores():
            self.workflow.global_resources["_cores"] = machine_cores()

    def artifact(self, stage: str, wildcards: Any, name: str | None = None) -> Artifact:
        """The artifact a job makes; a rule without wildcards gives its name."""
        place = f"{stage}/{name or _NAMES[stage].format(w=wildcards)}"
        if place not in self.artifacts:
            raise WorkflowError(f"{place} is no part of this experiment; see datasets, seeds and agents in params.yaml")
        return self.artifacts[place]

    def dataset(self, wildcards: Any) -> Params:
        """The parameters of a job's dataset."""
        return self.keys.dataset_params(wildcards.dataset)

    def all(self, *stages: str) -> list[str]:
        """One file of each artifact (of these stages, or of all but those made on request): what to ask for."""
        return [
            found.files[0]
            for found in self.artifacts.values()
            if (found.stage in stages if stages else found.stage not in ON_REQUEST)
        ]

    def key(self, stage: str, name: str | None = None) -> Callable[[Any], str]:
        """A job's key, as a `params:` so that --cache tells jobs apart (it hashes no wildcards)."""
        return lambda wildcards: self.artifact(stage, wildcards, name).key

    def runs(self, stage: str) -> Callable[[Any], int]:
        """How many runs a job trains."""
        return lambda wildcards: len(self.artifact(stage, wildcards).runs)

    def inputs(self, stage: str, name: str | None = None) -> Callable[[Any], dict[str, Any]]:
        """The files a job reads, by role.

        A job that need not run names only those at hand. Files are `ancient` where their times could move Snakemake:
        whether a job must run, its key has said before. Those that are made again first pass on that they are.
        """

        def inputs(wildcards: Any) -> dict[str, Any]:
            self._let_keys_decide()
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

    def _let_keys_decide(self) -> None:
        """Once, when Snakemake builds its graph: force what is there and stale, or was asked for, and nothing else.

        Also without our profile: records of earlier runs know nothing of files that DVC or git has swapped.
        """
        if self._decided:
            return
        self._decided = True
        dag, settings = self.workflow.dag, self.workflow.dag_settings
        dag.check_output_mtime = _at_any_time
        if not self.workflow.is_main_process:  # a job of a cluster: it is told what to make
            return
        settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
        dag.max_checksum_file_size = 0
        dag.clean = partial(self._delete, dag.clean)
        asked = Forced(settings)
        self.forced = asked.artifacts(self.artifacts.values())
        stale = [a for a in self.artifacts.values() if not self.current[a] and any(map(os.path.lexists, a.files))]
        dag.forcefiles.update(file for artifact in {*stale, *self.forced} for file in artifact.files)
        if stale:
            counts = Counter(artifact.stage for artifact in stale)
            said = ", ".join(f"{stage} {count}" for stage, count in counts.items())
            logger.info(f"Stale, by their keys: {said}. Where a target needs them, they are made again (forced).")
        kept = [job.folder(layout.VIDEOS) for job in self.keys.jobs() if asked.rule("videos")]
        kept += [_folder(artifact) for artifact in self.forced if artifact.runs]
        os.environ.pop(VARIABLE, None)
        if kept:
            write_markers(kept)
            self.workflow.register_envvars(VARIABLE)  # for jobs that inherit no environment

    async def _delete(self, declared: Any, only_temp: bool = False, dryrun: bool = False) -> None:
        """`--delete-all-output`: also what no rule declares (policies, tables, videos), and the next run would keep."""
        await declared(only_temp, dryrun)
        jobs = [] if only_temp else list(self.workflow.dag.jobs)
        files = {file for job in jobs for file in job.output}
        whole = [a for a in self.artifacts.values() if (a.runs or a.stage == "report") and a.files[0] in files]
        folders = [_folder(artifact) for artifact in whole]
        folders += [str(Path(layout.VIDEOS).parents[1]) for job in jobs if job.rule.name == "videos"]
        for folder in filter(os.path.lexists, folders):
            logger.info(f"{'Would delete' if dryrun else 'Deleting'} {folder}")
            if not dryrun:
                remove(Path(folder))
