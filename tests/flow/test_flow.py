"""The behaviour flow against closed forms: its solvers, its inverse, its densities, what it learns."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from reference import make_flow
from torch import nn
from torch.distributions import MultivariateNormal

from flp.flow.behavior import Flow
from flp.flow.matching import FlowLearner, Pairs, validation_loss
from flp.flow.solver import graded, integrate
from flp.flow.velocity import VelocityField, flow_matching_loss
from flp.parts.gaussian import kl_to_prior
from flp.randomness.streams import RunStreams

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
SOLVERS = list(ORDERS)


class Affine(nn.Module):
    """v(s, x, t) = A x + B s, its own A and B per run."""

    action_dim = 2

    def __init__(self):
        super().__init__()
        a = [[[0.4, -0.9], [0.7, -0.3]], [[-0.5, 0.2], [0.6, 0.8]]]
        b = [[[0.3], [-0.8]], [[1.0], [0.5]]]
        self.A, self.B = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)

    def encode(self, observations):
        return observations

    def velocity(self, observations, x, t):
        assert t.shape == (*x.shape[:-1], 1)
        return torch.einsum("rij,rbj->rbi", self.A, x) + torch.einsum("rij,rbj->rbi", self.B, observations)

    def exact(self, run, s):
        """The map of one run at one state, a = E z + m: E = e^A, m = ∫₀¹ e^{A(1−u)} B s du."""
        block = torch.zeros(3, 3, dtype=torch.float64)
        block[:2, :2], block[:2, 2] = self.A[run], self.B[run] @ s
        power = torch.linalg.matrix_exp(block)
        return power[:2, :2], power[:2, 2]


def affine_data(size=6):
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(2, size, 1, generator=generator, dtype=torch.float64)
    return s, torch.randn(2, size, 2, generator=generator, dtype=torch.float64)


# Solvers


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("grading", [1.0, 1.5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_order_of_convergence(solver, grading, direction):
    # x′ = −(1 + t) x² has the solution 1 / x = 1 / x₀ + t + t² / 2.
    def velocity(x, t):
        return -(1 + t) * x**2

    x = torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)
    exact = 1 / (1 / x + direction * 1.5)
    counts = [16, 32, 64, 128]
    times = [graded(n, grading)[::direction] for n in counts]
    errors = [(integrate(velocity, x, t, solver) - exact).abs().max().item() for t in times]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[solver], abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_the_named_method(solver):
    # For x′ = t² a step is a quadrature rule, known by heart; for x′ = x a truncated exponential.
    rules = {
        "euler": lambda a, b: a**2,
        "midpoint": lambda a, b: ((a + b) / 2) ** 2,
        "heun": lambda a, b: (a**2 + b**2) / 2,
        "rk4": lambda a, b: (a**2 + 4 * ((a + b) / 2) ** 2 + b**2) / 6,
    }
    zero = torch.zeros(1, dtype=torch.float64)
    for start, stop in ((0.2, 0.7), (0.7, 0.2)):
        out = integrate(lambda x, t: torch.full_like(x, t**2), zero, [start, stop], solver)
        assert out.item() == pytest.approx((stop - start) * rules[solver](start, stop), rel=1e-12)
    h = 0.5
    grown = integrate(lambda x, t: x, zero + 1, [0.0, h], solver).item()
    assert grown == pytest.approx(sum(h**k / math.factorial(k) for k in range(ORDERS[solver] + 1)), rel=1e-12)


def test_graded_times_shorten_towards_the_action():
    assert graded(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert graded(4, 2.0) == [0.0, 1 - 9 / 16, 1 - 4 / 16, 1 - 1 / 16, 1.0]
    for grading in (1.0, 1.5, 10.0):
        times = graded(7, grading)
        steps = np.diff(times)
        assert (times[0], times[-1]) == (0.0, 1.0) and (steps > 0).all() and (np.diff(steps) < 1e-12).all()


@pytest.mark.parametrize("solver", ["midpoint", "rk4"])
def test_grading_solves_a_narrow_mode_better_in_as_many_steps(solver):
    # Actions N(0, σ²): x_t keeps its quantile in N(0, s_t²), s_t² = (1 − t)² + (t σ)²; it bends near 1 − t = σ.
    deviation = 0.1
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def velocity(x, t):
        return x * (t * deviation**2 - (1 - t)) / ((1 - t) ** 2 + (t * deviation) ** 2)

    def errors(grading):
        times = graded(6, grading)
        latents = integrate(velocity, deviation * x, times[::-1], solver)
        back = integrate(velocity, latents, times, solver)
        return (latents - x).abs().mean().item(), (back - deviation * x).abs().mean().item()

    for equal, shortened in zip(errors(1.0), errors(1.5), strict=True):
        assert shortened < equal / 2


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="dopri5"):
        integrate(lambda x, t: x, torch.zeros(1), [0.0, 1.0], "dopri5")


# The map and its inverse


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_flow_is_the_matrix_exponential_both_ways(solver):
    field = Affine()
    s, x = affine_data()
    flow = Flow(field, solver, 100)
    actions, latents = flow(s, x), flow.inverse(s, x)
    tolerance = {"euler": 0.05, "midpoint": 3e-4, "heun": 3e-4, "rk4": 1e-8}[solver]
    for run in range(2):
        for i in range(x.shape[1]):
            E, m = field.exact(run, s[run, i])
            torch.testing.assert_close(actions[run, i], E @ x[run, i] + m, rtol=0, atol=tolerance)
            z = torch.linalg.solve(E, x[run, i] - m)
            torch.testing.assert_close(latents[run, i], z, rtol=0, atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["affine", "network"])
def test_inverse_and_forward_undo_each_other(solver, kind):
    s, x = affine_data()
    errors = []
    for steps in (10, 20):
        flow = Flow(Affine(), solver, steps)
        if kind == "network":
            flow = make_flow([1, 2], observations=1, hidden=(16, 16), solver=solver, steps=steps).double()
        there_and_back = (flow.inverse(s, flow(s, x)) - x).abs().max().item()
        back_and_there = (flow(s, flow.inverse(s, x)) - x).abs().max().item()
        assert (flow(s, x) - x).abs().max() > 0.2
        errors.append(max(there_and_back, back_and_there))
    limit = {"euler": 0.5, "midpoint": 2e-2, "heun": 2e-2, "rk4": 1e-4}[solver]
    assert errors[0] < limit
    assert errors[1] < errors[0] / 2 ** (ORDERS[solver] - 0.5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inverting_takes_the_steps_of_decoding_backwards(solver):
    flow, times = Flow(Affine(), solver, 8), []
    s, x = affine_data()
    velocity = flow.field.velocity
    flow.field.velocity = lambda s, x, t: times.append(t[0, 0, 0].item()) or velocity(s, x, t)
    flow(s, x)
    forwards = times.copy()
    times.clear()
    flow.inverse(s, x)
    assert len(forwards) == 8 * {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}[solver]
    assert times == pytest.approx([1 - t for t in forwards])


def test_decoding_clips_at_the_very_end():
    flow = Flow(Affine(), "rk4", 20)
    s, z = affine_data()
    raw, decoded = flow(s, 3 * z), flow.decode(s, 3 * z)
    assert (raw.abs() > 1).any()
    assert (raw.abs() < 1).any()
    assert torch.equal(decoded, raw.clamp(-1, 1))


def test_a_frozen_flow_takes_no_gradient():
    flow = make_flow([1], observations=1)
    assert flow.freeze() is flow
    latents = torch.zeros(1, 2, 2, requires_grad=True)
    flow(torch.zeros(1, 2, 1), latents).sum().backward()
    assert latents.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in flow.parameters())


# Densities


def test_log_density_of_an_affine_flow_is_the_gaussian_one():
    field = Affine()
    s, a = affine_data()
    density = Flow(field, "rk4", 50).log_density(s, a)
    assert density.shape == (2, 6)
    for run in range(2):
        for i in range(6):
            E, m = field.exact(run, s[run, i])
            expected = MultivariateNormal(m, covariance_matrix=E @ E.T).log_prob(a[run, i])
            assert density[run, i].item() == pytest.approx(expected.item(), abs=1e-6)


def test_log_density_needs_no_gradient_mode_and_leaves_none():
    flow = make_flow([1], observations=1).freeze()
    s, a = torch.zeros(1, 3, 1), torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inside = flow.log_density(s, a)
    outside = flow.log_density(s, a)
    assert torch.equal(inside, outside)
    assert not outside.requires_grad


# Learning

S_MEAN = (0.6, -0.4)
S_STD = ((0.3, 0.2), (0.25, 0.0))  # std_i(s) = c + d s
MODES, WEIGHTS, SPREAD = ((-0.7, 0.2), (0.7, -0.2)), (0.3, 0.7), 0.1


def draw(generator, size):
    """Run 0: a Gaussian that depends on the state. Run 1: two modes, whatever the state."""
    s = 2 * torch.rand(2, size, 1, generator=generator) - 1
    noise = torch.randn(2, size, 2, generator=generator)
    mean = s[0] * torch.tensor(S_MEAN)
    std = torch.tensor([c for c, _ in S_STD]) + torch.tensor([d for _, d in S_STD]) * s[0]
    mode = (torch.rand(size, generator=generator) < WEIGHTS[1]).long()
    actions = torch.stack([mean + std * noise[0], torch.tensor(MODES)[mode] + SPREAD * noise[1]])
    return {"observations": s, "actions": actions}


@pytest.fixture(scope="module", params=[((), 1), ((64, 16), 2)], ids=["plain", "encoder"])
def trained(request):
    """A flow of two runs after flow matching, each on its own behaviour."""
    encoder, draws = request.param
    learner = FlowLearner(VelocityField(RunStreams([1, 2]), 1, 2, [64, 64], encoder), 3e-3, draws=draws)
    streams, generator = RunStreams([3, 4]), torch.Generator().manual_seed(5)
    steps = 1500
    for step in range(steps):
        learner.optimizers[0].learning_rate = 3e-3 * (1 - step / steps) + 1e-5
        noise = {name: value[0] for name, value in learner.draw(streams, 1, 512).items()}
        learner.update(draw(generator, 512), noise)
    return Flow(learner.field, "midpoint", 20).freeze()


@torch.no_grad()
def decoded(flow, s, size=20_000):
    z = torch.randn(2, size, 2, generator=torch.Generator().manual_seed(0))
    return flow(torch.full((2, size, 1), s), z)


@pytest.mark.parametrize("s", [-0.8, 0.0, 0.8])
def test_flow_matching_learns_a_conditional_gaussian(trained, s):
    actions = decoded(trained, s)[0]
    for i in range(2):
        (c, d), values = S_STD[i], actions[:, i]
        assert values.mean().item() == pytest.approx(S_MEAN[i] * s, abs=0.04)
        assert values.std().item() == pytest.approx(c + d * s, abs=0.04)
    assert abs(torch.corrcoef(actions.T)[0, 1].item()) < 0.15


def test_flow_matching_learns_two_modes(trained):
    actions = decoded(trained, 0.3)[1]
    right = actions[:, 0] > 0
    assert right.float().mean().item() == pytest.approx(WEIGHTS[1], abs=0.04)
    assert (actions[:, 0].abs() < 0.3).float().mean().item() < 0.02
    for mode, where in zip(MODES, (~right, right), strict=True):
        near = actions[where]
        near = near[(near[:, 0] - mode[0]).abs() < 0.35]
        torch.testing.assert_close(near.mean(0), torch.tensor(mode), rtol=0, atol=0.04)
        torch.testing.assert_close(near.std(0), torch.full((2,), SPREAD), rtol=0.35, atol=0)


def grid(limit, points):
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    cells = torch.cartesian_prod(axis, axis)
    return cells.expand(2, -1, -1), (axis[1] - axis[0]).item() ** 2


def precise(flow, steps=10):
    flow = copy.deepcopy(flow).double()
    return Flow(flow.field, "rk4", steps).freeze()


def test_a_trained_flows_density_integrates_to_one(trained):
    cells, area = grid(1.8, 73)
    s = torch.full((*cells.shape[:-1], 1), 0.5, dtype=torch.float64)
    density = precise(trained).log_density(s, cells).exp()
    for mass in (density.sum(1) * area).tolist():
        assert mass == pytest.approx(1, abs=0.01)
    # And it is the density of what is decoded: the mass right of zero agrees with samples.
    right = (density * (cells[..., 0] > 0)).sum(1) * area
    shares = (decoded(trained, 0.5)[..., 0] > 0).double().mean(1)
    torch.testing.assert_close(right, shares, rtol=0, atol=0.02)


def test_kl_is_invariant_under_the_flow(trained):
    """∫ π_A log(π_A / π_β) da over a grid of actions is the closed form in latent space."""
    mean = torch.tensor([[0.8, -0.5], [0.5, 0.6]], dtype=torch.float64)[:, None]
    log_std = torch.tensor([[-0.4, 0.2], [-0.3, -0.6]], dtype=torch.float64)[:, None]
    flow = precise(trained)
    cells, area = grid(1.5, 61)
    s = torch.full((*cells.shape[:-1], 1), -0.4, dtype=torch.float64)
    # π_A by the change of variables of the map itself, its Jacobian by differentiating the solver.
    a = cells.clone().requires_grad_()
    z = flow.inverse(s, a)
    rows = [torch.autograd.grad(z[..., i].sum(), a, retain_graph=i == 0)[0] for i in range(2)]
    log_volume = torch.linalg.det(torch.stack(rows, -2)).abs().log()
    z = z.detach()
    standard = (z - mean) / log_std.exp()
    log_policy = (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1) + log_volume
    log_behavior = flow.log_density(s, cells)
    policy = log_policy.exp()
    torch.testing.assert_close((policy * area).sum(1), torch.ones(2).double(), rtol=0, atol=0.01)
    in_action_space = (policy * (log_policy - log_behavior) * area).sum(1)
    torch.testing.assert_close(in_action_space, kl_to_prior(mean, log_std)[:, 0], rtol=0.02, atol=0)


# The loss


def test_the_loss_is_equation_3_by_hand():
    field = make_flow([1, 2], observations=1).field
    generator = torch.Generator().manual_seed(0)
    s, x1, x0 = (torch.randn(2, 5, d, generator=generator) for d in (1, 2, 2))
    t = torch.rand(2, 5, 1, generator=generator)
    loss = flow_matching_loss(field, s, x1, x0, t)
    x_t = torch.stack([(1 - t[:, i]) * x0[:, i] + t[:, i] * x1[:, i] for i in range(5)], 1)
    v = field(s, x_t, t)
    for run in range(2):
        total = 0.0
        for i in range(5):
            for j in range(2):
                total += (v[run, i, j].item() - (x1[run, i, j].item() - x0[run, i, j].item())) ** 2
        assert loss[run].item() == pytest.approx(total / 10, rel=1e-5)


def test_the_noise_is_normal_and_the_time_uniform():
    learner = FlowLearner(VelocityField(RunStreams([1, 2]), 1, 3, [4]), 1e-3)
    noise = learner.draw(RunStreams([3, 4]), 5, 2000)
    assert noise["x_0"].shape == (5, 2, 2000, 3)
    assert noise["t"].shape == (5, 2, 2000, 1)
    assert abs(noise["x_0"].mean().item()) < 0.02
    assert noise["x_0"].std().item() == pytest.approx(1, abs=0.02)
    assert 0 <= noise["t"].min() < 0.001
    assert 0.999 < noise["t"].max() < 1
    assert noise["t"].std().item() == pytest.approx(1 / math.sqrt(12), abs=0.01)


def test_pairs_and_validation():
    s = torch.arange(10.0)[:, None]
    pairs = Pairs(s, 2 * s, torch.tensor([1, 3, 5, 7]))
    assert len(pairs) == 4
    batch = pairs.batch(torch.tensor([[0, 3], [2, 2]]))
    assert batch["observations"].squeeze(-1).tolist() == [[1, 7], [5, 5]]
    assert batch["actions"].squeeze(-1).tolist() == [[2, 14], [10, 10]]
    learner = FlowLearner(VelocityField(RunStreams([1, 2]), 1, 1, [4]), 1e-3)
    seen = []
    original = pairs.batch
    pairs.batch = lambda indices: seen.append(indices) or original(indices)
    first = validation_loss(learner, pairs, RunStreams([5, 6]), size=2)
    assert seen[0].tolist() == [[0, 2], [0, 2]]  # spread over the file
    assert torch.equal(first, validation_loss(learner, pairs, RunStreams([5, 6]), size=2))
    assert not first.requires_grad


def test_the_rate_falls_to_zero_along_half_a_cosine_where_asked():
    batch = {"observations": torch.ones(1, 8, 1), "actions": torch.zeros(1, 8, 2)}
    constant, falling = (FlowLearner(VelocityField(RunStreams([1]), 1, 2, [4]), 1e-2, d) for d in (None, 10))
    rates = []
    for _ in range(12):
        rates.append(float(falling.optimizers[0].rate()))
        assert constant.optimizers[0].rate() == 1e-2
        for learner in (constant, falling):
            learner.update(batch, {name: value[0] for name, value in learner.draw(RunStreams([3]), 1, 8).items()})
    expected = [0.5e-2 * (1 + math.cos(math.pi * min(k, 10) / 10)) for k in range(12)]
    assert rates == pytest.approx(expected, abs=1e-8)
