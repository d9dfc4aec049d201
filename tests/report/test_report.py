"""The report: its tables' rules, its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from report_inputs import make_inputs, write

from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.report import comparisons, curves, page, quoted, tables
from flp.report.collect import collect
from flp.report.tables import FLOW, Method
from flp.stages import report as stage
from flp.system import layout
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


REPORT = Path(layout.REPORT)


# Rules of the tables


@pytest.mark.parametrize(
    ("overlay", "compared"),
    [
        ({"seeds": [0, 1], "offline": {"agents": ["rlpd"]}}, True),
        (
            {
                "datasets": ["cube-single-play", "scene-play"],
                "offline": {"agents": ["bc"]},
                "overrides": {"scene-play": {"offline": {"agents": ["iql"]}}},
            },
            False,
        ),
        ({"offline": {"agents": ["flp", "rlpd"]}, "online": {"steps": 0}}, True),
    ],
    ids=["without an offline method", "no method on all tasks", "a method without runs"],
)
def test_a_report_compares_what_can_be_compared(overlay: dict[str, Any], compared: bool) -> None:
    results = collect(make_inputs(overlay))
    aggregates = comparisons.aggregates(results, tables.finals(results.scores, 3))
    assert (aggregates is not None) == compared
    assert stage.main(["--threads", "1", "--device", "cpu"]) == 0
    html = (REPORT / "index.html").read_text()
    if overlay["offline"]["agents"] == ["rlpd"]:  # which is not fine-tuned but learns online only
        assert "RLPD, online" in html and "RLPD, fine-tuned" not in html and "offline steps," not in html


def test_finals_average_the_last_three_evaluations() -> None:
    keys = make_inputs({})
    final = tables.finals(collect(keys).scores, 3)
    offline = final[(final["task"] == 2) & (final["phase"] == "offline")].iloc[0]
    assert offline["score"] == pytest.approx(0.4)  # the first evaluation, 1.0, does not count
    assert (offline["evaluations"], offline["episodes"], offline["step"]) == (3, 30, 400)
    assert offline["last"] == pytest.approx(0.5)
    online = final[(final["task"] == 2) & (final["phase"] == "online")].iloc[0]
    assert online["score"] == 0.9  # nor does the start of fine-tuning
    assert online["evaluations"] == 1
    only_last = tables.finals(collect(keys).scores, 1)
    assert only_last.loc[only_last["phase"] == "offline", "score"].tolist() == pytest.approx([0.3, 0.5])


def test_success_table_is_mean_and_standard_deviation_over_seeds() -> None:
    keys = make_inputs(
        {"seeds": [0, 1], "online": {"steps": 0}}, lambda _, run: [0.0] + [0.2 * run.task + 0.1 * run.seed] * 3
    )
    final = tables.finals(collect(keys).scores, 3)
    table = tables.success_table(final, "cube-single-play", ["flp"], 200)
    assert table.methods == [FLOW, Method("flp")]
    assert [row[0] for row in table.rows] == ["1", "2", "all"]
    cell = table.overall(Method("flp"))
    assert cell is not None
    assert (cell.seeds, cell.tasks, cell.episodes) == (2, 2, 120)
    assert cell.mean == pytest.approx(0.35)
    assert cell.std == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert cell.text == "35±7"
    assert table.overall(Method("flp", "online")) is None


def test_summary_keeps_the_contract() -> None:
    keys = make_inputs({"seeds": [0, 1], "offline": {"agents": ["flp", "fql"], "sweep": {"alpha": [3.0]}}})
    page.build(keys)
    summary = pd.read_csv(REPORT / "summary.csv")
    assert list(summary) == ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
    assert not summary.duplicated(["dataset", "agent", "task", "seed", "phase", "step"]).any()
    assert set(summary["phase"]) == {"behavior", "offline", "online"}
    assert set(summary["agent"]) == {"flp", "fql"}
    assert set(summary.loc[summary["phase"] == "behavior", "agent"]) == {"flp"}
    assert summary["success"].between(0, 1).all()
    # 2 agents × 2 tasks × 2 seeds × (4 offline + 2 online), and the flow's 4
    assert len(summary) == 2 * 2 * 2 * 6 + 4
    sweep = pd.read_csv(REPORT / "sweep.csv", keep_default_na=False)
    assert list(sweep) == [*summary, "variant", "alpha", "candidates"]
    assert set(sweep["variant"]) == {"", "alpha=3"}
    assert set(sweep["agent"]) == {"flp"}
    curves = pd.read_csv(REPORT / "curves.csv")
    assert list(curves) == ["dataset", "agent", "phase", "step", "success"]
    metrics = json.loads((REPORT / "metrics.json").read_text())["cube-single-play"]
    assert metrics == {
        "flp": {"behavior": 0.1, "offline": pytest.approx(0.3), "online": 0.9},
        "fql": {"offline": pytest.approx(0.15), "online": 0.9},
    }


def test_quoted_numbers_never_mix_with_measured_ones() -> None:
    printed = quoted.quoted().set_index(["table", "environment"])
    assert printed.loc[("1", "cube-single-play"), "FLP"] == "93±1"
    assert printed.loc[("2", "scene-play"), "FQL"] == "82±11→100±1"
    assert printed.loc["1"].shape[0] == 10
    assert printed.loc["2"].shape[0] == 5
    assert quoted.near_best({"a": "0±0→100±0", "b": "99±1→95±3", "c": "100±0→94±1", "d": ""}, [*"abcd"]) == ["a", "b"]
    keys = make_inputs({"offline": {"agents": ["flp", "fql"]}})
    results = collect(keys)
    final = tables.finals(results.scores, 3)
    one = quoted.table1(results, final).set_index("environment")
    assert len(one) == 10
    assert one.loc["cube-single-play", ["paper FLP", "measured FLP", "measured FQL"]].tolist() == ["93±1", "30", "15"]
    assert one.loc["cube-single-play", ["steps", "episodes", "seeds", "tasks"]].tolist() == ["400", "10", "1", "1 2"]
    others = one.drop("cube-single-play")[[c for c in one if c.startswith("measured") or c in quoted.SCALE]]
    assert (others == "").all(axis=None)
    two = quoted.table2(results, final).set_index("environment")
    assert two.loc["cube-single-play", ["paper FLP", "measured FLP", "tasks"]].tolist() == ["", "50→90", "2"]
    assert two.loc["scene-play", "measured FLP"] == ""


def test_an_online_only_algorithm_has_an_untrained_start_and_no_offline_column() -> None:
    own = {"idql": {"offline": {"steps": 700, "hidden": [9, 9]}}}
    results = collect(make_inputs({"offline": {"agents": ["flp", "idql", "rlpd"]}, "agents": own}))
    final = tables.finals(results.scores, 3)
    success = tables.success_table(final, "cube-single-play", ["flp", "idql", "rlpd"], 100)
    assert [str(m) for m in success.methods] == ["flow", "flp", "flp online", "idql", "rlpd online"]
    one, two = (table(results, final).set_index("environment") for table in (quoted.table1, quoted.table2))
    assert "measured RLPD" not in one
    assert two.loc["cube-single-play", "measured RLPD"] == "2→90"
    assert two.loc["cube-single-play", "steps"] == "400 + 100 (RLPD 0 + 100)"
    networks = one.loc["cube-single-play", "networks"]
    assert one.loc["cube-single-play", "steps"] == "400 (IDQL 700)" and networks.endswith(" (IDQL 2×9)")
    page.build(results.keys)


def test_a_cell_the_paper_misquotes_has_a_footnote_and_stays_as_printed() -> None:
    page.build(make_inputs({}))
    parts = (REPORT / "index.html").read_text().split('<table class="comparison">')[1:]
    offline, online = (part.partition("</table>") for part in parts)
    (marked,) = [line for line in online[0].splitlines() if "†" in line]
    assert "<td>scene-play</td>" in marked and '<td class="paper">0±0→0±0†</td>' in marked
    assert "† As printed in the paper; the FQL paper, from which it is taken, has 1±2→50±53" in online[2]
    assert "†" not in "".join(offline)
    printed = pd.read_csv(REPORT / "table2.csv", dtype=str).set_index("environment")
    assert printed.loc["scene-play", "paper Cal-QL"] == "0±0→0±0"


# The page


def test_an_algorithm_without_a_display_name_still_has_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tables.NAMES, "fql")
    page.build(make_inputs({"offline": {"agents": ["flp", "fql"]}}))
    for table in ("table1.csv", "table2.csv"):
        measured = (
            pd.read_csv(REPORT / table, dtype=str).set_index("environment").loc["cube-single-play", "measured fql"]
        )
        assert measured[0].isdigit()


@pytest.mark.parametrize("missing", ["quality.json", "latent.png", "flow.csv", "evaluations.csv", "policy.json"])
def test_a_missing_input_is_one_line_that_names_it(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_inputs({})
    path = sorted(Path().glob(f"results/**/{missing}"))[0]
    path.unlink()
    assert stage.main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path} does not exist; make it with" in error
    assert not REPORT.exists()


@pytest.mark.parametrize(
    "content", ["", "phase,step\noffline,1\n", "phase,step,success,episodes\noffline,1,7,9\n", "\x00\x01"]
)
def test_a_broken_table_is_refused_by_name(content: str) -> None:
    keys = make_inputs({})
    path = next(Path().glob("results/**/offline/**/evaluations.csv"))
    path.write_text(content)
    with pytest.raises(FLPError, match=re.escape(str(path))):
        page.build(keys)


def external(html: str) -> list[str]:
    """Whatever a browser would fetch, and every URL."""
    links = re.findall(r'(?:src|href|data|action)\s*=\s*"(?!data:|#)([^"]*)"', html)
    return [*links, *re.findall(r"(?:https?:)?//\w[^\s\"'<]*", html), *re.findall(r"@import|url\((?!#)", html)]


def test_the_page_is_self_contained_and_escapes_its_inputs() -> None:
    hostile = '<script>alert("x")</script> & </title>'
    page.build(make_inputs({"report": {"title": hostile}}))
    html = (REPORT / "index.html").read_text()
    assert external(re.sub(r"base64,[^\"]*", "", html)) == []
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in html
    assert "made &lt;here&gt;" in html
    assert "made <here>" not in html
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', html)) <= set(ids)


def test_a_page_per_dataset_linked_from_the_index() -> None:
    REPORT.mkdir(parents=True)
    (REPORT / "left-over.html").touch()
    page.build(make_inputs({"datasets": ["cube-single-play", "scene-play"], "seeds": [0, 1]}))
    assert {p.name for p in REPORT.glob("*.html")} == {"index.html", "cube-single-play.html", "scene-play.html"}
    index = (REPORT / "index.html").read_text()
    assert set(external(re.sub(r"base64,[^\"]*", "", index))) == {"cube-single-play.html", "scene-play.html"}
    assert "Aggregate comparison" in index
    assert external(re.sub(r"base64,[^\"]*", "", (REPORT / "scene-play.html").read_text())) == ["index.html"]


def test_every_link_resolves_and_every_number_is_the_csvs() -> None:
    agents = ["flp", "fql"]
    page.build(make_inputs({"datasets": ["cube-single-play", "scene-play"], "offline": {"agents": agents}}))
    pages = {path.name: path.read_text() for path in REPORT.glob("*.html")}
    links = {(name, link) for name, html in pages.items() for link in re.findall(r'<a href="([^"]*)"', html)}
    assert {link for _, link in links if link.endswith(".html")} == set(pages)
    for name, link in links:
        file, _, anchor = link.partition("#")
        assert not anchor or f'id="{anchor}"' in pages[file or name], f"{name} has a dead link to {link}"
    csv = pd.read_csv(REPORT / "success.csv")
    for dataset in ("cube-single-play", "scene-play"):
        (table,) = re.findall(r'<table class="success".*?</table>', pages[f"{dataset}.html"], re.S)
        assert table in pages["index.html"]
        cells = [re.findall(r"<td>(?:([\w ]+)</td>|([^<]*)<span)", row) for row in table.split("<tr")[2:]]
        rows = csv[csv["dataset"] == dataset].pivot(index="method", columns="task", values="mean")
        names = {
            "flow": "frozen flow",
            "flp": "FLP",
            "flp online": "FLP online",
            "fql": "FQL",
            "fql online": "FQL online",
        }
        expected = [
            [title, *(f"{100 * rows.loc[method, task]:.0f}" for task in ("all", *"12"))]
            for method, title in names.items()
        ]
        assert [[first or second for first, second in row] for row in cells] == expected
        for name, of_each_seed in {
            "Success, frozen flow": "10 %",
            "Success, FLP": "30 %",
            "Success, FLP online": "90 %",
            "Round-trip error, mean": "1.0e-04",
        }.items():
            assert f"<tr><td>{name}</td><td>{of_each_seed}</td></tr>" in pages[f"{dataset}.html"]
    total = pd.read_csv(REPORT / "compute.csv")["seconds"].sum()
    assert total == pytest.approx(2 * 30 + 2 * 2 * 2 * 2 * 61.5)  # the flows, and datasets × agents × tasks × stages
    assert f"In all {page.duration(total)}." in pages["index.html"]


def test_policies_are_compared_within_their_phase() -> None:
    flp, fql, iql = (Method(agent) for agent in ("flp", "fql", "iql"))
    flp_online, fql_online = Method("flp", "online"), Method("fql", "online")
    assert comparisons.comparisons([FLOW, flp, flp_online, fql, fql_online, iql], flp) == [
        (flp, FLOW),
        (flp, fql),
        (flp, iql),
        (flp_online, flp),
        (flp_online, fql_online),
    ]
    assert comparisons.comparisons([flp], flp) == []


def test_the_same_inputs_give_the_same_bytes() -> None:
    keys = make_inputs({"seeds": [0, 1], "offline": {"sweep": {"candidates": [1, 8]}}})
    page.build(keys)
    first = {path.name: path.read_bytes() for path in REPORT.iterdir()}
    code = (
        "import sys, flp.report.page; assert 'torch' not in sys.modules; from flp.stages import report; report.main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in REPORT.iterdir()} == first


def test_the_manifest_holds_the_key_and_every_file() -> None:
    keys = make_inputs({})
    page.build(keys)
    manifest = json.loads((REPORT / "manifest.json").read_text())
    assert (manifest["kind"], manifest["key"]) == ("report", keys.report)
    assert set(manifest["files"]) == {path.name for path in REPORT.iterdir()} - {"manifest.json"}
    assert all(sha256_of(REPORT / name) == digest for name, digest in manifest["files"].items())


def test_the_stage_ends_with_the_success_table_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    make_inputs({})
    assert stage.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "task", "frozen", "flow", "%", "FLP", "offline", "%", "FLP", "online", "%"]
    assert lines[1].split() == ["cube-single-play", "1", "10", "20", "90"]
    assert lines[3].split() == ["cube-single-play", "mean", "10", "30", "90"]
    assert lines[-1] == "report: results/report/index.html"


def test_results_of_another_configuration_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    make_inputs({})
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"]["alpha"] = 2.0
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert stage.main([]) == 0
    assert "Stale results" in (REPORT / "index.html").read_text()
    assert "4 of the artifacts are stale" in capsys.readouterr().out
    assert not graph(Keys(load_params()))["report/report"].is_current(), "the workflow would never remake the page"


def test_fine_tuning_starts_where_an_algorithms_own_steps_end() -> None:
    own = {"rebrac": {"offline": {"steps": 900}}}
    keys = make_inputs({"offline": {"agents": ["flp", "rebrac"]}, "agents": own})
    rows = curves.base(collect(keys).scores)
    starts = curves._starts(collect(keys), "cube-single-play", rows)
    assert starts == {"flp": 400, "rebrac": 900} and curves._borders(rows, starts) == [400, 900]
    lines = curves._learning_lines(rows, ["flp", "rebrac"], starts)
    assert sorted(line.x.max() for line in lines) == [400, 400, 500, 1000, 1000]


@pytest.mark.parametrize("online", [[2], None])
def test_a_mean_over_some_of_the_tasks_says_so(online: list[int] | None) -> None:
    """Task 2 is the easier one: fine-tuned alone, its mean must not be compared with that of both before."""
    text = page.build(make_inputs({"online": {"tasks": online}}))
    html = (REPORT / "index.html").read_text()
    lead = re.sub("<[^>]*>|&nbsp;", "", html[html.index('<p class="lead">') : html.index("Scale: ")])
    for where, says in (
        (text, "note: not run on all tasks of cube-single-play: FLP online: task 2"),
        (lead, "succeeds in 30% of episodes"),
        (lead, "Online fine-tuning of task 2 alone, where it succeeds in 40%, brings it to 90%"),
        (html, "FLP, fine-tuned, task 2<"),
        (html, "Not run on all tasks, so that means do not compare: FLP online: task 2."),
        (html, "From there on, means are over the fine-tuned tasks"),
    ):
        assert (says in where) == (online is not None or says.endswith("of episodes")), says


def test_mazes_show_the_recorded_paths() -> None:
    keys = make_inputs({"datasets": ["pointmaze-medium-navigate"], "offline": {"tasks": [3]}})
    walk = np.cumsum(np.full((40, 2), 0.1, np.float32), 0)
    for stage_name, phases in (("offline", ("behavior", "offline")), ("online", ("online",))):
        folder = next(Path().glob(f"results/pointmaze-medium-navigate/{stage_name}/flp/seed0/task3_seed0"))
        paths = {f"{phase}_{i}": walk + i for phase in phases for i in range(11)}
        reached = {f"{phase}_reached": np.arange(11) < 7 for phase in phases if phase != "behavior"}
        np.savez(folder / "trajectories.npz", **paths, **reached)
    page.build(keys)
    html = (REPORT / "index.html").read_text()
    # Which of the flow's arrive was not recorded, as by an older version.
    for label in ("frozen flow", "policy: 7 of 11", "fine-tuned: 7 of 11"):
        assert f'aria-label="{label}"' in html
    (folder / "trajectories.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(FLPError, match=r"trajectories\.npz cannot be read"):
        page.build(keys)


def test_videos_of_the_reported_policies_are_shown_and_others_are_not() -> None:
    keys = make_inputs({})
    folder = Path(layout.VIDEOS.format(dataset="cube-single-play", agent="flp"))
    policies = {
        str(path.with_suffix(".safetensors")): [json.loads(path.read_text())[name] for name in ("key", "sha256")]
        for path in sorted(Path("results").glob("cube-single-play/o*line/flp/seed0/task*/policy.json"))
    }
    assert len(policies) == 4
    outcomes = {"frozen flow": {"success": False, "length": 200}, "policy": {"success": True, "length": 84}}
    video = {"file": "task2_seed0.webp", "task": 2, "seed": 0, "outcomes": outcomes}
    write(folder / "videos.json", json.dumps({"policies": policies, "videos": [video]}))
    with pytest.raises(FLPError, match="flp is incomplete"):
        page.build(keys)
    write(folder / "task2_seed0.webp", b"RIFF")
    page.build(keys)
    html = (REPORT / "index.html").read_text()
    assert "<b>FLP, task 2.</b> Frozen flow: no success; policy: success after 84 steps." in html
    assert '<img src="data:image/webp;base64,UklGRg=="' in html
    assert external(re.sub(r"base64,[^\"]*", "", html)) == []
    first, (key, digest) = next(iter(policies.items()))
    for other in ([key, "other policy"], ["other episodes", digest]):
        write(folder / "videos.json", json.dumps({"policies": policies | {first: other}, "videos": [video]}))
        page.build(keys)
        assert "image/webp" not in (REPORT / "index.html").read_text()
