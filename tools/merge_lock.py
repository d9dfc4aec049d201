"""Resolve a conflict in dvc.lock stage by stage: each stage's record comes from the side that changed it.

If both sides did, ours is taken; it may then be out of date, which `dvc repro` repairs. Run it during a git merge:
python tools/merge_lock.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

LOCK = "dvc.lock"
# Git's names of the common base and of each side during a merge.
BASE, OURS, THEIRS = ":1:./", ":2:./", ":3:./"  # of the folder that it runs in, where it writes


def merged(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Records by stage: theirs where only they have changed, added or removed one, else ours."""
    names = dict.fromkeys([*ours, *theirs])
    chosen = {name: (theirs if ours.get(name) == base.get(name) else ours).get(name) for name in names}
    return {name: record for name, record in chosen.items() if record is not None}


def main() -> int:
    """Write the file; return the exit status."""
    sides = []
    for side in (BASE, OURS, THEIRS):
        show = subprocess.run(["git", "show", side + LOCK], capture_output=True, text=True)
        if show.returncode != 0 and side != BASE:
            print(f"{LOCK} has no conflict here", file=sys.stderr)
            return 2
        sides.append(yaml.safe_load(show.stdout) or {})
    stages = merged(*(side.get("stages", {}) for side in sides))
    Path(LOCK).write_text(yaml.safe_dump(sides[1] | {"stages": stages}, sort_keys=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
