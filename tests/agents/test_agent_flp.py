"""FLP's update against finite differences, hand-made targets and a slow reference."""

from __future__ import annotations

import pytest
import torch
from reference import ReferenceFLP, assert_same_network, double, make_agent, make_batch, make_flow, randomize

from flp.randomness.streams import RunStreams
from flp.runs.run_folder import parameters_of, restore_parameters


def noise_of(agent, seeds, size=7, dtype=torch.float32):
    noise = agent.draw(RunStreams([2000 + seed for seed in seeds]), 1, size)
    return {name: value[0].to(dtype) for name, value in noise.items()}


def of_run(tensors, run):
    return {name: value[run] for name, value in tensors.items()}


def doubles(tensors):
    return {name: value.double() for name, value in tensors.items()}


def networks(agent):
    """What FLP trains and the target, by name."""
    return {name: t for name, t in agent.state_dict().items() if not name.startswith("flow.")}


def run_tensors(agent, run):
    runs = len(agent.alpha)
    return {name: t.unflatten(0, (runs, -1))[run] for name, t in networks(agent).items()}


def train(agent, seeds, updates, size=7):
    """Updates whose batches and noise depend on each run's seed alone."""
    streams = RunStreams([3000 + seed for seed in seeds])
    for update in range(updates):
        batch = make_batch([100 * update + seed for seed in seeds], size)
        agent.update(batch, {name: value[0] for name, value in agent.draw(streams, 1, size).items()})
    return agent


# Gradients


def finite_differences(parameters, loss, h=1e-5):
    """Central differences of a scalar by every element."""
    found = []
    with torch.no_grad():
        for parameter in parameters:
            gradient, flat = torch.zeros_like(parameter), parameter.view(-1)
            for i in range(len(flat)):
                old = flat[i].item()
                flat[i] = old + h
                above = loss().item()
                flat[i] = old - h
                gradient.view(-1)[i] = (above - loss().item()) / (2 * h)
                flat[i] = old
            found.append(gradient)
    return found


@pytest.mark.parametrize("aggregation", ["mean", "min", "lower_bound"])
def test_gradients_are_the_finite_differences_of_equations_4_and_5(aggregation):
    seeds = [1, 2]
    agent = double(randomize(make_agent(seeds, alphas=[0.2, 1.5], hidden=[4], aggregation=aggregation)))
    batch, noise = doubles(make_batch(seeds, 5)), noise_of(agent, seeds, 5, torch.float64)
    policy, critic = list(agent.policy.parameters()), list(agent.critic.parameters())
    actor_gradients = torch.autograd.grad(agent.actor_loss(batch, noise["policy"])[0].sum(), policy)
    critic_gradients = torch.autograd.grad(agent.critic_loss(batch, noise["candidates"])[0].sum(), critic)
    for run in range(2):
        reference, own, own_noise = ReferenceFLP(agent, run), of_run(batch, run), of_run(noise, run)

        def actor_loss(reference=reference, own=own, own_noise=own_noise):
            return reference.actor_loss(own, own_noise["policy"])

        def critic_loss(reference=reference, own=own, own_noise=own_noise):
            return reference.critic_loss(own, own_noise["candidates"])

        numeric = finite_differences(reference.policy.parameters(), actor_loss)
        compare(agent.policy.net, actor_gradients, run, 0, numeric)
        for member, network in enumerate(reference.critics):
            numeric = finite_differences(network.parameters(), critic_loss)
            compare(agent.critic.net, critic_gradients, run, member, numeric)


def compare(mlp, gradients, run, member, numeric):
    """Gradients of stacked parameters against those of one plain network."""
    index, numeric = run * mlp.members + member, list(numeric)
    by_parameter = {id(p): g[index] for p, g in zip(mlp.parameters(), gradients, strict=True)}
    for i in range(len(mlp.weights)):
        kinds = ["weights", "biases"] + (["scales", "shifts"] if mlp.layer_norm and i < len(mlp.weights) - 1 else [])
        for kind in kinds:
            expected, actual = numeric.pop(0), by_parameter.pop(id(getattr(mlp, kind)[i]))
            expected = expected.T if kind == "weights" else expected[None]
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)
    assert not numeric
    assert not by_parameter


def test_losses_are_those_of_the_reference():
    seeds = [1, 2]
    agent = double(randomize(make_agent(seeds, alphas=[0.2, 1.5])))
    batch, noise = doubles(make_batch(seeds)), noise_of(agent, seeds, dtype=torch.float64)
    actor, logs = agent.actor_loss(batch, noise["policy"])
    critic, critic_logs = agent.critic_loss(batch, noise["candidates"])
    for run in range(2):
        reference = ReferenceFLP(agent, run)
        own, own_noise = of_run(batch, run), of_run(noise, run)
        assert actor[run].item() == pytest.approx(reference.actor_loss(own, own_noise["policy"]).item())
        assert critic[run].item() == pytest.approx(reference.critic_loss(own, own_noise["candidates"]).item())
        gaussians = [reference.gaussian(s) for s in own["observations"]]
        std = torch.stack([std for _, std in gaussians])
        z = torch.stack([m + s * e for (m, s), e in zip(gaussians, own_noise["policy"], strict=True)])
        assert logs["policy_std"][run].item() == pytest.approx(std.mean().item())
        assert logs["latent_norm"][run].item() == pytest.approx(z.square().sum(1).sqrt().mean().item())
        q = torch.stack(
            [
                critic_(torch.cat([s, a]))
                for critic_ in reference.critics
                for s, a in zip(own["observations"], own["actions"], strict=True)
            ]
        )
        assert critic_logs["q"][run].item() == pytest.approx(q.mean().item())
        assert critic_logs["q_max"][run].item() == pytest.approx(q.max().item())
    torch.testing.assert_close(agent.alpha * logs["kl"] - logs["actor_q"], actor)
    torch.testing.assert_close(critic_logs["critic_loss"], critic)


def test_alpha_weighs_the_kl_of_each_run():
    low, high = (double(randomize(make_agent([1, 1], alphas=alphas))) for alphas in ([0.5, 0.5], [0.5, 2.0]))
    batch, noise = doubles(make_batch([1, 1])), noise_of(low, [1, 1], dtype=torch.float64)
    a, logs = low.actor_loss(batch, noise["policy"])
    b, _ = high.actor_loss(batch, noise["policy"])
    assert logs["kl"].min() > 0.01
    assert (b - a)[0].item() == 0
    assert (b - a)[1].item() == pytest.approx(1.5 * logs["kl"][1].item())


def test_an_update_is_that_of_the_reference():
    """Twenty updates of three runs against a second implementation, in float64 where nothing blurs."""
    seeds = [1, 2, 3]
    agent = double(randomize(make_agent(seeds, alphas=[0.1, 0.5, 2.0])))
    references = [ReferenceFLP(agent, run) for run in range(3)]
    streams = RunStreams([5, 6, 7])
    start = {name: t.clone() for name, t in networks(agent).items()}
    for update in range(20):
        batch = doubles(make_batch([10 * update + seed for seed in seeds]))
        noise = {name: value[0].double() for name, value in agent.draw(streams, 1, 7).items()}
        logs = agent.update(batch, noise)
        for run, reference in enumerate(references):
            actor, critic = reference.update(of_run(batch, run), of_run(noise, run))
            assert logs["critic_loss"][run].item() == pytest.approx(critic, rel=1e-8)
            kl_part = agent.alpha[run] * logs["kl"][run] - logs["actor_q"][run]
            assert kl_part.item() == pytest.approx(actor, rel=1e-8)
    moved = {name for name, t in networks(agent).items() if (t - start[name]).abs().max() > 0.01}
    assert moved == {name for name in start if not name.endswith(("shift", "scale"))}
    for run, reference in enumerate(references):
        assert_same_network(agent.policy.net, run, 0, reference.policy, rtol=1e-8, atol=1e-10)
        for member in range(2):
            assert_same_network(agent.critic.net, run, member, reference.critics[member], rtol=1e-8, atol=1e-10)
            assert_same_network(agent.target_critic.net, run, member, reference.targets[member], rtol=1e-8, atol=1e-10)


CASES = [{"aggregation": how, "critics": 3} for how in ("min", "lower_bound")]
CASES += [{"critic_layer_norm": False}, {"hidden": [9]}]
RESAMPLING = {"selection": "resample", "temperature": 0.7, "target_candidates": 4}


@pytest.mark.parametrize("changes", [*CASES, RESAMPLING])
def test_an_update_in_float32_is_that_of_the_reference(changes):
    seeds = [1, 2]
    agent = randomize(make_agent(seeds, **changes))
    references = [ReferenceFLP(agent, run) for run in range(2)]
    streams = RunStreams([5, 6])
    for update in range(20):
        batch = make_batch([10 * update + seed for seed in seeds])
        noise = {name: value[0] for name, value in agent.draw(streams, 1, 7).items()}
        agent.update(batch, noise)
        for run, reference in enumerate(references):
            reference.update(of_run(batch, run), of_run(noise, run))
    for run, reference in enumerate(references):
        assert_same_network(agent.policy.net, run, 0, reference.policy, rtol=1e-3, atol=1e-3)
        for member, (critic, target) in enumerate(zip(reference.critics, reference.targets, strict=True)):
            assert_same_network(agent.critic.net, run, member, critic, rtol=1e-3, atol=1e-3)
            assert_same_network(agent.target_critic.net, run, member, target, rtol=1e-3, atol=1e-3)


# The flow is frozen


def test_the_flow_neither_changes_nor_is_called():
    agent = make_agent([1, 2], flow=make_flow([1, 2]))
    before = {name: t.clone() for name, t in agent.flow.state_dict().items()}

    def forbidden(*args, **kwargs):
        raise AssertionError("the flow was called in an update")

    agent.flow.forward = agent.flow.inverse = agent.flow.field.velocity = forbidden
    train(agent, [1, 2], 3)
    assert all(torch.equal(t, before[name]) for name, t in agent.flow.state_dict().items())
    flow_parameters = {id(p) for p in agent.flow.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in agent.flow.parameters())
    trained = {id(p) for o in agent.optimizers for p in o.parameters}
    assert not trained & flow_parameters
    assert trained == {id(p) for p in [*agent.policy.parameters(), *agent.critic.parameters()]}


def test_flp_needs_its_flow():
    from flp.parts.base import Spec

    agent = make_agent([1])
    with pytest.raises(ValueError, match="flow"):
        type(agent)(Spec(RunStreams([1]), 3, 2, None, torch.ones(1), (1,), None))


def test_targets_use_the_target_critic_and_its_moving_average():
    agent = make_agent([1, 2], target_rate=0.05)
    online, target = list(agent.critic.parameters()), list(agent.target_critic.parameters())
    assert all(torch.equal(p, q) for p, q in zip(online, target, strict=True))
    with torch.no_grad():
        for p in online:
            p += 1.0
    old = [q.clone() for q in target]
    batch, noise = make_batch([1, 2]), noise_of(agent, [1, 2])
    y = agent.target(batch, noise["candidates"])
    with torch.no_grad():
        for p in online:
            p += 1.0
    assert torch.equal(y, agent.target(batch, noise["candidates"]))
    agent.update(batch, noise)
    for p, q, before in zip(online, target, old, strict=True):
        torch.testing.assert_close(q, 0.95 * before + 0.05 * p, rtol=1e-5, atol=1e-6)
        assert not q.requires_grad


def test_behaving_decodes_the_prior():
    agent = randomize(make_agent([1, 2]))
    observations = torch.zeros(2, 4, 3)
    z = RunStreams([5, 6]).normal(4, 2)
    torch.testing.assert_close(agent.behave(observations, RunStreams([5, 6])), agent.flow.decode(observations, z))


@pytest.mark.parametrize("noise", [1.0, 0.8])
def test_an_action_is_resampled_by_the_weights_of_the_optimum(noise):
    agent = randomize(make_agent([1, 2], alphas=[1.0, 3.0], counts=[64, 64], acting_noise=noise, **RESAMPLING))
    observations = RunStreams([1, 2]).normal(1, 3).expand(2, 5000, 3)
    z = agent.latents(observations, RunStreams([5, 6]))
    # The optimum from many draws of the prior instead, weighted by exp(Q / (0.7 α)) alone.
    draws = RunStreams([7, 8]).normal(5000, 2)
    q = agent.critic(observations, draws).mean(1)
    weights = (q / (0.7 * agent.alpha[:, None])).softmax(-1).unsqueeze(-1)
    mean = (weights * draws).sum(1)
    torch.testing.assert_close(z.mean(1), mean, rtol=0, atol=0.1)
    assert (mean.abs() > 0.3).any()


def test_without_noise_it_acts_by_its_mean_and_explores_as_ever():
    still, lively = (
        randomize(make_agent([1, 2], alphas=[1.0, 3.0], counts=[3, 3], acting_noise=noise)) for noise in (0.0, 1.0)
    )
    observations = RunStreams([1, 2]).normal(5, 3)
    actions, z = (act(observations, RunStreams([5, 6])) for act in (still.act, still.latents))
    mean, _ = still.policy(observations)
    assert torch.equal(z, mean)
    assert torch.equal(actions, still.flow.decode(observations, mean))
    assert (still.chooses, lively.chooses) == (False, True)
    explored = still.explore(observations, RunStreams([5, 6]))[1]
    assert torch.equal(explored, lively.latents(observations, RunStreams([5, 6])))
    assert not torch.equal(explored, mean)


def test_with_less_noise_it_draws_nearer_to_its_mean():
    agent = randomize(make_agent([1, 2], counts=[1, 1], acting_noise=0.3))
    observations = RunStreams([1, 2]).normal(5, 3)
    mean, log_std = agent.policy(observations)
    drawn = RunStreams([5, 6]).normal(5, 1, 2)[:, :, 0]
    torch.testing.assert_close(
        agent.latents(observations, RunStreams([5, 6])), mean + 0.3 * log_std.exp() * drawn, rtol=1e-6, atol=1e-6
    )


def test_the_kl_is_led_to_its_budget_whatever_q_s_scale():
    agent = make_agent([1, 2], kl_budget=0.5, learning_rate=0.01)
    agent.critic.forward = lambda s, z: torch.tensor([1.0, 30.0])[:, None, None] * -(z - 1).square().sum(-1)[:, None]
    agent.critic_loss = lambda batch, noise: (0 * sum(p.sum() for p in agent.critic.parameters()).expand(2), {})
    streams, batch = RunStreams([1, 2]), make_batch([1, 2], 64)
    for _ in range(2000):
        noise = {name: value[0] for name, value in agent.draw(streams, 1, 64).items()}
        kl = agent.update(batch, noise)["kl"]
    torch.testing.assert_close(kl, torch.full((2,), 0.5), rtol=0.15, atol=0)
    low, high = agent.weight().tolist()
    assert high / low == pytest.approx(30, rel=0.2)


# A sweep over N on the run axis


@pytest.mark.parametrize("selection", ["argmax", "resample"])
def test_a_run_ignores_its_surplus_candidates(selection):
    agent = randomize(make_agent([1, 2], counts=[2, 5], selection=selection))
    batch, noise = make_batch([1, 2]), noise_of(agent, [1, 2])["candidates"]
    assert noise.shape == (2, 7, 5, 2)
    y = agent.target(batch, noise)
    changed = noise.clone()
    changed[:, :, 2:] = 1e3
    changed[:, :, 3] = torch.nan
    assert torch.equal(agent.target(batch, changed)[0], y[0])
    assert not torch.equal(agent.target(batch, changed)[1], y[1])
    for run, count in enumerate((2, 5)):
        reference = ReferenceFLP(agent, run, candidates=count)
        for i in range(7):
            own = of_run(batch, run)
            expected = reference.target(own["next_observations"][i], own["rewards"][i], own["masks"][i], noise[run, i])
            torch.testing.assert_close(y[run, i], expected, rtol=1e-4, atol=1e-5)


def test_a_sweep_over_n_leaves_the_run_with_the_largest_n_as_it_was():
    swept = train(randomize(make_agent([1, 2], counts=[2, 5])), [1, 2], 10)
    plain = train(randomize(make_agent([1, 2], counts=[5, 5])), [1, 2], 10)
    same = [
        torch.equal(a, b) for a, b in zip(run_tensors(swept, 1).values(), run_tensors(plain, 1).values(), strict=True)
    ]
    assert all(same)
    assert not all(
        torch.equal(a, b) for a, b in zip(run_tensors(swept, 0).values(), run_tensors(plain, 0).values(), strict=True)
    )


def test_a_run_with_a_smaller_n_is_the_run_it_would_be_alone():
    swept = train(make_agent([1, 2], counts=[2, 5]), [1, 2], 10)
    alone = train(make_agent([1], counts=[2]), [1], 10)
    for name, tensor in run_tensors(alone, 0).items():
        torch.testing.assert_close(run_tensors(swept, 0)[name], tensor, rtol=1e-4, atol=1e-6)


def test_acting_never_takes_a_surplus_candidate():
    agent = make_agent([1, 1], counts=[1, 6])
    observations = torch.zeros(2, 50, 3)
    latents = agent.latents(observations, RunStreams([4, 4]))
    # The policy is the prior, so z is the noise; each run draws its own number of candidates.
    assert torch.equal(latents[0], RunStreams([4]).normal(50, 1, 2)[0, :, 0])
    assert not torch.equal(latents[1], RunStreams([4]).normal(50, 6, 2)[0, :, 0])


# The run axis


@pytest.mark.parametrize("seeds", [[1, 2, 3, 4, 5], [1, 7, 7, 8, 9, 10, 11, 12]])
def test_a_batch_of_runs_is_its_single_runs(seeds):
    alphas = [0.2 + 0.3 * seed for seed in seeds]
    together = train(make_agent(seeds, alphas=alphas, hidden=[16, 16]), seeds, 40, size=16)
    for run in range(5 if len(seeds) == 5 else 1):
        alone = train(
            make_agent(seeds[run : run + 1], alphas=alphas[run : run + 1], hidden=[16, 16]),
            seeds[run : run + 1],
            40,
            16,
        )
        for name, tensor in run_tensors(alone, 0).items():
            torch.testing.assert_close(run_tensors(together, run)[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("network", ["policy", "critic"])
def test_nan_in_one_run_stays_there(network):
    seeds = [1, 2, 3]
    clean, poisoned = (train(make_agent(seeds), seeds, 5) for _ in range(2))
    with torch.no_grad():
        mlp = getattr(poisoned, network).net
        mlp.weights[0].unflatten(0, (3, -1))[1].fill_(torch.nan)
    for agent in (clean, poisoned):
        train(agent, seeds, 10)
    assert not all(t.isfinite().all() for t in run_tensors(poisoned, 1).values())
    for run in (0, 2):
        for name, tensor in run_tensors(poisoned, run).items():
            assert torch.equal(tensor, run_tensors(clean, run)[name]), name
            assert tensor.isfinite().all()


def test_runs_come_apart_and_together_again():
    seeds = [1, 2, 3]
    agent = train(make_agent(seeds), seeds, 5)
    parts = [{name: t.clone() for name, t in parameters_of(agent, run, 3).items()} for run in range(3)]
    assert not any("flow" in name for part in parts for name in part)
    other = make_agent([3, 1])
    restore_parameters(other, [parts[2], parts[0]])
    for name, tensor in run_tensors(other, 0).items():
        assert torch.equal(tensor, run_tensors(agent, 2)[name])
    # Optimizers too: both go on alike.
    reordered = train(other, [3, 1], 5)
    train(agent, seeds, 5)
    for run, original in ((0, 2), (1, 0)):
        for name, tensor in run_tensors(reordered, run).items():
            torch.testing.assert_close(tensor, run_tensors(agent, original)[name], rtol=1e-3, atol=1e-4)
