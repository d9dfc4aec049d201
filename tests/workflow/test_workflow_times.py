"""What runs does not depend on file times: where they keep whole seconds only, and under clocks that are hours off."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workflow_clones import BELOW_OFFLINE_OF_ONE, EVERYTHING_OF_ONE, NOTHING
from workflow_support import Checkout, jobs

pytestmark = pytest.mark.slow(30)
CHANGES: list[tuple[dict[str, Any], Any]] = [
    ({"report__title": "Another"}, jobs(report=1)),
    ({"online__steps": 20}, jobs(online_finetune=1, report=1)),
    ({"evaluation__episodes": 2}, BELOW_OFFLINE_OF_ONE),
    ({"offline__alpha": 3.0}, BELOW_OFFLINE_OF_ONE),
    ({"flow__steps": 30}, EVERYTHING_OF_ONE - jobs(download_dataset=1)),
    ({"download__episodes": 5}, EVERYTHING_OF_ONE),
    ({"seeds": [0, 1]}, EVERYTHING_OF_ONE - jobs(download_dataset=1)),
    ({"invert__batch_size": 7}, NOTHING),
]


def ext3(folder: Path) -> Iterator[Path]:
    """A file system whose inodes have no room for parts of seconds."""
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    for command in (
        ["truncate", "--size", "256M", str(image)],
        ["mkfs.ext3", "-q", "-I", "128", str(image)],
        ["mount", "-o", "loop", str(image), str(mount)],
    ):
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which(command[0]) else None
        if done is None or done.returncode != 0:
            pytest.skip(f"{command[0]}: {done.stderr.strip() if done else 'not here'} (as root, it could be tried)")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.fixture(params=["ext3 with whole seconds", "FAT's two seconds"])
def coarse(small: Checkout, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """A made clone where file times are coarse; FAT's are had by a process that sets no others."""
    if request.param.startswith("FAT"):
        small.env["FLP_STAND_IN_SECONDS_KEPT"] = "2"
        set_times(small, lambda when: when // 2 * 2)
        yield small
        return
    mounted = ext3(tmp_path)
    yield small.copy(next(mounted) / "work")
    next(mounted, None)


def set_times(checkout: Checkout, new: Any) -> None:
    """Give every file of the clone's outputs another time."""
    for folder in ("data", "results", ".flp"):
        for path in (checkout.root / folder).rglob("*"):
            when = path.lstat().st_mtime
            os.utime(path, (new(when), new(when)), follow_symlinks=False)


def test_what_runs_is_exact_where_times_are_coarse(coarse: Checkout) -> None:
    kept = coarse.read("params.yaml")
    assert coarse.planned() == NOTHING
    for change, expected in CHANGES:
        coarse.change(**change)
        assert coarse.planned() == expected, change
        (coarse.root / "params.yaml").write_text(kept)
    for hours in (-5, 5):  # the clock is set, or is another machine's
        set_times(coarse, lambda when, hours=hours: time.time() // 2 * 2 + hours * 3600)
        assert coarse.planned() == NOTHING
        coarse.change(offline__alpha=8.0 + hours)
        assert coarse.planned() == BELOW_OFFLINE_OF_ONE
        assert coarse.snakemake() == BELOW_OFFLINE_OF_ONE
        assert coarse.planned() == NOTHING
    coarse.change(offline__alpha=1.0)
    assert coarse.snakemake() == BELOW_OFFLINE_OF_ONE
    assert coarse.planned() == NOTHING
