"""What every rule shares: the checked parameters, the artifacts with their keys, the inputs of a job."""

import os
import sys
from functools import cache
from pathlib import Path

from snakemake.settings.enums import RerunTrigger

ROOT = Path(workflow.basedir).parent
# The stages and this file use the same flp (that of this checkout), the same Python and the same programs.
sys.path[:0] = [str(ROOT), str(ROOT / "workflow" / "lib")]
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
)

from flp import layout
from flp.errors import FLPError
from flp.keys import Keys
from flp import params as parameters

from bookkeeping import key_file, machine_cores, machine_gpus, mark, write_params

try:
    for file in workflow.configfiles:
        parameters.read_yaml(file)
    EXPERIMENT = parameters.parse(config, " + ".join(map(os.path.relpath, workflow.configfiles)))
    KEYS = Keys(EXPERIMENT)
    ARTIFACTS = KEYS.artifacts
    PARAMS = write_params(EXPERIMENT)
    # Jobs parse this file again (on a cluster, in a subprocess): only the main process may judge and mark.
    CURRENT = mark(ARTIFACTS.values(), judge=workflow.is_main_process)
except FLPError as error:
    sys.exit(f"error: {error}")

# More cores than there are make everything slower; `--cores 8` on a smaller machine uses what it has.
if (
    workflow.is_main_process
    and (workflow.global_resources["_cores"].value or 0) > machine_cores()
):
    workflow.global_resources["_cores"] = machine_cores()

# Where there is no GPU, training jobs need not queue for one. On a cluster its profile says what a job gets.
GPUS = min(1, machine_gpus())


wildcard_constraints:
    dataset="[a-z0-9-]+",
    seed=r"\d+",
    seeds=r"\d+(-\d+)*",
    agent="[a-z]+",


def artifact_of(stage, wildcards):
    """The artifact a job makes."""
    name = {
        "download_dataset": "{w.dataset}",
        "pretrain_flow": "{w.dataset}/seed{w.seed}",
        "invert_to_latent": "{w.dataset}/seed{w.seed}",
        "offline_train": "{w.dataset}/{w.agent}/seed{w.seeds}",
        "online_finetune": "{w.dataset}/{w.agent}/seed{w.seeds}",
        "report": "report",
    }[stage].format(w=wildcards)
    if f"{stage}/{name}" not in ARTIFACTS:
        raise WorkflowError(
            f"{stage} {name} is not part of this experiment (datasets, seeds, agents of params.yaml)"
        )
    return ARTIFACTS[f"{stage}/{name}"]


@cache
def forced():
    """The artifacts that -f, -F or -R asks for, and those below them."""
    settings = workflow.dag_settings
    names = set(settings.forcerun) | (
        set(settings.targets) if settings.forcetargets else set()
    )
    found = set()
    for artifact in ARTIFACTS.values():
        above = {
            (source.stage, source.name)
            for sources in artifact.inputs.values()
            for source in sources
        }
        if (
            settings.forceall
            or artifact.stage in names
            or names & set(artifact.files)
            or found & above
        ):
            found.add((artifact.stage, artifact.name))
    return found


@cache
def let_keys_decide():
    """Also without our profile: records of earlier runs know nothing of files that DVC or git has swapped."""
    workflow.dag_settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    workflow.dag.max_checksum_file_size = 0


def inputs_of(stage):
    """A job's inputs: its key file, which alone decides whether it must run, and the files it reads.

    A job that must run gets the files as they are. One that need not names only those at hand, and as
    `ancient`: nothing that happens above it (data made anew beside pulled flows) can make it run.
    """

    def inputs(wildcards):
        let_keys_decide()
        artifact = artifact_of(stage, wildcards)
        settled = (
            CURRENT[artifact.stage, artifact.name]
            and (artifact.stage, artifact.name) not in forced()
        )
        found = {"key": key_file(artifact)}
        for role, sources in artifact.inputs.items():
            files = [source.files[0] for source in sources if not settled or source.exists()]
            found[role] = [ancient(file) for file in files] if settled else files
        return found

    return inputs


def key_of(stage):
    """A job's key, so that `--cache` tells jobs apart (it hashes params, but no wildcards)."""
    return lambda wildcards: artifact_of(stage, wildcards).key


def dataset_params(wildcards):
    """The parameters of the job's dataset."""
    return KEYS.dataset_params(wildcards.dataset)


def first_files(stage):
    """One file of each artifact of a stage: what to ask for to get them all."""
    return [
        artifact.files[0] for artifact in ARTIFACTS.values() if artifact.stage == stage
    ]


def log_file(stage, name):
    """Where a job's output is kept."""
    return f".flp/logs/{stage}/{name}.log"
