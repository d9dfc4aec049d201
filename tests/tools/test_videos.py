"""Videos show the evaluation's own episode, are drawn without a screen, and count for nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from prepared_maze import train
from repository import REPO
from small_experiment import tiny

from flp import cli
from flp.data.environments import make_environment
from flp.evaluation import headless
from flp.evaluation.evaluator import Evaluator
from flp.evaluation.film import STRIP, Episode, film, pictures_apart, play
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.params.sections import EvaluationSettings
from flp.report.collect import read_paths
from flp.stages import download_dataset, invert_to_latent, offline_train, online_finetune, pretrain_flow, report
from flp.system.errors import FLPError
from flp.tools import videos

POINT = "pointmaze-medium-navigate"


def drift(observations, streams):
    """A policy of its observation and of its noise, whose numbers depend on how they are computed."""
    weights = torch.tensor([[0.3, -0.2], [0.1, 0.25]]).expand(len(observations), 2, 2)
    return torch.tanh(observations @ weights) + 0.5 * streams.normal(observations.shape[1], 2)


def test_the_episode_is_the_one_that_the_evaluation_played():
    settings = EvaluationSettings(every=1, episodes=2, seed=5)
    with Evaluator(POINT, [4, 2], episodes=2, seed=5, record=2) as evaluator:
        evaluated = evaluator.evaluate(drift)
    scene = make_environment(POINT, 2)
    played = play(drift, scene, 2, settings, episode=1, draw=lambda env: env.unwrapped.get_xy().copy())
    path = np.stack(played.pictures).astype(np.float32)
    assert evaluated.trajectories is not None
    assert np.array_equal(path, evaluated.trajectories[1][1])
    assert played.length == evaluated.lengths[1, 1]
    assert played.success == bool(evaluated.success[1, 1])


def flat(shade: int, count: int) -> list[np.ndarray]:
    return [np.full((40, 60, 3), shade, np.uint8)] * count


def test_a_film_waits_for_the_slower_and_says_who_succeeded():
    quick = Episode(flat(40, 3), every=5, success=True, length=8)
    slow = Episode([*flat(120, 6), *flat(220, 1)], every=5, success=False, length=30)
    with Image.open(io.BytesIO(film([("frozen flow", quick), ("policy", slow)]))) as film_:
        assert film_.n_frames == 7
        assert film_.size == (124, 40 + STRIP)
        shades = []
        for i in range(7):
            film_.seek(i)
            frame = np.asarray(film_.convert("RGB")).astype(int)
            shades.append((round(frame[STRIP + 4 :, 4:56].mean()), round(frame[STRIP + 4 :, 68:].mean())))
        assert shades == [(pytest.approx(40, abs=4), pytest.approx(120, abs=4))] * 6 + [
            (pytest.approx(40, abs=4), pytest.approx(220, abs=4))
        ]
        won = (frame[:STRIP, :62, 1] - frame[:STRIP, :62, 0]).max()
        lost = (frame[:STRIP, 62:, 1] - frame[:STRIP, 62:, 0]).max()
        assert won > 40 > 25 > lost  # green letters against grey ones


@pytest.mark.parametrize(
    ("dataset", "apart"), [("cube-single-play", 3), (POINT, 13), ("humanoidmaze-giant-navigate", 50)]
)
def test_a_video_has_at_most_eighty_pictures_and_the_start(dataset, apart):
    assert pictures_apart(dataset) == apart


def test_without_a_renderer_one_line_names_the_packages(monkeypatch):
    make_environment(POINT)  # MuJoCo is imported, or the faked choice below would be
    monkeypatch.setenv("MUJOCO_GL", "no-such")
    with pytest.raises(FLPError, match=r"MUJOCO_GL=no-such does not work here; on Debian.*libegl1.*libosmesa6"):
        headless.choose_renderer()
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(headless, "works", lambda backend: False)
    with pytest.raises(FLPError, match=r"neither EGL nor OSMesa works here; .*apt-get install libegl1"):
        headless.choose_renderer()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.setattr(headless, "works", lambda backend: backend == "osmesa")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert headless.choose_renderer() == "osmesa"


def test_the_fine_tuned_policy_acts_as_in_its_evaluation(here, monkeypatch):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"]["tasks"] = [1]
    values["online"] |= {"steps": 10, "acting_noise": 0.0, "candidates": 3, "selection": "resample"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert train() == train(online_finetune) == 0
    played = partial(play, draw=lambda env: env.unwrapped.get_xy().copy())
    monkeypatch.setattr("flp.evaluation.film.play", played)
    monkeypatch.setattr("flp.evaluation.film.open_scene", make_environment)
    monkeypatch.setattr("flp.evaluation.film.pictures_apart", lambda spec: 1)
    keys = Keys(load_params())
    ((run, files),) = videos.policies(keys, POINT, "flp")
    episodes = dict(videos.play_run(keys, POINT, "flp", run, files, "cpu"))
    for title, stage, phase in (("policy", "offline", "offline"), ("fine-tuned", "online", "online")):
        (path,), reached = read_paths(Path(f"results/{POINT}/{stage}/flp/seed0/task1_seed0"), phase)
        assert reached.tolist() == [episodes[title].success]
        drawn = np.stack(episodes[title].pictures)
        assert len(drawn) == len(path) and np.abs(drawn - path).max() < 1e-4


def test_of_what_has_no_policies_no_videos_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((REPO / "params.yaml").read_text())
    params["offline"]["agents"], params["online"]["steps"] = ["rlpd", "bc"], 0
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert cli.main(["videos", "--agent", "rlpd"]) == 2
    assert (
        "--agent rlpd: not trained on pointmaze-medium-navigate in this experiment (bc are)" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_videos_of_trained_policies_enter_the_page_and_no_statistic(request, tmp_path, monkeypatch, capsys):
    if not any(map(headless.works, headless.BACKENDS)):
        pytest.skip(f"needs {headless.PACKAGES}")
    monkeypatch.chdir(tmp_path)
    params = tiny(yaml.safe_load((request.config.rootpath / "params.yaml").read_text()), POINT)
    params["flow"] |= {"solver": "euler", "solver_steps": 2}
    params["offline"]["tasks"] = [4]
    params["online"]["steps"] = 0
    params["agents"] = {"flp": {"offline": {"hidden": [8]}}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    of = ["--dataset", POINT, "--threads", "1"]
    assert download_dataset.main(of) == pretrain_flow.main([*of, "--seed", "0"]) == 0
    assert invert_to_latent.main([*of, "--seed", "0"]) == offline_train.main(of) == report.main([]) == 0
    counted = {path: path.read_bytes() for path in Path("results/report").glob("*.csv")}
    assert 'id="videos"' not in Path("results/report/index.html").read_text()

    made = "results/videos/pointmaze-medium-navigate/flp"
    command = [sys.executable, "-m", "flp.cli", "videos", "--device", "cpu"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"{made}: 1 videos\n"
    assert cli.main(["videos"]) == 0
    assert capsys.readouterr().out.endswith(f"{made} is up to date\n")
    (video,) = json.loads(Path(made, "videos.json").read_text())["videos"]
    Path(made, video["file"]).unlink()
    subprocess.run(command, check=True, capture_output=True)  # what was deleted is made again
    assert (video["task"], list(video["outcomes"])) == (4, ["frozen flow", "policy"])
    with Image.open(Path(made, video["file"])) as film_:
        assert film_.size == (2 * 240 + 4, 240 + STRIP)
        assert film_.n_frames > 10
        first = np.asarray(film_.convert("RGB"))[STRIP:].astype(float)
    flow, policy = first[:, :240], first[:, 244:]
    assert first.std() > 20 and np.abs(flow - policy).mean() < 2  # something is to be seen, the same start
    assert report.main([]) == 0
    assert re.search(r'id="videos".*src="data:image/webp;base64,', Path("results/report/index.html").read_text(), re.S)
    assert {path: path.read_bytes() for path in counted} == counted
