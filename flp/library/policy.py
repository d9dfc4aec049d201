"""A trained policy as an object: observations in, actions out, from its folder alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from flp.agents import make_agent
from flp.data.environments import EnvironmentSpec, specification
from flp.flow.checkpoint import load_flows
from flp.library.arrays import as_given, batch_of, paired, placed, whole
from flp.own.task import spec_from
from flp.params.own_tasks import NAME
from flp.params.sections import AgentName, OfflineSettings, hidden_layers
from flp.params.unread import unread
from flp.parts.base import Agent, Spec
from flp.randomness.streams import RunStreams
from flp.runs.run_folder import restore_parameters
from flp.system.artifacts import load_manifest, load_tensors, reading
from flp.system.errors import FLPError, first_line

_LARGEST, MOST_CANDIDATES = 2**16, 1024  # limits on sizes in a manifest, and on the candidates
_ALWAYS = 2**22  # parameters of a network that is built whatever the size of the file: 16 MiB


class Policy:
    """What `load_policy` gives: call it with observations.

    A policy draws its noise from a stream of its own: after `reset(seed)` the same calls give the same actions, up to
    rounding on every device. How it acts can be changed, what it has learnt cannot.

    Attributes:
        agent: the algorithm's name, such as `flp`.
        dataset: the dataset it was trained on.
        task: the task it was trained for.
        observation_dim: length of an observation.
        action_dim: length of an action; every action is in [-1, 1].
        manifest: everything recorded about it: seed, steps, parameters, versions.
        device: where it computes.
    """

    def __init__(self, learner: Agent, manifest: dict[str, Any], device: torch.device) -> None:
        self._learner, self.device = learner, device
        self.manifest = manifest
        self.agent: str = manifest["agent"]
        self.dataset: str = manifest["dataset"]
        self.task: int = manifest["task"]
        self.observation_dim: int = manifest["model"]["observation_dim"]
        self.action_dim: int = manifest["model"]["action_dim"]
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Restart the policy's noise from a seed, 0 to 2⁶³ − 1 (`FLPError` for others)."""
        self._streams = RunStreams([whole(seed, "seed")], "cpu", self.device)

    def __call__(self, observation: ArrayLike) -> NDArray[np.float32]:
        """Act.

        Args:
            observation: `[observation_dim]`, or a batch `[B, observation_dim]`.

        Returns:
            Actions in [-1, 1], float32 `[action_dim]` or `[B, action_dim]`.

        Raises:
            FLPError: another shape, NaN or infinite values, or values so large that the action would be NaN.
        """
        observations, single = batch_of(observation, self.observation_dim, "observations", self.device)
        if observations.shape[1] == 0:  # every episode is over
            return np.zeros((0, self.action_dim), np.float32)
        return as_given(self.act(observations, self._streams), single)

    @property
    def spec(self) -> EnvironmentSpec:
        """The specification of its environment, for `make_environment` (`FLPError` if it is unknown)."""
        described = self.manifest["model"].get("environment")
        return specification(self.dataset) if described is None else spec_from(described, "the policy's manifest")

    @torch.inference_mode()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Act as in an evaluation: `[1, B, observation_dim]` to `[1, B, action_dim]`, with noise from `streams`."""
        return self._learner.act(observations, streams).clamp(-1, 1)

    @property
    def candidates(self) -> int | None:
        """N of best-of-N; None for algorithms without candidates."""
        return self._learner.candidates[0] if self._learner.chooses else None

    @candidates.setter
    def candidates(self, count: int) -> None:
        if not self._learner.chooses:
            raise FLPError(f"{self.agent} does not choose among candidates")
        self._learner.candidates = (whole(count, "candidates", 1, MOST_CANDIDATES),)

    @torch.inference_mode()
    def value(self, observation: ArrayLike, action: ArrayLike) -> NDArray[np.float32]:
        """The critic's Q(s, a), an estimate of the discounted return, `[]` or `[B]`; actions in [-1, 1].

        Raises:
            FLPError: as in a call; or actions leave [-1, 1]; or the algorithm has no critic.
        """
        widths = self.observation_dim, self.action_dim
        observations, actions, single = paired(observation, action, widths, self.device)
        if observations.shape[1] == 0:
            return np.zeros(0, np.float32)
        if (actions.abs() > 1 + 1e-6).any():
            raise FLPError("actions leave [-1, 1], a policy's units; scale them from the range of their environment")
        values = self._learner.value(observations, actions)
        if values is None:
            raise FLPError(f"{self.agent} has no critic")
        return as_given(values, single)

    def __repr__(self) -> str:
        return f"<Policy {self.agent} of {self.dataset}, task {self.task}, step {self.manifest.get('step')}>"


class _ManifestEntries(BaseModel):
    """The entries read from a manifest, which may come from anyone: safe parts of paths, reasonable sizes."""

    model_config = ConfigDict(strict=True)

    agent: str
    dataset: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    task: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    variant: Annotated[str, Field(pattern=r"^[\w.=+-]*$")] = ""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)]
    model: dict[str, Any]


def load_policy(
    path: Path | str, *, flow: Path | str | None = None, device: torch.device | str = "cpu", seed: int = 0
) -> Policy:
    """Load a trained policy from its run's folder, such as `results/cube-single-play/offline/flp/seed0/task2_seed0`.

    The folder holds everything that is needed: no params.yaml, dataset or simulator is.

    Args:
        path: the folder, or a file in it.
        flow: the frozen flow's file, if it is not in the folder.
        device: where it computes, such as `cuda`.
        seed: of its noise, as in `Policy.reset`.

    Raises:
        FLPError: a file is missing, damaged or not flp's; the message names it.
    """
    with reading(path):
        file = _policy_file(Path(path))
    device, seed = placed(device), whole(seed, "seed")
    tensors, manifest = load_tensors(file, device)
    if manifest.get("kind") != "run":
        raise FLPError(f"{file} is no policy but a {manifest.get('kind')!r}")
    if "model" not in manifest:
        raise FLPError(f"{file} was written by an flp that did not note what is needed to load it; train it again")
    try:
        _ManifestEntries.model_validate(manifest)
    except ValidationError as error:
        (wrong, *_) = error.errors()
        place = ".".join(map(str, wrong["loc"]))
        raise FLPError(f"{file}: its manifest's {place} is none that flp writes ({wrong['msg']})") from None
    try:
        learner = _build(file, tensors, manifest, flow, device)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FLPError(
            f"{file}: its manifest describes another model than the file holds ({first_line(error)})"
        ) from error
    policy = Policy(learner, manifest, device)
    policy.reset(seed)
    return policy


def _policy_file(path: Path) -> Path:
    """A run's file, given its folder or a file in it."""
    if path.suffix == ".safetensors":
        return path
    path = path.parent if path.is_file() else path
    file = path / "policy.safetensors"
    if file.exists() or not path.is_dir():
        return file
    if (path / "failed.json").exists():
        raise FLPError(f"{path}: this run failed and left no policy; its failed.json says why")
    runs = sorted(child.name for child in path.iterdir() if (child / "policy.safetensors").exists())
    hint = f"; name one of its runs: {', '.join(runs[:8])}" if runs else ""
    raise FLPError(f"{path} is not a run's folder: it has no policy.safetensors{hint}")


def _build(
    file: Path, tensors: dict[str, Tensor], manifest: dict[str, Any], flow: Path | str | None, device: torch.device
) -> Agent:
    """The agent of one run, with its parameters."""
    name, model = manifest["agent"], manifest["model"]
    if name not in get_args(AgentName):
        raise FLPError(f"{file} is of the algorithm {name!r}, which this flp does not have")
    try:
        offline = OfflineSettings.model_validate(model["offline"])
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        made_by = manifest.get("versions", {}).get("flp", "another version")
        raise FLPError(
            f"{file}: offline.{place} is not what this flp knows; load it with the flp that made it ({made_by})"
        ) from None
    sizes = model["observation_dim"], model["action_dim"]
    critics = 1 if "critics" in unread(name) else offline.critics
    _check_sizes(tensors, hidden_layers(name, offline), critics, sizes)
    frozen = None
    if manifest.get("flow_sha256") is not None:
        source = Path(flow) if flow is not None else file.with_name("flow.safetensors")
        if source.exists() and load_manifest(source).get("sha256") != manifest["flow_sha256"]:
            raise FLPError(f"{source} is not the flow that {file} was trained with; name that one (flow=…)")
        frozen, _ = load_flows([str(source)], device, sha256=manifest["flow_sha256"])
    spec = Spec(
        streams=RunStreams([0], place=device),
        observation_dim=sizes[0],
        action_dim=sizes[1],
        offline=offline,
        alpha=torch.tensor([float(manifest["alpha"])], device=device),
        candidates=(int(manifest["candidates"]),),
        flow=frozen,
    )
    learner = make_agent(name, spec)
    restore_parameters(learner, [tensors])
    return learner.requires_grad_(False)


def _check_sizes(tensors: dict[str, Tensor], layers: list[list[int]], critics: int, sizes: tuple[int, int]) -> None:
    """Refuse sizes far beyond the file's before networks of such sizes are built (`ValueError`).

    An algorithm may have layers of other widths than its parameters say; tensors of other shapes are refused later.
    """
    if not all(isinstance(n, int) and 0 < n < _LARGEST for n in sizes):
        raise ValueError(f"sizes {sizes}")
    most = max(_ALWAYS, 2 * sum(tensor.numel() for tensor in tensors.values()))
    for hidden in layers:
        if sum(a * b for a, b in pairwise([sum(sizes), *hidden])) > most:
            raise ValueError(f"layers {hidden}")
    if critics > max((length for tensor in tensors.values() for length in tensor.shape), default=0):
        raise ValueError(f"{critics} critics")
