"""The default experiment at a scale of seconds."""

from __future__ import annotations

import pytest
import yaml

from flp.stages import download_dataset, invert_to_latent, offline_train, online_finetune, pretrain_flow, report

MAZE = "pointmaze-medium-navigate"


def tiny(params, dataset, **changes):
    """The default experiment at a scale of seconds, on one dataset."""
    params = yaml.safe_load(yaml.safe_dump(params))
    params["datasets"] = [dataset]
    params["download"] |= {"episodes": 2, "steps_per_episode": 31}
    params["flow"] |= {"hidden": [16], "steps": 40, "validate_every": 20, "solver_steps": 2}
    params["invert"] |= {"likelihood_samples": 8, "max_roundtrip_error": 1.0}
    params["offline"] |= {"tasks": [1, 4], "steps": 20, "hidden": [16], "batch_size": 16, "candidates": 4}
    params["online"] |= {"steps": 10}
    params["evaluation"] |= {"every": 20, "episodes": 1}
    params["report"] |= {"bootstrap": 100}
    for section, values in changes.items():
        params[section] |= values
    return params


def train(folder, params, agents):
    """Run the stages up to offline training in a folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages(params["datasets"][0], agents)


def run_stages(dataset, agents=("flp",), *, online=False, page=False):
    """Run the stages up to offline training of the agents in this folder, then those that are asked for."""
    common = ["--threads", "1", "--device", "cpu"]
    of = ["--dataset", dataset, *common]
    assert download_dataset.main(of) == 0
    assert pretrain_flow.main([*of, "--seed", "0"]) == 0
    assert invert_to_latent.main([*of, "--seed", "0"]) == 0
    for agent in agents:
        assert offline_train.main([*of, "--agent", agent]) == 0
        assert not online or online_finetune.main([*of, "--agent", agent]) == 0
    assert not page or report.main(common) == 0
