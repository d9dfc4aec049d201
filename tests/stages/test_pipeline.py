"""All six stages, run for real on each of the paper's ten environments, at a scale of seconds."""

import json
import shutil
from pathlib import Path

import gymnasium
import ogbench  # noqa: F401  (registers its environments)
import pandas as pd
import pytest
import torch
import yaml
from made_once import once
from small_experiment import MAZE, run_stages, tiny, train

from flp.data.environments import specification
from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.report.collect import read_run_table
from flp.runs import job, run_folder
from flp.stages import invert_to_latent, offline_train, online_finetune, pretrain_flow
from flp.system import layout
from flp.system.artifacts import load_tensors, save_tensors
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of
from flp.system.resume import Resume
from flp.system.stopping import InterruptedJobError
from flp.tools import videos

LOCOMOTION = [
    "antmaze-large-navigate",
    "antmaze-giant-navigate",
    "humanoidmaze-medium-navigate",
    "humanoidmaze-large-navigate",
    "antsoccer-arena-navigate",
]
MANIPULATION = ["cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play", "puzzle-4x4-play"]


@pytest.fixture
def default(request):
    return yaml.safe_load((request.config.rootpath / "params.yaml").read_text())


@pytest.mark.slow(10)
@pytest.mark.parametrize("dataset", [*LOCOMOTION, *MANIPULATION])
def test_the_six_stages_on_the_papers_environments(dataset, default, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registered in gymnasium.registry.values():
        if registered.id.startswith(specification(dataset).environment):
            monkeypatch.setattr(registered, "max_episode_steps", 100)  # a humanoid's 2000 show nothing more
    policy = "random" if dataset in LOCOMOTION else "scripted"
    # One task: that several train together is tried in the maze below.
    params = tiny(default, dataset, download={"source": "generate", "policy": policy}, offline={"tasks": [4]})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    run_stages(dataset, online=True, page=True)
    label = json.loads((tmp_path / f"data/{dataset}.json").read_text())["label"]
    assert ("random actions" in label) == (dataset in LOCOMOTION)
    latents, manifest = load_tensors(layout.LATENT.format(dataset=dataset, seed=0) + ".safetensors")
    assert manifest["dataset"] == dataset
    assert latents["latents"].shape[0] == 2 * 30
    summary = pd.read_csv("results/report/summary.csv")
    assert list(summary) == ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
    assert set(summary.phase) == {"behavior", "offline", "online"}
    assert set(summary.task) == {4}
    assert summary.success.between(0, 1).all()
    assert summary[summary.phase == "offline"].step.tolist().count(20) == 1
    quality = json.loads((tmp_path / layout.QUALITY.format(dataset=dataset, seed=0) / "quality.json").read_text())
    solved = [params["flow"][key] for key in ("solver", "solver_steps", "solver_grading")]
    assert [quality[key] for key in ("solver", "solver_steps", "solver_grading")] == solved
    assert len(quality["latent_std"]) == latents["latents"].shape[1]
    assert specification(dataset).horizon > 0
    assert "http" not in (tmp_path / "results/report/index.html").read_text().replace("http://www.w3.org", "")


@pytest.fixture(scope="module")
def trained(place, pytestconfig):
    """A folder in which a maze's two tasks have been trained together in one process."""
    params = tiny(yaml.safe_load((pytestconfig.rootpath / "params.yaml").read_text()), MAZE)
    return once(place / "trained", lambda folder: train(folder, params, ["flp"]))


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / layout.OFFLINE.format(dataset=MAZE, agent="flp", seeds="0")


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    ("stage", "main", "file", "made_by"),
    [
        ("pretrain-flow", pretrain_flow.main, layout.FLOW, {"device": "cuda"}),
        ("invert-to-latent", invert_to_latent.main, layout.LATENT, {"batch_size": 4096, "device": "cuda"}),
        ("invert-to-latent", invert_to_latent.main, layout.LATENT, {"batch_size": 1, "device": "cpu"}),
    ],
)
def test_what_was_begun_otherwise_is_begun_again(here, tmp_path, stage, main, file, made_by, capsys):
    """On another kind of device, or in other batches."""
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["invert"]["batch_size"] == 4096
    output = Path(file.format(dataset=MAZE, seed=0) + ".safetensors")
    made = output.read_bytes()
    folder = layout.resume_folder(stage, json.loads(output.with_suffix(".json").read_text())["key"])
    Resume(folder, made_by=made_by).save({"streams": torch.zeros(16, dtype=torch.uint8)}, {"step": 1})
    assert main(["--dataset", MAZE, "--seed", "0", "--threads", "1", "--device", "cpu"]) == 0
    assert output.read_bytes() == made
    assert "resuming from" not in capsys.readouterr().err


@pytest.mark.slow(10)
def test_offline_training_leaves_the_flow_as_it_is_and_keeps_finished_runs(here, tmp_path):
    path = tmp_path / (layout.FLOW.format(dataset=MAZE, seed=0) + ".safetensors")
    flow = path.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in here.glob("task*/policy.safetensors")}
    assert len(before) == 2
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["offline"]["tasks"] = [1, 4, 5]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert offline_train.main(["--dataset", MAZE, "--threads", "1"]) == 0
    after = {path: path.stat().st_mtime_ns for path in here.glob("task*/policy.safetensors")}
    assert len(after) == 3
    assert all(after[path] == time for path, time in before.items()), "finished runs were trained again"
    assert path.read_bytes() == flow


@pytest.mark.slow(10)
def test_what_another_experiment_replaced_is_taken_back(here):
    of = ["--dataset", MAZE, "--threads", "1"]
    before = {path: path.stat().st_mtime_ns for path in here.rglob("task*/*")}
    assert offline_train.main([*of, "--config", "offline={steps: 40}"]) == 0
    other = {path: path.stat().st_mtime_ns for path in here.rglob("task*/*")}
    assert before.keys() == other.keys() and not before.items() & other.items()
    for config, made in (([], before), (["--config", "offline={steps: 40}"], other)):
        assert offline_train.main([*of, *config]) == 0
        assert {path: path.stat().st_mtime_ns for path in here.rglob("task*/*")} == made


@pytest.mark.slow(10)
def test_a_run_of_two_experiments_is_never_whole(here, monkeypatch):
    """If writing fails half-way, older files are not mistaken for the new ones."""
    of = ["--dataset", MAZE, "--threads", "1"]

    def full(*arguments, **manifest):
        raise FLPError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_tensors", full)
        assert offline_train.main([*of, "--config", "offline={steps: 40}"]) == 2
    (changed,) = [run for run in here.glob("task*") if not (run / "policy.json").exists()]
    assert pd.read_csv(changed / "log.csv")["step"].max() == 40
    assert offline_train.main(of) == 0
    assert pd.read_csv(changed / "log.csv")["step"].max() == 20 and (changed / "policy.json").exists()


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", layout.RUN_FILES)
def test_a_run_without_one_of_its_files_is_trained_again(here, name):
    artifact = graph(Keys(load_params()))[f"offline_train/{MAZE}/flp/seed0"]
    assert artifact.is_current()
    file = here / "task4_seed0" / name
    others = {path: path.stat().st_mtime_ns for path in here.glob("task1_seed0/*")}
    file.unlink()
    assert not artifact.is_current()
    assert offline_train.main(["--dataset", MAZE, "--threads", "1"]) == 0
    assert file.exists() and artifact.is_current()
    assert {path: path.stat().st_mtime_ns for path in here.glob("task1_seed0/*")} == others


@pytest.mark.slow(10)
def test_a_finished_run_is_kept_where_those_that_began_with_it_go_on(here, capsys, monkeypatch):
    of = ["--dataset", MAZE, "--threads", "1"]
    shutil.rmtree(here)
    monkeypatch.setenv("FLP_CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr(Resume, "clear", interrupted)
        assert offline_train.main(of) == 1  # both have begun together
    shutil.rmtree(here)
    assert offline_train.main([*of, "--config", "offline={tasks: [4]}"]) == 0
    alone = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.glob("task4_seed0/*")}
    capsys.readouterr()
    assert offline_train.main(of) == 0
    assert "resuming from" in capsys.readouterr().err and (here / "task1_seed0/policy.json").exists()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.glob("task4_seed0/*")} == alone


@pytest.mark.slow(10)
def test_finished_runs_are_taken_over_where_other_seeds_join_their_job(here, monkeypatch):
    of = ["--dataset", MAZE, "--threads", "1"]
    made = {path.relative_to(here): path.read_bytes() for path in here.glob("task*/policy.*")}
    here.rename(here.with_name("seed1-0"))  # a job that trained them beside another seed

    def none(*arguments, **more):
        raise FLPError("nothing is to be trained")

    with monkeypatch.context() as patch:
        patch.setattr(job, "run_shards", none)
        assert offline_train.main([*of, "--seeds", "0"]) == 0
    assert {path.relative_to(here): path.read_bytes() for path in here.glob("task*/policy.*")} == made


def interrupted(resume):
    raise InterruptedJobError("stopped")


@pytest.mark.slow(10)
def test_fine_tuning_chooses_in_its_own_way_from_the_same_policies(here, tmp_path):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    of = ["--dataset", MAZE, "--threads", "1"]
    for own in ({}, {"selection": "resample", "candidates": 3, "target_candidates": 2, "acting_noise": 0.25}):
        assert online_finetune.main([*of, "--config", f"online={json.dumps(own)}"]) == 0
        (policy, *_) = tmp_path.glob("results/*/online/flp/seed0/task*/policy.json")
        manifest = json.loads(policy.read_text())
        offline = json.loads((here / policy.parent.name / "policy.json").read_text())
        assert manifest["model"]["offline"] == offline["model"]["offline"] | own
        assert manifest["candidates"] == own.get("candidates", offline["candidates"])
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.slow(10)
def test_what_learns_online_only_starts_untrained(here, tmp_path):
    of = ["--dataset", MAZE, "--agent", "rlpd", "--threads", "1", "--device", "cpu"]
    for name in (layout.FLOW, layout.LATENT):  # it reads neither
        shutil.rmtree(Path(name.format(dataset=MAZE, seed=0)).parent)
    assert offline_train.main(of) == 0
    folder = tmp_path / layout.OFFLINE.format(dataset=MAZE, agent="rlpd", seeds="0") / "task1_seed0"
    assert pd.read_csv(folder / "evaluations.csv")["step"].tolist() == [0]
    untrained = (folder / "policy.safetensors").read_bytes()
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["offline"] |= {"steps": 30}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    time = (folder / "policy.safetensors").stat().st_mtime_ns
    assert offline_train.main(of) == 0
    assert (folder / "policy.safetensors").stat().st_mtime_ns == time, "it has no offline steps that could change"
    assert online_finetune.main(of) == 0
    online = Path(str(folder).replace("/offline/", "/online/"))
    assert pd.read_csv(online / "evaluations.csv")["step"].tolist() == [0, 10]
    assert {"q", "entropy", "temperature"} <= set(pd.read_csv(online / "log.csv"))
    assert (online / "policy.safetensors").read_bytes() != untrained


@pytest.mark.slow(10)
def test_batched_and_sharded_runs_agree(trained, here):
    """A run is the same whether trained with another in one process or alone in its own."""
    shutil.rmtree(here)
    assert offline_train.main(["--dataset", MAZE, "--threads", "2"]) == 0
    policy = here.relative_to(Path.cwd()) / "task4_seed0" / "policy.safetensors"
    batched, sharded = (load_tensors(folder / policy)[0] for folder in (trained, Path.cwd()))
    for name, tensor in batched.items():
        torch.testing.assert_close(sharded[name], tensor, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(batched["agent/policy.net.weights.0"]).all()


@pytest.mark.slow(10)
def test_a_policy_is_continued_through_its_own_flow_alone(here, tmp_path, capsys, monkeypatch):
    """Not through one of the same key but other bytes, as the same training gives on another CPU."""
    of, flow = ["--dataset", MAZE, "--threads", "1"], Path(layout.FLOW.format(dataset=MAZE, seed=0) + ".safetensors")
    monkeypatch.setenv("FLP_CHECKPOINT_SECONDS", "0")
    here.rename(tmp_path / "finished")
    with monkeypatch.context() as patch:
        patch.setattr(Resume, "clear", interrupted)
        assert offline_train.main(of) == 1  # leaves a state of half-trained policies
    shutil.rmtree(here)
    (tmp_path / "finished").rename(here)
    tensors, manifest = load_tensors(flow)
    told = {name: value for name, value in manifest.items() if name != "tensors"}
    save_tensors(flow, {name: tensor * (1 + 1e-6) for name, tensor in tensors.items()}, **told)
    Path(layout.LATENT.format(dataset=MAZE, seed=0) + ".json").unlink()
    assert invert_to_latent.main([*of, "--seed", "0"]) == 0
    assert online_finetune.main(of) == 2
    refusal = "task1_seed0/policy.safetensors was trained through another flow than the one here"
    assert refusal in capsys.readouterr().err
    keys = Keys(load_params())
    for run, files in videos.policies(keys, MAZE, "flp"):
        with pytest.raises(FLPError, match="was trained through another flow"):
            videos.require_flows(keys, MAZE, "flp", {run: {"offline": files["offline"]}})
    capsys.readouterr()
    assert offline_train.main(of) == 0  # neither kept, nor taken back, nor resumed
    assert "resuming from" not in capsys.readouterr().err
    assert (
        len([*layout.spare_folder(here.relative_to(Path.cwd())).glob("task*/policy.safetensors")]) == 2
    )  # for when that flow is back
    policies = [*here.glob("task*/policy.json")]
    digest = json.loads(flow.with_suffix(".json").read_text())["sha256"]
    assert len(policies) == 2 and all(json.loads(p.read_text())["flow_sha256"] == digest for p in policies)
    assert online_finetune.main(of) == 0


def test_a_runs_manifest_vouches_for_its_tables(here):
    for folder in here.glob("task*"):
        tables = json.loads((folder / "policy.json").read_text())["tables"]
        assert tables == {name: sha256_of(folder / name) for name in ("evaluations.csv", "log.csv")}
        read_run_table(folder, "evaluations.csv", ["step"], tables)
        whole = (folder / "evaluations.csv").read_text().splitlines(keepends=True)
        (folder / "evaluations.csv").write_text("".join(whole[:-1]))
        with pytest.raises(FLPError, match=r"evaluations\.csv is truncated or altered"):
            read_run_table(folder, "evaluations.csv", ["step"], tables)


@pytest.mark.slow(10)
@pytest.mark.parametrize("file", [f"data/{MAZE}", f"results/{MAZE}/flow/model/seed0/flow"])
def test_no_stage_reads_what_has_no_manifest(here, tmp_path, file, capsys):
    """As after a kill between the removal of the manifest and the writing of new data: whose key they have is open."""
    (tmp_path / f"{file}.json").unlink()
    assert invert_to_latent.main(["--dataset", MAZE, "--threads", "1", "--seed", "0"]) == 2
    assert f"{file} was made with other parameters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "main", "more", "named"),
    [
        ("download={seed: 7}", pretrain_flow, ["--seed", "0"], f"data/{MAZE}"),
        ("flow={steps: 21}", invert_to_latent, ["--seed", "0"], "flow/model/seed0/flow"),
        ("flow={steps: 21}", offline_train, ["--seeds", "0"], "flow/model/seed0/flow"),
        ("invert={likelihood_samples: 7}", offline_train, ["--seeds", "0"], "latent"),
        ("download={seed: 7}", offline_train, ["--seeds", "0", "--agent", "iql"], f"data/{MAZE}"),
        ("flow={steps: 21}", online_finetune, ["--seeds", "0"], "flow/model/seed0/flow"),
        ("offline={alpha: 7.0}", online_finetune, ["--seeds", "0"], "offline/flp/seed0/task1_seed0/policy"),
    ],
)
def test_no_stage_reads_what_was_made_of_other_parameters(here, tmp_path, changed, main, more, named, capsys):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if ".flp" not in path.parts}
    assert main.main(["--dataset", MAZE, "--threads", "1", *more, "--config", changed]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in line and "was made with other parameters or by another version of the source" in line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if ".flp" not in path.parts} == before
