"""Flows and results shared by DVC, by caches, by other projects and between experiments, in fresh clones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from workflow_clones import (
    BELOW_OFFLINE_OF_ONE,
    EVERYTHING_OF_ONE,
    NOTHING,
    agrees,
)
from workflow_support import (
    DATASETS,
    REPO,
    Checkout,
    jobs,
    new_checkout,
)

pytestmark = pytest.mark.slow(15)


# --- sharing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_a_colleague_pulls_and_nothing_runs(small: Checkout, tmp_path: Path, link: str) -> None:
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("remote")
    small.run("dvc", "push", "-q")
    other = small.clone(tmp_path / "other")
    other.run("dvc", "config", "--local", "cache.type", link)
    other.env["FLP_STAND_IN_USER"] = "1"  # DVC's links are read-only, which root would not notice
    assert other.dvc("pull", "-q") == NOTHING
    assert agrees(other)
    cached = {path: path.read_bytes() for path in (other.root / ".dvc/cache/files").rglob("*") if path.is_file()}
    other.change(offline__alpha=3.0)
    assert other.snakemake() == BELOW_OFFLINE_OF_ONE
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert other.dvc("repro") == NOTHING
    assert all(path.read_bytes() == content for path, content in cached.items())
    assert agrees(other)


def test_what_was_narrowed_is_complete_for_a_colleague(small: Checkout, tmp_path: Path) -> None:
    """Nothing of a dataset that has left the experiment is in DVC's records, for nobody else has it."""
    (small.root / "results/keys/pointmaze-medium-navigate.json").write_text("{}")
    small.change(report__title="without the maze")
    assert small.dvc("repro") == jobs(report=1)
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("narrowed")
    small.run("dvc", "push", "-q")
    other = small.clone(tmp_path / "other")
    other.run("dvc", "pull", "-q")
    assert agrees(other)


def test_pulled_flows_are_used_and_the_rest_is_made(small: Checkout, tmp_path: Path) -> None:
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("remote")
    small.run("dvc", "push", "-q")
    other = small.clone(tmp_path / "other")
    other.dvc("pull", "-q", "pretrain_flow")
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == small.read(flow)
    assert other.planned("pretrain_flow_all") == NOTHING
    assert other.snakemake() == EVERYTHING_OF_ONE - jobs(pretrain_flow=1)
    assert other.read(flow) == small.read(flow)
    assert other.planned() == NOTHING


def test_snakemakes_cache_shares_flows_and_never_swaps_seeds(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = {"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path / "cache")}
    one = new_checkout(tmp_path / "one", datasets=DATASETS[:1], seeds=(0, 1))
    two = one.clone(tmp_path / "two")
    made = jobs(download_dataset=1, pretrain_flow=2)
    assert one.snakemake("--cache", "--", "pretrain_flow_all", **cache) == made
    assert two.snakemake("--cache", "--", "pretrain_flow_all", **cache) == NOTHING
    flows = sorted(path.relative_to(one.root) for path in one.root.glob("results/*/flow/model/seed*/flow.safetensors"))
    assert len(flows) == 2
    for flow in flows:
        assert two.read(str(flow)) == one.read(str(flow))
        assert f"{flow.parts[1]}/{flow.parts[4]} " in two.read(str(flow))
    assert two.snakemake(**cache) == jobs(invert_to_latent=2, offline_train=2, online_finetune=2, report=1)
    assert two.planned() == NOTHING


def test_a_shared_dvc_cache_gives_the_very_flow(small: Checkout, tmp_path: Path) -> None:
    other = small.clone(tmp_path / "other")
    other.run("dvc", "cache", "dir", "--local", small.root / ".dvc" / "cache")
    other.run("dvc", "config", "--local", "cache.shared", "group")
    assert other.dvc("checkout", "-q") == NOTHING
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert other.read(flow) == small.read(flow)
    assert agrees(other)


def test_flows_are_artifacts_that_another_project_can_get(small: Checkout, tmp_path: Path) -> None:
    declared = yaml.safe_load(small.read("dvc.yaml"))["artifacts"]
    name = "flow-cube-single-play"
    assert declared[name]["type"] == "model"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = declared[name]["path"]
    small.run("dvc", "get", small.root, path, "--out", elsewhere / "flow")
    assert (elsewhere / "flow" / "seed0" / "flow.safetensors").read_text() == small.read(
        f"{path}/seed0/flow.safetensors"
    )
    small.run("git", "tag", "-a", f"{name}@v1.0.0", "-m", "first")
    small.run("dvc", "artifacts", "get", small.root, name, "--out", elsewhere / "registered")
    assert (elsewhere / "registered" / "seed0" / "flow.md").exists()


def test_every_dataset_at_hand_has_an_artifact() -> None:
    declared = yaml.safe_load((REPO / "dvc.yaml").read_text())["artifacts"]
    wanted = set()
    for path in [REPO / "params.yaml", *REPO.glob("presets/*.yaml")]:
        wanted |= set(yaml.safe_load(path.read_text()).get("datasets", []))
    assert {f"flow-{dataset}" for dataset in wanted} <= set(declared)
    for name, artifact in declared.items():
        assert artifact["path"] == f"results/{name.removeprefix('flow-')}/flow/model"


# --- experiments -------------------------------------------------------------------------------------------------


def test_experiments_run_the_right_jobs_and_compare(small: Checkout) -> None:
    assert small.dvc("exp", "run", "--set-param", "offline.alpha=3.0") == BELOW_OFFLINE_OF_ONE
    shown = json.loads(small.run("dvc", "exp", "show", "--json").stdout)
    assert shown
    table = small.run("dvc", "exp", "show", "--csv").stdout.splitlines()
    assert "offline.alpha" in table[0] and any(".offline" in name for name in table[0].split(","))
    assert "offline.alpha" in small.run("dvc", "params", "diff").stdout
    assert "offline" in small.run("dvc", "metrics", "diff").stdout
    assert small.dvc("exp", "run", "--temp", "--set-param", "report.title=Other") == jobs(report=1)
    assert agrees(small)
