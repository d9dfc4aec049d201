"""What runs when: each promise of the workflow is tried with the real snakemake and dvc in fresh clones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow_support import (
    BIN,
    DATASETS,
    REPO,
    Checkout,
    Jobs,
    alone,
    jobs,
    kill_group,
    new_checkout,
    wait_until,
)

from flp import layout

pytestmark = pytest.mark.slow(25)

BELOW_OFFLINE = jobs(offline_train=2, online_finetune=2, report=1)
EVERYTHING = jobs(download_dataset=2, pretrain_flow=2, invert_to_latent=2) + BELOW_OFFLINE
BELOW_OFFLINE_OF_ONE = jobs(offline_train=1, online_finetune=1, report=1)
EVERYTHING_OF_ONE = jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
NOTHING = jobs()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def single(place: Path) -> Checkout:
    """A clone in which `dvc repro` has made all of one dataset, committed; made once, never changed."""

    def make(root: Path) -> Checkout:
        checkout = new_checkout(root, datasets=DATASETS[1:])
        assert checkout.dvc("repro") == EVERYTHING_OF_ONE
        return checkout

    return once(place / "single", make)


@pytest.fixture(scope="session")
def built(place: Path, single: Checkout) -> Checkout:
    """The same with another dataset."""

    def make(root: Path) -> Checkout:
        checkout = single.copy(root)
        checkout.change(datasets=list(DATASETS))
        assert checkout.dvc("repro") == EVERYTHING_OF_ONE
        return checkout

    return once(place / "built", make)


def once(root: Path, make: Callable[[Path], Checkout]) -> Checkout:
    """Make a clone and commit it, unless another test process has."""
    with alone(root.with_suffix(".lock")):
        if not root.with_suffix(".done").exists():
            shutil.rmtree(root, ignore_errors=True)
            make(root).commit("made")
            root.with_suffix(".done").touch()
    return Checkout(root)


@pytest.fixture
def work(built: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the made clone, to change."""
    return built.copy(tmp_path / "work")


@pytest.fixture
def small(single: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the one with one dataset."""
    return single.copy(tmp_path / "work")


def agrees(work: Checkout) -> bool:
    """Whether both front ends have nothing to do."""
    status = work.run("dvc", "status").stdout
    return work.planned() == NOTHING and "up to date" in status


# --- nothing changed ---------------------------------------------------------------------------------------------


@pytest.mark.slow(100)  # the first to need the clones: it makes them while others do other things
def test_a_second_run_of_either_does_nothing(work: Checkout) -> None:
    assert work.snakemake() == NOTHING
    assert work.dvc("repro") == NOTHING
    assert agrees(work)


def test_snakemake_first_then_dvc_records_without_a_job(tmp_path: Path) -> None:
    checkout = new_checkout(tmp_path / "new", datasets=DATASETS[1:])
    assert checkout.snakemake() == EVERYTHING_OF_ONE
    assert checkout.dvc("repro") == NOTHING
    assert (checkout.root / "dvc.lock").exists()
    assert agrees(checkout)


def test_edits_of_docstrings_and_comments_run_nothing(small: Checkout) -> None:
    for path in ("flp/flow.py", "flp/agents/flp.py", "flp/stages/pretrain_flow.py"):
        small.edit(path, '"""', '"""Another first sentence. ')
        (small.root / path).write_text(small.read(path) + "\n# a comment\n")
    assert small.planned() == NOTHING
    assert small.dvc("repro", "pretrain_flow") == NOTHING


# --- something changed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # alpha: see test_changing_back…; a task: see test_workflow_real.py
        pytest.param({"online__steps": 20}, jobs(online_finetune=1, report=1), id="online steps"),
        pytest.param({"report__title": "Another"}, jobs(report=1), id="report"),
        pytest.param({"seeds": [0, 1]}, EVERYTHING_OF_ONE - jobs(download_dataset=1), id="a seed more"),
    ],
)
def test_a_change_runs_what_depends_on_it(small: Checkout, change: dict[str, Any], expected: Jobs) -> None:
    small.change(**change)
    assert small.planned() == expected
    assert small.dvc("repro") == expected
    assert agrees(small)


def test_a_change_of_one_dataset_leaves_the_others(work: Checkout) -> None:
    """One is new, one gets another flow, and the third stays as it is."""
    work.change(datasets=[*DATASETS, "scene-play"], overrides={DATASETS[0]: {"flow": {"steps": 30}}})
    expected = EVERYTHING_OF_ONE + EVERYTHING_OF_ONE - jobs(download_dataset=1, report=1)
    assert work.planned() == expected
    assert work.dvc("repro") == expected
    assert agrees(work)


def test_snakemake_alone_does_the_same(small: Checkout) -> None:
    small.change(offline__alpha=3.0)
    assert small.snakemake() == BELOW_OFFLINE_OF_ONE
    assert small.snakemake() == NOTHING
    small.change(offline__alpha=3.0, online__steps=20)
    assert small.snakemake() == jobs(online_finetune=1, report=1)
    assert small.dvc("repro") == NOTHING
    assert agrees(small)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"offline__sweep__alpha": [0.1]}, jobs(offline_train=2, report=1), id="a sweep"),
        pytest.param({"offline__agents": ["flp", "fql"]}, BELOW_OFFLINE, id="an agent more"),
        pytest.param({"evaluation__episodes": 2}, BELOW_OFFLINE, id="episodes"),
        pytest.param(
            {"seeds": [0, 1], "offline__seeds_per_job": 2},
            jobs(pretrain_flow=2, invert_to_latent=2, offline_train=2, online_finetune=2, report=1),
            id="two seeds a job",
        ),
        pytest.param({"invert__batch_size": 7, "download__timeout": 9.0}, NOTHING, id="what shapes no result"),
    ],
)
def test_other_changes_plan_what_depends_on_them(work: Checkout, change: dict[str, Any], expected: Jobs) -> None:
    work.change(**change)
    assert work.planned() == expected


def test_without_an_online_stage_both_still_work(small: Checkout) -> None:
    small.change(online__steps=0)
    assert small.dvc("repro") == jobs(report=1)
    assert agrees(small)


def test_runs_that_are_finished_stay_when_a_task_joins(small: Checkout) -> None:
    kept = "results/cube-single-play/offline/flp/seed0/task1_seed0/policy.safetensors"
    before = small.read(kept)
    small.change(offline__tasks=[1, 2, 3])
    small.snakemake()
    assert small.read(kept) == before
    assert (small.root / kept.replace("task1_", "task3_")).exists()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("flp/data/load.py", EVERYTHING),
        ("flp/stages/pretrain_flow.py", EVERYTHING - jobs(download_dataset=2)),
        ("flp/stages/invert_to_latent.py", EVERYTHING - jobs(download_dataset=2, pretrain_flow=2)),
        ("flp/stages/offline_train.py", BELOW_OFFLINE),
        ("flp/stages/online_finetune.py", jobs(online_finetune=2, report=1)),
        ("flp/stages/report.py", jobs(report=1)),
    ],
)
def test_an_edit_runs_what_uses_the_source(work: Checkout, path: str, expected: Jobs) -> None:
    work.edit(path, "\ndef ", "\n_ADDED = 1\n\n\ndef ")
    assert work.planned() == expected


def test_an_edit_of_the_actors_loss_trains_no_flow(small: Checkout) -> None:
    small.edit("flp/agents/flp.py", "\nclass ", "\n_ADDED = 1\n\n\nclass ")
    assert small.dvc("repro") == BELOW_OFFLINE_OF_ONE
    assert agrees(small)


def test_changing_back_restores_without_training(small: Checkout) -> None:
    page = small.read("results/report/index.html")
    small.change(offline__alpha=3.0)
    assert small.planned() == BELOW_OFFLINE_OF_ONE
    assert small.dvc("repro") == BELOW_OFFLINE_OF_ONE
    assert agrees(small)
    small.commit("alpha 3")
    small.run("git", "checkout", "-q", "HEAD~1")
    assert small.planned() == BELOW_OFFLINE_OF_ONE  # the files are still those of alpha 3
    assert small.dvc("checkout") == NOTHING
    assert small.read("results/report/index.html") == page
    assert agrees(small)
    small.run("git", "checkout", "-q", "main")
    small.dvc("checkout")
    assert agrees(small)
    small.run("git", "checkout", "-q", "HEAD~1", "--", "dvc.lock")
    small.dvc("checkout")
    # Snakemake's last record says alpha 3, params.yaml says alpha 3; only the files do not.
    assert small.planned() == BELOW_OFFLINE_OF_ONE
    assert small.planned("--workflow-profile", "none") == BELOW_OFFLINE_OF_ONE


# --- nothing to go by --------------------------------------------------------------------------------------------


def test_missing_records_and_lying_clocks_hide_no_change(work: Checkout) -> None:
    shutil.rmtree(work.root / ".snakemake")
    work.change(offline__alpha=3.0)
    assert work.planned() == BELOW_OFFLINE
    future = time.time() + 86_400
    for path in [*work.root.glob("results/**/*"), *work.root.glob("data/*")]:
        os.utime(path, (future, future))
    assert work.planned() == BELOW_OFFLINE
    for path in [*work.root.glob("data/*"), *work.root.glob("results/*/flow/**/*")]:
        os.utime(path, (future, future))
    assert work.snakemake() == BELOW_OFFLINE
    shutil.rmtree(work.root / ".flp" / "keys")
    assert work.planned() == NOTHING


def test_lying_clocks_run_nothing_that_is_current(work: Checkout) -> None:
    shutil.rmtree(work.root / ".snakemake")
    for number, path in enumerate(sorted(work.root.glob("results/**/*"))):
        os.utime(path, (number * 1000, number * 1000))
    for path in work.root.glob("data/*"):
        path.touch()
    assert work.planned() == NOTHING
    assert work.planned("--workflow-profile", "none") == NOTHING


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        pytest.param(
            [
                "results/{}/flow/model/seed0/flow.csv",
                "results/{}/offline/flp/seed0/task2_seed0",
                "results/report/metrics.json",
            ],
            jobs(pretrain_flow=1, offline_train=1, report=1),
            id="flow, offline, report",
        ),
        pytest.param(
            ["data/{}-val.npz", "results/{}/latent/seed0", "results/{}/online"],
            jobs(download_dataset=1, invert_to_latent=1, online_finetune=1),
            id="data, latent, online",
        ),
    ],
)
def test_what_is_lost_is_made_again_and_nothing_else(work: Checkout, lost: list[str], expected: Jobs) -> None:
    """Nor is what lies between the lost levels."""
    for path in lost:
        place = work.root / path.format(DATASETS[1])
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert work.snakemake() == expected
    assert work.planned() == NOTHING


def test_forcing_a_rule_forces_what_is_below(work: Checkout) -> None:
    assert work.planned("--forcerun", "pretrain_flow") == EVERYTHING - jobs(download_dataset=2)
    assert work.planned("--forceall") == EVERYTHING
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert work.planned("--force", flow) == jobs(pretrain_flow=1)


# --- sharing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_a_colleague_pulls_and_nothing_runs(small: Checkout, tmp_path: Path, link: str) -> None:
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("remote")
    small.run("dvc", "push", "-q")
    other = small.clone(tmp_path / "other")
    other.run("dvc", "config", "--local", "cache.type", link)
    assert other.dvc("pull", "-q") == NOTHING
    assert agrees(other)
    cached = {path: path.read_bytes() for path in (other.root / ".dvc/cache/files").rglob("*") if path.is_file()}
    other.change(offline__alpha=3.0)
    assert other.snakemake() == BELOW_OFFLINE_OF_ONE
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert other.dvc("repro") == NOTHING
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert agrees(other)


def test_pulled_flows_are_used_and_the_rest_is_made(small: Checkout, tmp_path: Path) -> None:
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("remote")
    small.run("dvc", "push", "-q")
    other = small.clone(tmp_path / "other")
    other.dvc("pull", "-q", "pretrain_flow")
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == small.read(flow)
    assert other.planned("pretrain_flow_all") == NOTHING
    assert other.snakemake() == EVERYTHING_OF_ONE - jobs(pretrain_flow=1)
    assert other.read(flow) == small.read(flow)
    assert other.planned() == NOTHING


def test_snakemakes_cache_shares_flows_and_never_swaps_seeds(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = {"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path / "cache")}
    one = new_checkout(tmp_path / "one", datasets=DATASETS[:1], seeds=(0, 1))
    two = one.clone(tmp_path / "two")
    made = jobs(download_dataset=1, pretrain_flow=2)
    assert one.snakemake("--cache", "--", "pretrain_flow_all", **cache) == made
    assert two.snakemake("--cache", "--", "pretrain_flow_all", **cache) == NOTHING
    flows = sorted(path.relative_to(one.root) for path in one.root.glob("results/*/flow/model/seed*/flow.safetensors"))
    assert len(flows) == 2
    for flow in flows:
        assert two.read(str(flow)) == one.read(str(flow))
        assert f"{flow.parts[1]}/{flow.parts[4]} " in two.read(str(flow))
    assert two.snakemake(**cache) == jobs(invert_to_latent=2, offline_train=2, online_finetune=2, report=1)
    assert two.dvc("repro") == NOTHING
    assert agrees(two)


def test_a_shared_dvc_cache_gives_the_very_flow(small: Checkout, tmp_path: Path) -> None:
    other = small.clone(tmp_path / "other")
    other.run("dvc", "cache", "dir", "--local", small.root / ".dvc" / "cache")
    other.run("dvc", "config", "--local", "cache.shared", "group")
    assert other.dvc("checkout", "-q") == NOTHING
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == small.read(flow)
    assert agrees(other)


def test_flows_are_artifacts_that_another_project_can_get(small: Checkout, tmp_path: Path) -> None:
    declared = yaml.safe_load(small.read("dvc.yaml"))["artifacts"]
    name = "flow-cube-single-play"
    assert declared[name]["type"] == "model"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = declared[name]["path"]
    small.run("dvc", "get", small.root, path, "--out", elsewhere / "flow")
    assert (elsewhere / "flow" / "seed0" / "flow.safetensors").read_text() == small.read(
        f"{path}/seed0/flow.safetensors"
    )
    small.run("git", "tag", "-a", f"{name}@v1.0.0", "-m", "first")
    small.run("dvc", "artifacts", "get", small.root, name, "--out", elsewhere / "registered")
    assert (elsewhere / "registered" / "seed0" / "flow.md").exists()


def test_every_dataset_at_hand_has_an_artifact() -> None:
    declared = yaml.safe_load((REPO / "dvc.yaml").read_text())["artifacts"]
    wanted = set()
    for path in [REPO / "params.yaml", *REPO.glob("presets/*.yaml")]:
        wanted |= set(yaml.safe_load(path.read_text()).get("datasets", []))
    assert {f"flow-{dataset}" for dataset in wanted} <= set(declared)
    for name, artifact in declared.items():
        assert artifact["path"] == f"results/{name.removeprefix('flow-')}/flow/model"


# --- experiments -------------------------------------------------------------------------------------------------


def test_experiments_run_the_right_jobs_and_compare(small: Checkout) -> None:
    assert small.dvc("exp", "run", "--set-param", "offline.alpha=3.0") == BELOW_OFFLINE_OF_ONE
    shown = json.loads(small.run("dvc", "exp", "show", "--json").stdout)
    assert shown
    table = small.run("dvc", "exp", "show", "--csv").stdout.splitlines()
    assert "offline.alpha" in table[0] and any(".offline" in name for name in table[0].split(","))
    assert "offline.alpha" in small.run("dvc", "params", "diff").stdout
    assert "offline" in small.run("dvc", "metrics", "diff").stdout
    assert small.dvc("exp", "run", "--temp", "--set-param", "report.title=Other") == jobs(report=1)
    assert agrees(small)


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_killed_job_leaves_nothing_that_counts(work: Checkout) -> None:
    work.change(offline__alpha=3.0)
    victim = "offline_train/cube-single-play/flp/seed0"
    process = work.start("snakemake", "--cores", "4", FLP_STAND_IN_SLOW=victim, FLP_STAND_IN_HALF=victim)
    wait_until(lambda: work.log.exists() and f"start {victim}" in work.log.read_text())
    line = next(line for line in work.log.read_text().splitlines() if line.startswith(f"start {victim}"))
    time.sleep(0.2)
    os.kill(int(line.split()[3]), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert work.ran() == jobs(offline_train=1, online_finetune=1)  # the others went on
    assert work.snakemake() == jobs(offline_train=1, online_finetune=1, report=1)


@pytest.mark.parametrize("front", ["snakemake", "dvc"])
def test_after_kill_9_one_command_unlocks_and_the_next_goes_on(work: Checkout, front: str) -> None:
    work.change(offline__alpha=3.0)
    victim = "offline_train/cube-single-play/flp/seed0"
    command = ("snakemake", "--cores", "4") if front == "snakemake" else ("dvc", "repro")
    process = work.start(*command, FLP_STAND_IN_SLOW=victim, FLP_STAND_IN_HALF=victim)
    wait_until(lambda: work.log.exists() and f"start {victim}" in work.log.read_text())
    time.sleep(0.3)
    kill_group(process)
    finished = work.ran()
    refused = work.run(*command, check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout + refused.stderr
    work.run("snakemake", "--unlock")
    work.ran()
    work.run(*command)
    assert work.ran() + finished == BELOW_OFFLINE
    assert work.planned() == NOTHING


def test_half_written_outputs_are_not_taken_for_whole(work: Checkout) -> None:
    manifest = work.root / "results/cube-single-play/offline/flp/seed0/manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text[: len(text) // 2])
    assert work.planned() == jobs(offline_train=1)


def test_a_failed_job_does_not_stop_the_others(work: Checkout) -> None:
    work.change(offline__alpha=3.0)
    done = work.run("snakemake", "--cores", "4", check=False, FLP_STAND_IN_FAIL="cube-single-play/flp/seed0")
    assert done.returncode != 0
    assert "told to fail" in done.stdout + done.stderr
    assert work.ran() == jobs(offline_train=1, online_finetune=1)
    assert work.snakemake() == jobs(offline_train=1, online_finetune=1, report=1)


# --- the machine -------------------------------------------------------------------------------------------------


def test_snakemakes_own_report_holds_the_results_and_needs_no_network(work: Checkout) -> None:
    work.run("snakemake", "--report", "report.html")
    html = work.read("report.html")
    for name in ("results/report/index.html", "results/report/summary.csv", "latent.png", "Flow Latent Policies"):
        assert name in html
    assert re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?!data:)[^"]*"', html) == []


def test_no_more_threads_than_the_machine_has(work: Checkout) -> None:
    work.change(offline__tasks=[1, 2, 3, 4, 5], offline__sweep__alpha=[0.1, 0.2, 1.0])
    work.ran()
    work.run("snakemake", "--cores", "64", "offline_train_all", FLP_STAND_IN_SLOW="offline", FLP_STAND_IN_SECONDS="0.3")
    busy, most = 0, 0
    for line in work.log.read_text().splitlines():
        word, _, _, _, threads = line.split()
        busy += int(threads) if word == "start" else -int(threads)
        most = max(most, busy)
    assert 1 <= most <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("gpus", "most"), [(1, 1), (2, 2)])
def test_training_jobs_take_turns_on_a_gpu(work: Checkout, gpus: int, most: int) -> None:
    work.change(offline__alpha=5.0, offline__tasks=[1])
    extra = ["--resources", f"gpu={gpus}"] if gpus > 1 else []
    work.ran()
    slow = {"FLP_STAND_IN_SLOW": "offline", "FLP_STAND_IN_SECONDS": str(2 * gpus), "CUDA_VISIBLE_DEVICES": "0,1"}
    work.run("snakemake", "offline_train_all", "--cores", "4", *extra, **slow)
    busy, seen = 0, 0
    for line in work.log.read_text().splitlines():
        busy += 1 if line.startswith("start") else -1
        seen = max(seen, busy)
    assert seen <= most if len(os.sched_getaffinity(0)) < 4 else seen == most


def test_a_large_experiment_is_planned_in_seconds(tmp_path: Path) -> None:
    checkout = new_checkout(tmp_path / "large")
    names = ["antmaze-large-navigate", "humanoidmaze-medium-navigate", "antsoccer-arena-navigate", "cube-single-play"]
    names += ["cube-double-play", "scene-play", "puzzle-3x3-play", "puzzle-4x4-play"]
    names += ["antmaze-giant-navigate", "humanoidmaze-large-navigate"]
    checkout.change(datasets=names, seeds=list(range(8)), offline__tasks=[1, 2, 3, 4, 5])
    began = time.monotonic()
    assert checkout.planned() == jobs(
        download_dataset=10, pretrain_flow=80, invert_to_latent=80, offline_train=80, online_finetune=80, report=1
    )
    assert time.monotonic() - began < 15 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("offline: {alfa: 1}", "offline.alfa: unknown key; did you mean 'alpha'?"),
        ("datasets: [cube-singel-play]", "did you mean"),
        ("seeds: [0]\nseeds: [1]", "given twice"),
        ("datasets: [", "line"),
    ],
)
def test_bad_parameters_are_one_line(work: Checkout, text: str, says: str) -> None:
    (work.root / "bad.yaml").write_text(text)
    done = work.run("snakemake", "-n", "--quiet", "--configfile", "bad.yaml", check=False)
    assert done.returncode != 0
    said = (done.stdout + done.stderr).strip().splitlines()
    assert says in said[-1] or says in "\n".join(said), said
    assert "Traceback" not in "\n".join(said)


def test_parameters_may_stand_on_the_command_line(work: Checkout) -> None:
    """Snakemake hands over the numbers inside brackets as strings."""
    asked = ("seeds=[0, 1, 2]", "online={steps: 0}", "offline={alpha: 0.25, agents: [flp]}")
    assert work.planned("--config", *asked) == jobs(pretrain_flow=4, invert_to_latent=4, offline_train=6, report=1)
    done = work.run("snakemake", "-n", "--config", "offline={alpha: high}", check=False)
    assert done.returncode != 0
    assert "+ --config: offline.alpha: input should be a valid number, got 'high'" in done.stdout + done.stderr


def test_what_the_experiment_does_not_hold_is_refused(work: Checkout) -> None:
    for target in ("data/scene-play.npz", "results/cube-single-play/flow/model/seed9/flow.safetensors"):
        done = work.run("snakemake", "-n", target, check=False)
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert "No rule to produce" in said and "Traceback" not in said


def test_rules_work_without_the_environment_activated(small: Checkout) -> None:
    # bash replaces itself by the command it is given; dash stays, between dvc and the command
    small.env |= {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    small.change(report__title="Another")
    small.ran()
    small.run(BIN / "dvc", "repro")
    assert small.ran() == jobs(report=1)
    small.change(report__title="One more")
    small.run(BIN / "snakemake", "--cores", "2")
    assert small.ran() == jobs(report=1)


def test_the_workflow_is_formatted_and_linted() -> None:
    checkout = Checkout(REPO, stand_ins=False)
    checkout.run("snakefmt", "--check", "workflow")
    assert "good condition" in "".join(checkout.run("snakemake", "--lint").stderr)


def test_snakemake_and_dvc_know_the_same_stages(work: Checkout) -> None:
    listed = {line.split()[0] for line in work.run("snakemake", "--list-rules").stdout.splitlines()}
    stages = set(yaml.safe_load(work.read("dvc.yaml"))["stages"])
    on_request = {
        "all_figures",
        "offline_sweep",
        "videos",
        *layout.FIGURES,
        *layout.TABLES,
    }  # no part of `all`, nor of DVC
    assert on_request <= listed
    assert stages == {name for name in listed - on_request if name != "all" and not name.endswith("_all")}
    assert sys.version_info >= (3, 11)
