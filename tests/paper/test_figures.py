"""The paper's figures and tables from runs on disk with known success rates."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import yaml
from report_inputs import make_inputs, write_run

from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.paper import sweep_figures
from flp.params.loading import load_params
from flp.params.run import Run
from flp.stages import figure as stage
from flp.system import layout
from flp.system.hashing import sha256_of

DATASET = "cube-single-play"
FOLDER = Path("results/figures")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def success(run: Run) -> float:
    """A success rate that depends on everything in which runs differ."""
    return round(0.1 * run.task + 0.02 * run.seed + 0.01 * run.alpha + 0.001 * run.candidates, 6)


def table_of(run: Run) -> pd.DataFrame:
    """Four evaluations, of which the last three average to `success`."""
    level = success(run)
    rows = [
        ("behavior", 0, 0.05),
        *(("offline", 100 * i, s) for i, s in enumerate([1, level - 0.01, level, level + 0.01], 1)),
    ]
    return pd.DataFrame([{"phase": p, "step": n, "success": s, "episodes": 10} for p, n, s in rows])


def experiment(overlay: dict[str, Any]) -> Keys:
    """The report's inputs, with FLP's runs, the figures' included, as above."""
    keys = make_inputs({"online": {"steps": 100}} | overlay)
    for figure in ("figure3", "figure4", "figure5"):
        for dataset, agent, seeds in keys.figure_jobs():
            for folder, run in keys.figure_runs(dataset, figure, seeds).items():
                write_run(folder, keys.offline_run(dataset, agent, run), run, table_of(run), agent)
    return keys


def make(figure: str) -> pd.DataFrame:
    assert stage.main(["--figure", figure, "--threads", "1"]) == 0
    return pd.read_csv(FOLDER / f"{figure}.csv", dtype=str if figure in layout.TABLES else {"task": str})


@pytest.mark.parametrize(
    ("figure", "quantity", "values"),
    [
        ("figure3", "candidates", [1, 4]),
        ("figure4", "alpha", [0.1, 0.3, 1, 3, 10]),
        ("figure5", "candidates", [1, 2, 4, 8, 16, 32]),
    ],
)
def test_a_figures_numbers_are_the_means_of_its_runs(figure: str, quantity: str, values: list[float]) -> None:
    keys = experiment({"seeds": [0, 1]})
    table = make(figure)
    assert list(table["task"].unique()) == ["1", "2", "all"] and len(table) == 3 * len(values)
    base = keys.params.offline
    for row in table.to_dict("records"):
        settings: dict[str, Any] = {"alpha": base.alpha, "candidates": base.candidates} | {quantity: row[quantity]}
        tasks = [1, 2] if row["task"] == "all" else [int(row["task"])]
        runs = [success(Run(task, seed, **settings)) for task in tasks for seed in (0, 1)]
        assert row["mean"] == pytest.approx(sum(runs) / len(runs), abs=1e-5)
        assert row["std"] == pytest.approx(0.02 / 2**0.5, abs=1e-5)  # of the two seeds
        assert row["low"] <= row["mean"] <= row["high"]
        assert (row["seeds"], row["tasks"], row["episodes"]) == (2, len(tasks), 60 * len(tasks))
    assert sorted(table[quantity].unique()) == values


def test_a_picture_is_self_contained_and_describes_itself() -> None:
    experiment({})
    make("figure5")
    text = (FOLDER / "figure5.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.get("width", "0").rstrip("pt")) > 200
    assert "var(--" not in text and 'href="http' not in text
    words = re.sub(r"\s+", " ", " ".join(root.itertext()))
    assert "the paper's values: 1, 2, 4, 8, 16, 32" in words and DATASET in words and "α = 1" in words
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_given_sweep_is_shown_as_it_is() -> None:
    experiment({"offline": {"sweep": {"alpha": [2.0]}, "tasks": [1]}})
    assert make("figure4")["alpha"].tolist() == [1, 2, 1, 2]
    assert "the paper's values" not in (FOLDER / "figure4.svg").read_text()


def test_the_manifest_holds_the_key_and_a_second_run_gives_the_same_bytes() -> None:
    keys = experiment({})
    make("figure3")
    manifest = json.loads((FOLDER / "figure3.json").read_text())
    assert manifest["key"] == keys.figure("figure3") == graph(keys)["figure/figure3"].key
    assert graph(keys)["figure/figure3"].is_current()
    assert manifest["files"] == {s: sha256_of(FOLDER / f"figure3{s}") for s in (".svg", ".csv")}
    make("figure3")
    assert manifest["files"] == {s: sha256_of(FOLDER / f"figure3{s}") for s in (".svg", ".csv")}


def test_tables_show_our_numbers_next_to_the_papers() -> None:
    experiment({"offline": {"agents": ["flp", "fql"], "tasks": [1, 2]}})
    first, second = make("table1").set_index("environment"), make("table2").set_index("environment")
    # FLP: 0.1 × task + 0.01 + 0.004, FQL: half of 0.2 × task; each the mean over two tasks.
    assert first.loc[DATASET, ["paper FLP", "measured FLP", "measured FQL"]].tolist() == [
        "93±1",
        "16",
        "15",
    ]
    assert first.drop(DATASET)["measured FLP"].isna().all() and len(first) == 10
    # The default task, before and after: the last evaluations.
    assert second.loc[DATASET, "measured FLP"] == "22→90"
    for table in layout.TABLES:
        page, text = ((FOLDER / f"{table}{suffix}").read_text() for suffix in (".html", ".md"))
        assert all(name in text for name in ("paper FLP", "measured FQL", DATASET))
        assert all(f"{name}</t" in page for name in ('class="paper">FLP', 'class="measured">FQL', DATASET))
        assert "http" not in page and "<script" not in page
        assert page.count("†") == text.count("†") == (2 if table == "table2" else 0)
    assert "| 0±0→0±0† |" in text and "0±0→0±0†</td>" in page and "1±2→50±53" in text
    assert second.loc["scene-play", "paper Cal-QL"] == "0±0→0±0"
    header = next(line for line in text.splitlines() if line.startswith("| environment"))
    assert all(line.count("|") == header.count("|") for line in text.splitlines() if line.startswith("|"))


def test_a_missing_input_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    keys = experiment({})
    folder = next(f for f in keys.figure_runs(DATASET, "figure4", [0]) if "alpha=10" in f.name)
    (folder / "evaluations.csv").unlink()
    assert stage.main(["--figure", "figure4"]) == 2
    line = capsys.readouterr().err
    assert "alpha=10" in line and line.count("\n") == 1 and not (FOLDER / "figure4.json").exists()
    assert stage.main(["--figure", "figure44"]) == 2
    assert "did you mean 'figure4'" in capsys.readouterr().err


def test_numbers_need_no_second_task() -> None:
    keys = experiment({"offline": {"tasks": [2]}})
    texts, _ = sweep_figures.make(keys, "figure3")
    table = pd.read_csv(io.StringIO(texts[".csv"]))
    assert table["mean"].tolist() == pytest.approx([0.211, 0.214] * 2)
    assert yaml.safe_load(Path("params.yaml").read_text())["offline"]["tasks"] == [2]


@pytest.mark.parametrize("figure", ["figure3", "figure4", "table1", "table2"])
def test_what_shows_stale_results_says_so_and_does_not_pass_for_current(
    figure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made by hand before the runs are trained again, it would otherwise never be remade."""
    keys = experiment({})
    make(figure)
    assert graph(keys)[f"figure/{figure}"].is_current()
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"]["discount"] = 0.9
    Path("params.yaml").write_text(yaml.safe_dump(values))
    capsys.readouterr()
    make(figure)
    assert "of the artifacts are stale" in capsys.readouterr().err
    assert "are stale" in (FOLDER / f"{figure}{'.svg' if figure.startswith('f') else '.md'}").read_text()
    assert not graph(Keys(load_params()))[f"figure/{figure}"].is_current()
