"""`flp compare`: two experiments' success in pairs, with intervals, and what differs in their parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from report_inputs import make_inputs

from flp import cli
from flp.params.run import Run
from flp.report.statistics import Pair, paired_difference
from flp.stages import report

SEEDS = {"seeds": [0, 1, 2, 3], "datasets": ["cube-single-play", "scene-play"]}


def level(agent: str, run: Run) -> list[float]:
    """Alike in the last three evaluations: a seed's luck, which both experiments share, is most of it."""
    return [0.0] + 3 * [round(0.1 * run.task + 0.15 * run.seed, 6)]


def better(agent: str, run: Run) -> list[float]:
    """A tenth more than `level`, two for the first task, whatever the seed."""
    return [0.0] + 3 * [round(level(agent, run)[-1] + (0.2 if run.task == 1 else 0.1), 6)]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Makes an experiment with its report in a folder of its own."""

    def made(name, overlay, success=level):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make_inputs(SEEDS | overlay, success)
        assert report.main([]) == 0
        monkeypatch.chdir(tmp_path)
        return tmp_path / name

    return made


def rows(said: str) -> dict[tuple[str, str, str], list[str]]:
    """The table of success by dataset, task and method."""
    lines = [line.split("  ") for line in said.splitlines() if line.startswith(("cube", "scene", "all"))]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {(row[0], row[1], row[2]): row[3:] for row in cells}


def test_pairs_show_what_seeds_would_hide(checkout, capsys):
    checkout("a", {}), checkout("b", {"offline": {"alpha": 9.5}}, better)
    capsys.readouterr()
    assert cli.main(["compare", "a", "b/results/report"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["cube-single-play", "1", "FLP"] == ["32.5", "52.5", "+20.0", "[+20.0, +20.0]", "4"]
    assert found["cube-single-play", "2", "FLP"][2] == "+10.0"
    assert found["scene-play", "mean", "FLP"] == ["37.5", "52.5", "+15.0", "[+15.0, +15.0]", "8"]
    assert found["all", "mean", "FLP"][2:] == ["+15.0", "[+15.0, +15.0]", "16"]
    assert found["all", "mean", "frozen flow"][2] == "+0.0" and found["all", "mean", "FLP online"][2] == "+0.0"


def test_what_differs_in_parameters_is_what_the_results_were_made_with(checkout, capsys):
    a = checkout("a", {})
    checkout("b", {"offline": {"alpha": 9.5}, "overrides": {"scene-play": {"offline": {"discount": 0.9}}}})
    (a / "params.yaml").write_text("offline: {alpha: 123.0}\n")  # edited since
    capsys.readouterr()
    assert cli.main(["compare", "a", "b"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said[said.index("parameters") :].splitlines()]
    assert lines == [
        ["parameters", "A", "B"],
        ["offline.alpha", "1.0", "9.5"],
        ["overrides", "{}", "-"],
        ["overrides.scene-play.offline.discount", "-", "0.9"],
        ["versions:", "the", "same"],
    ]
    assert cli.main(["compare", "b", "b"]) == 0
    assert "parameters: the same\nversions: the same\n" in capsys.readouterr().out


def test_without_the_reports_parameters_the_checkouts_are_told(checkout, capsys):
    a = checkout("a", {})
    b = checkout("b", {"flow": {"steps": 123}})
    for folder in (a, b):
        file = folder / "results/report/manifest.json"
        manifest = json.loads(file.read_text())
        del manifest["params"]
        file.write_text(json.dumps(manifest))
    capsys.readouterr()
    assert cli.main(["compare", "a", "b"]) == 0
    assert "flow.steps" in capsys.readouterr().out
    assert cli.main(["compare", "a/results/report", "b"]) == 0
    assert "parameters: not known of A; make the report again" in capsys.readouterr().out


def test_only_what_both_have_is_compared_and_the_rest_is_named(checkout, capsys):
    checkout("a", {"offline": {"agents": ["flp", "fql"], "tasks": [1, 2], "steps": 400}})
    checkout("b", {"seeds": [2, 3, 4]}, better)
    capsys.readouterr()
    assert cli.main(["compare", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert rows(said)["cube-single-play", "1", "FLP"][2:] == ["+20.0", "[+20.0, +20.0]", "2"]
    only = {line.partition(":")[0]: line for line in said.splitlines() if line.startswith("only in")}
    assert "8 of FQL on cube-single-play" in only["only in A"] and "4 of FLP on scene-play" in only["only in A"]
    assert "2 of FLP on cube-single-play" in only["only in B"] and "FQL" not in only["only in B"]


def test_an_untrained_policy_is_no_method(checkout, capsys):
    """Of an algorithm that learns online alone: in the tables of the page it is none either."""
    checkout("a", {"offline": {"agents": ["flp", "rlpd"]}, "datasets": ["cube-single-play"]})
    summary = pd.read_csv("a/results/report/summary.csv")
    assert {"offline", "online"} == set(summary.loc[summary["agent"] == "rlpd", "phase"])
    capsys.readouterr()
    assert cli.main(["compare", "a", "a"]) == 0
    methods = {method for _, _, method in rows(capsys.readouterr().out)}
    assert methods == {"frozen flow", "FLP", "FLP online", "RLPD online"}


@pytest.mark.parametrize("seeds", [2, 12])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds):
    generator, truth, covered, count = np.random.default_rng(0), 0.06, 0, np.full(seeds, 50.0)
    for _ in range(1000):
        strata, flow = [], generator.normal(0, 0.03, seeds)  # which the seed's tasks share
        for _ in range(3):
            luck = generator.normal(0.5, 0.3, seeds)
            a, b = luck + generator.normal(0, 0.05, seeds), luck + truth + flow + generator.normal(0, 0.05, seeds)
            strata.append(Pair(np.arange(seeds), a, b, count, count))
        value, low, high = paired_difference(strata, resamples=100)
        assert low <= value <= high and (seeds == 2 or high - low < 0.15)  # seeds differ by 0.3, which is in neither
        covered += low <= truth <= high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


def test_seeds_that_one_task_lacks_are_judged_by_what_the_others_have():
    def pair(seeds, difference):
        zeros = np.zeros(len(seeds))
        return Pair(np.array(seeds), zeros, np.array(difference), zeros + 9, zeros + 9)

    whole = [pair([0, 1, 2], [0.1, 0.2, 0.6]), pair([0, 1, 2], [0.3, 0.2, 0.4])]
    means = scipy.stats.ttest_1samp([0.2, 0.2, 0.5], 0).confidence_interval(0.95)
    assert paired_difference(whole, resamples=100) == pytest.approx((0.3, means.low, means.high))
    value, low, high = paired_difference([whole[0], pair([1, 2], [0.2, 0.4])], resamples=100)
    assert value == pytest.approx(0.3) and low < 0.3 < high
    assert high - value == pytest.approx(value - low)


def test_a_single_seed_has_the_chance_of_its_episodes():
    def rates(a, b, n):
        trials = np.full(len(a), float(n))
        return Pair(np.arange(len(a)), np.array(a), np.array(b), trials, trials)

    one = rates([0.5], [0.7], 100)
    value, low, high = paired_difference([one], resamples=20_000)
    half = 1.96 * np.sqrt((0.25 + 0.21) / 100)
    assert (value, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=0.01)
    _, low, high = paired_difference([one] * 4, resamples=20_000)
    assert high - low == pytest.approx(half, abs=0.02)  # four tasks, half as wide
    three = rates([0.1, 0.2, 0.3], [0.3, 0.4, 0.5], 9)
    value, low, high = paired_difference([three, one], resamples=20_000)
    assert value == pytest.approx(0.2) and high - low == pytest.approx(half, abs=0.01)


def test_what_cannot_be_compared_is_one_line(checkout, tmp_path, capsys):
    a = checkout("a", {})

    def refused(*argv):
        capsys.readouterr()
        assert cli.main(["compare", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "empty").mkdir()
    assert "empty is no experiment" in refused("a", "empty")
    table = pd.read_csv(a / "results/report/summary.csv")
    for name, change in {
        "other": table.assign(dataset="puzzle-3x3-play"),
        "words": table.assign(success="much"),
        "beyond": table.assign(success=2.0),
        "lacks": table.drop(columns="seed"),
        "phase": table.assign(phase="later"),
    }.items():
        Path(name).mkdir()
        change.to_csv(f"{name}/summary.csv", index=False)
        assert "in common" in refused("a", name) if name == "other" else f"{name}/summary.csv" in refused("a", name)
    shutil.copytree("a/results/report", "odd")
    Path("odd/manifest.json").write_text('{"params": 1, "versions": []}')
    assert cli.main(["compare", "a", "odd"]) == 0
    assert "parameters: not known of B" in capsys.readouterr().out
    Path("odd/manifest.json").write_text("[")
    assert "odd/manifest.json is not valid JSON" in refused("a", "odd")
