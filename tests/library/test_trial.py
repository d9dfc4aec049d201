"""Datasets by name, trials of any policy, and what `import flp` offers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import flp


def test_a_dataset_by_its_name_or_path(experiment, monkeypatch):
    monkeypatch.chdir(experiment)
    dataset = flp.load_dataset("pointmaze-medium-navigate")
    assert dataset.observations.shape == (62, 2) and len(dataset) == 60
    held_out = flp.load_dataset("pointmaze-medium-navigate", validation=True)
    assert held_out.observations.shape == (31, 2)
    path = experiment / "data/pointmaze-medium-navigate-val.npz"
    assert flp.load_dataset(path).sha256 == held_out.sha256
    trained_on = path.with_name("pointmaze-medium-navigate.npz")
    assert flp.load_dataset(trained_on, validation=True).sha256 == held_out.sha256
    with pytest.raises(flp.FLPError, match=r"pointmaze-medium-navigate-val-val\.npz does not exist"):
        flp.load_dataset(path, validation=True)
    with pytest.raises(flp.FLPError, match="did you mean 'pointmaze-medium-navigate'"):
        flp.load_dataset("pointmaze-medium-navigat")
    with pytest.raises(flp.FLPError, match=r"data/cube-single-play\.npz"):
        flp.load_dataset("cube-single-play")


def test_ones_own_file_is_left_alone(tmp_path):
    np.savez(tmp_path / "mine.npz", observations=np.zeros((3, 2)))
    with pytest.raises(flp.FLPError, match="it is left as it is") as caught:
        flp.load_dataset(tmp_path / "mine.npz")
    assert "delete" not in str(caught.value)


def test_any_function_can_be_tried():
    seen = []

    def right(observations):
        seen.append(observations.shape)
        return np.tile([1.0, 0.0], (len(observations), 1))

    options = {"dataset": "pointmaze-medium-navigate", "task": 1, "episodes": 2}
    first, again = flp.evaluate(right, **options, seed=3), flp.evaluate(right, **options, seed=3, workers=2)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert seen[0] == (2, 2) and first.lengths.tolist() == [1000, 1000]
    assert str(first) == "success 0 of 2 (0%), return -1000.0"
    with pytest.raises(flp.FLPError, match="give dataset and task"):
        flp.evaluate(right)
    with pytest.raises(flp.FLPError, match="shape"):
        flp.evaluate(lambda observations: observations[:, :1], **options)


def test_importing_loads_no_torch():
    code = "import sys, flp; dir(flp); flp.FLPError; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_public_is_there():
    assert set(flp.__all__) == set(flp._WHERE) and set(flp.__all__) <= set(dir(flp))
    assert all(getattr(flp, name).__doc__ for name in flp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_polcy'"):
        flp.load_polcy  # noqa: B018
