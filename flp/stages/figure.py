"""Make one of the paper's figures or tables from the runs that it shows.

Writes results/figures/: for Figures 2 to 5 a picture (.svg) and its numbers (.csv); for Tables 1 and 2 a page (.html),
the same as Markdown (.md) and the cells (.csv); and for each, last, a manifest (.json). Figure 2 is a toy experiment
without inputs; Figures 3 to 5 read the evaluations of FLP's runs; the tables also those of the baselines.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from flp.experiment.program import Job, stage
from flp.learner.trainer import Trainer
from flp.paper import figure2, paper_tables, sweep_figures
from flp.report.collect import key_of_page, stale_note
from flp.system import layout
from flp.system.artifacts import FORMAT_VERSION, made_with, write_json, write_text
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of
from flp.system.progress import Progress
from flp.system.resume import Resume


def run(job: Job) -> None:
    """Make the figure and print its numbers; raises `FLPError` where it would be empty."""
    figure, keys = job.require("figure", layout.FIGURES + layout.TABLES), job.keys
    if reason := keys.nothing_in(figure):
        raise FLPError(reason)
    key = keys.figure(figure)
    states = layout.resume_folder("figure", key)
    if figure == "figure2":
        torch.set_num_threads(1)  # the networks are too small for more
        texts, stale = figure2.make(keys.params.figure2, resumable(states)), list[str]()
    else:
        texts, stale = (paper_tables if figure in layout.TABLES else sweep_figures).make(keys, figure)
    base = layout.FIGURE.format(figure=figure)
    Path(base + ".json").unlink(missing_ok=True)
    for suffix, text in texts.items():
        write_text(base + suffix, text)
    manifest = {"format_version": FORMAT_VERSION, "kind": "figure", "figure": figure}
    files = {suffix: sha256_of(base + suffix) for suffix in texts}
    write_json(base + ".json", manifest | {"key": key_of_page(key, stale), "files": files, **made_with()})
    shutil.rmtree(states, ignore_errors=True)  # what is left does no harm
    if stale:
        print(f"note: {stale_note(stale)}", file=sys.stderr)
    print(texts[".md" if figure in layout.TABLES else ".csv"], end="")


def resumable(folder: Path) -> figure2.Fit:
    """A `fit` that trains the toy's parts and resumes a killed figure from the states in `folder`."""

    def fit(part: str, trainer: Trainer, steps: int) -> None:
        resume = Resume(folder / part)
        if saved := resume.start():
            trainer.restore(*saved)
        progress = Progress(f"figure2 {part}", steps)
        trainer.fit(steps, (steps,), lambda step, logs: None, lambda: resume.maybe(trainer.state), progress)
        progress.close()
        resume.save(*trainer.state())

    return fit


main = stage("figure", ("figure",), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
