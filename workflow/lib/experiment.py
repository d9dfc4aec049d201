"""The experiment as the rules see it: which jobs there are, what each reads, and which must run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from bookkeeping import key_file, machine_cores, machine_gpus, mark, write_params
from snakemake.exceptions import WorkflowError
from snakemake.io import ancient
from snakemake.settings.enums import RerunTrigger

from flp.experiment.graph import ON_REQUEST, Artifact, graph
from flp.experiment.keys import Keys
from flp.params import loading as parameters
from flp.params.loading import Params
from flp.system.errors import FLPError

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
        self._forced: set[Artifact] | None = None
        try:
            files = [os.path.relpath(file) for file in workflow.configfiles]
            files = files[-1:] + files[:-1]  # params.yaml, then what is laid over it
            for file in files:
                parameters.read_yaml(file)
            given = _typed(dict(workflow.config_settings.config))
            files += ["--config"] if given else []
            self.params = parameters.parse(parameters.merge(config, given), " + ".join(files))
            self.keys = Keys(self.params)
            self.artifacts = graph(self.keys)
            # Jobs parse the workflow again (on a cluster, in a subprocess): only the main process judges and marks.
            self.current = mark(self.artifacts.values(), judge=workflow.is_main_process)
            self._set_environment(write_params(self.params))
        except FLPError as error:
            sys.exit(f"error: {error}")
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
        """A job's inputs: its key file, which alone decides whether it must run, and the files it reads.

        A job that must run gets the files as they are. One that need not names only those at hand, and as
        `ancient`: nothing that happens above it (data made anew beside pulled flows) can make it run.
        """

        def inputs(wildcards: Any) -> dict[str, Any]:
            self._let_keys_decide()
            artifact = self.artifact(stage, wildcards, name)
            settled = self.current[artifact] and artifact not in self._asked_for()
            found: dict[str, Any] = {"key": key_file(artifact)}
            for role, sources in artifact.inputs.items():
                files = [source.files[0] for source in sources if not settled or source.exists()]
                found[role] = [ancient(file) for file in files] if settled else files
            return found

        return inputs

    def _let_keys_decide(self) -> None:
        """Also without our profile: records of earlier runs know nothing of files that DVC or git has swapped."""
        self.workflow.dag_settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
        self.workflow.dag.max_checksum_file_size = 0

    def _asked_for(self) -> set[Artifact]:
        """The artifacts that -f, -F or -R asks for, and those below them."""
        if self._forced is None:
            settings = self.workflow.dag_settings
            names = set(settings.forcerun) | (set(settings.targets) if settings.forcetargets else set())
            self._forced = set()
            for artifact in self.artifacts.values():
                above = {source for sources in artifact.inputs.values() for source in sources}
                named = artifact.stage in names or not names.isdisjoint(artifact.files)
                if settings.forceall or named or self._forced & above:
                    self._forced.add(artifact)
        return self._forced
