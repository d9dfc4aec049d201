"""The loop: where it stops, the means of its logs, and equal numbers after a break."""

from __future__ import annotations

import pytest
import torch
from random_transitions import make_trainer
from reference import make_agent

from flp.learner.optimizers import descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Learner
from flp.learner.trainer import CHUNK, Trainer, next_stop
from flp.randomness.streams import RunStreams
from flp.system.progress import Progress
from flp.system.resume import Resume


def snapshot(trainer):
    tensors, info = trainer.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, dict(info)


def assert_equal_states(a, b):
    assert a[0].keys() == b[0].keys()
    for name, tensor in a[0].items():
        assert torch.equal(tensor, b[0][name]), name
    assert a[1] == b[1]


def fit(trainer, steps, stops, at_stop=lambda step, logs: "", checkpoint=lambda: None, **more):
    trainer.fit(steps, stops, at_stop, checkpoint, Progress("test", steps), **more)


class Counting(Learner):
    """Counts its updates; logs the number of the update, and the run."""

    def __init__(self):
        super().__init__()
        self.optimizers, self.count = [], 0
        self.indices = []

    def draw(self, streams, updates, batch_size):
        return {"noise": streams.normal(updates, batch_size).transpose(0, 1)}

    def update(self, batch, noise):
        assert noise["noise"].shape == (2, 5)
        self.count += 1
        self.indices.append(batch["indices"])
        return {"number": torch.tensor([self.count, 10.0 * self.count])}


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_balanced_batches_have_an_online_transition(size):
    trainer = make_trainer(batch_size=size, capacity=3)
    trainer.learner.balanced = True
    trainer.source.add({name: value[:, 0] for name, value in trainer.source.online.items()})
    indices, _ = trainer.draw_chunk(50)
    assert ((indices >= trainer.source.offline_size).sum(-1) == 1).all()


def test_half_of_a_balanced_batch_is_of_online_transitions():
    trainer = make_trainer(batch_size=7, capacity=3)
    trainer.learner.balanced = True
    replay = trainer.source
    for count in range(6):
        indices, _ = trainer.draw_chunk(50)
        online = indices >= replay.offline_size
        assert (online.sum(-1) == (3 if count else 0)).all()
        assert indices.max() < replay.offline_size + min(count, 3)
        if count > 2:
            assert set(indices[online].tolist()) == {replay.offline_size + i for i in range(3)}
            assert len(set(indices[~online].tolist())) == replay.offline_size
        replay.add({name: value[:, 0] for name, value in replay.online.items()})


class Numbers:
    """A source of arbitrarily many transitions, whose batches are their indices."""

    size = offline_size = 100

    def __len__(self):
        return self.size

    def batch(self, indices):
        return {"indices": indices.clone()}


def counting_trainer():
    return Trainer(Counting(), Numbers(), RunStreams([1, 2]), 5)


@pytest.mark.parametrize(
    ("steps", "stops", "expected"),
    [
        (50, (20,), [20, 40, 50]),
        (60, (25,), [25, 50, 60]),
        (30, (10, 15), [10, 15, 20, 30]),
        (7, (100,), [7]),
        (24, (8, 12), [8, 12, 16, 24]),
    ],
)
def test_it_stops_at_every_multiple_and_at_the_end_with_means_since_the_last_stop(steps, stops, expected):
    trainer, seen = counting_trainer(), []
    fit(trainer, steps, stops, lambda step, logs: seen.append((step, logs["number"].tolist())) or "")
    assert [step for step, _ in seen] == expected
    assert trainer.learner.count == steps
    for (step, means), start in zip(seen, [0, *expected], strict=False):
        numbers = range(start + 1, step + 1)
        mean = sum(numbers) / len(numbers)
        assert means == pytest.approx([mean, 10 * mean]), step


def test_every_update_has_its_own_batch_and_every_run_its_own():
    trainer = counting_trainer()
    fit(trainer, 200, (1000,))
    indices = torch.stack(trainer.learner.indices)  # [updates, R, B]
    assert indices.shape == (200, 2, 5)
    assert len({tuple(i.flatten().tolist()) for i in indices}) == 200
    for run in range(2):
        counts = torch.bincount(indices[:, run].flatten(), minlength=100)
        assert len(counts) == 100
        assert ((counts - 10) ** 2 / 10).sum() < 170  # chi-square, 99 degrees of freedom
    assert not torch.equal(indices[:, 0], indices[:, 1])


def test_updates_one_by_one_see_what_came_before():
    trainer, sizes = counting_trainer(), []

    def grow():
        trainer.source.size += 1
        sizes.append((trainer.learner.count, len(trainer.source)))

    fit(trainer, 12, (5,), before_update=grow)
    assert sizes == [(n, 101 + n) for n in range(12)]


def test_checkpoints_come_between_chunks_and_after_stops():
    trainer, events = counting_trainer(), []
    fit(
        trainer,
        2 * CHUNK + 5,
        (CHUNK + 5,),
        lambda step, logs: events.append(("stop", step)) or "",
        lambda: events.append(("checkpoint", trainer.step)),
    )
    assert events == [
        ("checkpoint", CHUNK),
        ("stop", CHUNK + 5),
        ("checkpoint", CHUNK + 5),
        ("checkpoint", 2 * CHUNK),  # a chunk is drawn whole, and what is left of it taken first
        ("stop", 2 * CHUNK + 5),
        ("checkpoint", 2 * CHUNK + 5),
    ]


@pytest.mark.parametrize("stops", [(15,), (25,), (7, 20)])
def test_how_often_it_stops_to_look_changes_nothing(stops):
    seldom, often = make_trainer(), make_trainer()
    for trainer in (seldom, often):

        def slow_down(step, of=trainer.learner.optimizers[0]):
            of.learning_rate = 1e-3 / (1 + step)

        trainer.prepare = slow_down  # what changes along with the steps, as the discount may
    fit(seldom, 60, (20,))
    fit(often, 60, stops)
    often.totals, seldom.totals = {}, {}
    assert_equal_states(snapshot(seldom), snapshot(often))


def test_what_is_left_of_a_chunk_is_taken_after_a_break():
    whole, first, later = (make_trainer() for _ in range(3))
    fit(whole, 60, (20,))
    kept = []
    fit(first, 45, (25,), checkpoint=lambda: kept.append(snapshot(first)))
    state = next(state for state in kept if state[1]["step"] == 25)
    assert len(state[0]["drawn"]) == 5
    later.restore(*state)
    fit(later, 60, (25,))
    assert_equal_states(snapshot(whole), snapshot(later))


def test_training_is_deterministic():
    first, second = make_trainer(), make_trainer()
    for trainer in (first, second):
        fit(trainer, 35, (15,))
    assert_equal_states(snapshot(first), snapshot(second))
    fresh = make_trainer()
    assert any(not torch.equal(t, fresh.state()[0][name]) for name, t in first.state()[0].items())


def test_in_bfloat16_every_loss_sees_the_parameters_as_they_are():
    """Autocast must not cache the policy's cast across its step, because the critic's target uses the new policy."""
    usual, plain = (make_trainer(autocast=torch.bfloat16) for _ in range(2))
    agent = plain.learner

    def update(batch, noise):
        losses = [(agent.actor_loss, noise["policy"]), (agent.critic_loss, noise["candidates"])]
        for (loss, own_noise), optimizer in zip(losses, agent.optimizers, strict=True):
            with torch.autocast("cpu", enabled=False), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                value, _ = loss(batch, own_noise)
            descend(optimizer, value)
        polyak_update(agent.target_critic, agent.critic, agent.target_rate)
        return {}

    plain.step_fn = update
    for trainer in (usual, plain):
        for _ in range(3):
            trainer.run_chunk()
    (ours, _), (theirs, _) = usual.state(), plain.state()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    exact = make_trainer()
    exact.run_chunk()
    assert not torch.equal(exact.state()[0]["learner/policy.net.weights.0"], ours["learner/policy.net.weights.0"])


class Stopped(Exception):  # noqa: N818 (no error)
    pass


@pytest.mark.parametrize("at", [10, 20, 25, 30])
def test_a_broken_run_goes_on_bit_by_bit(at):
    whole, whole_logs = make_trainer(), {}
    fit(whole, 45, (25,), lambda step, logs: whole_logs.update({step: logs}) or "")

    broken, logs = make_trainer(), {}

    def record(step, means):
        logs[step] = means
        return ""

    saved = []

    def checkpoint():
        if broken.step >= at and not saved:
            saved.append(snapshot(broken))
            raise Stopped

    with pytest.raises(Stopped):
        fit(broken, 45, (25,), record, checkpoint)
    resumed = make_trainer()
    with torch.no_grad():
        for parameter in resumed.learner.parameters():
            parameter += 1  # nothing of the fresh agent may remain
    resumed.restore(*saved[0])
    assert resumed.step == at
    fit(resumed, 45, (25,), record)
    assert_equal_states(snapshot(whole), snapshot(resumed))
    assert logs.keys() == whole_logs.keys()
    for step, means in logs.items():
        for name, mean in means.items():
            assert torch.equal(mean, whole_logs[step][name]), (step, name)


def test_a_state_saved_at_a_stop_keeps_the_order_of_its_logs(tmp_path):
    """It is that of the columns of log.csv, and files sort what they hold."""
    trainer, resumed, resume, orders = make_trainer(), make_trainer(), Resume(tmp_path), []

    def at_stop(step, logs):
        orders.append(list(logs))
        if len(orders) == 1:
            resume.save(*trainer.state())

    fit(trainer, 10, (10,), at_stop)
    resumed.restore(*resume.load())
    fit(resumed, 10, (10,), at_stop)
    assert orders[0] == orders[1] != sorted(orders[0])


def test_a_broken_online_run_goes_on_bit_by_bit():
    def interact(trainer):
        def before_update():
            agent, replay = trainer.learner, trainer.source
            streams = RunStreams([900 + 2 * trainer.step, 901 + 2 * trainer.step])
            s = streams.normal(3)
            _, z = agent.explore(s[:, None], streams)
            replay.add(
                {
                    "observations": s,
                    "actions": z[:, 0],
                    "next_observations": streams.normal(3),
                    "rewards": -streams.uniform(),
                    "masks": torch.ones(2),
                }
            )

        return before_update

    whole = make_trainer(capacity=20)
    fit(whole, 20, (8,), before_update=interact(whole))
    first = make_trainer(capacity=20)
    fit(first, 8, (8,), before_update=interact(first))
    state, replay = snapshot(first), first.source.state()
    second = make_trainer(capacity=20)
    second.restore(*state)
    second.source.restore(*replay)
    fit(second, 20, (8,), before_update=interact(second))
    assert_equal_states(snapshot(whole), snapshot(second))
    assert_equal_states(whole.source.state(), second.source.state())


def test_states_are_moved_by_noise_of_the_runs_own_and_next_states_are_not():
    std = torch.tensor([0.5, 2.0, 0.0])
    plain, moved = make_trainer(), make_trainer(observation_noise=std)
    seen = []
    moved.step_fn = lambda batch, noise: (seen.append((batch, set(noise))), moved.learner.update(batch, noise))[1]
    plain_indices, plain_noise = plain.draw_chunk(4)
    indices, noise = moved.draw_chunk(4)
    assert torch.equal(indices, plain_indices)
    assert all(torch.equal(noise[name], drawn) for name, drawn in plain_noise.items())
    moved.run_updates(indices, {name: value.clone() for name, value in noise.items()})
    for k, (batch, names) in enumerate(seen):
        rows = plain.source.batch(indices[k])
        assert torch.equal(batch["observations"], rows["observations"] + noise["observations"][k])
        assert torch.equal(batch["next_observations"], rows["next_observations"])
        assert names == set(plain_noise)
    many = make_trainer(batch_size=2000, observation_noise=std).draw_chunk(5)[1]["observations"]
    assert many.shape == (5, 2, 2000, 3)
    torch.testing.assert_close(many.std((0, 2)), std.expand(2, 3), rtol=0.03, atol=0)
    assert many.mean((0, 2)).abs().max() < 0.1
    assert (many[:, 0] - many[:, 1])[..., :2].abs().min() > 0
    assert torch.equal(noise["observations"][:, 1], _alone(std).draw_chunk(4)[1]["observations"][:, 0])


def _alone(std):
    """The second run of `make_trainer`, by itself."""
    pair = make_trainer(observation_noise=std)
    return Trainer(make_agent([2]), pair.source, RunStreams([4]), 5, observation_noise=std)


def test_training_that_moves_states_goes_on_to_the_bit():
    std = torch.tensor([0.5, 2.0, 0.1])
    whole, first = make_trainer(observation_noise=std), make_trainer(observation_noise=std)
    whole.run_chunk(6), whole.run_chunk(4)
    first.run_chunk(6)
    later = make_trainer(observation_noise=std)
    later.restore(*snapshot(first))
    later.run_chunk(4)
    assert_equal_states(snapshot(whole), snapshot(later))
    plain = make_trainer()
    plain.run_chunk(10)
    assert not torch.equal(plain.learner.critic.net.weights[0], whole.learner.critic.net.weights[0])


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (1, 10), (10, 10), (21, 25), (26, 30), (31, 33), (33, 33)])
def test_the_next_stop_is_the_first_multiple_of_an_interval(step, expected):
    assert next_stop(step, (10, 25), 33) == expected


def test_training_in_one_go_is_training_by_chunks():
    whole, by_chunks, saved = make_trainer(), make_trainer(), []
    whole.run_to(CHUNK + 3, lambda: saved.append(whole.step))
    by_chunks.run_chunk()
    by_chunks.run_chunk(3)
    assert saved == [CHUNK, CHUNK + 3]
    for name, tensor in by_chunks.state()[0].items():
        assert torch.equal(whole.state()[0][name], tensor), name
