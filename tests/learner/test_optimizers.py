"""Adam's options: a decaying rate, weight decay, and gradients that are clipped run by run."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from flp.learner.optimizers import Adam, descend

in_both_ways = pytest.mark.parametrize("in_parts", [False, True])


@pytest.fixture
def ways(in_parts, monkeypatch):
    """The fused kernel, or the plain operations that are compiled in its place."""
    importlib.import_module("torch._dynamo")  # keeps the function that it finds: PyTorch's, not the one below
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: in_parts)


@in_both_ways
def test_the_rate_falls_along_a_cosine(ways):
    """As PyTorch's AdamW with a schedule."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 9).view(3, 3)) for _ in range(2))
    optimizer = Adam([ours], 0.1, decay_steps=8, weight_decay=0.3)
    expected = torch.optim.AdamW([theirs], 0.1, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.LambdaLR(expected, lambda t: 0.5 * (1 + math.cos(math.pi * min(t, 8) / 8)))
    for step in range(11):
        gradient = torch.randn(3, 3, generator=generator)
        optimizer.step([gradient])
        theirs.grad = gradient
        expected.step()
        schedule.step()
        torch.testing.assert_close(ours, theirs)
        if step == 7:
            last = ours.detach().clone()
    assert torch.equal(ours, last)  # after the cosine it rests


@in_both_ways
def test_the_rate_falls_by_the_learners_updates_also_where_the_optimizer_rests(ways):
    parameter = torch.nn.Parameter(torch.ones(1, 2))
    optimizer = Adam([parameter], 0.1, decay_steps=8)
    for update in range(8):
        assert float(optimizer.rate()) == pytest.approx(0.05 * (1 + math.cos(math.pi * update / 8)), abs=1e-7)
        before = parameter.detach().clone(), optimizer.steps[0].item()
        descend(optimizer, parameter.square().sum(1), torch.tensor(update % 2 == 0))
        moved = not torch.equal(parameter, before[0])
        assert moved == (update % 2 == 0) and optimizer.steps[0].item() == before[1] + moved
    assert float(optimizer.rate()) == 0
    other = Adam([parameter], 0.1, decay_steps=8)
    other.restore(optimizer.state())
    assert float(other.rate()) == 0


@in_both_ways
@pytest.mark.parametrize("turned", ["gradient", "parameter", "both"])
def test_the_layout_of_a_gradient_does_not_matter(ways, turned):
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))

    def turn(tensor, which):
        """The same numbers, stored column by column."""
        return tensor.mT.contiguous().mT if turned in {which, "both"} else tensor.clone()

    plain, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(turn(start, "parameter"))
    for parameter, along in ((plain, gradient), (other, turn(gradient, "gradient"))):
        optimizer = Adam([parameter], 0.1)
        for _ in range(3):
            optimizer.step([along])
    assert other.is_contiguous() == (turned == "gradient")
    torch.testing.assert_close(other, plain)


RUNS = 3
SHAPES = [(2 * RUNS, 4, 5), (RUNS, 1, 5), (2 * RUNS, 1, 2)]  # an ensemble of two, and what has no members


@in_both_ways
def test_every_run_is_clipped_as_if_alone(ways):
    """As PyTorch's `clip_grad_norm_` over a run's own slices; some norms are above, some below the bound."""
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [[torch.nn.Parameter(p.detach().chunk(RUNS)[run].clone()) for p in ours] for run in range(RUNS)]
    optimizer = Adam(ours, 0.1, clip_norm=2.0, runs=RUNS)
    alone = [torch.optim.Adam(parameters, 0.1) for parameters in theirs]
    sizes = torch.tensor([0.03, 0.3, 30.0])
    norms = []
    for _ in range(6):
        gradients = [torch.randn(shape, generator=generator).unflatten(0, (RUNS, -1)) for shape in SHAPES]
        gradients = [(g * sizes.view(-1, *[1] * (g.dim() - 1))).flatten(0, 1) for g in gradients]
        optimizer.step(gradients)
        for run, (parameters, one) in enumerate(zip(theirs, alone, strict=True)):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.chunk(RUNS)[run].clone()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, 2.0).item())
            one.step()
            for parameter, stacked in zip(parameters, ours, strict=True):
                torch.testing.assert_close(stacked.detach().chunk(RUNS)[run], parameter.detach())
        sizes = sizes.roll(1)  # else Adam, which cares for no scale, would hide it
    assert min(norms) < 2 < max(norms)
