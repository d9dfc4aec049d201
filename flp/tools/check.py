"""`flp check`: whether params.yaml (and presets) are valid, and what they would train."""

from __future__ import annotations

import argparse

from flp.experiment.keys import Keys
from flp.experiment.program import tool


def check(keys: Keys, args: argparse.Namespace) -> int:
    """Say what would be trained; that the parameters could be read is the check."""
    jobs, online = list(keys.jobs()), list(keys.online_jobs())
    runs = sum(len(keys.runs(*job)) for job in jobs)
    flows = len(keys.params.datasets) * len(keys.params.seeds)
    print(
        f"{args.params} is valid: {len(keys.params.datasets)} datasets, {flows} flows, {runs} offline runs in "
        f"{len(jobs)} jobs, {sum(len(keys.online_runs(*job)) for job in online)} online runs in {len(online)} jobs"
    )
    return 0


main = tool("check", {}, check, __doc__)
