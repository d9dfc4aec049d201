"""Wrong arguments and files are one line of `FLPError`, whatever is wrong with them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import flp

MAZE = "pointmaze-medium-navigate"


@pytest.fixture
def flow_folder(experiment):
    return experiment / f"results/{MAZE}/flow/model/seed0"


def test_whole_numbers_may_be_numpys_and_nothing_else_is_one(run_of):
    folder = run_of("flp")
    policy = flp.load_policy(folder, seed=np.int64(4))
    drawn = policy(np.zeros(2))
    policy.reset(np.int32(4))
    np.testing.assert_array_equal(policy(np.zeros(2)), drawn)
    policy.candidates = np.int64(2)
    assert policy.candidates == 2
    for wrong in (1.5, -1, 2**70, True, "1", None, np.bool_(True)):
        with pytest.raises(flp.FLPError, match="seed must be a whole number from 0"):
            policy.reset(wrong)
        with pytest.raises(flp.FLPError, match="seed must be a whole number from 0"):
            flp.load_policy(folder, seed=wrong)


def test_a_task_names_its_own_episodes_only(run_of):
    policy = flp.load_policy(run_of("bc"))
    first, again = (flp.evaluate(policy, task, episodes=2) for task in (1, np.int64(1)))
    np.testing.assert_array_equal(first.returns, again.returns)
    for wrong in (1.0, True):
        with pytest.raises(flp.FLPError, match="task must be a whole number"):
            flp.evaluate(policy, wrong)
    with pytest.raises(flp.FLPError, match=f"{MAZE} has no task 9"):
        flp.evaluate(policy, 9)
    for name in ("episodes", "seed", "workers"):
        with pytest.raises(flp.FLPError, match=f"{name} must be a whole number"):
            flp.evaluate(policy, **{name: 1.5})


@pytest.mark.parametrize("gives", [lambda s: None, lambda s: "left", lambda s: [[1], [1, 2]], lambda s: object()])
def test_a_function_that_gives_no_actions_is_refused(gives):
    with pytest.raises(flp.FLPError, match=r"the policy gave (no array of )?actions"):
        flp.evaluate(gives, 1, dataset=MAZE, episodes=2)


def test_a_file_of_another_kind_and_the_name_of_a_policy_are_refused_by_what_they_are(run_of):
    folder = run_of("bc")
    with pytest.raises(flp.FLPError, match=r"policy\.safetensors is no flow but a 'run'$"):  # nothing to delete
        flp.load_flow(folder / "policy.safetensors")
    with pytest.raises(flp.FLPError, match="a str is no policy; give one of"):
        flp.evaluate(str(folder), 2, dataset=MAZE)


def test_actions_in_other_units_have_no_value(run_of):
    policy = flp.load_policy(run_of("flp"))
    assert np.isfinite(policy.value(np.ones(2), np.ones(2)))
    with pytest.raises(flp.FLPError, match=r"actions leave \[-1, 1\], a policy's units"):
        policy.value(np.ones((3, 2)), [[0, 0], [0, 2], [0, 0]])


def test_tensors_that_numpy_cannot_read_are_refused(run_of):
    with pytest.raises(flp.FLPError, match=r"observations are no array of numbers .*requires grad"):
        flp.load_policy(run_of("bc"))(torch.zeros(2, requires_grad=True))
    assert flp.load_policy(run_of("iql"))(torch.zeros(2)).shape == (2,)


def test_an_empty_batch_has_empty_results(flow_folder):
    flow, none = flp.load_flow(flow_folder), np.zeros((0, 2))
    assert flow.sample(none, n=3).shape == (0, 3, 2) and flow.log_prob(none, none).shape == (0,)
    assert flow.action(none, none).shape == flow.latent(none, none).shape == (0, 2)


def test_observations_beyond_all_range_are_refused(run_of, flow_folder):
    policy, flow = flp.load_policy(run_of("flp")), flp.load_flow(flow_folder)
    for act in (policy, flow.sample):
        with pytest.raises(flp.FLPError, match="too far outside the range of the data"):
            act([1e38] * 2)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_no_file_is_blamed_for_a_device_on_which_nothing_runs(device, run_of):
    with pytest.raises(flp.FLPError, match=f"^device {device}: flp computes on cpu or cuda only$"):
        flp.load_policy(run_of("bc"), device=device)


def test_a_run_or_a_flow_may_be_named_by_any_of_its_files(run_of, flow_folder):
    folder = run_of("flp")
    for name in ("policy.json", "evaluations.csv", "policy.safetensors"):
        assert flp.load_policy(folder / name).agent == "flp"
    assert flp.load_flow(flow_folder / "flow.json").dataset == MAZE


@pytest.mark.parametrize("name", ["policy.safetensors", "flow.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_named(name, run_of):
    folder = run_of("flp")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(flp.FLPError, match=f"cannot read .*{name}: Is a directory"):
        flp.load_policy(folder)


def test_a_dataset_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(flp.FLPError, match=r"folder\.npz: Is a directory"):
        flp.load_dataset(tmp_path / "folder.npz")


@pytest.mark.parametrize(
    ("text", "says"),
    [("[" * 100_000, "is not valid JSON"), (None, "does not list the file's tensors")],
    ids=["deeply nested", "tensors as a list"],
)
def test_a_strange_manifest_is_named(text, says, run_of):
    file = run_of("bc") / "policy.json"
    file.write_text(text or json.dumps(json.loads(file.read_text()) | {"tensors": [1, 2]}))
    with pytest.raises(flp.FLPError, match=says):
        flp.load_policy(file.parent)


def test_data_in_other_formats_are_sent_to_tasks(tmp_path):
    np.savez(tmp_path / "d4rl.npz", observations=np.zeros((3, 2), np.float32), actions=np.zeros((3, 1), np.float32))
    shutil.copy(tmp_path / "d4rl.npz", tmp_path / "x.h5")
    for name in ("d4rl.npz", "x.h5", "absent.hdf5"):
        with pytest.raises(flp.FLPError, match="`tasks`"):
            flp.load_dataset(tmp_path / name)
