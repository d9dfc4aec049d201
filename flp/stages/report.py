"""Make the report: tables, figures and the page.

Reads the flows' quality reports and the runs' evaluations, logs and trajectories of the whole experiment; writes
results/report/: index.html, summary.csv and other tables, metrics.json, and manifest.json last.
"""

from __future__ import annotations

import sys

from flp.experiment.program import Job, stage
from flp.report.page import build


def run(job: Job) -> None:
    """Make the report and print its success table."""
    print(build(job.keys), end="")


main = stage("report", (), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
