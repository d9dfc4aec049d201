"""What every rule shares: the checked parameters, the artifacts with their keys, the inputs of a job."""

import sys
from pathlib import Path

# Import this checkout's flp, here and (by lib/experiment.py) in the stages.
sys.path[:0] = [str(Path(workflow.basedir).parent), str(Path(workflow.basedir, "lib"))]

from flp.experiment.workload import MOST_THREADS, flow_threads
from flp.system import layout
from experiment import Experiment, log_file
from job_shell import prefix

EXPERIMENT = Experiment(workflow)
# Without a GPU, training jobs need not queue for one. On a cluster, its profile decides what a job gets.
GPUS = min(1, EXPERIMENT.gpus)


wildcard_constraints:
    dataset="|".join(EXPERIMENT.params.datasets),
    seed="|".join(map(str, EXPERIMENT.params.seeds)),
    seeds=r"\d+(-\d+)*",
    agent="[a-z][a-z0-9_]*",
    figure=r"figure\d",


# Snakemake formats the prefix, so its braces are doubled.
shell.prefix(
    prefix(EXPERIMENT.root, workflow.deployment_settings)
    .replace("{", "{{")
    .replace("}", "}}")
)
