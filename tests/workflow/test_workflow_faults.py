"""Killed jobs, wrong parameters, few cores and GPUs: the workflow in fresh clones that meet with trouble."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from workflow_clones import (
    BELOW_OFFLINE_OF_ONE,
    NOTHING,
)
from workflow_support import (
    BIN,
    Checkout,
    jobs,
    kill_group,
    new_checkout,
    wait_until,
)

from flp.data.environments import known_datasets
from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.system import layout
from flp.system.artifacts import read_json, write_json
from flp.system.hashing import hash_of

pytestmark = pytest.mark.slow(8)


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
def test_after_kill_9_one_command_unlocks_and_the_next_goes_on(small: Checkout, front: str) -> None:
    small.change(offline__alpha=3.0)
    victim = "offline_train/cube-single-play/flp/seed0"
    command = ("snakemake", "--cores", "4") if front == "snakemake" else ("dvc", "repro")
    process = small.start(*command, FLP_STAND_IN_SLOW=victim, FLP_STAND_IN_HALF=victim)
    wait_until(lambda: small.log.exists() and f"start {victim}" in small.log.read_text())
    # What has ended is recorded: else it would rightly run again.
    wait_until(lambda: time.time() - small.log.stat().st_mtime > 3)
    kill_group(process)
    finished = small.ran()
    refused = small.run(*command, check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout + refused.stderr
    small.follow("locked")
    small.ran()
    small.run(*command)
    assert small.ran() + finished == BELOW_OFFLINE_OF_ONE
    assert small.planned() == NOTHING


def test_only_what_is_half_written_is_made_again_after_kill_9(small: Checkout) -> None:
    """Snakemake marks both as incomplete, also what its job finished after its death."""
    small.change(flow__steps=30)
    victim = "pretrain_flow/cube-single-play/seed0"

    def start(seconds: str) -> subprocess.Popen[bytes]:
        names = ("FLP_STAND_IN_SLOW", "FLP_STAND_IN_HALF")
        slow = dict.fromkeys(names, victim) | {"FLP_STAND_IN_SECONDS": seconds}
        process = small.start("snakemake", "--cores", "4", **slow)
        wait_until(lambda: small.log.exists() and f"start {victim}" in small.log.read_text())
        time.sleep(0.5)
        return process

    kill_group(start("600"))
    small.follow("locked")
    assert small.planned() == jobs(pretrain_flow=1, invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
    small.ran()
    process = start("3")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: f"end {victim}" in small.log.read_text())
    small.follow("locked")
    assert small.planned() == jobs(invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
    assert small.snakemake() == jobs(invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
    assert small.planned() == NOTHING


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


def test_the_command_line_is_read_as_flp_reads_it(work: Checkout) -> None:
    """Snakemake's own reading turns all into strings, which a second reading would take for comments and numbers."""
    file = work.root / "over.yaml"
    file.write_text("offline: {alpha: 2.5}\nreport: {title: over}\n")
    path = "/d/a #1.npz"
    for title in ("a # 1: b", "12", ""):
        given = [f"report={{title: '{title}'}}", f"download={{path: '{path}'}}", "offline={kl_budget: null}"]
        work.run("snakemake", "-n", "--quiet", "--configfile", "over.yaml", "--config", *given)
        wanted = load_params(work.root / "params.yaml", file, given=given)
        assert (wanted.report.title, wanted.download.path, wanted.offline.alpha) == (title, path, 2.5)
        values = wanted.model_dump(mode="json")
        assert read_json(work.root / f".flp/params/{hash_of(values)}.json") == values
    for given in ("offline={alpha: 1, alpha: 2}", "offline={compile: 'True'}"):
        done = work.run("snakemake", "-n", "--quiet", "--config", given, check=False)
        assert done.returncode != 0 and "error: " in done.stdout + done.stderr


def test_jobs_ask_for_the_time_of_their_algorithms_own_steps(work: Checkout) -> None:
    own = "agents={flp: {offline: {steps: 400000}}, calql: {offline: {steps: 40000000}}, rlpd: {online: {steps: 4000}}}"
    given = ("offline={agents: [flp, calql, rlpd], tasks: [1]}", "online={steps: 0}", own)
    said = work.run("snakemake", "-n", "all", "figure4", "--config", *given).stdout
    asked = {
        (rule, agent or ""): int(minutes)
        for rule, agent, minutes in re.findall(
            r"^rule (offline_\w+|online_\w+):$.*?wildcards: dataset=[\w-]+, (?:agent=(\w+))?.*?runtime=(\d+)",
            said,
            re.MULTILINE | re.DOTALL,
        )
    }
    assert asked == {
        ("offline_train", "flp"): 1060,
        ("offline_train", "calql"): 100060,
        ("offline_train", "rlpd"): 60,
        ("online_finetune", "rlpd"): 70,
        ("offline_sweep", ""): 1060,
    }


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


def test_the_longest_name_of_a_job_fits(tmp_path: Path) -> None:
    seeds = [*range(2**31 - 17, 2**31), 100_000, 200_000]
    assert len(layout.join_seeds(seeds)) == layout.MOST_CHARACTERS
    longest = max(known_datasets(), key=len)
    work = new_checkout(tmp_path / "work", datasets=[longest], seeds=seeds)
    work.change(offline__seeds_per_job=len(seeds), offline__agents=["rebrac"])
    above = jobs(download_dataset=1, pretrain_flow=len(seeds), invert_to_latent=len(seeds))
    assert work.planned() == above + BELOW_OFFLINE_OF_ONE
    for artifact in graph(Keys(load_params(work.root / "params.yaml"))).values():
        if artifact.stage in above:
            for file in artifact.files:
                write_json(work.root / file, {"key": artifact.key})
    assert work.snakemake("online_finetune_all") == jobs(offline_train=1, online_finetune=1)
    assert work.planned() == jobs(report=1)
    assert len("_".join([longest, "figure3", layout.join_seeds(seeds)])) < 255  # a folder of Slurm's logs
    work.change(seeds=[*seeds, 0], offline__seeds_per_job=len(seeds) + 1)
    refused = work.run("snakemake", "-n", check=False)
    assert (
        refused.returncode != 0 and "offline.seeds_per_job is" in refused.stderr and "Traceback" not in refused.stderr
    )
