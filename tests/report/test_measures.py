"""Tables and figures show what a task has: success, a normalised score, the return, or an estimate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_inputs import make_inputs

from flp.report import page
from flp.report.collect import collect
from flp.report.measures import SUCCESS, measure_of
from flp.report.tables import FLOW, Cell, Method, SuccessTable, finals, metrics, success_table
from flp.system.errors import FLPError

TASKS = {
    "swing": {"data": {"path": "a.npz"}, "environment": "Pendulum-v1"},
    "score": {"data": {"path": "a.npz"}, "environment": "A-v0", "reference": {"random": -500, "expert": -100}},
    "plant": {"data": {"path": "a.npz"}, "environment": None},
}


def write_inputs(seeds: list[int]):
    """Four datasets of different kinds; returns are −200 − seed offline, estimates 7 + seed."""
    overlay = {"tasks": TASKS, "datasets": ["cube-single-play", *TASKS], "seeds": seeds}
    keys = make_inputs(overlay | {"offline": {"tasks": [1, 2], "steps": 400, "agents": ["flp", "bc"]}})
    for path in Path("results").glob("*/*/*/seed*/task1_seed*/evaluations.csv"):
        dataset, seed, table = path.parts[1], int(path.parent.name[-1]), pd.read_csv(path)
        if dataset == "plant":
            table = table.assign(success=np.nan, episodes=0, **{"return": np.nan}, value=3.0, likelihood=-1.5)
            table.loc[table["phase"] == "behavior", "value"] = np.nan
            fitted = {"fqe": 7.0 + seed, "fqe_low": 5.04 + seed, "fqe_high": 8.96 + seed, "data_value": 6.0}
            table.loc[table.index[-1], list(fitted)] = list(fitted.values())
        elif dataset in TASKS:
            table = table.assign(success=np.nan, return_std=20.0, **{"return": -200.0 - seed})
            table.loc[table["phase"] == "behavior", "return"] = -400.0
        table.to_csv(path, index=False)
    return keys


@pytest.fixture(params=[[0], [0, 2]], ids=["one seed", "two seeds"])
def keys(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_inputs(request.param)


def test_each_dataset_is_judged_by_what_it_has(keys):
    results = collect(keys)
    final = finals(results.scores, 3)
    cells = {}
    for dataset in results.params.datasets:
        table = success_table(final, dataset, ["flp", "bc"], 200, results.measures[dataset])
        cells[dataset] = {method: table.overall(method) for method in table.methods}
    seed = np.mean(keys.params.seeds)
    assert cells["cube-single-play"][Method("flp")].measure is SUCCESS
    assert cells["cube-single-play"][Method("flp")].mean == pytest.approx(0.3)
    assert cells["swing"][Method("flp")].mean == pytest.approx(-200 - seed)
    assert cells["swing"][FLOW].mean == pytest.approx(-400)
    assert cells["score"][Method("flp")].mean == pytest.approx((300 - seed) / 4)
    assert cells["plant"][Method("flp")].mean == pytest.approx(
        7 + seed
    )  # the last alone, not the critic's own before it
    assert FLOW not in cells["plant"]
    for dataset in TASKS:
        assert (
            cells[dataset][Method("flp")].low < cells[dataset][Method("flp")].mean < cells[dataset][Method("flp")].high
        )


def test_one_seeds_interval_is_the_error_over_episodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = collect(write_inputs([0]))
    table = success_table(finals(results.scores, 1), "swing", ["flp"], 200, results.measures["swing"])
    cell = table.overall(Method("flp"))
    assert cell.high - cell.mean == pytest.approx(1.96 * 20 / np.sqrt(10))
    table = success_table(finals(results.scores, 1), "plant", ["flp"], 200, results.measures["plant"])
    plant = table.overall(Method("flp"))
    assert (plant.low, plant.high) == pytest.approx((5.04, 8.96))


def test_the_page_names_each_measure(keys):
    text = page.build(keys)
    assert "cube-single-play" in text and "plant" in text
    rows = pd.read_csv("results/report/success.csv")
    measures = rows.groupby("dataset", sort=False)["measure"].first().to_dict()
    estimated = "Value, estimated (no episode was played)"
    expected = {"cube-single-play": "Success", "swing": "Return", "score": "Normalised score", "plant": estimated}
    assert measures == expected
    for dataset, title in expected.items():
        html = Path(f"results/report/{dataset}.html").read_text()
        assert f'<h2 id="success">{title}</h2>' in html
        assert ("Estimates from models, not measurements" in html) == (dataset == "plant")
    summary = pd.read_csv("results/report/summary.csv")
    first = ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
    assert list(summary) == [*first, "measure", "score", "standard_error"]
    assert summary.loc[summary["dataset"] != "cube-single-play", "success"].isna().all()
    assert json.loads(Path("results/report/metrics.json").read_text())["score"]["flp"]["behavior"] == 25.0


def test_the_overview_states_each_tables_own_rule(keys):
    page.build(keys)
    html = Path("results/report/index.html").read_text()
    sections = dict(zip(TASKS, re.split(r"<h3>.*?</h3>", html)[2:], strict=False))
    assert "Estimates from models" in sections["plant"] and "mean of the last" not in sections["plant"].split("<h2")[0]
    assert "the frozen flow is evaluated once" not in sections["plant"].split("<h2")[0]
    assert "mean of the last 3 evaluations" in sections["swing"] and "Estimates" not in sections["swing"]


def test_rules_that_agree_are_stated_once_and_others_by_table(tmp_path, monkeypatch):
    """One dataset has fewer evaluations than are averaged."""
    monkeypatch.chdir(tmp_path)
    pair = {"datasets": ["cube-single-play", "scene-play"]}
    for online, count in (({}, 1), ({"overrides": {"cube-single-play": {"online": {"steps": 0}}}}, 2)):
        page.build(make_inputs(pair | online))
        assert Path("results/report/index.html").read_text().count("Each result is the") == count


def test_returns_are_of_trained_policies(tmp_path, monkeypatch):
    """One that learns online alone starts with an untrained policy."""
    monkeypatch.chdir(tmp_path)
    tasks, offline = {"swing": TASKS["swing"]}, {"tasks": [1], "steps": 400, "agents": ["flp", "rlpd"]}
    results = collect(make_inputs({"tasks": tasks, "datasets": ["swing"], "seeds": [0], "offline": offline}))
    assert {"offline", "online"} == set(results.evaluations.query("agent == 'rlpd'")["phase"])
    methods = {row["method"] for row in page.returns(results, "swing")}
    assert methods == {"frozen flow", "FLP", "FLP online", "RLPD online"}


def test_a_dataset_of_ogbenchs_without_a_success_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = write_inputs([0])
    path = next(Path("results/cube-single-play").glob("offline/flp/*/task1_seed0/evaluations.csv"))
    pd.read_csv(path).assign(success=np.nan).to_csv(path, index=False)
    with pytest.raises(Exception, match=r"a success is outside \[0, 1\]"):
        collect(keys)


def test_a_success_rule_takes_precedence_over_references(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = write_inputs([0]).params
    task = params.tasks["score"].model_copy(update={"success": "info.success"})
    params = params.model_copy(update={"tasks": {"score": task}})
    assert measure_of(params, "score", (-500.0, -100.0)) is SUCCESS


def test_without_its_manifest_a_task_is_not_judged_by_another_measure(tmp_path, monkeypatch):
    """A Minari dataset's references are in it: without them the page would show returns for normalised scores."""
    monkeypatch.chdir(tmp_path)
    keys = write_inputs([0])
    Path("data/cube-single-play.json").unlink()
    page.build(keys)
    Path("data/swing.json").unlink()
    with pytest.raises(FLPError, match=r"data/swing\.json does not exist; make it"):
        page.build(keys)


@pytest.mark.parametrize("mean", [np.nan, np.inf])
def test_a_mean_that_json_cannot_hold_is_null(mean):
    cell = Cell(mean, None, mean, mean, 1, 1, 5, SUCCESS)
    table = SuccessTable("x", [FLOW], [("all", [cell])], {FLOW: 1})
    assert metrics([table]) == {"x": {"flp": {"behavior": None}}}
