"""What Snakemake (-f, -F, -R) or DVC (repro --force) was told to make again although it is finished."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bookkeeping import FOLDER

from flp.experiment.graph import Artifact
from flp.system.artifacts import write_text
from flp.system.forced import VARIABLE, marker

_FORCE = re.compile("--force|-[qvispPR]*f[qvispPR]*")


class Forced:
    """What was forced, by rule or by file.

    Args:
        settings: Snakemake's, of the graph.
    """

    def __init__(self, settings: Any) -> None:
        self.everything = settings.forceall
        self.names = set(settings.forcerun) | _stage_of_dvc()
        if settings.forcetargets:
            self.names |= set(settings.targets)

    def rule(self, name: str) -> bool:
        """Whether a rule was forced."""
        return self.everything or name in self.names

    def artifacts(self, artifacts: Iterable[Artifact]) -> set[Artifact]:
        """The artifacts that were forced, and those downstream of them; each must come after its inputs."""
        forced: set[Artifact] = set()
        for artifact in artifacts:
            above = {source for sources in artifact.inputs.values() for source in sources}
            rule = artifact.name if artifact.stage == "figure" else artifact.stage
            if self.rule(rule) or not self.names.isdisjoint(artifact.files) or forced & above:
                forced.add(artifact)
        return forced


def write_markers(folders: Iterable[str]) -> None:
    """Mark for the jobs the folders whose finished runs must be made again (flp/system/forced.py)."""
    (FOLDER / "forced").mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(dir=FOLDER / "forced")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for folder in folders:
        write_text(marker(place, folder), "asked")
    os.environ[VARIABLE] = place


def _stage_of_dvc() -> set[str]:
    """The stage that DVC runs, if it was told to force it: the stage is in the environment, `--force` in a parent's
    command line.
    """
    stage, process = os.environ.get("DVC_STAGE", ""), os.getppid()
    while stage and process > 1:
        try:
            line = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").split("\0")
            process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break  # a system without /proc, or another user's process
        verb = next((at for at, part in enumerate(line) if part in ("repro", "exp", "experiments")), 0)
        if "dvc" in (Path(part).name for part in line[:verb]) and any(map(_FORCE.fullmatch, line[verb:])):
            return {stage.rpartition(":")[2].partition("@")[0]}
    return set()
