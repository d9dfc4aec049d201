"""A frozen behaviour flow as an object: samples of the behaviour, their likelihood, and latents of actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flp.flow.behavior import Flow
from flp.flow.checkpoint import load_flows
from flp.library.arrays import as_given, batch_of, paired, placed, whole
from flp.randomness.streams import RunStreams
from flp.system.artifacts import load_manifest, reading
from flp.system.errors import FLPError

Map = Callable[[Tensor, Tensor], Tensor]


class BehaviorFlow:
    """What `load_flow` gives: f_ω of one dataset and seed, which carries z ~ N(0, I) to the behaviour's actions.

    Attributes:
        dataset: the dataset it was fitted to.
        observation_dim: length of an observation.
        action_dim: length of an action and of a latent.
        manifest: everything recorded about it: key, loss, parameters, versions.
    """

    def __init__(self, flow: Flow, manifest: dict[str, Any], device: torch.device) -> None:
        self._flow, self._device = flow, device
        self.manifest = manifest
        self.dataset: str = manifest["dataset"]
        self.observation_dim: int = manifest["model"]["observation_dim"]
        self.action_dim: int = manifest["model"]["action_dim"]
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Restart the noise of `sample` from a seed, 0 to 2⁶³ − 1 (`FLPError` for others)."""
        self._streams = RunStreams([whole(seed, "seed")], "cpu", self._device)

    @torch.inference_mode()
    def sample(self, observation: ArrayLike, n: int = 1) -> NDArray[np.float32]:
        """Draw n actions of the behaviour in [-1, 1] for each observation: `[n, a]`, or `[B, n, a]` for a batch."""
        observations, single = batch_of(observation, self.observation_dim, "observations", self._device)
        n, batch = whole(n, "n", 1), observations.shape[1]
        if batch == 0:
            return np.zeros((0, n, self.action_dim), np.float32)
        repeated = observations.repeat_interleave(n, 1)
        latents = self._streams.normal(batch * n, self.action_dim)
        return as_given(self._flow.decode(repeated, latents).view(1, batch, n, -1), single)

    @torch.inference_mode()
    def action(self, observation: ArrayLike, latent: ArrayLike) -> NDArray[np.float32]:
        """f_ω(z) clipped to [-1, 1]: the action of a latent, `[a]` or `[B, a]`."""
        observations, latents, single = self._paired(observation, latent)
        return self._mapped(self._flow.decode, observations, latents, single)

    @torch.inference_mode()
    def latent(self, observation: ArrayLike, action: ArrayLike) -> NDArray[np.float32]:
        """f_ω⁻¹(a): the latent of an action, `[a]` or `[B, a]`, by the decoder's own solver.

        It is one of many if the flow was trained with `flow.saturation_noise` and a coordinate is at ±1: every latent
        that decodes to beyond the bound is a latent of this action.
        """
        observations, actions, single = self._paired(observation, action)
        return self._mapped(self._flow.inverse, observations, actions, single)

    def log_prob(self, observation: ArrayLike, action: ArrayLike) -> NDArray[np.float32]:
        """log π_β(a | s) in nats, `[]` or `[B]`, by the change of variables along the ODE."""
        observations, actions, single = self._paired(observation, action)
        if observations.shape[1] == 0:
            return np.zeros(0, np.float32)
        return as_given(self._flow.log_density(observations, actions), single)

    @staticmethod
    def _mapped(function: Map, observations: Tensor, vectors: Tensor, single: bool) -> NDArray[np.float32]:
        """The images of actions or latents; of an empty batch, none."""
        return as_given(function(observations, vectors) if observations.shape[1] else vectors, single)

    def _paired(self, observation: ArrayLike, action: ArrayLike) -> tuple[Tensor, Tensor, bool]:
        return paired(observation, action, (self.observation_dim, self.action_dim), self._device)

    def __repr__(self) -> str:
        return f"<BehaviorFlow of {self.dataset}, seed {self.manifest.get('seed')}>"


def load_flow(path: Path | str, *, device: torch.device | str = "cpu", seed: int = 0) -> BehaviorFlow:
    """Load a frozen flow, such as `results/cube-single-play/flow/model/seed0`.

    Args:
        path: the folder, or a file in it.
        device: where it computes, such as `cuda`.
        seed: of the noise of `sample`.

    Raises:
        FLPError: missing, damaged or foreign files, by name.
    """
    place = Path(path)
    if place.suffix != ".safetensors":
        with reading(path):
            place = (place.parent if place.is_file() else place) / "flow.safetensors"
    device, seed = placed(device), whole(seed, "seed")
    if place.exists() and (kind := load_manifest(place).get("kind")) != "flow":
        raise FLPError(f"{place} is no flow but a {kind!r}")
    flow, (manifest,) = load_flows([str(place)], device)
    loaded = BehaviorFlow(flow, manifest, device)
    loaded.reset(seed)
    return loaded
