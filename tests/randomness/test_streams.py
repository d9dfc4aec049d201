"""Random streams: equal seeds give equal numbers, whichever runs share the streams."""

from __future__ import annotations

import pytest
import torch

from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams


def drawn(streams):
    return [streams.normal(3, 2), streams.uniform(4), streams.integers(10, 5)]


def test_same_seeds_same_numbers():
    for a, b in zip(drawn(RunStreams([1, 2])), drawn(RunStreams([1, 2])), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(RunStreams([1]).normal(9), RunStreams([2]).normal(9))


def test_a_run_does_not_depend_on_its_neighbours():
    alone, beside = drawn(RunStreams([7])), drawn(RunStreams([1, 2, 7, 3]))
    for a, b in zip(alone, beside, strict=True):
        assert torch.equal(a[0], b[2])


def test_shapes_and_ranges():
    streams = RunStreams([1, 2])
    normal, uniform, integers = streams.normal(20_000), streams.uniform(20_000), streams.integers(7, 20_000)
    assert normal.shape == uniform.shape == integers.shape == (2, 20_000)
    assert (normal.dtype, integers.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), rtol=0, atol=0.04)
    torch.testing.assert_close(normal.std(1), torch.ones(2), rtol=0, atol=0.03)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for run in range(2):
        counts = torch.bincount(integers[run], minlength=7)
        assert len(counts) == 7
        expected = 20_000 / 7
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-square, 6 degrees of freedom: p < 1e-4


def test_state_and_restore():
    streams = RunStreams([1, 2])
    streams.normal(5)
    state = streams.state()
    expected = drawn(streams)
    other = RunStreams([8, 9])
    other.restore(state)
    for a, b in zip(expected, drawn(other), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="2 stream states for 3 runs"):
        RunStreams([1, 2, 3]).restore(state)


def test_seeds_come_from_names():
    assert seed_of("init", "cube", 1) == seed_of("init", "cube", 1)
    names = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), ("a", "bc", 0), ("a", "bc", 1)]
    seeds = {seed_of(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("flp", 1) == 197219400669966897  # the same on every machine, for ever
