"""Write workflow/envs/flp.yaml, the environment of `--use-conda`, with the pins of constraints.txt.

What depends on the machine (Python, and PyTorch with or without CUDA) comes from conda; the rest comes from pip, so
that both ways of installing have the same versions. Run it again when constraints.txt changes:
python workflow/lib/write_env.py
"""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONDA = {"torch": "pytorch", "numpy": "numpy"}
# Not needed by a stage: they run the stages.
FRONT_ENDS = {"snakemake", "dvc"}
HEADER = """# The stages' environment under --use-conda, written by workflow/lib/write_env.py from constraints.txt.
# `pytorch` is conda-forge's: it takes the CUDA build where there is a CUDA driver (the virtual package __cuda), and
# the CPU build elsewhere.
channels:
  - conda-forge
dependencies:
"""


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """constraints.txt: name → version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {normal(name): version.split("+")[0].strip() for name, version in pinned}


def requirements(name: str) -> set[str]:
    """What a distribution requires on this platform, with the extras that it asks for."""
    from packaging.requirements import Requirement

    names = set()
    for text in distribution(name).requires or []:
        need = Requirement(text)
        if normal(need.name) in FRONT_ENDS:
            continue
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            names.add(normal(need.name))
            for extra in need.extras:
                names |= _of_extra(normal(need.name), extra)
    return names


def _of_extra(name: str, extra: str) -> set[str]:
    from packaging.requirements import Requirement

    needs = map(Requirement, distribution(name).requires or [])
    return {normal(need.name) for need in needs if need.marker and need.marker.evaluate({"extra": extra})}


def closure() -> list[str]:
    """Every distribution the stages need, but for what conda brings."""
    names: set[str] = set()
    pending = sorted(requirements("flp"))
    while pending:
        name = pending.pop()
        if name not in names and name not in CONDA:
            names.add(name)
            pending.extend(sorted(requirements(name)))
    return sorted(names)


def environment() -> str:
    """The file's text."""
    versions = pins()
    lines = ["  - python=3.11", "  - pip"]
    lines += [f"  - {conda}={versions[name]}" for name, conda in CONDA.items()]
    lines += ["  - pip:"] + [f"      - {name}=={versions[name]}" for name in closure() if name in versions]
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "workflow" / "envs" / "flp.yaml").write_text(environment(), encoding="utf-8")
