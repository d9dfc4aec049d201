"""What runs when: each promise of the workflow is tried with the real snakemake and dvc in fresh clones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
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

pytestmark = pytest.mark.slow

BELOW_OFFLINE = jobs(offline_train=2, online_finetune=2, report=1)
EVERYTHING = jobs(download_dataset=2, pretrain_flow=2, invert_to_latent=2) + BELOW_OFFLINE
NOTHING = jobs()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """A clone in which `dvc repro` has made everything, committed; made once, never changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    root = shared / "built"
    with alone(shared / "built.lock"):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            checkout = new_checkout(root)
            assert checkout.dvc("repro") == EVERYTHING
            checkout.commit("made")
            (root / ".flp" / "done").touch()
            (root / "done").symlink_to(".flp/done")
            (root / ".git" / "info" / "exclude").write_text("done\n")
    return Checkout(root)


@pytest.fixture
def work(built: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the made clone, to change."""
    return built.copy(tmp_path / "work")


def agrees(work: Checkout) -> bool:
    """Whether both front ends have nothing to do."""
    status = work.run("dvc", "status").stdout
    return work.planned() == NOTHING and "up to date" in status


# --- nothing changed ---------------------------------------------------------------------------------------------


def test_a_second_run_of_either_does_nothing(work: Checkout) -> None:
    assert work.snakemake() == NOTHING
    assert work.dvc("repro") == NOTHING
    assert agrees(work)


def test_snakemake_first_then_dvc_records_without_a_job(tmp_path: Path) -> None:
    checkout = new_checkout(tmp_path / "new")
    assert checkout.snakemake() == EVERYTHING
    assert checkout.dvc("repro") == NOTHING
    assert (checkout.root / "dvc.lock").exists()
    assert agrees(checkout)


def test_edits_of_docstrings_and_comments_run_nothing(work: Checkout) -> None:
    for path in ("flp/flow.py", "flp/agents/flp.py", "flp/stages/pretrain_flow.py"):
        work.edit(path, '"""', '"""Another first sentence. ')
        (work.root / path).write_text(work.read(path) + "\n# a comment\n")
    assert work.planned() == NOTHING
    assert work.dvc("repro", "pretrain_flow") == NOTHING


# --- something changed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"offline__alpha": 3.0}, BELOW_OFFLINE, id="alpha"),
        pytest.param(
            {"overrides": {DATASETS[0]: {"flow": {"steps": 30}}}},
            jobs(pretrain_flow=1, invert_to_latent=1, offline_train=1, online_finetune=1, report=1),
            id="flow steps of one dataset",
        ),
        pytest.param({"online__steps": 20}, jobs(online_finetune=2, report=1), id="online steps"),
        pytest.param({"report__title": "Another"}, jobs(report=1), id="report"),
        pytest.param(
            {"seeds": [0, 1]},
            jobs(pretrain_flow=2, invert_to_latent=2, offline_train=2, online_finetune=2, report=1),
            id="a seed more",
        ),
        pytest.param({"offline__tasks": [1, 2, 3]}, BELOW_OFFLINE, id="a task more"),
        pytest.param(
            {"datasets": [*DATASETS, "scene-play"]},
            jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1, offline_train=1, online_finetune=1, report=1),
            id="a dataset more",
        ),
    ],
)
def test_a_change_runs_what_depends_on_it(work: Checkout, change: dict[str, Any], expected: Jobs) -> None:
    work.change(**change)
    assert work.planned() == expected
    assert work.dvc("repro") == expected
    assert agrees(work)


def test_snakemake_alone_does_the_same(work: Checkout) -> None:
    work.change(offline__alpha=3.0)
    assert work.snakemake() == BELOW_OFFLINE
    assert work.snakemake() == NOTHING
    work.change(offline__alpha=3.0, online__steps=20)
    assert work.snakemake() == jobs(online_finetune=2, report=1)
    assert work.dvc("repro") == NOTHING
    assert agrees(work)


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


def test_without_an_online_stage_both_still_work(work: Checkout) -> None:
    work.change(online__steps=0)
    assert work.dvc("repro") == jobs(report=1)
    assert agrees(work)


def test_runs_that_are_finished_stay_when_a_task_joins(work: Checkout) -> None:
    kept = "results/cube-single-play/offline/flp/seed0/task1_seed0/policy.safetensors"
    before = work.read(kept)
    work.change(offline__tasks=[1, 2, 3])
    work.snakemake()
    assert work.read(kept) == before
    assert (work.root / kept.replace("task1_", "task3_")).exists()


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


def test_an_edit_of_the_actors_loss_trains_no_flow(work: Checkout) -> None:
    work.edit("flp/agents/flp.py", "\nclass ", "\n_ADDED = 1\n\n\nclass ")
    assert work.dvc("repro") == BELOW_OFFLINE
    assert agrees(work)


def test_changing_back_restores_without_training(work: Checkout) -> None:
    page = work.read("results/report/index.html")
    work.change(offline__alpha=3.0)
    assert work.dvc("repro") == BELOW_OFFLINE
    work.commit("alpha 3")
    work.run("git", "checkout", "-q", "HEAD~1")
    assert work.planned() == BELOW_OFFLINE  # the files are still those of alpha 3
    assert work.dvc("checkout") == NOTHING
    assert work.read("results/report/index.html") == page
    assert agrees(work)
    work.run("git", "checkout", "-q", "main")
    work.dvc("checkout")
    assert agrees(work)


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


def test_records_of_other_versions_are_not_trusted(work: Checkout) -> None:
    work.change(offline__alpha=3.0)
    assert work.dvc("repro") == BELOW_OFFLINE
    work.commit("alpha 3")
    work.run("git", "checkout", "-q", "HEAD~1", "--", "dvc.lock")
    work.dvc("checkout")
    # Snakemake's last record says alpha 3, params.yaml says alpha 3; only the files do not.
    assert work.planned() == BELOW_OFFLINE
    assert work.planned("--workflow-profile", "none") == BELOW_OFFLINE


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("results/cube-single-play/flow/model/seed0/flow.csv", jobs(pretrain_flow=1)),
        ("results/cube-single-play/latent/seed0", jobs(invert_to_latent=1)),
        ("results/cube-single-play/offline/flp/seed0/task2_seed0", jobs(offline_train=1)),
        ("results/cube-single-play/online", jobs(online_finetune=1)),
        ("results/report/metrics.json", jobs(report=1)),
        ("data/cube-single-play-val.npz", jobs(download_dataset=1)),
    ],
)
def test_what_is_lost_is_made_again_and_nothing_else(work: Checkout, lost: str, expected: Jobs) -> None:
    place = work.root / lost
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
def test_a_colleague_pulls_and_nothing_runs(work: Checkout, tmp_path: Path, link: str) -> None:
    work.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    work.commit("remote")
    work.run("dvc", "push", "-q")
    other = work.clone(tmp_path / "other")
    other.run("dvc", "config", "--local", "cache.type", link)
    assert other.dvc("pull", "-q") == NOTHING
    assert agrees(other)
    cached = {path: path.read_bytes() for path in (other.root / ".dvc/cache/files").rglob("*") if path.is_file()}
    other.change(offline__alpha=3.0)
    assert other.snakemake() == BELOW_OFFLINE
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert other.dvc("repro") == NOTHING
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert agrees(other)


def test_pulled_flows_are_used_and_the_rest_is_made(work: Checkout, tmp_path: Path) -> None:
    work.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    work.commit("remote")
    work.run("dvc", "push", "-q")
    other = work.clone(tmp_path / "other")
    other.dvc("pull", "-q", "pretrain_flow")
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == work.read(flow)
    assert other.planned("pretrain_flow_all") == NOTHING
    assert other.snakemake() == EVERYTHING - jobs(pretrain_flow=2)
    assert other.read(flow) == work.read(flow)
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


def test_a_shared_dvc_cache_gives_the_very_flow(work: Checkout, tmp_path: Path) -> None:
    other = work.clone(tmp_path / "other")
    other.run("dvc", "cache", "dir", "--local", work.root / ".dvc" / "cache")
    other.run("dvc", "config", "--local", "cache.shared", "group")
    assert other.dvc("checkout", "-q") == NOTHING
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == work.read(flow)
    assert agrees(other)


def test_flows_are_artifacts_that_another_project_can_get(work: Checkout, tmp_path: Path) -> None:
    declared = yaml.safe_load(work.read("dvc.yaml"))["artifacts"]
    name = "flow-cube-single-play"
    assert declared[name]["type"] == "model"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = declared[name]["path"]
    work.run("dvc", "get", work.root, path, "--out", elsewhere / "flow")
    assert (elsewhere / "flow" / "seed0" / "flow.safetensors").read_text() == work.read(
        f"{path}/seed0/flow.safetensors"
    )
    work.run("git", "tag", "-a", f"{name}@v1.0.0", "-m", "first")
    work.run("dvc", "artifacts", "get", work.root, name, "--out", elsewhere / "registered")
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


def test_experiments_run_the_right_jobs_and_compare(work: Checkout) -> None:
    assert work.dvc("exp", "run", "--set-param", "offline.alpha=3.0") == BELOW_OFFLINE
    shown = json.loads(work.run("dvc", "exp", "show", "--json").stdout)
    assert shown
    table = work.run("dvc", "exp", "show", "--csv").stdout.splitlines()
    assert "offline.alpha" in table[0] and any(".offline" in name for name in table[0].split(","))
    assert "offline.alpha" in work.run("dvc", "params", "diff").stdout
    assert "offline" in work.run("dvc", "metrics", "diff").stdout
    assert work.dvc("exp", "run", "--temp", "--set-param", "report.title=Other") == jobs(report=1)
    assert agrees(work)


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
    slow = {"FLP_STAND_IN_SLOW": "offline", "FLP_STAND_IN_SECONDS": "4", "CUDA_VISIBLE_DEVICES": "0,1"}
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
        ("offline: {candidates: 0}", "offline.candidates"),
        ("seeds: []", "seeds"),
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


def test_what_the_experiment_does_not_hold_is_refused(work: Checkout) -> None:
    for target in ("data/scene-play.npz", "results/cube-single-play/flow/model/seed9/flow.safetensors"):
        done = work.run("snakemake", "-n", target, check=False)
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert "No rule to produce" in said and "Traceback" not in said


def test_rules_work_without_the_environment_activated(work: Checkout) -> None:
    # bash replaces itself by the command it is given; dash stays, between dvc and the command
    work.env |= {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    work.change(report__title="Another")
    work.ran()
    work.run(BIN / "dvc", "repro")
    assert work.ran() == jobs(report=1)
    work.change(report__title="One more")
    work.run(BIN / "snakemake", "--cores", "2")
    assert work.ran() == jobs(report=1)


def test_the_workflow_is_formatted_and_linted() -> None:
    checkout = Checkout(REPO, stand_ins=False)
    checkout.run("snakefmt", "--check", "workflow")
    assert "good condition" in "".join(checkout.run("snakemake", "--lint").stderr)


def test_snakemake_and_dvc_know_the_same_stages(work: Checkout) -> None:
    listed = {line.split()[0] for line in work.run("snakemake", "--list-rules").stdout.splitlines()}
    stages = set(yaml.safe_load(work.read("dvc.yaml"))["stages"])
    on_request = {"all_figures", "offline_sweep", *layout.FIGURES, *layout.TABLES}  # no part of `all`, nor of DVC
    assert on_request <= listed
    assert stages == {name for name in listed - on_request if name != "all" and not name.endswith("_all")}
    assert sys.version_info >= (3, 11)
