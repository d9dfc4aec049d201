"""The work of an experiment, counted by hand."""

from __future__ import annotations

import pytest
import yaml

from flp.experiment.forecast import process_count
from flp.experiment.keys import Keys
from flp.experiment.workload import planned_jobs
from flp.params.loading import parse
from flp.params.run import Run
from flp.runs.shards import deal

MAZE, CUBE, ANT = "pointmaze-medium-navigate", "cube-single-play", "antmaze-large-navigate"


@pytest.fixture
def work(request):
    """The jobs of the default experiment with changed sections, by name."""
    values = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())

    def counted(**sections):
        for section, changes in sections.items():
            values[section] = values[section] | changes if isinstance(changes, dict) else changes
        return {job.name: job for job in planned_jobs(Keys(parse(values)))}

    return counted


def test_the_default_experiment(work):
    found = work()
    assert list(found) == [
        f"download_dataset/{MAZE}",
        f"pretrain_flow/{MAZE}/seed0",
        f"invert_to_latent/{MAZE}/seed0",
        f"offline_train/{MAZE}/flp/seed0",
        f"online_finetune/{MAZE}/flp/seed0",
        "report",
    ]
    data, flow, latent, offline, online, report = found.values()
    assert data.rows == 220 * 1001  # a tenth more to validate
    assert flow.updates == 10_000 and flow.threads == 1
    assert latent.rows == 200 * 1000  # an episode's last row starts no transition
    assert (offline.runs, offline.updates, offline.steps) == (5, 8000, 0)
    assert offline.evaluations == 8000 // 1000 + 1  # and once the flow
    assert (online.runs, online.updates, online.steps, online.evaluations) == (5, 1000, 1000, 2)
    assert report.runs == 10
    for before, after in [(data, flow), (flow, latent), (latent, offline), (offline, online), (online, report)]:
        assert before.name in after.needs


def test_evaluations_that_do_not_divide_the_steps(work):
    found = work(offline={"steps": 4001, "agents": ["iql"]}, online={"steps": 1})
    assert found[f"offline_train/{MAZE}/iql/seed0"].evaluations == 5  # at every 1000th, and at 4001
    assert found[f"online_finetune/{MAZE}/iql/seed0"].evaluations == 2  # before the first step, and after it


def test_seeds_tasks_and_sweeps(work):
    sweep = {"alpha": [1.0, 3.0], "candidates": [4, 16]}  # 1 and 4 are the experiment's own
    offline = {"candidates": 4, "tasks": [1, 2], "seeds_per_job": 2, "sweep": sweep, "agents": ["flp", "bc"]}
    found = work(seeds=[0, 1, 2], offline=offline, online={"tasks": [2]})
    first, last = (found[f"offline_train/{MAZE}/flp/seed{seeds}"] for seeds in ("0-1", "2"))
    assert (first.runs, last.runs) == (2 * 2 * 3, 2 * 3)
    assert first.weight == pytest.approx(4 * (1 + 1 + (8 + 16) / (8 + 4)))
    assert (first.threads, last.threads) == (12, 6)
    assert len(first.needs) == 2
    baseline = found[f"offline_train/{MAZE}/bc/seed0-1"]
    assert baseline.runs == 4 and baseline.needs == (f"download_dataset/{MAZE}",)  # only FLP is swept, and has a flow
    assert found[f"online_finetune/{MAZE}/flp/seed0-1"].runs == 2  # one task, and no sweep
    assert f"online_finetune/{MAZE}/bc/seed0-1" not in found  # it has nothing to fine-tune with


def test_what_learns_online_only(work):
    found = work(offline={"agents": ["rlpd", "flp"]}, online={"steps": 500})
    offline = found[f"offline_train/{MAZE}/rlpd/seed0"]
    assert (offline.updates, offline.evaluations) == (0, 1)
    assert found[f"online_finetune/{MAZE}/rlpd/seed0"].updates == 500
    assert f"offline_train/{MAZE}/rlpd/seed0" not in work(online={"steps": 0})


def test_other_values_for_an_algorithm_or_a_dataset(work):
    found = work(
        datasets=[MAZE, CUBE],
        agents={"idql": {"offline": {"steps": 30_000}, "evaluation": {"every": 10_000}}},
        overrides={CUBE: {"offline": {"agents": ["idql"], "tasks": [2]}, "flow": {"hidden": [512], "steps": 7}}},
    )
    cube = found[f"offline_train/{CUBE}/idql/seed0"]
    assert (cube.runs, cube.updates, cube.evaluations) == (1, 30_000, 3)
    assert found[f"offline_train/{MAZE}/flp/seed0"].updates == 8000
    assert f"offline_train/{CUBE}/flp/seed0" not in found
    flow = found[f"pretrain_flow/{CUBE}/seed0"]
    assert (flow.updates, flow.threads) == (7, 4)


def test_sizes_are_ogbenchs_own_where_none_are_given(work):
    own = {"episodes": None, "steps_per_episode": None}
    found = work(download=own)
    assert found[f"download_dataset/{MAZE}"].rows == 1100 * 1001
    found = work(datasets=[ANT], download=own | {"source": "ogbench"})
    assert found[f"download_dataset/{ANT}"].rows == 0
    assert found[f"invert_to_latent/{ANT}/seed0"].rows == 1000 * 1000


def test_runs_are_counted_as_they_are_dealt():
    for runs in range(1, 20):
        numbered = [Run(1, seed, 1.0, 4) for seed in range(runs)]
        for threads in range(1, 9):
            parts = deal(numbered, threads)
            assert process_count(runs, threads) == len(parts)
            assert max(map(len, parts)) <= -(-runs // len(parts)) + 1
