"""The default experiment at a scale of seconds, up to offline training, in a folder."""

from __future__ import annotations

import pytest
import yaml

from flp.stages import download_dataset, invert_to_latent, offline_train, pretrain_flow

MAZE = "pointmaze-medium-navigate"


def small(params, dataset, agents, **offline):
    """The default experiment at a scale of seconds."""
    params["datasets"], params["overrides"] = [dataset], {}
    params["download"] |= {"source": "generate", "episodes": 2, "steps_per_episode": 31}
    params["flow"] |= {"hidden": [16], "steps": 40, "validate_every": 20, "solver_steps": 4}
    params["invert"] |= {"likelihood_samples": 8, "max_roundtrip_error": 1.0}
    params["offline"] |= {"agents": agents, "steps": 20, "hidden": [16, 12], "batch_size": 16, **offline}
    params["evaluation"] |= {"every": 20, "episodes": 3, "seed": 7}
    return params


def train(folder, params, agents):
    """Run the stages up to offline training in a folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    of = ["--dataset", params["datasets"][0], "--threads", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert download_dataset.main(of) == 0
        assert pretrain_flow.main([*of, "--seed", "0"]) == 0
        assert invert_to_latent.main([*of, "--seed", "0"]) == 0
        for agent in agents:
            assert offline_train.main([*of, "--agent", agent]) == 0
