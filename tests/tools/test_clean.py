"""`flp clean`: shows what no job needs, asks, removes that and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from repository import REPO

from flp import cli
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.runs.shards import plan
from flp.system import layout
from flp.system.artifacts import atomic_write
from flp.system.locks import alone, held
from flp.tools.clean import orphans, stale_states

DATASET = "pointmaze-medium-navigate"


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """An experiment of two seeds in an empty folder."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(values | {"seeds": [0, 1]}))
    return Keys(load_params())


def fill(path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    return path


def states(keys, alpha=None):
    """The resume states of every stage, those of the agents' with several runs each."""
    values = keys.params.model_dump(mode="json")
    if alpha:
        values["offline"]["alpha"] = alpha
        values["flow"]["steps"] += 1
        values["download"]["seed"] += 1
        keys = Keys(type(keys.params).model_validate(values))
    folders = [
        layout.resume_folder("download-dataset", keys.data(DATASET)),
        layout.resume_folder("pretrain-flow", keys.flow(DATASET, 1)),
        layout.resume_folder("invert-to-latent", keys.latent(DATASET, 1)),
    ]
    for stage, key in (("offline-train", keys.offline_run), ("online-finetune", keys.online_run)):
        runs = keys.runs(DATASET, "flp", [0, 1])
        run_keys = {run.name: key(DATASET, "flp", run) for run in runs}
        folders += [shard.folder for shard in plan(stage, runs, runs, run_keys, 2, "cpu")]
    for folder in folders:
        fill(folder / "state.safetensors")
    return folders


def test_the_experiments_own_states_are_kept(keys):
    states(keys)
    assert stale_states(keys) == []


def test_states_of_other_parameters_are_stale(keys):
    own, others = states(keys), states(keys, alpha=7.0)
    assert set(stale_states(keys)) == set(others)
    assert cli.main(["clean", "--yes"]) == 0
    assert all(folder.exists() for folder in own)
    assert not any(folder.exists() for folder in others)


def test_a_state_that_says_nothing_of_its_runs_is_stale(keys):
    folder = states(keys)[-1]
    (folder / "begun.json").write_text("[")
    assert stale_states(keys) == [folder]


OWN = [
    f"results/{DATASET}/offline/flp/seed0/manifest.json",
    f"results/{DATASET}/offline/flp/seed0/task1_seed0/policy.json",
    f"results/{DATASET}/flow/model/seed1/flow.json",
    f"results/{DATASET}/flow/quality/seed1/quality.json",
    f"results/{DATASET}/latent/seed0/latent.json",
    "results/report/index.html",
    "results/notes.txt",
    "results/bench/bench.json",
    f"results/keys/{DATASET}.json",
    "data/cube-single-play.npz",
]
OTHERS = [
    "results/cube-single-play/flow/model/seed0/flow.json",
    f"results/{DATASET}/offline/iql/seed0/manifest.json",
    f"results/{DATASET}/offline/flp/seed0-1/manifest.json",
    f"results/{DATASET}/offline/flp/seed0/task1_seed7/policy.json",
    f"results/{DATASET}/flow/model/seed2/flow.json",
]
SPARE = f".flp/spare/results/{DATASET}/offline/flp/seed0/task2_seed0/policy.json"


def test_outputs_of_other_experiments_are_told_apart(keys):
    for path in (*OWN, *OTHERS):
        fill(path)
    assert sorted(str(path) for path in orphans(keys)) == sorted(
        [
            "results/cube-single-play",
            f"results/{DATASET}/flow/model/seed2",
            f"results/{DATASET}/offline/flp/seed0-1",
            f"results/{DATASET}/offline/flp/seed0/task1_seed7",
            f"results/{DATASET}/offline/iql",
        ]
    )


@pytest.mark.parametrize(
    ("options", "answers", "state_stays", "outputs_stay"),
    [
        ([], ["n", ""], True, True),
        ([], ["y", "n"], False, True),
        ([], ["n", "yes"], True, False),
        ([], [], True, True),  # nobody is there to answer
        (["--yes"], None, False, True),
        (["--yes", "--outputs"], None, False, False),
    ],
)
def test_it_asks_first(keys, monkeypatch, capsys, options, answers, state_stays, outputs_stay):
    states(keys)
    stale = states(keys, alpha=7.0)[0]
    half = fill(f"results/{DATASET}/offline/flp/seed0/.policy.safetensors.0a1b.tmp")
    for path in (*OWN, *OTHERS, SPARE):
        fill(path)
    left = list(answers or [])

    def answer(question):
        if answers is None:
            raise AssertionError("it must not ask")
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr("builtins.input", answer)
    assert cli.main(["clean", *options]) == 0
    shown = capsys.readouterr().out
    for path in (stale, half, "results/cube-single-play", ".flp/spare"):
        assert str(path) in shown
    assert (stale.exists(), half.exists()) == (state_stays, state_stays)
    assert all(Path(path).exists() for path in OWN)
    assert all(Path(path).exists() == outputs_stay for path in (*OTHERS, SPARE))


def test_there_may_be_nothing_to_clean(keys, capsys):
    assert cli.main(["clean"]) == 0
    assert "nothing to clean" in capsys.readouterr().out


def test_a_link_is_never_followed(keys, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    precious = fill(outside / "precious")
    Path("results").mkdir()
    Path("results/cube-single-play").symlink_to(outside)
    assert orphans(keys) == []
    assert cli.main(["clean", "--yes", "--outputs"]) == 0
    assert precious.exists()


def test_nothing_is_removed_while_a_job_is_under_way(keys, capsys):
    states(keys, alpha=7.0)
    with alone("data/big"), atomic_write("data/big.npz") as file:
        file.write(b"x")
        assert held() == ["data/big"]
        assert cli.main(["clean", "--yes"]) == 2
        assert "being made just now: data/big;" in capsys.readouterr().err
    assert Path("data/big.npz").read_bytes() == b"x" and held() == []
    assert stale_states(keys)
    assert cli.main(["clean", "--yes"]) == 0
    assert not stale_states(keys)
