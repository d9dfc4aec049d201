"""What the workflow's files say agrees with the code and with each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import REPO

from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.system.artifacts import write_json
from flp.system.errors import FLPError
from flp.tools import flows
from flp.tools.schema import json_schema


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make workflow/lib importable."""
    monkeypatch.syspath_prepend(str(REPO / "workflow" / "lib"))


def test_stages_read_the_parameters_that_the_workflow_wrote(
    lib: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bookkeeping import write_params

    monkeypatch.chdir(tmp_path)
    kwargs = {"small": 1e-05, "large": 1e16, "text": "1e-05", "nested": {"day": "2026-11-28"}}
    task = {"data": {"path": "flüge \U0001f680.npz"}, "environment": "my_package:MyArm-v0", "kwargs": kwargs}
    overlay = {"tasks": {"arm": task}, "datasets": ["arm"], "report": {"title": "flows \U0001f680 \x85 'x': # y"}}
    Path("overlay.yaml").write_text(yaml.safe_dump(overlay))
    params = load_params(REPO / "params.yaml", "overlay.yaml")
    assert load_params(write_params(params)) == params


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--configfile", "a", "--configfile", "b"], "--configfile"),
        (["--configfiles=a", "-n", "--configfile", "b"], "--configfile"),
        (["-C", "a=1", "--config", "b=2"], "--config"),
        (["-Ca=1", "-nC", "b=2"], "--config"),
        (["-dCODE", "-C", "a=1", "-c8"], None),
        (["--config=a=1", "-n", "--config", "b={c: 2}"], "--config"),
        (["--configfile", "a", "b", "--config", "c=1", "d=2", "-n"], None),
    ],
)
def test_what_snakemake_would_half_ignore_is_refused(lib: None, words: list[str], name: str | None) -> None:
    from bookkeeping import require_single_options

    with nullcontext() if name is None else pytest.raises(FLPError, match=f"^{name} is given twice"):
        require_single_options(["snakemake", *words])


def test_a_link_that_leads_nowhere_is_named_with_a_remedy(
    lib: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bookkeeping import require_targets

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    for name in ("one", "two"):
        (tmp_path / "cache" / name).touch()
        Path(name).symlink_to(tmp_path / "cache" / name)
    require_targets(["one", "two", "three"])
    (tmp_path / "cache" / "two").unlink()
    with pytest.raises(FLPError, match=r"^two leads to .*cache/two, which is not there; .*-xtype l -delete"):
        require_targets(["one", "two", "three"])


def test_the_schema_for_editors_is_current() -> None:
    """If this fails: flp schema > workflow/schemas/params.schema.json."""
    assert (REPO / "workflow" / "schemas" / "params.schema.json").read_text() == json_schema()


def environment() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((REPO / "workflow" / "envs" / "flp.yaml").read_text())
    return values


def test_condas_environment_has_pips_pins(lib: None) -> None:
    from write_env import CONDA, normal, pins

    wanted, values = pins(), environment()
    assert values["channels"] == ["conda-forge"]  # nodefaults is a channel like any other to conda 26.7
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

    assert (REPO / "workflow" / "envs" / "flp.yaml").read_text() == written()


def test_condas_environment_holds_all_that_the_stages_import() -> None:
    """But for the front ends, every direct requirement of pyproject.toml is there."""
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    names = {entry.split(">")[0].split("[")[0].split("=")[0].strip().lower() for entry in project["dependencies"]}
    *plain, pip = environment()["dependencies"]
    there = {line.split("=")[0].replace("pytorch", "torch") for line in plain}
    there |= {line.partition("==")[0] for line in pip["pip"]}
    assert names - {"snakemake", "dvc"} <= there


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("scores", [[0.0, 0.5, 1.0], [-200.0, -150.0, 90.0]], ids=["success", "return"])
def test_dvcs_page_draws_any_score_inside_its_panel(scores: list[float]) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", (REPO / ".dvc/plots/page.html").read_text(), re.DOTALL)
    points = [{"dataset": "a", "phase": "offline", "step": step, "success": y} for step, y in enumerate(scores)]
    encoding = {"x": {"field": "step"}, "y": {"field": "success"}}
    page = """
        const drawn = [];
        const make = () => ({style: {}, at: {}, appendChild() {}, append() {}, setAttribute(k, v) { this.at[k] = v; }});
        const keep = (_, name) => { const node = make(); if (name === "circle") drawn.push(node); return node; };
        const document = {createElementNS: keep, createElement: make, querySelector: make};
    """
    ask = f'vegaEmbed("#x", {json.dumps({"data": {"values": points}, "encoding": encoding})});'
    show = "console.log(JSON.stringify([HEIGHT, drawn.map(node => node.at.cy)]));"
    done = subprocess.run(["node", "-e", page + script + ask + show], capture_output=True, text=True, check=True)
    height, heights = json.loads(done.stdout)
    assert heights == sorted(heights, reverse=True)
    assert 0 < heights[-1] < heights[0] < height


def test_both_profiles_let_keys_decide() -> None:
    for name in ("default", "slurm"):
        profile = yaml.safe_load((REPO / "workflow" / "profiles" / name / "config.yaml").read_text())
        assert profile["rerun-triggers"] == ["mtime"] and profile["max-checksum-file-size"] == 0
        assert profile["rerun-incomplete"] is True


# --- the machine ----------------------------------------------------------------------------------------------------


def test_cores_and_gpus_are_those_one_may_use(lib: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from bookkeeping import machine_cores, machine_gpus

    assert 1 <= machine_cores() <= len(os.sched_getaffinity(0))
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine_gpus() == here
    for text, count in (("", 0), ("-1", 0), ("NoDevFiles", 0), ("none", 0), ("GPU-", 0), ("0,0", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert machine_gpus() == count


@pytest.mark.parametrize(
    ("text", "here", "count"),
    [
        ("0", 0, 1),  # devices that are not seen under /dev
        ("0,1, 3", 0, 3),
        ("0,1, 3", 2, 2),
        ("0,-1,1", 2, 1),  # what comes after one that is none does not count
        ("7", 2, 0),
        ("1,x,0", 2, 1),
        ("GPU-8932f937,GPU-a1b2", 2, 2),
        ("GPU-8932f937,0", 2, 1),
        ("MIG-GPU-8932f937/1/0,MIG-GPU-8932f937/2/0", 1, 1),  # of these CUDA shows a process one
        ("no_gpu,GPU-8932f937", 2, 0),
    ],
)
def test_visible_gpus_are_counted_as_cuda_counts_them(lib: None, text: str, here: int, count: int) -> None:
    from bookkeeping import visible_gpus

    assert visible_gpus(text, here) == count


# --- flp flows ---------------------------------------------------------------------------------------------------


def test_flows_at_hand_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = Keys(load_params(REPO / "params.yaml"))
    dataset = keys.params.datasets[0]
    wanted = graph(keys)[f"pretrain_flow/{dataset}/seed0"]
    assert [(row.state, row.needed_by) for row in flows.list_flows(keys)] == [("missing", 0)]

    def put(name: str, seed: int, key: str) -> None:
        folder = Path(f"results/{name}/flow/model/seed{seed}")
        folder.mkdir(parents=True)
        for suffix in (".safetensors", ".csv", ".md"):
            (folder / f"flow{suffix}").write_text("x" * 10)
        write_json(folder / "flow.json", {"key": key, "validation_loss": 1.5, "sha256": "s"})
        quality = Path(f"results/{name}/flow/quality/seed{seed}/quality.json")
        part = {"accuracy": 0.63, "interval": [0.61, 0.65], "r2": [0.07, 0.01], "r2_squares": [0.02, 0.0]}
        found = {"all": part, "saturated": part | {"accuracy": 0.78}, "other": None}
        alone = {"data": 0.4, "prior": 0.3, "accuracy": 0.55, "interval": [0.54, 0.57]}
        told = {"two_sample": found, "saturation": alone, "warning": "train longer", "validation_nll": -4.25}
        write_json(quality, {"roundtrip_mean": 1e-5, "latent_std": [1.0, 1.1]} | told)
        write_json(Path(f"results/{name}/latent/seed{seed}/latent.json"), {"flow_sha256": "s"})

    put(dataset, 0, wanted.key)
    put(dataset, 7, "k7")
    put("scene-play", 0, "other")
    Path(f"results/{dataset}/flow/model/seedx").mkdir()
    rows = {(row.dataset, row.seed): row for row in flows.list_flows(keys)}
    assert rows[dataset, 0].state == "current" and rows[dataset, 0].needed_by == 1
    assert rows[dataset, 0].latent_std == pytest.approx(1.05) and rows[dataset, 0].roundtrip == 1e-5
    assert rows[dataset, 7].state == rows["scene-play", 0].state == "unused"
    assert rows[dataset, 0].size > 30
    text = flows.table(list(rows.values()))
    assert "1 offline job" in text and wanted.key[:8] in text and "scene-play" in text
    assert (
        "63 % [61, 65]" in text
        and "78 %" in text
        and "55 % [54, 57]" in text
        and "0.07, 0.02" in text
        and "-4.25" in text
    )
    assert text.splitlines()[-1] == "warning: train longer"
    write_json(rows[dataset, 0].path.with_suffix(".json"), {"key": wanted.key, "sha256": "trained anew"})
    anew = next(row for row in flows.list_flows(keys) if row.seed == 0)
    assert (anew.state, anew.roundtrip, anew.latent_std) == ("current", None, None)  # those were its predecessor's
    assert (anew.two_sample, anew.warning) == ({}, None)
    write_json(rows[dataset, 0].path.with_suffix(".json"), {"key": "older"})
    assert next(row for row in flows.list_flows(keys) if row.seed == 0).state == "stale"


@pytest.mark.usefixtures("lib")
@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("log", ["job.log", "/dev/full"])
@pytest.mark.parametrize("shown", ["| cat", "| true", "> /dev/full"])
def test_a_job_ends_as_its_stage_does_wherever_its_log_can_go(
    tmp_path: Path, status: int, log: str, shown: str
) -> None:
    from job_shell import ALWAYS

    stage = f"(seq 99999; touch end; exit {status})"  # more than a pipe holds
    script = f"({ALWAYS} {stage} 2>&1 | keep {log}; echo unseen >&2) {shown}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and (tmp_path / "end").exists()
    if log == "job.log":
        assert (tmp_path / log).read_text().endswith("\n99999\n")
