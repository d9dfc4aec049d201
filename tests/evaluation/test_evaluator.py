"""Stepping and evaluation give the same results in any layout, and fail loudly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from flp.data.environments import make_environment, numpy_seeded, seeded_reset
from flp.evaluation.background import BackgroundEvaluator
from flp.evaluation.evaluator import Evaluation, Evaluator, evaluate
from flp.evaluation.pool import EnvironmentPool
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError

POINT = "pointmaze-medium-navigate"


@cache
def subgoals(dataset: str, task: int, goal: tuple[float, float] | None = None) -> tuple[np.ndarray, object]:
    """The direction of the next cell from each cell's centre, `[rows, columns, 2]`, and the maze."""
    maze = make_environment(dataset, task).unwrapped
    goal = goal or maze.task_infos[task - 1]["goal_xy"]
    table = np.zeros((*maze.maze_map.shape, 2))
    for i, j in np.argwhere(maze.maze_map == 0):
        table[i, j] = maze.get_oracle_subgoal(maze.ij_to_xy((i, j)), goal)[0]
        if np.allclose(table[i, j], maze.ij_to_xy((i, j))):
            table[i, j] = goal
    return table, maze


def walker(tasks, noise=0.3, dataset=POINT, goal=None):
    """A policy that follows the maze's shortest path, given the observation alone."""

    def act(observations, streams):
        actions = np.zeros(observations.shape, np.float32)
        for run, task in enumerate(tasks):
            table, maze = subgoals(dataset, task, goal)
            for episode, xy in enumerate(observations[run].numpy()):
                actions[run, episode] = (table[maze.xy_to_ij(xy)] - xy) / 0.2
        return torch.from_numpy(actions).clamp(-1, 1) + noise * streams.normal(observations.shape[1], 2)

    return act


def zero(observations, streams):
    return torch.zeros_like(observations)


def same(a: Evaluation, b: Evaluation, a_runs=slice(None), b_runs=slice(None)) -> bool:
    return all(
        np.array_equal(getattr(a, name)[a_runs], getattr(b, name)[b_runs]) for name in ("success", "returns", "lengths")
    ) and all(
        np.array_equal(p, q)
        for left, right in zip(a.trajectories[a_runs], b.trajectories[b_runs], strict=True)
        for p, q in zip(left, right, strict=True)
    )


@pytest.fixture(scope="module")
def reference() -> Evaluation:
    return evaluate(walker([3, 5, 3]), POINT, [3, 5, 3], episodes=5, record=5)


def test_walker_succeeds_and_zero_policy_does_not(reference):
    assert reference.success.tolist() == np.ones((3, 5)).tolist()
    assert np.array_equal(reference.returns, 1.0 - reference.lengths)  # -1 each step before the goal, then 0
    assert (reference.lengths > 20).all() and len(np.unique(reference.lengths)) > 3
    for path, length in zip(reference.trajectories[1], reference.lengths[1], strict=True):
        assert path.shape == (length + 1, 2)
        assert np.linalg.norm(path[-2] - subgoals(POINT, 5)[1].task_infos[4]["goal_xy"]) <= 1.0

    idle = evaluate(zero, POINT, [3], episodes=2)
    assert idle.success.sum() == 0 and idle.lengths.tolist() == [[1000, 1000]]  # the horizon
    assert idle.returns.tolist() == [[-1000.0, -1000.0]] and idle.trajectories is None


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_do_not_depend_on_workers(reference, workers):
    assert same(reference, evaluate(walker([3, 5, 3]), POINT, [3, 5, 3], episodes=5, record=5, workers=workers))


def test_results_do_not_depend_on_neighbours(reference):
    assert same(reference, reference, slice(0, 1), slice(2, 3))  # the same task and seed
    for run, task in ((0, 3), (1, 5)):
        alone = evaluate(walker([task]), POINT, [task], episodes=5, record=5)
        assert same(reference, alone, slice(run, run + 1))


def test_seed_decides_episodes_and_policies_share_them(reference):
    other = evaluate(walker([3, 5, 3]), POINT, [3, 5, 3], episodes=5, record=5, seed=1)
    first_steps = evaluate(zero, POINT, [3, 5, 3], episodes=5, record=1)
    for run in range(3):
        assert np.array_equal(reference.trajectories[run][0][0], first_steps.trajectories[run][0][0])
        assert not np.array_equal(reference.trajectories[run][0][0], other.trajectories[run][0][0])


def test_an_evaluator_says_the_same_again(reference):
    with Evaluator(POINT, [3, 5, 3], episodes=5, record=5, workers=2) as evaluator:
        for _ in range(2):
            assert same(reference, evaluator.evaluate(walker([3, 5, 3])))


def alone(dataset, task, seed, actions):
    """Observations of a single environment."""
    env = make_environment(dataset, task)
    observations = [seeded_reset(env, seed)[0]]
    observations += [env.step(action)[0] for action in actions]
    return np.array(observations, np.float32)


@pytest.mark.parametrize("workers", [0, 2])
def test_inactive_slots_are_untouched(workers):
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 4, 2)).astype(np.float32)
    active = np.arange(12)[:, None] % (np.arange(4) + 1) == 0  # slot i moves at every (i + 1)-th step
    with EnvironmentPool(POINT, [1, 2, 3, 4], workers=workers) as pool:
        start = pool.reset(range(4), range(4))
        steps = [pool.step(a, m) for a, m in zip(actions, active, strict=True)]
        before = steps[-1].observations
        after = pool.reset([1], [7])
    for slot in range(4):
        moved = active[:, slot]
        expected = alone(POINT, slot + 1, slot, actions[moved, slot])
        assert np.array_equal(start[slot], expected[0])
        found = [step.observations[slot] for step, m in zip(steps, moved, strict=True) if m]
        assert np.array_equal(found, expected[1:])
    assert np.array_equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert np.array_equal(after[1], alone(POINT, 2, 7, [])[0])


def test_teleports_do_not_depend_on_workers():
    dataset, tasks = "pointmaze-teleport-navigate", [1, 4, 1, 4]
    gate = tuple(make_environment(dataset, 1).unwrapped._teleport_info["teleport_in_xys"][0])
    act, paths = walker([1], dataset=dataset, goal=gate, noise=0.0), []
    for workers in (0, 2):
        with EnvironmentPool(dataset, tasks, workers=workers) as pool, numpy_seeded(workers):
            path = [pool.reset(range(4), range(4))]
            for _ in range(200):
                actions = act(torch.from_numpy(path[-1][None]), RunStreams([0]))[0]
                path.append(pool.step(actions, [True] * 4).observations)
        paths.append(np.array(path))
    assert np.abs(np.diff(paths[0], axis=0)).max() > 4  # somebody was teleported
    assert np.array_equal(*paths)


def children() -> set[int]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(map(int, task.read_text().split()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_after_close():
    with EnvironmentPool(POINT, [1, 2]):
        pass  # whatever is opened once per process
    before = children(), descriptors(), threading.active_count()
    with EnvironmentPool(POINT, [1, 2, 3], workers=2) as pool:
        pids = [worker.process.pid for worker in pool._workers]
        assert all("libtorch" not in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
        assert children() - before[0] == set(pids)
    pool.close()
    with pytest.raises(FLPError, match="is closed"):
        pool.reset([0], [0])
    del pool
    assert (children(), descriptors(), threading.active_count()) == before


def test_more_environments_than_fit_are_refused():
    with pytest.raises(FLPError, match="200,000 environments are too many at once, 100,000 are possible"):
        EnvironmentPool(POINT, [1] * 200_000)


@pytest.mark.parametrize("moment", ["idle", "stepping"])
def test_a_killed_worker_is_an_error(moment):
    with EnvironmentPool(POINT, [1, 2, 3], workers=2) as pool:
        pool.reset(range(3), range(3))
        victim = pool._workers[1].process
        start = time.monotonic()
        kill = threading.Timer(0.3, os.kill, (victim.pid, signal.SIGKILL))
        kill.start()
        if moment == "stepping":
            os.kill(victim.pid, signal.SIGSTOP)  # cannot answer, so the step is under way when it dies
        else:
            kill.join()
        with pytest.raises(FLPError, match=rf"worker 1 .*{POINT}, task.*2.* died \(exit status -9\)"):
            pool.step(np.zeros((3, 2)), [True] * 3)
        kill.join()
        assert time.monotonic() - start < 5
        with pytest.raises(FLPError, match="is closed"):
            pool.step(np.zeros((3, 2)), [True] * 3)
    assert victim.poll() is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_environment_is_named(workers):
    with pytest.raises(FLPError, match=rf"slot 2 \({POINT}, task 9\).*has no task 9"):
        EnvironmentPool(POINT, [1, 2, 9], workers=workers)
    with EnvironmentPool(POINT, [1, 2], workers=workers) as pool:
        with pytest.raises(FLPError, match=rf"slot 1 \({POINT}, task 2\)") as caught:
            pool.step(np.zeros((2, 2)), [False, True])  # never reset
        assert "Traceback" in "".join(caught.value.__notes__)


def test_workers_end_with_their_parent():
    script = (
        "import os\nfrom flp.evaluation.pool import EnvironmentPool\n"
        f"pool = EnvironmentPool('{POINT}', [1, 2], workers=2)\n"
        "print(*(worker.process.pid for worker in pool._workers), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    pids = run.stdout.split()
    assert len(pids) == 2, run.stderr
    deadline = time.monotonic() + 5
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_bad_policies_are_refused():
    with Evaluator(POINT, [1, 2], episodes=2) as evaluator:
        with pytest.raises(FLPError, match=r"shape \(2, 2, 3\), expected \(2, 2, 2\)"):
            evaluator.evaluate(lambda observations, streams: np.zeros((2, 2, 3)))
        with pytest.raises(FLPError, match=r"run\(s\) \[1\].*diverged"):
            evaluator.evaluate(
                lambda observations, streams: torch.tensor([0.0, torch.nan])[:, None, None].expand(2, 2, 2)
            )
    with pytest.raises(FLPError, match="episodes >= 1"):
        evaluate(zero, POINT, [1], episodes=0)


def test_background_evaluation_is_the_same(reference):
    def broken(observations, streams):
        raise RuntimeError("broken policy")

    evaluator = Evaluator(POINT, [3, 5, 3], episodes=5, record=5, workers=2)
    with BackgroundEvaluator(evaluator) as background:
        background.submit(10, walker([3, 5, 3]))
        background.submit(20, walker([3, 5, 3], noise=0.0))
        found = background.wait()
        assert [step for step, _ in found] == [10, 20]
        assert same(found[0][1], reference) and not same(found[1][1], reference)
        background.submit(30, walker([3, 5, 3]))
        background.submit(40, broken)
        assert [step for step, _ in background.wait()] == [30]
        with pytest.raises(RuntimeError, match="broken policy"):
            background.finished()
        assert background.finished() == []
        background.submit(50, zero)  # unfinished when the block ends
    with pytest.raises(FLPError, match="is closed"):
        evaluator.evaluate(zero)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["scene-play", "cube-single-play"])
def test_shared_models_change_nothing(dataset):
    actions = np.clip(np.random.default_rng(0).normal(0, 2, (40, 2, 5)), -1, 1).astype(np.float32)
    with EnvironmentPool(dataset, [1, 4], workers=1) as pool:
        observations = [pool.reset(range(2), range(2))]
        observations += [pool.step(a, [True] * 2).observations for a in actions]
    for slot, task in enumerate((1, 4)):
        assert np.array_equal(np.array(observations)[:, slot], alone(dataset, task, slot, actions[:, slot]))


@pytest.mark.slow
def test_locked_joints_stay_with_their_slot():
    """Task 4 of the scene starts with locked joints and task 1 without, in one shared model."""
    with EnvironmentPool("scene-play", [1, 4, 1]) as pool:
        pool.reset(range(3), range(3))
        share = pool._workers[0].share
        models = {id(env.unwrapped.model) for env in share.environments.values()}
        assert len(models) == 1
        assert not np.array_equal(share.damping[0], share.damping[1])
        assert np.array_equal(share.damping[0], share.damping[2])
