"""What the workflow's files say agrees with the code and with each other."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flp.experiment.graph import Artifact, graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.system.artifacts import write_json
from flp.tools import flows
from flp.tools.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make workflow/lib importable."""
    monkeypatch.syspath_prepend(str(ROOT / "workflow" / "lib"))


def test_the_schema_for_editors_is_current() -> None:
    """If this fails: flp schema > workflow/schemas/params.schema.json."""
    assert (ROOT / "workflow" / "schemas" / "params.schema.json").read_text() == json_schema()


def environment() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "workflow" / "envs" / "flp.yaml").read_text())
    return values


def test_condas_environment_has_pips_pins(lib: None) -> None:
    from write_env import CONDA, normal, pins

    wanted, values = pins(), environment()
    assert values["channels"] == ["conda-forge", "nodefaults"]
    *plain, pip = values["dependencies"]
    assert plain[:2] == ["python=3.11", "pip"]
    assert plain[2:] == [f"{conda}={wanted[name]}" for name, conda in CONDA.items()]
    for line in pip["pip"]:
        name, _, version = line.partition("==")
        assert wanted[normal(name)] == version
    assert "torch" not in {line.partition("==")[0] for line in pip["pip"]}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="written with Python 3.11")
def test_condas_environment_is_current(lib: None) -> None:
    """If this fails: python workflow/lib/write_env.py."""
    from write_env import environment as written

    assert (ROOT / "workflow" / "envs" / "flp.yaml").read_text() == written()


def test_condas_environment_holds_all_that_the_stages_import() -> None:
    """But for the front ends, every direct requirement of pyproject.toml is there."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {entry.split(">")[0].split("[")[0].split("=")[0].strip().lower() for entry in project["dependencies"]}
    *plain, pip = environment()["dependencies"]
    there = {line.split("=")[0].replace("pytorch", "torch") for line in plain}
    there |= {line.partition("==")[0] for line in pip["pip"]}
    assert names - {"snakemake", "dvc"} <= there


def test_both_profiles_let_keys_decide() -> None:
    for name in ("default", "slurm"):
        profile = yaml.safe_load((ROOT / "workflow" / "profiles" / name / "config.yaml").read_text())
        assert profile["rerun-triggers"] == ["mtime"] and profile["max-checksum-file-size"] == 0
        assert profile["rerun-incomplete"] is True


# --- key files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.chdir(tmp_path)
    return Artifact("report", "report", "new", ("out/page", "out/manifest.json"), ("out/manifest.json",))


def marked(artifact: Artifact, judge: bool = True) -> tuple[bool, float]:
    from bookkeeping import key_file, mark

    current = mark([artifact], judge)[artifact]
    return current, Path(key_file(artifact)).stat().st_mtime


def make(key: str, when: float) -> None:
    write_json("out/manifest.json", {"key": key})
    Path("out/page").write_text("page")
    for name in ("page", "manifest.json"):
        os.utime(f"out/{name}", (when, when))


@pytest.mark.parametrize("when", [0.0, 1e6, 1.7e9])
def test_current_outputs_are_never_older_than_their_key(lib: None, artifact: Artifact, when: float) -> None:
    make("new", when)
    current, time_of_key = marked(artifact)
    assert current and time_of_key <= when


@pytest.mark.parametrize("ahead", [-1e6, 0.0, 1e6])
def test_stale_outputs_are_older_than_their_key_and_new_ones_will_not_be(
    lib: None, artifact: Artifact, ahead: float
) -> None:
    make("old", time.time() + ahead)
    current, time_of_key = marked(artifact)
    assert not current
    assert Path("out/page").stat().st_mtime < time_of_key < time.time() + 0.1
    assert marked(artifact) == (False, time_of_key)


def test_outputs_that_are_not_there_are_made_when_needed(lib: None, artifact: Artifact) -> None:
    assert marked(artifact) == (False, 86_400.0)


def test_a_job_that_parses_again_moves_nothing(lib: None, artifact: Artifact) -> None:
    make("old", 1.7e9)
    before = marked(artifact)[1]
    make("new", 1.8e9)
    assert marked(artifact, judge=False)[1] == before


def test_cores_and_gpus_are_those_one_may_use(lib: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from bookkeeping import machine_cores, machine_gpus

    assert 1 <= machine_cores() <= len(os.sched_getaffinity(0))
    for text, count in (("", 0), ("-1", 0), ("0", 1), ("0,1, 3", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert machine_gpus() == count


# --- flp flows ---------------------------------------------------------------------------------------------------


def test_flows_at_hand_are_listed(tmp_path: Path) -> None:
    keys = Keys(load_params(ROOT / "params.yaml"))
    dataset = keys.params.datasets[0]
    wanted = graph(keys)[f"pretrain_flow/{dataset}/seed0"]
    assert [(row.state, row.needed_by) for row in flows.list_flows(keys, tmp_path)] == [("missing", 0)]

    def put(name: str, seed: int, key: str) -> None:
        folder = tmp_path / f"results/{name}/flow/model/seed{seed}"
        folder.mkdir(parents=True)
        for suffix in (".safetensors", ".csv", ".md"):
            (folder / f"flow{suffix}").write_text("x" * 10)
        write_json(folder / "flow.json", {"key": key, "validation_loss": 1.5, "sha256": "s"})
        quality = tmp_path / f"results/{name}/flow/quality/seed{seed}/quality.json"
        write_json(quality, {"roundtrip_mean": 1e-5, "latent_std": [1.0, 1.1]})
        write_json(tmp_path / f"results/{name}/latent/seed{seed}/latent.json", {"flow_sha256": "s"})

    put(dataset, 0, wanted.key)
    put(dataset, 7, "k7")
    put("scene-play", 0, "other")
    (tmp_path / f"results/{dataset}/flow/model/seedx").mkdir()
    rows = {(row.dataset, row.seed): row for row in flows.list_flows(keys, tmp_path)}
    assert rows[dataset, 0].state == "current" and rows[dataset, 0].needed_by == 1
    assert rows[dataset, 0].latent_std == pytest.approx(1.05) and rows[dataset, 0].roundtrip == 1e-5
    assert rows[dataset, 7].state == rows["scene-play", 0].state == "unused"
    assert rows[dataset, 0].size > 30
    text = flows.table(list(rows.values()))
    assert "1 offline job" in text and wanted.key[:8] in text and "scene-play" in text
    write_json(rows[dataset, 0].path.with_suffix(".json"), {"key": wanted.key, "sha256": "trained anew"})
    anew = next(row for row in flows.list_flows(keys, tmp_path) if row.seed == 0)
    assert (anew.state, anew.roundtrip, anew.latent_std) == ("current", None, None)  # those were its predecessor's
    write_json(rows[dataset, 0].path.with_suffix(".json"), {"key": "older"})
    assert next(row for row in flows.list_flows(keys, tmp_path) if row.seed == 0).state == "stale"
