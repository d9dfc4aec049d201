"""Which runs the paper's figures compare, and which they train in addition to the experiment's own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_tasks import experiment
from repository import REPO
from small_experiment import tiny

from flp import cli
from flp.experiment import variants
from flp.experiment.graph import graph
from flp.experiment.keys import Keys, TableKeys
from flp.paper.sweep_figures import notes
from flp.params.loading import load_params, merge, parse
from flp.params.yamlfile import read_yaml
from flp.runs.run_folder import adopt, clear_others
from flp.stages import download_dataset, figure, invert_to_latent, offline_sweep, offline_train, pretrain_flow
from flp.system import layout
from flp.system.artifacts import read_json, write_json
from flp.system.locks import alone
from flp.tools.clean import orphans, stale_states, temporary_files

DATASET = "pointmaze-medium-navigate"


def keys(**offline: Any) -> Keys:
    changes = {"offline": {"tasks": [1, 2], "candidates": 4} | offline}
    return Keys(parse(merge(read_yaml(REPO / "params.yaml"), changes)))


@pytest.mark.parametrize(
    ("offline", "figure", "values", "extra"),
    [
        ({}, "figure3", [1, 4], [1]),
        ({}, "figure4", [0.1, 0.3, 1, 3, 10], [0.1, 0.3, 3, 10]),
        ({}, "figure5", [1, 2, 4, 8, 16, 32], [2, 8, 16, 32]),
        ({"candidates": 1}, "figure3", [1, 4], [4]),
        ({"candidates": 1}, "figure5", [1, 2, 4, 8, 16, 32], [2, 8, 16, 32]),
        ({"alpha": 2.0}, "figure4", [0.1, 0.3, 1, 2, 3, 10], [0.1, 0.3, 1, 3, 10]),
        ({"sweep": {"alpha": [5.0]}}, "figure4", [1, 5], []),
        ({"sweep": {"candidates": [2, 8]}}, "figure5", [2, 4, 8], []),
        ({"sweep": {"candidates": [2, 8]}}, "figure3", [1, 4], [1]),
        ({"sweep": {"candidates": [1, 8]}}, "figure3", [1, 4], []),
        ({"candidates": 8}, "figure3", [1, 8], [1]),
    ],
)
def test_a_figure_uses_the_given_sweep_or_the_papers(
    offline: dict[str, Any], figure: str, values: list[float], extra: list[float]
) -> None:
    section = keys(**offline).params.offline
    assert variants.values(figure, section) == values
    assert variants.extra_values(figure, section) == extra


def test_every_value_of_a_figure_has_one_run_per_task_where_it_was_trained() -> None:
    shown = keys().figure_runs(DATASET, "figure5", [0])
    where = {(run.candidates, run.task): folder for folder, run in shown.items()}
    assert sorted(where) == [(n, task) for n in (1, 2, 4, 8, 16, 32) for task in (1, 2)] and len(shown) == 12
    assert where[4, 2] == Path(f"results/{DATASET}/offline/flp/seed0/task2_seed0")
    assert where[1, 2] == Path(f"results/{DATASET}/sweep/figure3/seed0/task2_seed0_candidates=1")
    assert where[8, 2] == Path(f"results/{DATASET}/sweep/figure5/seed0/task2_seed0_candidates=8")
    own = keys(sweep={"candidates": [8], "alpha": [3.0]}).figure_runs(DATASET, "figure5", [0])
    assert {folder.name for folder in own} == {f"task{t}_seed0{v}" for t in (1, 2) for v in ("", "_candidates=8")}


def test_a_figures_extra_run_is_the_run_of_a_sweep() -> None:
    extra, swept_runs = (
        keys().extra_runs(DATASET, "figure4", [0]),
        keys(sweep={"alpha": [3.0]}).runs(DATASET, "flp", [0]),
    )
    run = next(run for run in extra if run.alpha == 3.0)
    assert run in swept_runs
    assert keys().offline_run(DATASET, "flp", run) == keys(sweep={"alpha": [3.0]}).offline_run(DATASET, "flp", run)


def test_asking_for_figures_changes_no_key_of_the_experiment() -> None:
    """The job of a figure is an artifact of its own, which the experiment's keys do not cover."""
    found = graph(keys())
    own = found[f"offline_train/{DATASET}/flp/seed0"]
    assert not any("=" in run for run in own.runs)
    assert not {path for a in found.values() if a.stage == "offline_sweep" for path in (*a.files, *a.runs)} & {
        path for a in found.values() if a.stage != "offline_sweep" for path in (*a.files, *a.runs)
    }
    assert {s.name for s in found["figure/figure5"].inputs["sweep"]} == {
        f"{DATASET}/figure3/seed0",
        f"{DATASET}/figure5/seed0",
    }
    assert found["figure/figure4"].inputs["offline"] == (own,)


def changed(before: Keys, after: Keys) -> set[str]:
    """The figures whose keys differ."""
    figures = layout.FIGURES + layout.TABLES
    return {figure for figure in figures if before.figure(figure) != after.figure(figure)}


def test_a_figure_is_remade_where_its_content_changes() -> None:
    values = read_yaml(REPO / "params.yaml")
    base = parse(values)
    assert changed(Keys(base), Keys(parse(merge(values, {"figure2": {"steps": 7}})))) == {"figure2"}
    assert not changed(Keys(base), Keys(parse(merge(values, {"report": {"title": "x"}}))))
    assert changed(Keys(base), Keys(parse(merge(values, {"online": {"steps": 7}})))) == {"table2"}
    assert changed(Keys(base), Keys(parse(merge(values, {"offline": {"agents": ["flp", "bc"]}})))) == {"table1"}
    assert changed(Keys(base), Keys(parse(merge(values, {"offline": {"sweep": {"alpha": [2.0]}}})))) == {"figure4"}
    paper = {"sweep": {"alpha": [0.1, 0.3, 1.0, 3.0, 10.0], "candidates": [1, 2, 4, 8, 16, 32]}}
    # The same runs, but the two no longer say that they took the paper's values because none were given.
    assert changed(Keys(base), Keys(parse(merge(values, {"offline": paper})))) == {"figure4", "figure5"}
    everything = {"figure3", "figure4", "figure5", "table1", "table2"}
    assert changed(Keys(base), Keys(parse(merge(values, {"offline": {"discount": 0.5}})))) == everything


def test_a_table_shows_no_sweep_and_only_what_it_needs() -> None:
    values = {"agents": ["flp", "bc"], "sweep": {"alpha": [2.0]}}
    first, second = (TableKeys(keys(**values).params, table) for table in layout.TABLES)
    assert [job.agent for job in first.jobs()] == ["flp", "bc"] and not list(first.online_jobs())
    assert [job.agent for job in second.jobs()] == ["flp"] and len(list(second.online_jobs())) == 1
    assert {run.variant for run in first.runs(DATASET, "flp", [0])} == {""}


def test_without_flp_there_is_no_sweep_to_draw() -> None:
    found = {name for name in graph(keys(agents=["bc"])) if name.startswith(("figure/", "offline_sweep/"))}
    assert found == {"figure/figure2", "figure/table1"}


@pytest.mark.parametrize(
    ("offline", "empty"),
    [
        ({"agents": ["bc"]}, {"figure3", "figure4", "figure5", "table2"}),
        ({"agents": ["rlpd"]}, {"figure3", "figure4", "figure5", "table1"}),
        (None, {"figure3", "figure4", "figure5", "table1", "table2"}),
    ],
    ids=["offline only", "online only", "tasks of one's own only"],
)
def test_what_would_be_empty_is_refused_with_the_reason(
    offline: dict[str, Any] | None,
    empty: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own = experiment({"plant": {"environment": None, "data": {"path": "x.npz"}, "actions": {"low": -1, "high": 1}}})
    values = own if offline is None else merge(read_yaml(REPO / "params.yaml"), {"offline": offline})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    known = Keys(load_params())
    assert {name for name in layout.FIGURES + layout.TABLES if known.nothing_in(name)} == empty
    assert not {f"figure/{name}" for name in empty} & graph(known).keys()
    for name in sorted(empty):
        assert figure.main(["--figure", name, "--threads", "1"]) == 2
        assert f"error: {name} shows " in capsys.readouterr().err
    dataset = known.params.datasets[0]
    assert offline_sweep.main(["--dataset", dataset, "--figure", "figure4"]) == 2
    assert "there is nothing to train" in capsys.readouterr().err
    if offline is None:
        assert cli.main(["videos"]) == 2
        assert "error: videos are of OGBench's environments alone" in capsys.readouterr().err


def test_a_figures_missing_run_is_made_by_asking_for_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert figure.main(["--figure", "figure4", "--params", str(REPO / "params.yaml")]) == 2
    assert "make it with `snakemake --cores all figure4`" in capsys.readouterr().err


def test_finished_runs_are_taken_over_and_others_are_not(tmp_path: Path) -> None:
    def put(folder: Path, key: str, text: str) -> None:
        write_json(folder / "policy.json", {"format_version": 1, "key": key})
        for name in layout.RUN_FILES[:-1]:
            (folder / name).write_text(text)

    job, figure = tmp_path / "offline", tmp_path / "figure4"
    put(job / "own", "k1", "own")
    put(figure / "own", "k1", "another")
    put(figure / "swept", "k2", "swept")
    put(figure / "stale", "k0", "stale")
    put(job / "mended", "k0", "old")
    put(figure / "mended", "k4", "new")
    adopt(job, {"own": "k1", "swept": "k2", "stale": "k3", "mended": "k4"}, [tmp_path / "none", figure])
    found = {path.parent.name: path.read_text() for path in job.glob("*/policy.safetensors")}
    assert found == {"own": "own", "swept": "swept", "mended": "new"}
    assert (figure / "swept").exists() and not list(job.glob(".*"))


def test_a_kill_while_runs_are_taken_over_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are first written to a hidden folder."""
    monkeypatch.chdir(tmp_path)
    half = Path("results/offline/.task1_seed0.tmp")
    half.mkdir(parents=True)
    (half / "policy.json").write_text("{")
    assert temporary_files() == [half]
    with alone("results/offline"):
        assert not half.exists()


def test_outputs_of_figures_are_not_orphans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = keys()
    for artifact in graph(wanted).values():
        for path in (*artifact.runs, *(str(Path(file).parent) for file in artifact.files)):
            Path(path).mkdir(parents=True, exist_ok=True)
    run = wanted.extra_runs(DATASET, "figure4", [0])[0]
    layout.resume_folder("offline-train", wanted.offline_run(DATASET, "flp", run)).mkdir(parents=True)
    assert orphans(wanted) == [] and stale_states(wanted) == []
    assert len(stale_states(keys(sweep={"alpha": [2.0]}))) == 1


@pytest.mark.slow(15)
def test_a_figures_runs_are_trained_separately_and_taken_over_by_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = tiny(read_yaml(REPO / "params.yaml"), DATASET)
    values["agents"] = {"flp": {"offline": {"hidden": [8], "steps": 10}}}  # FLP's own, which its keys have
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(values))
    common = ["--dataset", DATASET, "--threads", "1", "--device", "cpu"]
    assert download_dataset.main(common) == 0
    assert pretrain_flow.main([*common, "--seed", "0"]) == invert_to_latent.main([*common, "--seed", "0"]) == 0
    assert offline_train.main(common) == 0
    own = Path(layout.OFFLINE.format(dataset=DATASET, agent="flp", seeds="0"))
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    assert offline_sweep.main([*common, "--figure", "figure3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before
    beside = Path(layout.SWEEP.format(dataset=DATASET, figure="figure3", seeds="0"))
    trained = {path.parent.name: path.read_bytes() for path in beside.glob("task*/policy.safetensors")}
    assert set(trained) == {"task1_seed0_candidates=1", "task4_seed0_candidates=1"}
    keyed = Keys(load_params(params)).agent_params(DATASET, "flp").offline.model_dump(mode="json")
    for manifest in (*own.glob("task*/policy.json"), *beside.glob("task*/policy.json")):
        assert read_json(manifest)["model"]["offline"] == keyed and read_json(manifest)["step"] == 10
    assert figure.main(["--figure", "figure3", "--threads", "1"]) == 0
    found = graph(Keys(load_params(params)))
    for name in (f"offline_train/{DATASET}/flp/seed0", f"offline_sweep/{DATASET}/figure3/seed0", "figure/figure3"):
        assert found[name].is_current(), name
    values["offline"]["sweep"] = {"alpha": [], "candidates": [1]}
    params.write_text(yaml.safe_dump(values))
    began = time.time_ns()
    assert offline_train.main(common) == 0
    policies = list(own.glob("task*/policy.safetensors"))
    assert len(policies) == 4
    assert {p.parent.name: p.read_bytes() for p in policies if "=" in p.parent.name} == trained
    assert all(path.stat().st_mtime_ns < began for path in policies), "a finished run was trained again"
    assert graph(Keys(load_params(params)))[f"offline_train/{DATASET}/flp/seed0"].is_current()
    assert offline_sweep.main([*common, "--figure", "figure3"]) == 2  # nothing is left for it
    values["offline"]["sweep"] = {"alpha": [], "candidates": []}
    params.write_text(yaml.safe_dump(values))
    for is_put_aside in (False, True):
        shutil.rmtree(beside)
        assert not is_put_aside or offline_train.main(common) == 0
        assert (own / "task1_seed0_candidates=1").exists() != is_put_aside
        assert offline_sweep.main([*common, "--figure", "figure3"]) == 0
        again = list(beside.glob("task*/policy.safetensors"))
        assert {path.parent.name: path.read_bytes() for path in again} == trained
        assert all(path.stat().st_mtime_ns < began for path in again), "a sweep's run was trained again for the figure"


def test_what_is_put_aside_while_it_is_copied_is_taken_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs of one workflow may start together: one no longer needs a run, the other does."""
    monkeypatch.chdir(tmp_path)
    own, figure, copy = Path("results/offline"), Path("results/figure4"), shutil.copyfile
    write_json(own / "swept" / "policy.json", {"format_version": 1, "key": "k"})
    for name in layout.RUN_FILES[:-1]:
        (own / "swept" / name).write_text(name)

    def late(source: Path, target: Path) -> None:
        clear_others(own, [])
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", late)
    adopt(figure, {"swept": "k"}, [own, layout.spare_folder(own)])
    assert {path.name for path in (figure / "swept").iterdir()} == set(layout.RUN_FILES)
    assert not (own / "swept").exists() and not list(figure.glob(".*"))


@pytest.mark.parametrize(
    ("figure", "offline"),
    [
        ("figure3", {"acting_noise": 0.0, "target_candidates": 1}),
        ("figure5", {"acting_noise": 0.0, "target_candidates": 1}),
        ("figure4", {"kl_budget": 0.5}),
    ],
)
def test_runs_that_would_not_differ_are_not_trained_and_the_figure_says_so(
    figure: str, offline: dict[str, Any]
) -> None:
    known = keys(**offline)
    assert not known.extra_runs(DATASET, figure, [0])
    shown = known.figure_runs(DATASET, figure, [0]).values()
    assert len({getattr(run, variants.QUANTITY[figure]) for run in shown}) == 1
    assert any(note.startswith("Nothing is compared: with ") for note in notes(known, figure))


def test_a_figure_notes_the_values_that_its_runs_have() -> None:
    known = Keys(parse(merge(keys().params.model_dump(), {"agents": {"flp": {"offline": {"steps": 7, "alpha": 2.0}}}})))
    assert notes(known, "figure5")[0].startswith("α = 2, 7 offline steps")


def test_a_figure_notes_how_acting_differs_from_the_paper() -> None:
    papers = {"selection": "argmax", "acting_noise": 1.0, "target_candidates": None}
    assert not [n for n in notes(keys(**papers), "figure5") if "the paper" in n and "takes the" not in n]
    others = {"selection": "resample", "temperature": 0.3, "acting_noise": 0.6, "target_candidates": 1}
    text = " ".join(notes(keys(**others), "figure5"))
    assert "resampled at temperature 0.3" in text and "0.6 of its standard" in text and "Targets use N = 1;" in text
