"""Curves while it trains: those of the files, each step once whatever was killed, and nothing where nobody asks."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from prepared_maze import DATASET, train

from flp.agents.flp import FLP
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.stages import invert_to_latent, offline_train, online_finetune, pretrain_flow
from flp.supervision import boards
from flp.system import layout
from flp.system.resume import Resume

OF = ["--dataset", DATASET, "--threads", "1", "--device", "cpu"]
JOB = "offline/flp/seed0"


def trained(*options, stage=offline_train):
    assert stage.main([*OF, *options]) == 0


def curves(place: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads of one run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = accumulator(str(layout.BOARDS / DATASET / place), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def columns(path: Path, title: str, phase: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """The same of a CSV file."""
    table = pd.read_csv(path)
    if phase is not None:
        table = table[table["phase"] == phase].drop(columns="phase")
    return {
        f"{title}/{name}": [(int(s), float(np.float32(v))) for s, v in zip(table["step"], table[name], strict=True)]
        for name in table
        if name != "step"
    }


def test_the_curves_are_those_of_the_files(here):
    pytest.importorskip("tensorboard")
    trained("--tensorboard")
    for run in ("task1_seed0", "task2_seed0"):
        log = columns(here / run / "log.csv", "training")
        assert len(log["training/q"]) == 6
        evaluated = columns(here / run / "evaluations.csv", "evaluation", "offline")
        behaved = columns(here / run / "evaluations.csv", "behavior", "behavior")
        assert curves(f"{JOB}/{run}") == log | evaluated | behaved


def test_fine_tuning_the_flow_and_its_quality_are_shown(here, monkeypatch):
    pytest.importorskip("tensorboard")
    trained()
    trained("--tensorboard", stage=online_finetune)
    evaluated = curves("online/flp/seed0/task1_seed0")["evaluation/success"]
    assert [step for step, _ in evaluated] == [0, 20]
    trained("--seed", "0", "--tensorboard", stage=pretrain_flow)
    model = columns(Path(f"results/{DATASET}/flow/model/seed0/flow.csv"), "flow")
    assert curves("flow/model/seed0") == model and len(model["flow/validation_loss"]) == 2
    trained("--seed", "0", "--tensorboard", stage=invert_to_latent)
    quality = json.loads(Path(f"results/{DATASET}/flow/quality/seed0/quality.json").read_text())
    shown = curves("flow/quality/seed0")
    assert shown["quality/roundtrip_mean"] == [(20, pytest.approx(quality["roundtrip_mean"]))]
    assert shown["quality/latent_std/1"] == [(20, pytest.approx(quality["latent_std"][1]))]


def test_hyper_parameters_are_shown(here):
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = yaml.safe_load(Path("params.yaml").read_text())
    values["report"]["tensorboard"] = True
    values["offline"]["sweep"]["alpha"] = [7.5]
    Path("params.yaml").write_text(yaml.safe_dump(values))
    trained()
    found = {}
    for run in ("task1_seed0", "task1_seed0_alpha=7.5"):
        accumulator = EventAccumulator(str(layout.BOARDS / DATASET / JOB / run)).Reload()
        contents = accumulator.PluginTagToContent("hparams")
        session = plugin.FromString(contents["_hparams_/session_start_info"]).session_start_info
        found[run] = {name: getattr(v, v.WhichOneof("kind")) for name, v in session.hparams.items()}
        assert "parameters/text_summary" in accumulator.Tags()["tensors"]
    assert (
        found["task1_seed0_alpha=7.5"]["alpha"] == 7.5 and found["task1_seed0"]["alpha"] == values["offline"]["alpha"]
    )
    own = found["task1_seed0"]
    assert (own["agent"], own["dataset"], own["task"], own["batch_size"]) == ("flp", DATASET, 1, 16)
    assert not any("rebrac" in name for name in own)


@pytest.mark.slow(15)
def test_a_killed_run_goes_on_without_a_step_twice(here, monkeypatch, signals):
    """It is killed long after its last state: what it has shown since is shown again, once."""
    pytest.importorskip("tensorboard")
    update, count, save = FLP.update, iter(range(1, 1000)), Resume.save

    def dies(self, batch, noise):
        if next(count) == 45:
            raise RuntimeError("killed")
        return update(self, batch, noise)

    def early(self, tensors, info):
        if info["step"] <= 20:
            save(self, tensors, info)

    monkeypatch.setenv("FLP_CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr(FLP, "update", dies)
        patch.setattr(Resume, "save", early)
        with pytest.raises(RuntimeError, match="killed"):
            train_shown()
    before = curves(f"{JOB}/task1_seed0")
    assert [step for step, _ in before["training/q"]] == [10, 20, 30, 40]
    taken = []
    with monkeypatch.context() as patch:
        patch.setattr(FLP, "update", lambda self, batch, noise: taken.append(1) or update(self, batch, noise))
        train_shown()
    assert len(taken) == 40  # it went on from step 20
    after = curves(f"{JOB}/task1_seed0")
    assert [step for step, _ in after["training/q"]] == [10, 20, 30, 40, 50, 60]
    assert after["training/q"] == columns(here / "task1_seed0/log.csv", "training")["training/q"]
    assert [step for step, _ in after["behavior/success"]] == [0]
    assert len(list((layout.BOARDS / DATASET / JOB / "task1_seed0").iterdir())) == 1


def train_shown():
    trained("--tensorboard")


def records(content: bytes):
    """The records of LevelDB's log format, in which the client writes: blocks of 32 KiB, pieces of records in them."""
    place, whole = 7, b""  # after the file's own header
    while place < len(content):
        if 2**15 - place % 2**15 < 7:  # too little of the block is left for a header
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            yield whole
            whole = b""


def logged(name: str) -> list[dict]:
    """The rows in the offline file of the one run of this name."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in layout.WANDB.glob("offline-run-*/*.wandb"):
        rows, names = [], []
        for data in records(file.read_bytes()):
            record = Record.FromString(data)
            names += [record.run.display_name] if record.WhichOneof("record_type") == "run" else []
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows += [items] if items else []
        found += [rows] if name in names else []
    (rows,) = found
    return rows


@pytest.mark.slow(30)
def test_weights_and_biases_are_shown_the_same_offline(here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):  # the second time it takes the place of the first
        trained("--wandb")
        rows = logged(f"{DATASET}/{JOB}/task2_seed0")
        q = [(row["step"], row["training/q"]) for row in rows if "training/q" in row]
        log = pd.read_csv(here / "task2_seed0/log.csv")
        assert q == [(s, pytest.approx(v)) for s, v in zip(log["step"], log["q"], strict=True)] and len(q) == 6
        assert [row["step"] for row in rows if "evaluation/success" in row] == [60]
        for manifest in here.glob("*/policy.json"):
            manifest.unlink()
    assert len(list(layout.WANDB.glob("offline-run-*"))) == 2


def test_it_shapes_nothing(here):
    pytest.importorskip("tensorboard")
    names = ("policy.safetensors", "log.csv", "evaluations.csv")
    trained()
    before = {name: (here / "task1_seed0" / name).read_bytes() for name in names}
    values = yaml.safe_load(Path("params.yaml").read_text())
    off = Keys(load_params())
    values["report"]["tensorboard"] = True
    Path("params.yaml").write_text(yaml.safe_dump(values))
    on = Keys(load_params())
    run = on.runs(DATASET, "flp", [0])[0]
    assert off.report == on.report and off.latent(DATASET, 0) == on.latent(DATASET, 0)
    assert off.offline_run(DATASET, "flp", run) == on.offline_run(DATASET, "flp", run)
    for manifest in here.glob("*/policy.json"):
        manifest.unlink()
    trained()
    assert {name: (here / "task1_seed0" / name).read_bytes() for name in names} == before


def test_a_board_that_fails_stops_nobody(here, capsys):
    pytest.importorskip("tensorboard")
    layout.BOARDS.parent.mkdir(exist_ok=True)
    layout.BOARDS.write_text("a file is in the way")
    trained("--tensorboard")
    said = capsys.readouterr().err
    assert said.count(f"warning: results/{DATASET}/{JOB} is no longer shown") == 1
    assert len(pd.read_csv(here / "task1_seed0/log.csv")) == 6


def test_without_the_extra_one_line_says_so_before_anything_is_trained(here, monkeypatch, capsys):
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    assert offline_train.main([*OF, "--tensorboard"]) == 2
    assert "report.tensorboard needs tensorboard: pip install" in capsys.readouterr().err.splitlines()[-1]
    assert not here.exists() or not list(here.glob("*/policy.json"))
    assert train() == 0


@pytest.mark.slow(15)
def test_where_nobody_asks_nothing_of_it_is_imported(here):
    """Nor is the compiler, which takes as long as all else of torch."""
    code = (
        "import sys; from flp.stages import offline_train, pretrain_flow, invert_to_latent\n"
        f"assert offline_train.main({OF!r}) == 0\n"
        "print([name for name in sys.modules if 'tensorboard' in name or name in ('wandb', 'torch._dynamo')])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n" and not layout.BOARDS.exists()


def test_numbers_are_found_wherever_they_are():
    row = {"step": 3, "key": "a", "loss": 0.5, "std": [1, None, 2.0], "two_sample": {"all": 0.6, "per": {"a": 1}}}
    assert boards.numbers(row) == {
        "loss": 0.5,
        "std/0": 1.0,
        "std/2": 2.0,
        "two_sample/all": 0.6,
        "two_sample/per/a": 1.0,
    }
