"""Keys and parameters of a user's tasks: the file by content, the environment by id, version and kwargs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_tasks import experiment

from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.params.loading import parse
from flp.system.artifacts import write_json
from flp.system.errors import FLPError

TASK: dict[str, Any] = {"data": {"path": "mine.npz"}, "environment": "Pendulum-v1", "kwargs": {"g": 9.0}}


@pytest.fixture(autouse=True)
def _file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x=np.zeros(3))


def keys(task: dict[str, Any] = TASK, **changes: Any) -> Keys:
    values = experiment({"mine": task})
    return Keys(parse(values | {"datasets": ["mine", "pointmaze-medium-navigate"]} | changes))


def changed(before: Keys, after: Keys) -> set[str]:
    one, two = graph(before), graph(after)
    return {place.rpartition("/seed")[0] or place for place in two if one[place].key != two[place].key}


def test_a_changed_file_is_noticed_whatever_its_size_and_time_say():
    before = keys()
    graph(before)
    time = os.stat("mine.npz").st_mtime_ns
    np.savez("mine.npz", x=np.ones(3))
    os.utime("mine.npz", ns=(time, time))
    found = changed(before, keys())
    assert {"download_dataset/mine", "pretrain_flow/mine", "offline_train/mine/flp"} <= found
    assert not any("pointmaze" in place for place in found)


def test_a_file_of_a_known_environment_is_known_by_its_content_too():
    def known() -> str:
        values = experiment({}, download={"source": "path", "path": "mine.npz"})
        return Keys(parse(values | {"datasets": ["cube-single-play"]})).data("cube-single-play")

    before = known()
    np.savez("mine.npz", x=np.ones(3))
    assert known() != before
    np.savez("mine.npz", x=np.zeros(3))
    np.savez("mine-val.npz", x=np.zeros(3))
    assert known() != before
    Path("mine-val.npz").unlink()
    assert known() == before


def test_the_same_file_elsewhere_is_the_same_data():
    Path("other").mkdir()
    Path("other/theirs.npz").write_bytes(Path("mine.npz").read_bytes())
    assert keys().data("mine") == keys(TASK | {"data": {"path": "other/theirs.npz"}}).data("mine")


def test_without_the_file_what_the_data_were_made_of_counts():
    whole = keys()
    recorded = {"content": whole.content("mine"), "parameters": whole.params.tasks["mine"].model_dump(mode="json")}
    write_json("data/mine.json", recorded)
    Path("mine.npz").unlink()
    assert keys().data("mine") == whole.data("mine")
    other = TASK | {"data": {"path": "a-slip-of-the-pen.npz"}}
    assert keys(other).data("mine") != whole.data("mine")
    Path("data/mine.json").unlink()
    assert keys().data("mine") != whole.data("mine")


@pytest.mark.parametrize(
    "change", [{"environment": "Pendulum-v0"}, {"kwargs": {"g": 9.5}}, {"environment": "ogbench:Pendulum-v1"}]
)
def test_the_environment_is_in_the_datas_key(change):
    assert "download_dataset/mine" in changed(keys(), keys(TASK | change))


def test_a_packages_version_is_in_the_key(monkeypatch):
    task = TASK | {"environment": "ogbench:Pendulum-v1"}
    before = keys(task).data("mine")
    monkeypatch.setattr("flp.own.task.version", lambda package: "99")
    assert keys(task).data("mine") != before


@pytest.mark.parametrize("change", [{"success": "return >= -100"}, {"discount": 0.5}])
def test_what_only_policies_depend_on_leaves_data_and_flows(change):
    found = changed(keys(), keys(TASK | change))
    assert "offline_train/mine/flp" in found
    assert not {"download_dataset/mine", "pretrain_flow/mine", "invert_to_latent/mine"} & found


def test_references_change_the_report_alone():
    found = changed(keys(), keys(TASK | {"reference": {"random": -1200, "expert": -150}}))
    assert found == {"report/report"}


def test_an_own_task_is_one_task_and_its_discount_its_own():
    params = keys(TASK | {"discount": 0.5}).dataset_params("mine")
    assert params.offline.tasks == [1] and params.offline.discount == 0.5 and params.online.tasks is None
    assert [run.task for run in keys().runs("mine", "flp", [0])] == [1]
    assert len(keys().runs("pointmaze-medium-navigate", "flp", [0])) == 5


def test_overrides_reach_a_task_but_not_what_it_is():
    over = keys(overrides={"mine": {"offline": {"discount": 0.7}}})
    assert over.dataset_params("mine").offline.discount == 0.7
    for overlay, said in (
        ({"offline": {"tasks": [2]}}, "overrides.mine: offline.tasks: cannot be set here, a task of yours is one task"),
        ({"tasks": {}}, "cannot differ between datasets"),
    ):
        with pytest.raises(FLPError, match=said):
            keys(overrides={"mine": overlay})


def test_without_a_simulator_nothing_is_online():
    found = keys(TASK | {"environment": None, "kwargs": {}})
    assert {job.dataset for job in found.online_jobs()} == {"pointmaze-medium-navigate"}
    with pytest.raises(FLPError, match="it has no simulator"):
        keys(TASK | {"environment": None, "kwargs": {}}, overrides={"mine": {"online": {"steps": 5}}})


def test_estimates_read_the_flow_whoever_is_judged():
    """The likelihood of a policy's actions is the behaviour flow's."""
    readers = {}
    for environment in ("Pendulum-v1", None):
        found = keys(TASK | {"environment": environment, "kwargs": {}})
        readers[environment] = {agent for agent in ("flp", "iql") if found.reads_flow("mine", agent)}
    assert readers == {"Pendulum-v1": {"flp"}, None: {"flp", "iql"}}


def test_the_papers_tables_and_figures_are_of_ogbench_alone():
    inputs = graph(keys())["figure/figure4"].inputs["offline"]
    assert [artifact.name for artifact in inputs] == ["pointmaze-medium-navigate/flp/seed0"]


WRONG = {
    "no source": ({"data": {}}, "tasks.mine.data: name one source"),
    "two sources": ({"data": {"path": "a", "minari": "b"}}, "tasks.mine.data: name one source"),
    "no environment": ({"environment": "dataset"}, "environment is missing"),
    "a rule that is none": ({"success": "reward > 3"}, "tasks.mine.success: 'reward > 3' is no rule of success"),
    "a key too many": ({"sucess": "none"}, "tasks.mine.sucess: unknown key"),
    "discount": ({"discount": 1.0}, "tasks.mine.discount"),
    "kwargs": ({"kwargs": {"a": float("inf")}}, "tasks.mine.kwargs: must be what JSON can hold"),
    "keys of kwargs": ({"kwargs": {"a": {1: 2}}}, "tasks.mine.kwargs: must be what JSON can hold"),
    "references": ({"reference": {"random": 1, "expert": 1}}, "tasks.mine.reference: random and expert"),
    "a range too many": ({"actions": {"low": -1, "high": 1}}, "actions is for tasks without a simulator"),
    "a range": (
        {"environment": None, "actions": {"low": [1], "high": [1]}},
        "tasks.mine.actions: each low must be below",
    ),
    "a range of two lengths": (
        {"environment": None, "actions": {"low": [1, 1], "high": [2, 2, 2]}},
        "low has 2 numbers",
    ),
    "its own output": ({"data": {"path": "data/mine.npz"}}, "which the download stage writes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_refused_by_its_place(case):
    change, said = WRONG[case]
    with pytest.raises(FLPError, match=said):
        keys(TASK | change)


@pytest.mark.parametrize(
    "name",
    [
        "cube-single-play",
        "a/b",
        "",
        "..",
        "report",
        "index",
        "mine-val",
        "x" * 101,
        "a b",
        "12",
        "on",
        "1e3",
        "2E-4",
        "wandb",
        "tensorboard",
        "bench",
    ],
)
def test_a_name_that_would_be_in_the_way_is_refused(name):
    with pytest.raises(FLPError, match=r"params.yaml: tasks: "):
        parse(experiment({name: TASK}))


def test_an_unknown_name_is_told_the_nearest_of_all():
    with pytest.raises(FLPError, match=r"unknown dataset 'min'.*'mine'"):
        keys(datasets=["min"])
