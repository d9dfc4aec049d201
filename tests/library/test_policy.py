"""A policy is used from its run's folder alone, as the pipeline's evaluation uses it."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

import flp
from flp.flow.checkpoint import load_flows
from flp.library import policy as loading
from flp.params.sections import AgentName

AGENTS = get_args(AgentName)
CHOOSING, CRITICLESS = {"flp", "ifql", "idql", "cac"}, {"bc", "fbc"}
DETERMINISTIC, DIFFUSING = {"bc", "iql", "rebrac", "calql", "rlpd", "srpo"}, {"idql", "srpo"}


def states(count: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 20, (count, 2))


@pytest.mark.parametrize("agent", AGENTS)
def test_from_its_folder_alone_it_plays_the_pipelines_episodes(agent, run_of):
    folder = run_of(agent)
    policy = flp.load_policy(folder)
    row = pd.read_csv(folder / "evaluations.csv").iloc[-1]
    trial = flp.evaluate(policy, episodes=3, seed=7)
    assert (trial.success.mean(), trial.returns.mean(), trial.lengths.mean()) == (
        row.success,
        row["return"],
        row.length,
    )
    assert (policy.agent, policy.dataset, policy.task) == (agent, "pointmaze-medium-navigate", 2)


@pytest.mark.parametrize("agent", AGENTS)
def test_its_seed_decides_what_it_does(agent, run_of):
    folder = run_of(agent)
    policy, other = flp.load_policy(folder), flp.load_policy(folder, seed=1)
    first = [policy(state) for state in states(50)]
    policy.reset(seed=0)
    again = [policy(state) for state in states(50)]
    np.testing.assert_array_equal(first, again)
    differs = any((other(state) != action).any() for state, action in zip(states(50), first, strict=True))
    assert differs == (agent not in DETERMINISTIC)


def test_one_observation_or_a_batch(run_of):
    policy = flp.load_policy(run_of("flp"))
    one, many = policy(states()[0]), policy(states().tolist())
    assert one.shape == (2,) and many.shape == (5, 2) and one.dtype == many.dtype == np.float32
    assert np.abs(many).max() <= 1
    assert policy(np.zeros((0, 2))).shape == (0, 2) and policy.value(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)
    for wrong in (states()[:, :1], states()[None], 1.0, [np.nan, 0.0], [[1, 2], [1]], "abc", None):
        with pytest.raises(flp.FLPError, match="observations"):
            policy(wrong)


@pytest.mark.parametrize("agent", AGENTS)
def test_how_it_chooses_can_be_changed(agent, run_of):
    policy = flp.load_policy(run_of(agent))
    if agent not in CHOOSING:
        assert policy.candidates is None
        with pytest.raises(flp.FLPError, match=f"{agent} does not choose"):
            policy.candidates = 2
        return
    if agent == "cac":  # after so few steps its values are alike, and their softmax is a fair draw
        policy._learner.target_critic.net.weights[-1].mul_(1000)
    batch = states(200)
    values = {}
    for count in (1, 32):
        policy.candidates = count
        assert policy.candidates == count
        policy.reset()
        values[count] = policy.value(batch, policy(batch)).mean()
    assert values[32] > values[1]  # the best of more draws is worth more to its own critic
    for wrong in (0, 2000, 1.5):
        with pytest.raises(flp.FLPError, match="candidates must be"):
            policy.candidates = wrong


@pytest.mark.parametrize("agent", AGENTS)
def test_the_critics_value(agent, run_of):
    folder = run_of(agent)
    policy, batch = flp.load_policy(folder), states()
    actions = np.random.default_rng(1).uniform(-1, 1, (5, 2))
    if agent in CRITICLESS:
        with pytest.raises(flp.FLPError, match="no critic"):
            policy.value(batch, actions)
        return
    values = policy.value(batch, actions)
    assert values.shape == (5,) and policy.value(batch[0], actions[0]).shape == ()
    np.testing.assert_allclose(values, _by_hand(folder, agent, batch, actions), rtol=1e-4)
    with pytest.raises(flp.FLPError, match="5 observations come with 4 actions"):
        policy.value(batch, actions[:4])


@pytest.mark.parametrize(
    ("agent", "size"),
    [("idql", {"width": 4096}), ("idql", {"value_hidden": [60000, 60000]}), ("cac", {"hidden": [60000, 60000]})],
)
def test_own_sizes_that_are_not_the_files_are_refused(agent, size, run_of):
    file = run_of(agent) / "policy.json"
    manifest = json.loads(file.read_text())
    manifest["model"]["offline"]["baselines"][agent] |= size
    file.write_text(json.dumps(manifest))
    with pytest.raises(flp.FLPError, match=r"another model than the file holds \(layers"):
        flp.load_policy(file.parent)


def test_layers_of_other_widths_than_the_parameters_say_are_built():
    """An algorithm of one's own need not heed `offline.hidden`; what takes far more memory than the file is refused."""
    tensors = {"agent/net.weights.0": torch.zeros(1, 3, 24), "agent/net.weights.1": torch.zeros(1, 24, 24)}
    loading._check_sizes(tensors, [[16, 16]], 1, (3, 2))
    for layers, critics in ([[60000, 60000]], 1), ([[16, 16]], 1000):
        with pytest.raises(ValueError, match=r"layers|1000 critics"):
            loading._check_sizes(tensors, layers, critics, (3, 2))


@pytest.mark.parametrize("agent", ["bc", "fbc", "iql"])
def test_a_number_of_critics_is_checked_only_where_there_are_critics(agent, run_of):
    file = run_of(agent) / "policy.json"
    manifest = json.loads(file.read_text())
    manifest["model"]["offline"]["critics"] = 60  # of all algorithms: `offline.critics`
    file.write_text(json.dumps(manifest))
    if agent in CRITICLESS:
        assert flp.load_policy(file.parent).agent == agent
    else:
        with pytest.raises(flp.FLPError, match=r"another model than the file holds \(60 critics"):
            flp.load_policy(file.parent)


def _by_hand(folder, agent, batch, actions):
    """The ensemble's value, layer by layer, from the file's tensors."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "policy.safetensors")
    rectified = agent in DIFFUSING or agent == "calql"  # ReLU without normalisation
    prefix = {"iql": "agent/values.critic.net", "ifql": "agent/values.critic.net"}.get(agent, "agent/critic.net")
    prefix = "agent/values.target_critic.net" if agent in DIFFUSING else prefix  # which is what chooses
    prefix = "agent/target_critic.net" if agent == "cac" else prefix  # Mish without normalisation
    s = torch.tensor(batch, dtype=torch.float32)
    a = torch.tensor(actions, dtype=torch.float32)
    if agent == "flp":
        flow, _ = load_flows([str(folder / "flow.safetensors")])
        a = flow.inverse(s[None], a[None])[0]
    members = []
    for member in range(2):
        x = (torch.cat([s, a], -1) * tensors[f"{prefix}.scale"][member]) + tensors[f"{prefix}.shift"][member]
        for layer in range(3):
            x = x @ tensors[f"{prefix}.weights.{layer}"][member] + tensors[f"{prefix}.biases.{layer}"][member]
            if layer < 2 and rectified:
                x = x.relu()
            elif layer < 2 and agent == "cac":
                x = torch.nn.functional.mish(x)
            elif layer < 2:
                x = torch.nn.functional.gelu(x, approximate="tanh")
                x = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
                x = x * tensors[f"{prefix}.scales.{layer}"][member] + tensors[f"{prefix}.shifts.{layer}"][member]
        members.append(x[:, 0])
    both = torch.stack(members) / (10 if agent == "calql" else 1)  # the scale of its rewards
    return (both.mean(0) if agent in ("flp", "fql", "fawac", "fbrac") else both.amin(0)).numpy()


def test_what_it_has_learnt_cannot_be_trained_on(run_of):
    policy = flp.load_policy(run_of("flp"))
    assert not any(p.requires_grad for p in policy._learner.parameters())


@pytest.mark.parametrize("agent", ["flp", "bc"])
def test_damaged_files_are_refused_by_name(agent, run_of):
    folder = run_of(agent)
    for name in ["policy.safetensors", *(["flow.safetensors"] if agent == "flp" else [])]:
        whole = (folder / name).read_bytes()
        for broken in (whole[:-9], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b""):
            (folder / name).write_bytes(broken)
            with pytest.raises(flp.FLPError, match=name):
                flp.load_policy(folder)
        (folder / name).write_bytes(whole)
    (folder / "policy.json").unlink()
    with pytest.raises(flp.FLPError, match=r"policy\.json"):
        flp.load_policy(folder)


def test_a_policy_of_another_flow_is_refused(run_of, experiment):
    folder = run_of("flp")
    text = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(text | {"flow_sha256": "0" * 64}))
    with pytest.raises(flp.FLPError, match=r"flow\.safetensors is not the flow that .* was trained with"):
        flp.load_policy(folder)
    (folder / "policy.json").write_text(json.dumps(text))
    (folder / "flow.safetensors").unlink()
    with pytest.raises(flp.FLPError, match=r"flow\.safetensors does not exist"):
        flp.load_policy(folder)
    shared = experiment / "results/pointmaze-medium-navigate/flow/model/seed0/flow.safetensors"
    assert flp.load_policy(folder, flow=shared).agent == "flp"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "flow"}, "no policy"),
        ({"agent": "os"}, "algorithm 'os'"),
        ({"agent": "bc"}, "another model"),
        ({"alpha": None}, "its manifest's alpha is none that flp writes"),
        ({"candidates": 10**9}, "its manifest's candidates is none"),
        ({"dataset": "../../elsewhere"}, "its manifest's dataset is none"),
        ({"task": "1"}, "its manifest's task is none"),
        ({"seed": -1}, "its manifest's seed is none"),
        ({"model": {}}, "another model"),
        ({"model.observation_dim": 3}, "another model"),
        ({"model.action_dim": 10**9}, "another model"),
        ({"model.offline.hidden": [60000, 60000]}, "another model"),
        ({"model.offline.critics": 64}, "another model"),
        ({"model.offline.alpha": "much"}, r"offline\.alpha is not what this flp knows"),
        ({"model.offline.new": 1}, r"offline\.new is not what this flp knows"),
    ],
)
def test_a_manifest_that_is_not_the_files_is_refused(change, says, run_of):
    file = run_of("flp") / "policy.json"
    manifest = json.loads(file.read_text())
    ((path, value),) = change.items()
    *places, last = path.split(".")
    inner = manifest
    for place in places:
        inner = inner[place]
    inner[last] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(flp.FLPError, match=says) as caught:
        flp.load_policy(file.parent)
    assert "policy" in str(caught.value)


def test_other_folders_are_told_apart(run_of, experiment, tmp_path):
    with pytest.raises(flp.FLPError, match="name one of its runs: task2_seed0"):
        flp.load_policy(experiment / "results/pointmaze-medium-navigate/offline/flp/seed0")
    with pytest.raises(flp.FLPError, match="does not exist"):
        flp.load_policy(tmp_path / "nowhere")
    folder = run_of("bc")
    (folder / "policy.safetensors").unlink()
    shutil.copy(folder / "policy.json", folder / "failed.json")
    with pytest.raises(flp.FLPError, match="this run failed"):
        flp.load_policy(folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("agent", AGENTS)
def test_on_a_gpu_it_acts_alike(agent, run_of):
    folder = run_of(agent)
    here, there = flp.load_policy(folder), flp.load_policy(folder, device="cuda")
    np.testing.assert_allclose(there(states()), here(states()), atol=1e-4)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_told_before_any_file_is_blamed(device, run_of, experiment):
    flow = experiment / "results/pointmaze-medium-navigate/flow/model/seed0"
    for load, path in ((flp.load_policy, run_of("flp")), (flp.load_flow, flow)):
        with pytest.raises(flp.FLPError, match=r"^device '?(gpu|cuda:99|3\.5)'?: "):
            load(path, device=device)


def test_a_manifest_may_lack_what_it_is_named_by(run_of):
    file = run_of("flp") / "policy.json"
    manifest = json.loads(file.read_text())
    del manifest["dataset"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(flp.FLPError, match="its manifest's dataset is none that flp writes"):
        flp.load_policy(file.parent)
