"""Films of an evaluation's episodes, replayed with the same start and the same noise.

The replay does not contribute to results: those come from `flp.evaluation.evaluator` alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flp.data.environments import EnvironmentSpec, make_environment, numpy_seeded, seeded_reset, spec_of
from flp.evaluation.evaluator import Act
from flp.params.sections import EvaluationSettings
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams

Draw = Callable[[Any], NDArray[Any]]
"""Draws the environment's current state."""

PICTURES = 80  # about as many, of an episode as long as the horizon
MILLISECONDS, LAST_MILLISECONDS = 80, 1600
STRIP = 22  # pixels above each picture, for its caption
GAP = 4
PAPER, INK, WON = "#14181e", "#e6e9ee", "#5fd39b"


@dataclass(frozen=True)
class Episode:
    """A filmed episode.

    Attributes:
        pictures: one every `every` steps from the start, and the last.
        every: steps between pictures.
        success: whether the last step was a success.
        length: number of steps.
    """

    pictures: list[NDArray[Any]]
    every: int
    success: bool
    length: int


def render(environment: Any) -> NDArray[Any]:
    """The environment's own picture, `[h, w, 3]` uint8."""
    picture: NDArray[Any] = environment.render()
    return picture


def open_scene(dataset: EnvironmentSpec | str, task: int, success_timing: str = "pre") -> Any:
    """Make the environment of a task, set to draw pictures of a video's size."""
    spec = spec_of(dataset)
    width = 320 if spec.family == "manipulation" else 240
    return make_environment(spec, task, success_timing, width=width, height=240)


def pictures_apart(dataset: EnvironmentSpec | str) -> int:
    """Steps between the pictures of a video."""
    return math.ceil(spec_of(dataset).horizon / PICTURES)


def play(
    act: Act,
    environment: Any,
    task: int,
    settings: EvaluationSettings,
    *,
    episode: int = 0,
    every: int = 1,
    device: torch.device | str = "cpu",
    draw: Draw = render,
) -> Episode:
    """Play one episode of an evaluation.

    The policy sees the observation repeated in E rows, as in the evaluation, since the last bits of a matrix product
    depend on the number of rows. It gets the evaluation's noise, and the episode's row of its output is the action.

    Args:
        act: the policy of a single run.
        environment: the task's environment, newly made, as episodes leave traces in a model.
        task: the task's number.
        settings: the evaluation's; E is `settings.episodes`.
        episode: number of the episode, below E.
        every: steps between pictures.
        device: the policy's device.
        draw: draws a picture of the environment.
    """
    E = settings.episodes
    streams = RunStreams([seed_of("evaluation noise", settings.seed, task)], "cpu", device)
    seed = seed_of("evaluation", settings.seed, task, episode)
    observation, info = seeded_reset(environment, seed)
    if (model := getattr(environment.unwrapped, "model", None)) is not None:
        _drop_shadows(model)
    pictures, length, ended = [draw(environment)], 0, False
    with torch.inference_mode():
        while not ended:
            rows = torch.tensor(observation.astype(np.float32), device=device).expand(1, E, -1)
            action = torch.as_tensor(act(rows, streams))[0, episode].float().cpu().numpy()
            length += 1
            with numpy_seeded(seed + length):  # teleports draw their exits from this generator
                observation, _, terminated, truncated, info = environment.step(np.clip(action, -1.0, 1.0))
            ended = terminated or truncated
            if ended or length % every == 0:
                pictures.append(draw(environment))
    return Episode(pictures, every, bool(info["success"]), length)


def _drop_shadows(model: Any) -> None:
    """Turn off shadows and multisampling, which take 90 % of the drawing time without a GPU."""
    model.light_castshadow[:] = 0
    model.vis.quality.offsamples = 0


def film(episodes: Sequence[tuple[str, Episode]]) -> bytes:
    """Titled episodes side by side, as an animated WebP; shorter ones hold their last picture."""
    count = max(len(episode.pictures) for _, episode in episodes)
    frames = [_frame(episodes, i) for i in range(count)]
    buffer = io.BytesIO()
    durations = [MILLISECONDS] * (count - 1) + [LAST_MILLISECONDS]
    options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    frames[0].save(buffer, "WEBP", quality=60, method=4, **options)
    return buffer.getvalue()


def _frame(episodes: Sequence[tuple[str, Episode]], index: int) -> Image.Image:
    height, width = episodes[0][1].pictures[0].shape[:2]
    frame = Image.new("RGB", ((width + GAP) * len(episodes) - GAP, height + STRIP), PAPER)
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(13)
    for i, (title, episode) in enumerate(episodes):
        x, last = i * (width + GAP), len(episode.pictures) - 1
        frame.paste(Image.fromarray(episode.pictures[min(index, last)]), (x, STRIP))
        pen.text((x + 6, 3), title, INK, font)
        over = index >= last
        step = episode.length if over else index * episode.every
        state = f"{'success' if episode.success else 'no success'}, step {step}" if over else f"step {step}"
        pen.text((x + width - 6, 3), state, WON if over and episode.success else INK, font, anchor="ra")
    return frame
