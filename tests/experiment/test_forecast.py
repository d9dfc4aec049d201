"""Expected times: by hand where an operation's seconds are known, and compared with a real training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from prepared_maze import DATASET

from flp.experiment.advice import Advisor, Choice
from flp.experiment.forecast import START, Forecast, done_jobs, summary
from flp.experiment.graph import Artifact
from flp.experiment.keys import Keys
from flp.experiment.survey import Survey
from flp.params.loading import load_params, parse
from flp.stages import offline_train
from flp.supervision.costs import FILE, CostModel, load_costs
from flp.supervision.operations import Operations

JOB = f"offline_train/{DATASET}/flp/seed0"
F32, BF16 = "float32", "bfloat16"


@pytest.fixture
def params(request):
    """The default experiment with changed sections, and hardly any evaluation."""
    values = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())

    def changed(**sections):
        values["evaluation"] |= {"every": 10**6, "episodes": 1}
        for section, changes in sections.items():
            values[section] = values[section] | changes if isinstance(changes, dict) else changes
        return parse(values)

    return changed


def costs(params, seconds, contention=None, **more):
    """An update's seconds by setting, everything else free; `more` is of operations by their kind."""
    operations = Operations(params.spec(DATASET), params)
    every = {
        agent: Operations(params.spec(DATASET), Keys(params).agent_params(DATASET, agent))
        for agent in params.offline.agents
    }
    known = {every[a].update(a, 1, name): took for a in every for name, took in seconds.items()}
    known |= {
        every[a].compilation(a, name): more.get("compile", 30.0) for a in every for name in seconds if " " in name
    }
    free = {"act": 1e-9, "flow": 1e-9, "invert": 1e-9, "step": 1e-9, "reset": 1e-9, "generate": 1e-9} | more
    for agent, own in every.items():
        known |= {own.act(agent, 1, 1): free["act"]}
    of_all = {operations.flow(), operations.inversion(), operations.step(), operations.reset(), operations.generation()}
    known |= {operation: free[operation.kind] for operation in of_all}
    return CostModel(known, contention)


def seconds(params, known, cores=1, name=JOB):
    return Forecast(Keys(params), known, cores).seconds[name]


def test_runs_share_a_thread_or_have_one_each(params):
    p = params()
    known = costs(p, {F32: 0.01})
    alone = 8000 * 0.01
    assert seconds(p, known) == pytest.approx(START + 5 * alone, rel=1e-3)
    # Four processes on two threads, five on five; each imports what it needs.
    assert seconds(p, known, 2) == pytest.approx(START * (1 + 4 / 2) + 2.5 * alone, rel=1e-3)
    assert seconds(p, known, 8) == pytest.approx(START * (1 + 5 / 5) + alone, rel=1e-3)


def test_steps_are_paid_in_evaluations_and_online(params):
    p = params(
        offline={"tasks": [1], "steps": 10, "agents": ["iql"]},
        online={"steps": 100},
        evaluation={"episodes": 3, "every": 5},
    )
    known = costs(p, {F32: 1.0}, step=0.01, act=0.1)
    operations = Operations(p.spec(DATASET), p)
    known.measured[operations.act("iql", 1, 3)] = 0.2
    evaluation = 1000 * (0.2 + 3 * 0.01)  # a maze's horizon; one choice of actions for all episodes
    offline = seconds(p, known, name=f"offline_train/{DATASET}/iql/seed0")
    assert offline == pytest.approx(START + 10 + 2 * evaluation, rel=1e-3)
    online = seconds(p, known, name=f"online_finetune/{DATASET}/iql/seed0")
    assert online == pytest.approx(START + 100 * (1.0 + 0.1 + 0.01) + 21 * evaluation, rel=1e-3)


def test_fine_tuning_takes_what_its_own_choice_takes(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, none = {"candidates": 4, "target_candidates": 24}, {"candidates": None, "target_candidates": None}
    default = params(online={"steps": 8000})
    p, like = params(online=own), params(offline=own, online=none)
    name = JOB.replace("offline_train", "online_finetune")
    few = seconds(default, CostModel(), name=name)
    assert seconds(p, CostModel(), name=name) == seconds(like, CostModel(), name=name) > 1.5 * few
    operations = Operations(p.spec(DATASET), p.fine_tuning("flp"))
    measured = {task.operation for task in Survey(Keys(p), 60, 1, torch.device("cpu"))._quick()}
    assert {operations.update("flp", 1, F32), Operations(p.spec(DATASET), p).update("flp", 1, F32)} <= measured

    run = Path(f"results/{DATASET}/online/flp/seed0/task1_seed0")
    run.mkdir(parents=True)
    model = {"offline": p.fine_tuning("flp").offline.model_dump(mode="json")}
    manifest = {"model": model, "variant": "", "device": "cpu", "step": 8000, "seconds": 50.0}
    (run / "policy.json").write_text(json.dumps(manifest))
    forecast = Forecast(Keys(p), CostModel(), 1, recorded=True)
    assert forecast.seconds[name] == pytest.approx(START + 5 * 50.0)
    assert Forecast(Keys(like), CostModel(), 1, recorded=True).seconds[name] == forecast.seconds[name]


def test_all_cores_at_work_are_slower_each(params):
    p = params()
    alone, crowded = (costs(p, {F32: 0.01}, contention=contention) for contention in (1.0, 1.5))
    assert seconds(p, crowded) == pytest.approx(seconds(p, alone))
    trained = seconds(p, alone, 2) - START * 3
    assert seconds(p, crowded, 2) == pytest.approx(START * 3 + 1.5 * trained)


def test_the_whole_takes_what_its_longest_chain_or_its_cores_take(params):
    p = params(seeds=[0, 1, 2, 3], offline={"tasks": [1]})
    known = costs(p, {F32: 0.01}, flow=0.01)
    one, four = (Forecast(Keys(p), known, cores) for cores in (1, 4))
    assert one.total == pytest.approx(sum(one.seconds.values()))
    chain = (
        "download_dataset/{d}",
        "pretrain_flow/{d}/seed0",
        "offline_train/{d}/flp/seed0",
        "online_finetune/{d}/flp/seed0",
    )
    longest = sum(four.seconds[name.format(d=DATASET)] for name in chain) + four.seconds["report"]
    assert longest < four.total < 0.4 * one.total
    assert four.parts["offline-train flp"] == pytest.approx(four.seconds[JOB])


def test_what_was_not_measured_is_estimated_from_what_was(params):
    p = params(offline={"agents": ["flp", "fql"]})
    operations = Operations(p.spec(DATASET), p)
    flp, fql = operations.update("flp"), operations.update("fql")
    known = CostModel({flp: 3 * flp.default, operations.update("flp", 1, BF16): 1.5 * flp.default})
    assert known.seconds(fql) == pytest.approx(3 * fql.default)  # this machine is three times as slow as a typical core
    assert known.seconds(operations.update("flp", 4)) == pytest.approx(4 * 3 * flp.default)
    assert [known.source(operation) for operation in (flp, fql, operations.step())] == [
        "measured",
        "estimated",
        "default",
    ]
    known.measured[fql] = fql.default
    assert known.seconds(operations.update("fql", 1, BF16)) == pytest.approx(fql.default / 2)  # as it is for FLP
    known.measured[operations.update("flp", 5)] = 7 * flp.default
    assert known.seconds(operations.update("flp", 3)) == pytest.approx(5 * flp.default)  # by a straight line
    assert known.seconds(operations.update("flp", 5, BF16)) == pytest.approx(3.5 * flp.default)  # not in proportion


def test_unmeasured_updates_are_shorter_compiled_and_in_bfloat16(params):
    p = params()
    operations = Operations(p.spec(DATASET), p)
    settings = (F32, f"{F32} compiled", f"{BF16} compiled")
    plain, compiled, both = (CostModel().seconds(operations.update("flp", 1, setting)) for setting in settings)
    assert both < compiled < plain


def test_a_weight_or_a_rate_changes_no_time_and_a_width_does(params):
    p, others = params(), [("alpha", 3.0), ("learning_rate", 0.1), ("steps", 7), ("seeds_per_job", 2)]
    operations = Operations(p.spec(DATASET), p)
    for name, value in others:
        changed = p.model_copy(update={"offline": p.offline.model_copy(update={name: value})})
        assert Operations(p.spec(DATASET), changed).update("flp") == operations.update("flp"), name
    for name, value in [("hidden", [64]), ("candidates", 9), ("batch_size", 7), ("precision", BF16)]:
        changed = p.model_copy(update={"offline": p.offline.model_copy(update={name: value})})
        assert Operations(p.spec(DATASET), changed).update("flp") != operations.update("flp"), name


@pytest.mark.parametrize(
    ("times", "compile_", "expected"),
    [
        ({F32: 0.010, BF16: 0.013}, 30, (F32, False)),  # slower
        ({F32: 0.010, BF16: 0.0097}, 30, (F32, False)),  # within the noise
        ({F32: 0.010, BF16: 0.006}, 30, (BF16, False)),
        ({F32: 0.010, f"{F32} compiled": 0.006}, 30, (F32, True)),
        ({F32: 0.010, f"{F32} compiled": 0.006}, 300, (F32, False)),  # compilation takes longer than it saves
        ({F32: 0.010, BF16: 0.009, f"{BF16} compiled": 0.004}, 30, (BF16, True)),
        ({F32: 0.010, BF16: 0.020, f"{F32} compiled": 0.006}, 30, (F32, True)),
    ],
)
def test_the_fastest_setting_is_recommended_if_it_is_worth_it(params, times, compile_, expected):
    p = params()
    best = Advisor(p, costs(p, times, compile=compile_), cores=1).best
    assert (best.precision, best.compile) == expected


def test_what_was_not_measured_is_not_advised_against(params):
    p = params(offline={"compile": True, "steps": 100})
    assert Advisor(p, costs(p, {F32: 0.01}), cores=1).best == Choice(F32, True, 1)
    assert Advisor(p, CostModel(), cores=1).best == Choice(F32, True, 1)


def test_seeds_train_together_where_that_fills_the_cores(params):
    p = params(seeds=list(range(8)), offline={"tasks": [1, 2, 3], "steps": 100_000})
    known = costs(p, {F32: 0.01})
    assert Advisor(p, known, cores=1).best.seeds_per_job == 1
    filled = Advisor(p, known, cores=4)  # jobs of three runs leave a core idle
    assert filled.best.seeds_per_job > 1
    assert filled.speedup(seeds_per_job=filled.best.seeds_per_job) == pytest.approx(4 / 3, rel=0.05)


def test_what_does_not_fit_into_the_gpu_is_not_advised(params):
    p = params(seeds=list(range(8)), offline={"steps": 100_000, "hidden": [2048, 2048]})
    known, operations = costs(p, {F32: 0.01}), Operations(p.spec(DATASET), p)
    known.measured[operations.update("flp", 40)] = 0.02  # a GPU hardly notices
    assert Advisor(p, known, cores=4, gpu=80e9).best.seeds_per_job == 8
    assert Advisor(p, known, cores=4, gpu=3e9).best.seeds_per_job == 1


def test_a_speedup_is_of_its_own_change_alone(params):
    p = params()
    advisor = Advisor(p, costs(p, {F32: 0.010, BF16: 0.005}), cores=1)
    now = advisor.forecast(Choice(F32, False, 1)).total
    assert advisor.speedup(precision=BF16) == pytest.approx(now / advisor.forecast(Choice(BF16, False, 1)).total)
    assert 1.5 < advisor.speedup(precision=BF16) < 2


def test_a_measurement_of_another_machine_or_a_damaged_one_does_not_count(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    p = params()
    assert load_costs() is None
    costs(p, {F32: 0.01}).save(device="cpu")
    found, about = load_costs()
    assert found.seconds(Operations(p.spec(DATASET), p).update("flp")) == 0.01 and about["device"] == "cpu"
    whole = json.loads(FILE.read_text())
    for entry, value in [
        ("machine", whole["machine"] | {"cpu": "another"}),
        ("operations", [{"kind": 1}]),
        ("operations", 7),
        ("contention", -1),
    ]:
        FILE.write_text(json.dumps(whole | {entry: value}))
        assert load_costs() is None
    for change in ({"seconds": -1}, {"seconds": "1e999"}, {"default": 0}, {"runs": 0}, {"runs": "many"}):
        FILE.write_text(json.dumps(whole | {"operations": [whole["operations"][0] | change]}))
        assert load_costs() is None, change
    FILE.write_bytes(b"\x00")
    assert load_costs() is None


@pytest.mark.slow(8)
def test_what_is_foretold_comes_to_pass(here):
    """Measured for seconds, a small real training then takes a core about as long as was said."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"steps": 150, "hidden": [64, 64], "batch_size": 128}
    values["evaluation"] |= {"every": 150, "episodes": 1}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    keys = Keys(load_params("params.yaml"))
    known, began = Survey(keys, 3, 1, torch.device("cpu")).run(), time.process_time()
    foretold = Forecast(keys, known, 1).seconds[JOB] - START
    assert offline_train.main(["--dataset", DATASET, "--threads", "1", "--device", "cpu"]) == 0
    worked = time.process_time() - began
    assert foretold / 2 < worked < 2 * foretold, (foretold, worked)
    runs = [json.loads(file.read_text()) for file in Path(f"results/{DATASET}/offline").rglob("policy.json")]
    took = sum(run["seconds"] for run in runs)
    # From now on the finished runs are believed.
    after = Forecast(keys, CostModel(), 1, recorded=True)
    assert after.seconds[JOB] - START == pytest.approx(took, rel=0.01)
    assert after.sources["recorded"] == 2  # the flow's too


def test_what_is_done_is_not_counted_again(here, monkeypatch, capsys):
    """Its data, flow and latents are made; then all of it."""
    keys = Keys(load_params("params.yaml"))
    whole, left = Forecast(keys, CostModel(), 1), summary(keys, 1)
    assert "for what is left (3 of 6 jobs are done)" in left and "pretrain-flow" not in left
    rest = Forecast(keys, CostModel(), 1, done=done_jobs(keys))
    assert {job.stage for job in whole.jobs} - {job.stage for job in rest.jobs} == {
        "download_dataset",
        "pretrain_flow",
        "invert_to_latent",
    }
    assert rest.total == pytest.approx(whole.total - sum(whole.seconds[name] for name in done_jobs(keys)))
    monkeypatch.setattr(Artifact, "is_current", lambda artifact: True)
    assert summary(keys, 1) == "nothing is left to do: all 6 jobs are done"
