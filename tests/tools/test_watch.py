"""`flp watch`: all jobs of a checkout by what the stages leave behind; it changes nothing and believes nothing."""

from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import yaml
from prepared_maze import DATASET, train

from flp import cli
from flp.stages import invert_to_latent
from flp.supervision.status import Status
from flp.system import layout
from flp.tools import watch

COMMON = ["--dataset", DATASET, "--device", "cpu"]


def once(capsys) -> list[list[str]]:
    """The rows as they are printed, cell by cell."""
    capsys.readouterr()
    assert cli.main(["watch", "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip().startswith(watch.STATES)]


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow(40)
def test_a_job_runs_is_stopped_and_is_done(prepared, tmp_path, monkeypatch, capsys):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"]["steps"] = values["evaluation"]["every"] = 10**6
    Path("params.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "flp.cli", "offline-train", *COMMON, "--threads", "2"]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: sum(row.rate is not None for row in watch.reported()) == 2)
        training = [row for row in once(capsys) if row[1] == "offline-train"]
        ((state, _, dataset, agent, seeds, runs, step, rate, left, host),) = training  # of two processes
        assert (state, dataset, agent, seeds, runs, host) == ("running", DATASET, "flp", "0", "2", platform.node())
        assert re.fullmatch(r"\d+/1000000", step) and int(step.split("/")[0]) > 0
        assert re.fullmatch(r"[\d.e+]+/s", rate) and re.fullmatch(r"(\d+:)?\d+:\d\d left", left)
        speed = 1e6 / (sum(int(n) * 60**i for i, n in enumerate(reversed(left.split()[0].split(":")))))
        assert float(rate[:-2]) == pytest.approx(speed, rel=0.2)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    wait_for(lambda: {row.state for row in watch.reported()} == {"stopped"})
    (row,) = [row for row in once(capsys) if row[1] == "offline-train"]
    assert row[0] == "stopped" and "left" not in str(row)


def test_what_is_done_says_how_it_ended(here, capsys):
    assert train() == 0
    rows = {row[1]: row for row in once(capsys)}
    assert set(rows) == {"download-dataset", "pretrain-flow", "invert-to-latent", "offline-train"}
    assert rows["offline-train"][:8] == ["done", "offline-train", DATASET, "flp", "0", "2", "60/60", "0 %"]
    assert not list(layout.RESUME.glob("*/*/status.json"))  # of all four stages


def test_a_failed_job_is_red(here, capsys):
    (here / "task1_seed0").mkdir(parents=True)
    (here / "task1_seed0/failed.json").write_text("{}")
    assert ["failed", "offline-train", DATASET, "flp", "0", "1"] in once(capsys)


def test_a_flow_whose_inversion_is_refused_has_failed_until_another_is_made(here, capsys):
    values = yaml.safe_load(Path("params.yaml").read_text())

    def invert(**settings):
        values["invert"] |= settings
        Path("params.yaml").write_text(yaml.safe_dump(values))
        status = invert_to_latent.main(["--dataset", DATASET, "--seed", "0", "--threads", "1", "--device", "cpu"])
        (row,) = [row for row in once(capsys) if row[1] == "invert-to-latent"]
        return status, row[0]

    assert invert(max_roundtrip_error=1e-12) == (2, "failed")
    assert invert(max_roundtrip_error=100.0, likelihood_samples=1) == (0, "done")  # the other's state is still there
    assert len(list(layout.RESUME.glob("invert-to-latent/*/status.json"))) == 1


def told(folder="offline-train/k-cpu", **changes):
    about = {"stage": "offline-train", "dataset": DATASET, "agent": "flp", "runs": ["task1_seed0"]}
    status = Status(layout.RESUME / folder, 100, **about, makes=f"results/{DATASET}/offline/flp/seed0")
    status.reach(50)
    values = json.loads(status.file.read_text()) | changes
    status.file.write_text(json.dumps(values))


def test_another_machines_job_runs_until_it_is_silent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told(host="node7", pid=1, success=0.25, rate=2.0, left=25.0)
    row = ["running", "offline-train", DATASET, "flp", "0", "1", "50/100", "25 %", "2/s", "00:25 left", "node7"]
    assert once(capsys) == [row]
    told(host="node7", pid=1, updated=time.time() - 3600)
    assert once(capsys)[0][0] == "silent"


def test_a_number_that_another_process_has_now_is_not_the_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told()
    assert once(capsys)[0][0] == "running"  # this process
    told(began="1")
    assert once(capsys)[0][0] == "stopped"


def test_processes_of_a_job_are_one_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told("offline-train/a-cpu", step=40, rate=2.0, left=30.0, success=0.5, runs=["a", "b", "c"])
    told("offline-train/b-cpu", step=60, rate=4.0, left=10.0, success=0.1, host="node7", updated=time.time())
    (row,) = watch.rows()
    assert (row.runs, row.step, row.total, row.rate, row.seconds) == (4, 40, 100, 2.0, 30.0)
    assert row.success == pytest.approx(0.4) and row.host == ", ".join(sorted([platform.node(), "node7"]))
    told("offline-train/c-cpu", began="1", step=0)
    assert watch.rows()[0].step == 40  # a stopped one beside them does not count


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "null", "{}", '{"stage": "offline-train"}', '{"stage": [], "dataset": "a", "makes": "b"}'],
)
def test_what_is_no_status_is_passed_over(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told()
    (tmp_path / ".flp/resume/offline-train/other").mkdir()
    (tmp_path / ".flp/resume/offline-train/other/status.json").write_text(text)
    assert len(once(capsys)) == 1


def test_damaged_values_and_names_harm_nobody(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, (name, value) in enumerate(
        {"step": "many", "rate": float("nan"), "left": [1], "runs": 3, "agent": "[red]\x1b[31m", "pid": {}}.items()
    ):
        told(f"offline-train/{i}", **{name: value}, makes=f"results/{name}/offline/flp/seed0")
    capsys.readouterr()
    assert cli.main(["watch", "--once"]) == 0
    said = capsys.readouterr().out
    assert said.count("running") == 6 and "\x1b" not in said and "[red]?[31m" in said  # five, and the title


@pytest.mark.parametrize("text", ['{"runs": 3}', '{"runs": [["a"]]}', '{"seconds": []}'])
def test_strange_manifests_harm_nobody(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("results/a/offline/flp/seed0/manifest.json", "results/a/flow/model/seed0/flow.json"):
        Path(file).parent.mkdir(parents=True)
        Path(file).write_text(text)
    assert all(row.dataset == "a" for row in watch.rows())


@pytest.mark.slow(2)
def test_folders_that_jobs_remove_meanwhile_harm_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = threading.Event()

    def work():
        while not ended.is_set():
            for i in range(20):
                told(f"offline-train/{i}")
                Path(f"results/{i}/offline/flp/seed0").mkdir(parents=True)
                Path(f"results/{i}/offline/flp/seed0/manifest.json").write_text("{}")
            shutil.rmtree("results")
            shutil.rmtree(layout.RESUME)

    job = threading.Thread(target=work)
    job.start()
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            watch.rows()
    finally:
        ended.set()
        job.join()


def test_a_status_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file/below", Path("/proc/nowhere")):
        status = Status(folder, 10, stage="offline-train")
        status.reach(5)
        status.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_it_is_written_now_and_then_alone_and_not_after_the_end(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("flp.supervision.status.time.monotonic", lambda: clock[0])
    status = Status(tmp_path / "key", 100, stage="offline-train")
    for step in (20, 21, 22):  # resumed at 20
        status.reach(step)
        clock[0] += 1.0
    assert json.loads(status.file.read_text())["step"] == 20
    clock[0] += 3.0
    status.note(success=0.5)
    status.reach(40)
    found = json.loads(status.file.read_text())
    assert (found["step"], found["rate"], found["left"], found["success"]) == (40, 20 / 6, 60 / (20 / 6), 0.5)
    shutil.rmtree(tmp_path / "key")
    clock[0] += 9.0
    status.reach(100)
    assert not (tmp_path / "key").exists()


def test_on_a_screen_the_rest_is_counted(tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    jobs = [watch.Row(f"results/d{i}/offline/flp/seed0", "offline-train", f"d{i}", "flp", "done") for i in range(9)]
    console = Console(file=io.StringIO(), width=120)
    console.print(watch.table(jobs, most=4))
    said = console.file.getvalue()
    assert "9 done" in said and "and 5 more: flp watch --once" in said and "d3" in said and "d4" not in said


@pytest.mark.parametrize("width", [80, 90, 100, 120, 200])
def test_a_job_is_one_line_with_its_state_step_and_time_at_any_width(width):
    """Or fewer would fit on the screen than are counted."""
    from rich.console import Console

    job = watch.Row(
        "results/antmaze-teleport-navigate/online/rebrac/seed0-1-2/x",
        "invert-to-latent",
        "antmaze-teleport-navigate",
        "rebrac",
        "running",
        runs=15,
        step=999000,
        total=1000000,
        success=1.0,
        rate=12345.6,
        seconds=36000 * 12 + 61,
        host="node-17.cluster",
    )
    console = Console(file=io.StringIO(), width=width)
    console.print(watch.table([job], width=width))
    lines = [line for line in console.file.getvalue().splitlines() if line.strip(" ─")]
    assert len(lines) == 3 and all(len(line) <= width for line in lines)  # title, heading, job
    for text in ("running", "invert-to-latent", "antm", "999000/1000000", "120:01:01 left"):
        assert text in lines[2], text
    shown = [text in lines[2] for text in ("rebrac", "100 %", "0-1-2", "1.23e+04/s", "node-17.cluster", " 15 ")]
    assert shown == sorted(shown, reverse=True)  # the rest as far as there is room
    assert shown[0] == (width >= 90) and shown[1] == (width >= 100) and all(shown) == (width == 200)


def read_until(terminal, text):
    """Read what a terminal shows until this is there; it is shown anew every second."""
    said, until = "", time.monotonic() + 60
    while text not in said:
        assert time.monotonic() < until, said
        said += os.read(terminal, 2**16).decode(errors="replace")


@pytest.mark.slow
def test_it_refreshes_until_ctrl_c(tmp_path):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "flp.cli", "watch", "--every", "1"]
    # A shell's background jobs ignore Ctrl-C, and what they start inherits that: so would this one of such a test run.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        job = subprocess.Popen(
            command, stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"TERM": "xterm"}
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    os.close(theirs)
    try:
        read_until(ours, "no jobs here yet")
        (tmp_path / f"results/{DATASET}/flow/model/seed0").mkdir(parents=True)
        (tmp_path / f"results/{DATASET}/flow/model/seed0/flow.json").write_text("{}")
        read_until(ours, "1 done")
    finally:
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=20)[1]
        os.close(ours)
    assert (job.returncode, said) == (0, b"")
