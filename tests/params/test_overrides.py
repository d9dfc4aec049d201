"""Other values for one dataset, or for one algorithm."""

from __future__ import annotations

import pytest
from test_params import DEFAULT, MAZE, refusal, with_

from flp.experiment.keys import Keys
from flp.params.loading import merge, parse
from flp.system.errors import FLPError


def test_what_is_an_algorithm_s_own_changes_it_alone_and_may_differ_between_datasets():
    values = with_("agents", {"idql": {"offline": {"steps": 7}, "evaluation": {"every": 3}}})
    values["datasets"] = [MAZE, "cube-double-play"]
    values["overrides"] = {"cube-double-play": {"agents": {"idql": {"offline": {"hidden": [9]}}}}}
    params = parse(values)
    for dataset in (MAZE, "cube-double-play"):
        assert params.for_dataset(dataset).for_agent("fql") == params.for_dataset(dataset).model_copy(
            update={"agents": {}}
        )
    maze, cube = (params.for_dataset(name).for_agent("idql") for name in (MAZE, "cube-double-play"))
    assert (maze.offline.steps, maze.evaluation.every, maze.offline.hidden) == (7, 3, DEFAULT["offline"]["hidden"])
    assert (cube.offline.steps, cube.evaluation.every, cube.offline.hidden) == (7, 3, [9])
    assert maze.agents == {}


def test_one_algorithm_alone_may_learn_online():
    values = with_("agents", {"rlpd": {"online": {"steps": 5}}})
    values["offline"]["agents"], values["online"]["steps"] = ["fql", "rlpd"], 0
    keys = Keys(parse(values))
    assert [agent for _, agent, _ in keys.online_jobs()] == ["rlpd"]
    assert [agent for _, agent, _ in keys.jobs()] == ["fql", "rlpd"]


def test_what_learns_online_only_needs_something_online():
    values = with_("offline.agents", ["rlpd"])
    assert parse(values).offline.agents == ["rlpd"]
    values["online"]["steps"] = 0
    with pytest.raises(FLPError, match=r"online.steps is 0, and rlpd learns online only"):
        parse(values)


def test_overrides_change_one_dataset():
    values = with_("datasets", [MAZE, "cube-double-play"])
    values["overrides"] = {"cube-double-play": {"offline": {"discount": 0.5}, "flow": {"hidden": [9]}}}
    params = parse(values)
    changed, plain = params.for_dataset("cube-double-play"), params.for_dataset(MAZE)
    assert (changed.offline.discount, changed.flow.hidden) == (0.5, [9])
    assert changed.offline.alpha == plain.offline.alpha
    assert (plain.offline.discount, plain.flow.hidden) == (DEFAULT["offline"]["discount"], DEFAULT["flow"]["hidden"])
    assert changed.overrides == plain.overrides == {}


@pytest.mark.parametrize("shared", [0.9, None])
@pytest.mark.parametrize("own", [0.9, None])
@pytest.mark.parametrize("agent", ["flp", "calql"])
def test_an_algorithm_is_judged_by_its_own_values(agent, own, shared):
    values = {"discount_start": shared, "agents": ["flp", "calql"]}
    changes = {"offline": values, "agents": {agent: {"offline": {"discount_start": own}}}}
    for place in (changes, {"overrides": {DEFAULT["datasets"][0]: changes | {"agents": {}}}, "agents": {}}):
        agents = place["agents"]
        of_calql = agents["calql"]["offline"]["discount_start"] if "calql" in agents else shared
        if of_calql is None:
            known = parse(merge(DEFAULT, place)).for_dataset(DEFAULT["datasets"][0])
            assert known.for_agent("calql").offline.discount_start is None
        else:
            assert "discount_start must be null for calql" in refusal(merge(DEFAULT, place))


def test_a_batch_of_one_has_no_standard_deviation():
    divides = merge(DEFAULT, {"offline": {"batch_size": 1, "baselines": {"cac": {"normalize_target": True}}}})
    parse(divides)
    assert "batch_size must be above 1" in refusal(merge(divides, {"offline": {"agents": ["cac"]}}))
    parse(merge(divides, {"offline": {"agents": ["cac"], "batch_size": 2}}))


def test_only_flps_own_values_make_a_sweep_idle():
    swept = {"offline": {"agents": ["flp", "bc"], "sweep": {"alpha": [1.0, 2.0]}}}
    budget = {"offline": {"kl_budget": 0.5}}
    parse(merge(DEFAULT, swept | {"agents": {"bc": budget}}))
    parse(merge(merge(DEFAULT, swept), budget | {"agents": {"flp": {"offline": {"kl_budget": None}}}}))
    message = refusal(merge(DEFAULT, swept | {"agents": {"flp": budget}}))
    assert message.startswith("params.yaml: agents.flp.offline: sweep.alpha would train one policy again")


def test_an_online_only_algorithms_own_steps_count():
    """As in presets/fourteen.yaml with `offline={agents: [rlpd]}`."""
    alone = {"offline": {"agents": ["rlpd"]}, "online": {"steps": 0}}
    own = {"rlpd": {"online": {"steps": 5}}, "calql": {"offline": {"steps": 5}}}
    assert parse(merge(DEFAULT, alone | {"agents": own})).for_agent("rlpd").online.steps == 5
    for agents in ({}, {"calql": own["calql"]}, {"rlpd": {"offline": {"steps": 5}}}):
        assert "rlpd learns online only" in refusal(merge(DEFAULT, alone | {"agents": agents}))


def test_what_follows_from_a_users_task_is_judged_with_the_rest():
    mine = {"data": {"path": "mine.npz"}, "environment": None}
    falls = {"tasks": {"mine": mine | {"discount": 0.9}}, "offline": {"discount_start": 0.95}}
    message = refusal(merge(DEFAULT, falls | {"datasets": ["mine"]}))
    assert message.startswith("params.yaml: tasks.mine: offline: discount_start must not be above discount, 0.9")
    parse(merge(DEFAULT, falls))  # it is not trained
    grows = {"offline": {"discount_start": 0.95}}  # on another dataset, which it does not concern
    both = falls | {"datasets": ["mine", MAZE], "offline": {}, "overrides": {MAZE: grows}}
    known = parse(merge(DEFAULT, both))
    assert known.for_dataset(MAZE).offline.discount_start == 0.95
    assert known.for_dataset("mine").offline.discount == 0.9
    idle = {"tasks": {"mine": mine}, "datasets": ["mine"], "offline": {"agents": ["rlpd"]}}
    assert "tasks.mine: it has no simulator, and rlpd learns online only" in refusal(merge(DEFAULT, idle))
    parse(merge(DEFAULT, idle | {"offline": {"agents": ["rlpd", "bc"]}}))
    parse(merge(DEFAULT, idle | {"tasks": {"mine": mine | {"environment": "Pendulum-v1"}}}))
