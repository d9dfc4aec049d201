"""A key changes with what its artifact is made of, and with nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from repository import REPO

from flp.experiment.graph import ON_REQUEST, Artifact, graph
from flp.experiment.keys import Keys, TableKeys
from flp.params.loading import Params, merge, parse
from flp.params.sections import AgentName
from flp.params.unread import unread
from flp.params.yamlfile import read_yaml
from flp.system.artifacts import key_of, write_json
from flp.system.hashing import hash_of
from flp.system.layout import RUN_FILES

DATASETS = ["pointmaze-medium-navigate", "cube-single-play"]


def params(**changes: Any) -> Params:
    base = merge(read_yaml(REPO / "params.yaml"), {"datasets": DATASETS, "seeds": [0, 1]})
    return parse(merge(base, changes))


def changed(**changes: Any) -> set[str]:
    """The artifacts of the experiment whose keys a change changes."""
    before, after = graph(Keys(params())), graph(Keys(params(**changes)))
    return {place for place, artifact in after.items() if place in before and before[place].key != artifact.key}


def stages(places: set[str]) -> set[str]:
    return {place.split("/")[0] for place in places}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"offline": {"alpha": 2.0}}, {"offline_train", "online_finetune", "report"}),
        ({"offline": {"discount": 0.5}}, {"offline_train", "online_finetune", "report"}),
        ({"evaluation": {"seed": 5}}, {"offline_train", "online_finetune", "report"}),
        ({"online": {"steps": 7}}, {"online_finetune", "report"}),
        ({"report": {"title": "x"}}, {"report"}),
        ({"invert": {"likelihood_samples": 3}}, {"invert_to_latent", "report"}),
        ({"invert": {"max_distinguishable": 0.9, "max_roundtrip_error": 1.0}}, {"invert_to_latent", "report"}),
        ({"invert": {"batch_size": 3}}, set()),
        ({"download": {"retries": 9, "mirrors": ["https://example.org"]}}, set()),
        ({"offline": {"sweep": {"alpha": [9.0]}}}, {"offline_train", "report"}),
        ({"offline": {"tasks": [1]}}, {"offline_train", "online_finetune", "report"}),
        ({"seeds": [0, 1, 2]}, {"report"}),
    ],
)
def test_a_parameter_changes_the_keys_below_it(changes: dict[str, Any], expected: set[str]) -> None:
    assert stages(changed(**changes)) - set(ON_REQUEST) == expected


def test_data_change_everything_below_them() -> None:
    assert set(graph(Keys(params()))) - changed(download={"seed": 3}) == {"figure/figure2"}  # it has no data


@pytest.mark.parametrize("source", ["ogbench", "path", "generate"])
def test_data_change_with_what_their_source_reads_alone(source: str) -> None:
    """The values of the default experiment, which generates, are beneath every preset that downloads."""

    def data(**change: Any) -> str:
        return Keys(params(download={"source": source, "path": "a.npz"} | change)).data(DATASETS[0])

    generation = {"episodes": 7, "steps_per_episode": 9, "noise": 0.5, "policy": "random", "seed": 3}
    changing = {name for name, value in generation.items() if data(**{name: value}) != data()}
    assert changing == (set(generation) if source == "generate" else set())
    assert (data(path="b.npz") != data()) == (source == "path")  # neither file is there: its name is all that is known


def test_an_override_changes_one_dataset() -> None:
    places = changed(overrides={DATASETS[0]: {"flow": {"steps": 3}}})
    assert places and not any(DATASETS[1] in place for place in places)
    assert f"pretrain_flow/{DATASETS[0]}/seed0" in places and f"download_dataset/{DATASETS[0]}" not in places


def test_an_algorithm_s_own_values_change_it_alone() -> None:
    agents = {"agents": ["flp", "fql", "idql"]}
    before, own = Keys(params(offline=agents)), {"idql": {"offline": {"steps": 7}, "evaluation": {"every": 3}}}
    after = Keys(params(offline=agents, agents=own))
    same = {agent: before.offline_job(DATASETS[0], agent, [0]) == after.offline_job(DATASETS[0], agent, [0])
            for agent in agents["agents"]}  # fmt: skip
    assert same == {"flp": True, "fql": True, "idql": False}
    swept = Keys(params(agents={"flp": {"offline": {"alpha": 3.0}}}))
    assert {run.alpha for run in swept.runs(DATASETS[0], "flp", [0])} == {3.0}


def test_what_learns_online_only_has_nothing_of_pretraining_in_its_key() -> None:
    agents = {"agents": ["fql", "rlpd"]}
    before = Keys(params(offline=agents))
    pretraining = [{"offline": agents | more} for more in ({"steps": 7}, {"schedule": "constant"})]
    for change in (*pretraining, {"offline": agents, "online": {"learning_rate": 0.5}}):
        after = Keys(params(**change))
        for agent, same in (("fql", False), ("rlpd", True)):
            assert (before.online_job(DATASETS[0], agent, [0]) == after.online_job(DATASETS[0], agent, [0])) is same
    nothing_online = Keys(params(offline=agents, online={"steps": 0}))
    assert {agent for _, agent, _ in nothing_online.jobs()} == {"fql"}
    assert {agent for _, agent, _ in TableKeys(before.params, "table1").jobs()} == {"fql"}
    assert {agent for _, agent, _ in TableKeys(before.params, "table2").jobs()} == {"fql", "rlpd"}


def test_every_artifact_has_a_key_of_its_own() -> None:
    found = graph(Keys(params(offline={"agents": ["flp", "fql", "bc"]})))
    assert len({artifact.key for artifact in found.values()}) == len(found)
    files = [file for artifact in found.values() for file in artifact.files]
    assert len(set(files)) == len(files)


def test_a_baseline_ignores_what_only_flp_reads() -> None:
    before = Keys(params(offline={"agents": ["flp", "fql"]}))
    after = Keys(params(offline={"agents": ["flp", "fql"], "alpha": 7.0, "candidates": 2}))
    for agent, same in (("fql", True), ("flp", False)):
        keys = [keys.offline_job(DATASETS[0], agent, [0]) for keys in (before, after)]
        assert (keys[0] == keys[1]) is same


def test_how_flp_chooses_online_concerns_its_fine_tuning_alone() -> None:
    agents = {"agents": ["flp", "fql"]}
    greedy = {"selection": "argmax", "candidates": 4, "target_candidates": 4, "acting_noise": 1.0}
    before = graph(Keys(params(offline=agents)))
    alone = [{"candidates": 2}, {"target_candidates": 2}, {"selection": "resample"}, {"acting_noise": 0.1}]
    for change in [greedy, *alone]:
        after = graph(Keys(params(offline=agents, online=change)))
        changed = {place for place in before if before[place].key != after[place].key} - set(ON_REQUEST)
        assert {place.partition("/seed")[0] for place in changed if not place.startswith("figure")} == {
            *(f"online_finetune/{dataset}/flp" for dataset in DATASETS),
            "report/report",
        }


def test_a_cloned_policy_is_kept_when_critics_change_unless_a_critic_judges_it() -> None:
    before, after = Keys(params()), Keys(params(offline={"discount": 0.5, "critics": 3}))
    same = {a: before.offline_job(DATASETS[0], a, [0]) == after.offline_job(DATASETS[0], a, [0]) for a in ("bc", "iql")}
    assert same == {"bc": True, "iql": False}
    assert "discount" in unread("bc") - unread("bc", judged_by_values=True)
    assert all(unread(agent, judged_by_values=True) <= unread(agent) for agent in get_args(AgentName))


@pytest.mark.parametrize(("own", "readers"), [({}, {"flp"}), ({"fql": {"flow": "pretrained"}}, {"flp", "fql"})])
def test_a_new_flow_trains_those_again_who_read_it(own: dict[str, Any], readers: set[str]) -> None:
    offline = {"agents": list(get_args(AgentName)), "baselines": own}
    before, after = (graph(Keys(params(offline=offline, flow=flow))) for flow in ({}, {"steps": 3}))
    of = {place: place.split("/")[2] for place in before if place.startswith(("offline_train", "online_finetune"))}
    assert set(of.values()) == set(offline["agents"])
    for place, agent in of.items():
        assert (before[place].key != after[place].key) is (agent in readers), place
        assert ({"flow", "latent"} <= set(before[place].inputs)) is (agent in readers), place


def test_a_runs_key_is_the_same_in_any_job() -> None:
    alone, together = Keys(params()), Keys(params(offline={"seeds_per_job": 2, "sweep": {"alpha": [9.0]}}))
    run = alone.runs(DATASETS[0], "flp", [1])[0]
    twin = next(other for other in together.runs(DATASETS[0], "flp", [0, 1]) if other.name == run.name)
    assert alone.offline_run(DATASETS[0], "flp", run) == together.offline_run(DATASETS[0], "flp", twin)


def test_a_sweeps_run_is_not_the_experiments_own_at_that_value() -> None:
    """It draws from streams of its own, so it has a key of its own: equal keys are equal bytes."""
    swept, own = Keys(params(offline={"sweep": {"alpha": [9.0]}})), Keys(params(offline={"alpha": 9.0}))
    theirs, its = (
        {k.offline_run(DATASETS[0], "flp", r) for r in k.runs(DATASETS[0], "flp", [0])} for k in (swept, own)
    )
    assert (len(theirs), len(its)) == (10, 5) and not theirs & its


def test_two_experiments_that_swap_their_values_have_figures_of_their_own() -> None:
    """What was the experiment's own run is the sweep's now, and has another folder and other bytes."""
    first = Keys(params(offline={"alpha": 1.0, "sweep": {"alpha": [3.0]}}))
    assert first.figure("figure4") != Keys(params(offline={"alpha": 3.0, "sweep": {"alpha": [1.0]}})).figure("figure4")


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
near = st.tuples(positive, st.integers(0, 3)).map(lambda pair: [pair[0], *_above(*pair)])


def _above(value: float, steps: int) -> list[float]:
    """The next floats above a value: what any rounding takes for it."""
    found = [value]
    while len(found) <= steps:
        found.append(math.nextafter(found[-1], math.inf))
    return [value for value in found[1:] if value < math.inf]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(near | st.lists(positive, unique=True, max_size=6), st.sets(st.integers(1, 1024), max_size=5))
@example([0.1, 0.10000001], {1, 8})
@example([3.0, 1e-7, 1e22, 123456.7, 1234567.0], set())
def test_every_run_of_a_sweep_has_a_folder_and_a_key_of_its_own(alphas: list[float], candidates: set[int]) -> None:
    keys = Keys(params(seeds=[0], offline={"tasks": [1], "sweep": {"alpha": alphas, "candidates": sorted(candidates)}}))
    own, runs = keys.params.offline, keys.runs(DATASETS[0], "flp", [0])
    assert len(runs) == 1 + len({*alphas} - {own.alpha}) + len(candidates - {own.candidates})
    assert len({run.name for run in runs}) == len(runs)
    assert len({keys.offline_run(DATASETS[0], "flp", run) for run in runs}) == len(runs)
    for run in runs[1:]:
        quantity, _, number = run.variant.partition("=")
        assert float(number) == getattr(run, quantity)
        assert len(number) <= 24


def test_usual_values_have_the_names_they_had() -> None:
    sweep = {"alpha": [3.0, 0.1, 10.0, 1e-05, 2.5e7], "candidates": [8]}
    runs = Keys(params(offline={"tasks": [1], "sweep": sweep})).runs(DATASETS[0], "flp", [0])
    expected = ["alpha=3", "alpha=0.1", "alpha=10", "alpha=1e-05", "alpha=2.5e+07", "candidates=8"]
    assert [run.variant for run in runs[1:]] == expected


def test_no_online_stage_no_online_artifact() -> None:
    assert "online_finetune" not in stages(set(graph(Keys(params(online={"steps": 0})))))
    assert "online_finetune" not in stages(set(graph(Keys(params(offline={"agents": ["bc"]})))))


def test_an_artifact_reads_what_its_stage_reads() -> None:
    roles: dict[str, set[str]] = {}
    for artifact in graph(Keys(params(offline={"agents": ["flp", "bc"]}))).values():
        roles.setdefault(f"{artifact.stage} {'bc' if '/bc/' in artifact.name else ''}".strip(), set()).update(
            artifact.inputs
        )
    trained = {"data", "flow", "latent"}
    assert roles | {"figure": set()} == {
        "download_dataset": set(),
        "pretrain_flow": {"data"},
        "invert_to_latent": {"data", "flow"},
        "offline_train": trained,
        "offline_train bc": {"data"},
        "online_finetune": trained | {"offline"},
        "offline_sweep": trained,
        "report": {"flow", "latent", "offline", "online"},
        "figure": set(),
    }


def test_current_means_whole_and_of_this_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = Artifact("report", "report", "k", ("a/page.html", "a/manifest.json"), ("a/manifest.json",), ("a/run",))
    assert not artifact.exists()
    write_json("a/manifest.json", {"key": "k"})
    Path("a/page.html").write_text("x")
    assert not artifact.is_current()
    Path("a/run").mkdir()
    for name in RUN_FILES:
        assert not artifact.is_current()
        Path("a/run", name).write_text("x")
    assert artifact.is_current()
    write_json("a/manifest.json", {"key": "other"})
    assert artifact.exists() and not artifact.is_current()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 3}', "null", "\udcff"])
def test_a_manifest_that_cannot_be_read_has_no_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert key_of(tmp_path / "m.json") is None


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1}) != hash_of({"a": 1, "b": [3]})
