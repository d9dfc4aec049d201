"""The faster environments and controllers give OGBench's own results, bit for bit."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import numpy as np
import ogbench
import pytest

from flp.arm import ogbench_version
from flp.arm.inverse_kinematics import solve
from flp.arm.quaternions import about_z, clipped, product, yaw_of
from flp.data import controllers, environments
from flp.data.environments import make_environment, seeded_reset, specification
from flp.data.episodes import Collector, Recipe

DATASETS = ["cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play", "puzzle-4x4-play"]
FOLDER = Path(ogbench.__file__).parent / "manipspace"


@pytest.fixture
def plainly(monkeypatch):
    """Make something as if OGBench's version were unknown."""

    def made(make, *arguments, **options):
        with monkeypatch.context() as patch:
            for module in (environments, controllers):
                patch.setattr(module, "is_known_version", lambda: False)
            return make(*arguments, **options)

    return made


def pair(plainly, *arguments, **options):
    """OGBench's environment and ours."""
    envs = plainly(make_environment, *arguments, **options), make_environment(*arguments, **options)
    assert [type(env.unwrapped).__mro__[1].__module__.split(".")[0] for env in envs] == ["ogbench", "flp"]
    return envs


def assert_same(a, b):
    """Nested arrays are bit-identical, signs of zeros included."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif a is None or isinstance(a, str):
        assert a == b
    else:
        x, y = np.asarray(a), np.asarray(b)
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


def state(env):
    """Everything that a step changes, colours included."""
    model, data = env.unwrapped.model, env.unwrapped.data
    left = [data.qpos, data.qvel, data.ctrl, data.qacc_warmstart, data.mocap_pos, data.mocap_quat]
    return [*left, model.geom_rgba, model.mat_rgba, model.dof_damping, model.site_pos, data.site_xpos]


def presses(env, step):
    """An action towards one button after another, or towards the first cube."""
    arm = env.unwrapped
    if hasattr(arm, "_button_site_ids"):
        sites = arm._button_site_ids
        aim = arm.data.site_xpos[sites[step // 30 % len(sites)]] + [0, 0, 0.1 if step % 30 < 14 else -0.05]
    else:
        aim = arm.data.joint("object_joint_0").qpos[:3]
    move = np.clip((aim - arm.data.site_xpos[arm._pinch_site_id]) * 20, -1, 1)
    return np.array([*move, 0.1, 1.0 if step % 50 > 20 else -0.3])


@pytest.mark.slow(60)
@pytest.mark.parametrize("name", DATASETS)
def test_steps_of_tasks_are_ogbenchs(name, plainly):
    rng = np.random.default_rng(0)
    pressed = 0
    for timing in ("pre", "post"):
        envs = pair(plainly, name, 2, timing, terminate_at_goal=False)
        for seed in range(2):
            assert_same(*(seeded_reset(env, seed) for env in envs))
            buttons = getattr(envs[0].unwrapped, "_cur_button_states", np.zeros(0)).copy()
            for step in range(90):
                random = rng.uniform(-1, 1, 5).astype(np.float32)
                action = random if seed else presses(envs[0], step)
                assert_same(*(env.step(action) for env in envs))
                assert_same(*(state(env) for env in envs))
            pressed += not np.array_equal(buttons, getattr(envs[0].unwrapped, "_cur_button_states", buttons))
    assert pressed or not specification(name).has_buttons, "no button was pressed, which is half of what steps do"


@pytest.mark.slow(60)
@pytest.mark.parametrize(
    "name", ["cube-single-play", "cube-double-noisy", "scene-play", "scene-noisy", "puzzle-4x4-play"]
)
def test_generated_episodes_are_ogbenchs(name, plainly):
    recipe = Recipe(name, 260, 0, specification(name).noise, "scripted")
    plain, ours = plainly(Collector, recipe), Collector(recipe)
    for number in range(2):
        assert_same(plainly(plain.episode, number), ours.episode(number))
        assert_same(state(plain.env), state(ours.env))


def test_goal_conditioned_steps_and_information_are_ogbenchs(plainly):
    envs = pair(plainly, "cube-double-play", mode="data_collection", terminate_at_goal=False)
    for env in envs:
        env.unwrapped.action_space.seed(0)
    assert_same(*(env.reset(seed=3) for env in envs))
    for step in range(60):
        action = presses(envs[0], step)
        assert_same(*(env.step(action) for env in envs))
        if step == 30:
            assert_same(*(env.unwrapped.set_new_target(p_stack=1.0) for env in envs))
    assert_same(*(env.unwrapped.get_step_info() for env in envs))
    assert_same(*(env.unwrapped.compute_oracle_observation() for env in envs))


def test_an_environment_whose_info_nobody_reads_steps_the_same():
    loud, silent = make_environment("cube-single-play", 1), make_environment("cube-single-play", 1)
    silent.unwrapped.reports_info = False
    assert_same(*(seeded_reset(env, 0) for env in (loud, silent)))
    for step in range(20):
        action = presses(loud, step)
        (*outcome, info), (*silent_outcome, rest) = (env.step(action) for env in (loud, silent))
        assert_same(outcome, silent_outcome)
        assert rest == {"success": info["success"]}


def test_a_cube_that_flies_away_is_put_back_as_ogbench_does(plainly, capsys):
    envs = pair(plainly, "scene-play", 1)
    assert_same(*(seeded_reset(env, 0) for env in envs))
    for env in envs:
        env.unwrapped.data.qpos[14:17] = 0.4, 2.0, 0.1
    assert_same(*(env.step(np.zeros(5)) for env in envs))
    assert_same(*(state(env) for env in envs))
    assert capsys.readouterr().out.count("Numerical instability") == 2
    assert envs[1].unwrapped.data.qpos[15] < 1


def test_the_hand_reaches_as_ogbenchs_does(plainly):
    plain, ours = (env.unwrapped._ik for env in pair(plainly, "cube-single-play", 1))
    rng = np.random.default_rng(0)
    for _ in range(200):  # near and far, also out of reach: up to twenty steps of up to 45 degrees
        start, aim = rng.uniform(-2, 2, 6), rng.uniform(-1, 1, 3)
        quaternion = rng.normal(size=4)
        quaternion /= np.linalg.norm(quaternion)
        assert_same(*(ik.solve(pos=aim, quat=quaternion, curr_qpos=start) for ik in (plain, ours)))
    for _ in range(100):
        matrix, vector = rng.normal(size=(6, 6)), rng.normal(size=6)
        assert_same(solve(matrix, vector), np.linalg.solve(matrix, vector))


def test_rotations_are_ogbenchs():
    from ogbench.manipspace import lie

    rng = np.random.default_rng(0)
    for a, b in rng.normal(size=(3000, 2, 4)):
        assert_same(np.array(product(tuple(a.tolist()), tuple(b.tolist()))), (lie.SO3(a) @ lie.SO3(b)).wxyz)
        assert_same(yaw_of(a.tolist()), lie.SO3(a).compute_yaw_radians())
    for theta in [0.0, -0.0, 1e-6, -1e-6, 1e-5, np.pi, -np.pi, *rng.uniform(-4, 4, 3000).tolist()]:
        assert_same(np.array(about_z(theta)), lie.SO3.from_z_radians(theta).wxyz)
    for x in (-1.0, -0.0, 0.0, 0.3, 1.0, 1.5, np.nan, np.inf):
        assert_same(clipped(x, 0.0, 1.0), np.clip([x], 0, 1)[0])


def test_another_ogbench_is_not_known(tmp_path):
    assert ogbench_version.is_known_version(), (
        "flp/arm was written against another OGBench: compare, then add this one's digest"
    )
    for path in (file for pattern in ogbench_version.SOURCES for file in FOLDER.glob(pattern)):
        copy = tmp_path / path.relative_to(FOLDER)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    assert ogbench_version.digest(tmp_path) in ogbench_version.KNOWN
    for change in (lambda p: p.write_text(p.read_text() + "\n"), Path.unlink):
        for file in sorted(tmp_path.rglob("*.py")):
            before = file.read_bytes()
            change(file)
            assert ogbench_version.digest(tmp_path) not in ogbench_version.KNOWN, file.name
            file.write_bytes(before)


def test_whatever_is_overridden_is_in_the_digest():
    from flp.arm.plans import FastPlan
    from flp.arm.scenes import FAST

    sources = {file for pattern in ogbench_version.SOURCES for file in FOLDER.glob(pattern)}
    overridden = 0
    for kind in (*FAST.values(), FastPlan):
        for base in kind.__mro__:
            for name, method in vars(base).items():
                if inspect.isfunction(method) and base.__module__.startswith("flp."):
                    for original in (vars(other)[name] for other in kind.__mro__ if name in vars(other)):
                        if inspect.isfunction(original) and original.__module__.startswith("ogbench."):
                            overridden += 1
                            assert Path(inspect.getfile(original)) in sources, (name, original)
    assert overridden > 20
