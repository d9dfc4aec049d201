"""Settle a conflict in dvc.lock stage by stage: a stage's record is that of the side which has changed it.

Where both sides have, ours is taken; it is then out of date, and `dvc repro` sees to it. Run it while git merges:
python tools/merge_lock.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

LOCK = "dvc.lock"
# Where git keeps what both sides began with, and what each has made of it.
BASE, OURS, THEIRS = ":1:", ":2:", ":3:"


def merged(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Records by stage: theirs where only they have changed one (or made it, or dropped it), else ours."""
    names = dict.fromkeys([*ours, *theirs])
    chosen = {name: (theirs if ours.get(name) == base.get(name) else ours).get(name) for name in names}
    return {name: record for name, record in chosen.items() if record is not None}


def main() -> int:
    """Write the file; return the exit status."""
    sides = []
    for side in (BASE, OURS, THEIRS):
        shown = subprocess.run(["git", "show", side + LOCK], capture_output=True, text=True)
        if shown.returncode != 0 and side != BASE:
            print(f"{LOCK} is in no conflict here", file=sys.stderr)
            return 2
        sides.append(yaml.safe_load(shown.stdout) or {})
    stages = merged(*(side.get("stages", {}) for side in sides))
    Path(LOCK).write_text(yaml.safe_dump(sides[1] | {"stages": stages}, sort_keys=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
