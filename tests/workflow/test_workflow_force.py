"""What is forced is made again, whoever forces it; and what is deleted is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workflow_clones import EVERYTHING_OF_ONE, NOTHING, agrees
from workflow_support import Checkout, jobs

pytestmark = pytest.mark.slow(12)
NAME = "cube-single-play"
FLOW = f"results/{NAME}/flow/model/seed0/flow.safetensors"
OFFLINE, ONLINE = (f"results/{NAME}/{phase}/flp/seed0" for phase in ("offline", "online"))


def policies(checkout: Checkout) -> dict[str, str]:
    """Every flow's and policy's content; a stand-in makes other content each time."""
    return {
        str(path.relative_to(checkout.root)): path.read_text()
        for path in (checkout.root / "results").rglob("*.safetensors")
    }


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (("snakemake", "--forcerun", "offline_train"), (OFFLINE, ONLINE)),
        (("snakemake", "--forcerun", f"{OFFLINE}/manifest.json"), (OFFLINE, ONLINE)),
        (("snakemake", "--force", f"{OFFLINE}/manifest.json"), (OFFLINE,)),
        (("snakemake", "--forceall"), ("",)),
        (("dvc", "repro", "--force"), ("",)),
        (("dvc", "repro", "-sf", f"offline_train@{NAME}"), (OFFLINE,)),
        (("dvc", "repro", "--single-item", f"offline_train@{NAME}"), ()),
    ],
    ids=lambda part: " ".join(part),
)
def test_what_is_forced_is_made_again(small: Checkout, command: tuple[str, ...], again: tuple[str, ...]) -> None:
    before = policies(small)
    cores = ["--cores", "2"] if command[0] == "snakemake" else []
    small.run(*command, *cores, FLP_STAND_IN_WARM="")  # whether DVC was told to force is in a parent's command line
    after = policies(small)
    assert before.keys() == after.keys() and len(before) == 6
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {path for path in before if path.startswith(again)}
    assert command != ("dvc", "repro", "--force") or agrees(small)
    assert not list((small.root / ".flp" / "forced").glob("*"))
    assert small.snakemake() == NOTHING and policies(small) == after


def test_only_the_first_attempt_discards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is tried again within the same forced run goes on, and still takes nothing over from others."""
    from flp.system.artifacts import write_text
    from flp.system.forced import VARIABLE, discard_if_forced, marker

    monkeypatch.chdir(tmp_path)
    run = Path("results/run")
    run.mkdir(parents=True)
    assert not discard_if_forced(Path("results"), [run]) and run.exists()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "markers"))
    assert not discard_if_forced(Path("results"), [run]) and run.exists()
    write_text(marker(tmp_path / "markers", "results"), "asked")
    assert discard_if_forced(Path("results"), [run]) and not run.exists()
    run.mkdir()
    assert discard_if_forced(Path("results"), [run]) and run.exists()


@pytest.mark.slow(25)
def test_forced_stages_give_the_same_bytes(real: Checkout, tmp_path: Path) -> None:
    """How people check determinism: the real stages, all of them."""
    checkout = real.copy(tmp_path / "real")

    def made() -> tuple[dict[str, object], dict[str, int]]:
        files = [path for top in ("data", "results") for path in sorted((checkout.root / top).rglob("*"))]
        files = [path for path in files if path.is_file() and "report" not in path.parts]
        content = {str(path.relative_to(checkout.root)): untimed(path) for path in files}
        return content, {str(path.relative_to(checkout.root)): path.stat().st_ino for path in files}

    def untimed(path: Path) -> object:
        if path.suffix != ".json":
            return path.read_bytes()
        found = json.loads(path.read_text())
        return {name: value for name, value in found.items() if name not in ("created", "seconds")}

    content, inodes = made()
    checkout.run("snakemake", "--cores", "2", "--forceall")
    again, others = made()
    assert again == content
    assert len(content) > 15 and not any(inodes[name] == others[name] for name in inodes)


def test_deleted_outputs_are_gone_and_made_anew(small: Checkout) -> None:
    before = policies(small)
    shown = small.run("snakemake", "--delete-all-output", "--dry-run").stdout
    assert f"Would delete {OFFLINE}" in shown and policies(small) == before
    small.run("snakemake", "--cores", "1", "--delete-all-output")
    left = [path for top in ("data", "results") for path in (small.root / top).rglob("*") if path.is_file()]
    assert [path for path in left if path.parent.name != "keys"] == []  # those of DVC
    assert small.snakemake() == EVERYTHING_OF_ONE
    after = policies(small)
    assert before.keys() == after.keys() and not any(before[path] == after[path] for path in before)


def test_deleting_one_level_leaves_the_others(small: Checkout) -> None:
    flow = small.read(FLOW)
    small.run("snakemake", "--cores", "1", "--delete-all-output", "--omit-from", "offline_train")
    assert not (small.root / FLOW).exists() and (small.root / f"{OFFLINE}/manifest.json").exists()
    assert small.snakemake() == EVERYTHING_OF_ONE - jobs(offline_train=1, online_finetune=1, report=1)
    assert small.read(FLOW) != flow
