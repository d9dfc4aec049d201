"""Fetch, generate or copy a dataset and check what it holds.

Writes data/{dataset}.npz and data/{dataset}-val.npz in OGBench's format, and a manifest (.json). The source is
download.source in params.yaml: ogbench, generate or path; for a name in the section tasks it is the user's data.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from flp.data.environments import EnvironmentSpec
from flp.data.fetch import fetch
from flp.data.generate import generate
from flp.data.load import validate
from flp.data.relabel import state_columns
from flp.experiment.keys import Keys
from flp.experiment.program import Job, stage
from flp.own.importing import import_task
from flp.own.ogbench_file import import_file
from flp.params.sections import DownloadSettings
from flp.supervision.foresight import check, generate_needs
from flp.supervision.status import Status
from flp.system import layout
from flp.system.artifacts import FORMAT_VERSION, made_with, write_json
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of
from flp.system.locks import once

KNOWN_HASHES = Path("data/sha256.json")


def run(job: Job) -> None:
    """Make one dataset's files."""
    base, key = layout.DATA.format(dataset=job.args.dataset), job.keys.data(job.args.dataset)
    once(base, base + ".json", key, partial(make, job, key))


def make(job: Job, key: str) -> None:
    """Obtain, check and describe one dataset's files."""
    name = job.args.dataset
    train, validation, manifest = (Path(layout.DATA.format(dataset=name) + suffix) for suffix in layout.DATA_SUFFIXES)
    manifest.unlink(missing_ok=True)
    origin: dict[str, Any]
    spec: EnvironmentSpec
    if name in job.params.tasks:
        task = job.params.tasks[name]
        data = import_task(task.source(name), train, validation)
        spec = data.spec
        origin = {"source": "own", "label": "a task of the user's", "parameters": task.model_dump(mode="json")}
        origin |= {"task": data.spec.described(), "reference": data.reference}
    else:
        settings, spec = job.params.download, job.params.spec(name)
        states = layout.resume_folder("download-dataset", key)
        with closing(Status(states, stage="download-dataset", dataset=name, makes=str(train.with_suffix("")))):
            obtain(name, settings, train, validation, states, job.args.threads)
        origin = {"source": settings.source, "label": label(settings), "parameters": settings.keyed()}
    if content := job.keys.content(name):
        origin["content"] = content
        if Keys(job.keys.params).content(name) != content:
            raise FLPError(f"{name}: the file changed while it was read; run again")
    for path in (train, validation):
        validate(path, spec)
    files = {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in (train, validation)}
    description = {"format_version": FORMAT_VERSION, "kind": "dataset", "key": key, "dataset": name, **origin}
    write_json(manifest, {**description, "files": files, **made_with()})


def obtain(name: str, settings: DownloadSettings, train: Path, validation: Path, resume: Path, workers: int) -> None:
    """Write both files from the source in `settings`."""
    if settings.source == "generate":
        remedy = "lower download.episodes, or use fewer --threads"
        check(f"generating {name}", generate_needs(name, settings, workers), "data", remedy)
        generate(
            name,
            train,
            validation,
            seed=settings.seed,
            workers=workers,
            episodes=settings.episodes,
            steps_per_episode=settings.steps_per_episode,
            noise=settings.noise,
            policy=settings.policy,
            resume_dir=resume,
        )
    elif settings.source == "path":
        assert settings.path is not None
        import_file(name, settings.path, train, validation, state_columns(name))
    else:
        fetch(
            name,
            train,
            validation,
            mirrors=settings.mirrors,
            known_hashes_path=KNOWN_HASHES,
            timeout=settings.timeout,
            retries=settings.retries,
        )


def label(settings: DownloadSettings) -> str:
    """A short name of the data's origin, for tables."""
    if settings.source == "ogbench":
        return "OGBench's files"
    if settings.source == "path":
        return "a file of the user's"
    return "made here by OGBench's controllers" if settings.policy == "scripted" else "made here by random actions"


main = stage("download-dataset", ("dataset",), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
