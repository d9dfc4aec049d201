"""What will not fit is told before it starts."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from prepared_maze import DATASET
from repository import REPO

from flp import cli
from flp.params.loading import load_params, parse
from flp.params.run import Run
from flp.stages import offline_train
from flp.supervision import foresight
from flp.supervision.foresight import Needs, check, foresee_training, generate_needs, memory, train_needs

GIB = 2**30
GPU = torch.device("cuda", 2)
Usage = namedtuple("Usage", ["total", "used", "free"])


def shards(*sizes):
    """Runs of N = 4, so many to each shard."""
    return [[Run(task, 0, 1.0, 4) for task in range(size)] for size in sizes]


@pytest.fixture
def limits(monkeypatch):
    """A machine of 8 GiB, of which 4 are free, with 10 GiB of disk."""

    def set_limits(free=4 * GIB, total=8 * GIB, disk=10 * GIB):
        monkeypatch.setattr(foresight, "memory", lambda: (free, total))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GIB, 100 * GIB - disk, disk))

    set_limits()
    return set_limits


def test_what_fits_is_silent(limits, capsys):
    check("training", Needs(GIB, 0, GIB), "results", "remedy")
    assert capsys.readouterr().err == ""


def test_what_does_not_fit_now_is_a_warning(limits, capsys):
    check("training", Needs(5 * GIB, 0, GIB), "results", "train fewer runs")
    assert capsys.readouterr().err == (
        "warning: training needs about 5.0 GiB of memory, but only 4.0 GiB are free now; train fewer runs\n"
    )


@pytest.mark.parametrize(
    ("needs", "kind"), [(Needs(9 * GIB, 0, 0), "memory"), (Needs(0, 0, 6 * GIB, 5 * GIB), r"disk at \.flp")]
)
def test_what_can_never_fit_is_refused(limits, needs, kind):
    with pytest.raises(foresight.FLPError, match=rf"^training needs about .* GiB of {kind}, but there are .*; .+$"):
        check("training", needs, "results", "remedy")


@pytest.mark.parametrize(("folder", "linked"), [("results", True), ("data", True), ("results", False)])
def test_the_disk_behind_a_link_is_asked(tmp_path, monkeypatch, limits, folder, linked):
    """Each disk has 10 GiB free."""
    other = Path("/dev/shm") if linked else tmp_path
    if linked and not (other.is_dir() and other.stat().st_dev != tmp_path.stat().st_dev):
        pytest.skip("needs a second disk")
    monkeypatch.chdir(tmp_path)
    Path(folder).symlink_to(other)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or Usage(0, 0, 10 * GIB))
    if linked:
        check("training", Needs(0, 0, 8 * GIB, 9 * GIB), folder, "remedy")
        assert asked == [tmp_path.resolve(), other.resolve()]
    else:
        with pytest.raises(foresight.FLPError, match=r"17\.0 GiB of disk at \.flp"):
            check("training", Needs(0, 0, 8 * GIB, 9 * GIB), folder, "remedy")
    with pytest.raises(foresight.FLPError, match=f"GiB of disk at {folder if linked else '.flp'}, but there are 10"):
        check("training", Needs(0, 0, 0, 11 * GIB), folder, "remedy")


def test_a_gpu_is_asked_for_its_memory(limits, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: asked.append(gpu) or (20 * GIB, 80 * GIB))
    check("training", Needs(0, 30 * GIB, 0), "results", "remedy", GPU)
    assert asked == [GPU]
    assert "30.0 GiB of GPU memory, but only 20.0 GiB are free" in capsys.readouterr().err
    with pytest.raises(foresight.FLPError, match=r"90\.0 GiB of GPU memory"):
        check("training", Needs(0, 90 * GIB, 0), "results", "remedy", GPU)


def test_the_machine_is_asked_for_its_memory():
    free, total = memory()
    assert 0 < free <= total


def test_the_papers_largest_online_job_is_foreseen(limits, monkeypatch):
    """Forty runs of humanoidmaze with a million online transitions each: the buffers alone take 25 GiB."""
    params = load_params(REPO / "params.yaml", REPO / "presets/paper.yaml").for_dataset("humanoidmaze-medium-navigate")
    needs = train_needs(params, "flp", Path("none.npz"), 69, 21, shards(40), 10**6, cuda=True)
    buffers = 40 * 10**6 * 4 * (2 * 69 + 21 + 2)
    assert buffers < needs.device < 1.5 * buffers
    assert 2 * buffers < needs.disk < 3 * buffers
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (16 * GIB, 16 * GIB))
    limits(disk=1000 * GIB)
    with pytest.raises(
        foresight.FLPError, match=r"training 40 runs of humanoidmaze.*GPU memory.*seeds_per_job.*online"
    ):
        foresee_training(params, "humanoidmaze-medium-navigate", "flp", shards(40), 10**6, GPU)


def test_more_processes_need_more_memory():
    params = load_params(REPO / "params.yaml")
    one, five = (
        train_needs(params, "flp", Path("none.npz"), 4, 2, dealt, 0, cuda=False)
        for dealt in (shards(5), shards(1, 1, 1, 1, 1))
    )
    assert five.memory > one.memory + 4 * foresight._PROCESS - GIB
    assert one.disk == five.disk


def test_on_a_gpu_the_largest_n_counts_for_its_own_shard_alone():
    """For the shards train one after the other; as many are drawn in targets as in acting."""
    params = load_params(REPO / "params.yaml", REPO / "presets" / "original.yaml")

    def needs(*dealt):
        return train_needs(params, "flp", Path("none.npz"), 69, 21, dealt, 0, cuda=True)

    few, many = ([Run(task, 0, 1.0, n) for task in range(8)] for n in (1, 32))
    assert needs(few, many) == replace(needs(many), states=2 * needs(many).states, outputs=2 * needs(many).outputs)
    assert needs(many).device > needs(few).device + 8 * 31 * 256 * 4 * 4 * 256


def test_actions_that_an_algorithm_draws_for_its_targets_are_counted():
    """CAC's critics see ten of them for every transition, whatever FLP's N is."""
    params = load_params(REPO / "params.yaml")
    runs = [[Run(1, 0, 1.0, 1)]]
    fql, cac = (train_needs(params, agent, Path("none.npz"), 69, 21, runs, 0, cuda=True) for agent in ("fql", "cac"))
    drawn = 10 * 256 * (20 * 4)  # noise of two steps
    assert cac.device > fql.device + drawn + 9 * 256 * 2 * 4 * (90 + 128 + 128)
    assert cac.disk == fql.disk


@pytest.mark.parametrize("draws", [10, 40])
def test_actions_that_a_penalty_ranks_are_counted(draws):
    """Of every transition Cal-QL's critics see three kinds of other actions beside the data's, and keep what a gradient
    needs: at least every layer's output."""
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["offline"]["baselines"]["calql"]["draws"] = draws
    runs = [[Run(1, 0, 1.0, 1)]]
    fql, calql = (
        train_needs(parse(values), agent, Path("none.npz"), 69, 21, runs, 0, cuda=True) for agent in ("fql", "calql")
    )
    assert calql.device - fql.device > 3 * draws * 256 * 2 * 4 * (90 + 128 + 128)


def test_a_job_is_refused_for_what_its_algorithm_ranks(here, limits, capsys):
    limits(total=650e6, free=650e6)  # a process has 600
    for draws, refused in ((10, False), (1024, True)):
        values = yaml.safe_load(Path("params.yaml").read_text())
        values["offline"] |= {"agents": ["calql"], "steps": 10}
        values["offline"]["baselines"]["calql"]["draws"] = draws
        Path("params.yaml").write_text(yaml.safe_dump(values))
        status = offline_train.main(["--dataset", DATASET, "--agent", "calql", "--threads", "1", "--device", "cpu"])
        assert (status == 2) == refused
        assert ("of memory, but there are" in capsys.readouterr().err) == refused


@pytest.mark.parametrize(
    ("precision", "flags", "device", "warned"),
    [
        ("bfloat16", "fma avx2", "cpu", True),
        ("bfloat16", "fma avx2 avx512_bf16", "cpu", False),
        ("bfloat16", "fma avx2", "cuda", False),
        ("float32", "fma avx2", "cpu", False),
    ],
)
def test_arithmetic_that_a_cpu_has_not_is_warned_of(limits, monkeypatch, capsys, precision, flags, device, warned):
    read = foresight._read
    monkeypatch.setattr(foresight, "_read", lambda path: f"flags : {flags}" if path == "/proc/cpuinfo" else read(path))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (4 * GIB, 8 * GIB))
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["offline"]["precision"] = precision
    foresee_training(parse(values), DATASET, "flp", shards(1), 0, torch.device(device))
    told = capsys.readouterr().err
    assert ("set offline.precision to float32" in told) == warned
    assert told.count("\n") == warned


def test_what_training_begins_too_late_is_warned_of(limits, capsys):
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["offline"]["baselines"]["srpo"]["actor_start"] = values["offline"]["steps"]
    for agent, warned in (("srpo", 1), ("iql", 0)):
        foresee_training(parse(values), DATASET, agent, shards(1), 0, torch.device("cpu"))
        assert capsys.readouterr().err.count("srpo: baselines.srpo.actor_start is") == warned


def test_check_tells_of_arithmetic_that_only_one_algorithm_asks_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["offline"]["agents"] = ["flp", "iql"]
    values["agents"] = {"iql": {"offline": {"precision": "bfloat16"}}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    read = foresight._read
    for flags, warned in (("fma avx2", 1), ("amx_bf16", 0)):
        monkeypatch.setattr(foresight, "_read", lambda path, f=flags: f if path == "/proc/cpuinfo" else read(path))
        assert cli.main(["check"]) == 0
        assert capsys.readouterr().err.count("set offline.precision to float32") == warned


def test_a_stage_says_so_before_it_starts(limits, tmp_path, monkeypatch, capsys):
    limits(disk=1000)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPO / "params.yaml", "params.yaml")
    assert cli.main(["download-dataset", "--dataset", "pointmaze-medium-navigate", "--threads", "1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("flp download-dataset: error: generating pointmaze-medium-navigate needs about")
    assert told.count("\n") == 1
    assert not Path("data").exists()


def test_generation_needs_what_it_writes():
    settings = load_params(REPO / "params.yaml").download
    needs = generate_needs("pointmaze-medium-navigate", settings, 1)
    rows = 220 * 1001
    assert rows * 4 * (4 + 2) < needs.disk < rows * 4 * 40
