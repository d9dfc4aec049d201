"""A policy as one file that other programs run without flp: observations and noise in, actions out.

An agent's `act` is traced with its noise as inputs, which works for every agent: scaling, candidates, selection and
flow are all part of the graph, and the same inputs give the same action.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from flp.data.environments import EnvironmentSpec, make_environment, seeded_reset
from flp.library.noise import Noise, RecordingStreams, ReplayingStreams, inputs_of, noise_of
from flp.library.onnx_format import Run, session, to_onnx
from flp.library.policy import Policy
from flp.library.trial import load_dataset
from flp.parts.base import Agent
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.system import layout
from flp.system.artifacts import versions
from flp.system.errors import FLPError, first_line

Format = Literal["torch", "onnx"]
CONTRACT = "contract.json"
CHECKED, TOLERANCE = 256, 1e-5
_TIES = 0.02  # share of observations where another candidate may be chosen because two have the same value


class Acting(nn.Module):
    """`act` of one run as a function of tensors, in the environment's units, with only the modules that it uses."""

    def __init__(self, agent: Agent, noise: Sequence[Noise], used: set[int], spec: EnvironmentSpec) -> None:
        super().__init__()
        self.unscales = not spec.in_units
        if self.unscales:
            for name, bound in zip(("low", "high"), spec.bounds, strict=True):
                self.register_buffer(name, torch.tensor(bound))
        # Without the optimizers and whatever acting never reads, such as target networks.
        unused = {id(t): None for t in (*agent.parameters(), *agent.buffers()) if id(t) not in used}
        self.agent = deepcopy(agent, {id(agent.optimizers): [], **unused})
        for module in self.agent.modules():
            for tensors in (module._parameters, module._buffers):
                for name in [name for name, tensor in tensors.items() if tensor is None]:
                    del tensors[name]
        self.noise = noise

    def forward(self, observation: Tensor, *noise: Tensor) -> Tensor:
        """`[batch, o]` and the noise to `[batch, a]`."""
        streams = ReplayingStreams([form.drawn(given) for form, given in zip(self.noise, noise, strict=True)])
        with _AnyBatch():
            action = self.agent.act(observation[None], streams).clamp(-1, 1)[0]
        if self.unscales:
            low, high = self.get_buffer("low"), self.get_buffer("high")
            action = torch.clamp(low + (action + 1) / 2 * (high - low), low, high)
        return action


class _AnyBatch(TorchFunctionMode):
    """Replaces operations that would otherwise be traced for a single batch size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = _take_along_dim if func in (torch.take_along_dim, Tensor.take_along_dim) else func
        return function(*args, **(kwargs or {}))


def _take_along_dim(input: Tensor, indices: Tensor, dim: int) -> Tensor:
    """`take_along_dim` for indices that are broadcast to the input's other dimensions."""
    sizes = list(input.shape)
    sizes[dim] = indices.shape[dim]
    return input.gather(dim, indices.expand(sizes))


class _RecordReads(TorchFunctionMode):
    """Records which tensors are read."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ids |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def export(policy: Policy, form: Format) -> tuple[bytes, dict[str, Any]]:
    """The policy as the bytes of a file, verified on observations of its environment, and its contract.

    Args:
        policy: on the CPU.
        form: `torch` for a program of torch.export (`.pt2`), `onnx` for onnxruntime and similar.

    Raises:
        FLPError: it cannot be traced, `onnx` is not installed, or the file's actions are not the policy's.
    """
    noise = noise_of(policy)
    observations = sample_observations(policy)
    rows = inputs_of(policy, noise, observations[:2], 0)[1]
    with _RecordReads() as used:
        policy._learner.act(torch.from_numpy(observations[:2])[None], RecordingStreams(0))
    acting, batch = Acting(policy._learner, noise, used.ids, policy.spec), torch.export.Dim("batch")
    tensors = [torch.from_numpy(row) for row in rows]
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # the tracer prints its steps
            dynamic = ({0: batch}, *([({0: batch},) * len(noise)] if noise else []))
            program = torch.export.export(acting, tuple(tensors), dynamic_shapes=dynamic)
    except Exception as error:  # the tracer's errors have no common type
        raise FLPError(f"{policy.agent} cannot be exported: its act cannot be traced ({first_line(error)})") from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    contract = contract_of(policy, noise, form)
    if form == "torch":
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={CONTRACT: json.dumps(contract)})
        written = buffer.getvalue()
    else:
        written = to_onnx(program, contract)
    verify(policy, noise, opened(written, form), observations)
    return written, contract


def opened(written: bytes, form: Format) -> Run:
    """The file loaded as another program would load it, as a function."""
    if form == "onnx":
        return session(written)
    module = torch.export.load(io.BytesIO(written)).module()

    def run(inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            actions: NDArray[np.float32] = module(*map(torch.from_numpy, inputs)).numpy()
        return actions

    return run


def sample_observations(policy: Policy) -> NDArray[np.float32]:
    """Observations `[CHECKED, o]` from rollouts of the policy, with a new episode every 64 steps.

    Without a simulator they are spread over the held-out data.
    """
    if not policy.spec.simulated:
        file = Path(layout.DATA.format(dataset=policy.dataset) + "-val.npz")
        if not file.exists():
            raise FLPError(
                f"{policy.dataset} has no simulator, and {file} is not here to check the export on; go there"
            )
        held_out = load_dataset(policy.dataset, validation=True).observations
        rows: NDArray[np.float32] = held_out[np.linspace(0, len(held_out) - 1, CHECKED).astype(int)]
        return rows
    timing = policy.manifest["model"]["offline"]["success_timing"]
    environment, streams = make_environment(policy.spec, policy.task, timing), RunStreams([0])
    observations: list[NDArray[np.float32]] = []
    try:
        ended = True
        for i in range(CHECKED):
            if ended or i % 64 == 0:
                observation, _ = seeded_reset(environment, seed_of("export", i))
            observations.append(observation.astype(np.float32))
            action = policy.act(torch.from_numpy(observations[-1])[None, None], streams)[0, 0].numpy()
            observation, _, terminated, truncated, _ = environment.step(action)
            ended = terminated or truncated
    finally:
        environment.close()
    return np.stack(observations)


def verify(policy: Policy, noise: Sequence[Noise], run: Run, observations: NDArray[np.float32]) -> None:
    """Compare with the policy, on all observations at once and on a single one.

    If two candidates have exactly the same value, either may be chosen; such observations are retried with other noise.

    Raises:
        FLPError: an action differs by more than the tolerance, in units of [-1, 1], plus float32's rounding in the
            environment's units.
    """
    low, high = map(np.array, policy.spec.bounds)
    allowed = TOLERANCE + getattr(policy.spec, "rounding", 0.0)
    for batch in (observations, observations[:1]):
        left = np.arange(len(batch))
        for seed in range(5):
            actions, inputs = inputs_of(policy, noise, batch, seed)
            gaps = np.abs(2 * (run(inputs) - low) / (high - low) - 1 - actions)
            differ = np.flatnonzero(~(gaps <= allowed).all(1))
            left = np.intersect1d(left, differ)
            if not left.size or len(differ) > 1 + _TIES * len(batch):
                break
        if left.size:
            worst = gaps[left].max()
            raise FLPError(
                f"the exported {policy.agent} differs from the policy by {worst:.1e} in {len(left)} of {len(batch)} "
                f"observations, more than {TOLERANCE:g}; it is not written"
            )


def contract_of(policy: Policy, noise: Sequence[Noise], form: Format) -> dict[str, Any]:
    """What a user of the file must know: its inputs and outputs, and the policy that it contains."""
    names = ["noise"] if len(noise) == 1 else [f"noise_{i}" for i in range(len(noise))]
    drawn = [
        {
            "name": name,
            "shape": ["batch", *n.shape],
            "dtype": "int64" if n.kind.startswith("integers") else "float32",
            "distribution": n.kind,
        }
        for name, n in zip(names, noise, strict=True)
    ]
    observation = {"name": "observation", "shape": ["batch", policy.observation_dim], "dtype": "float32"}
    low, high = policy.spec.bounds
    limits = [-1.0, 1.0] if policy.spec.in_units else [list(low), list(high)]
    action = {"name": "action", "shape": ["batch", policy.action_dim], "dtype": "float32", "range": limits}
    about = {name: policy.manifest.get(name) for name in ("agent", "dataset", "task", "seed", "step", "key", "sha256")}
    return {
        "format": f"flp policy, {form}",
        "format_version": 1,
        "inputs": [
            observation | {"range": "finite numbers; far outside the range of the data, actions may be NaN"},
            *drawn,
        ],
        "outputs": [action],
        **about,
        "candidates": policy.candidates,
        "checked": {"observations": CHECKED, "tolerance": TOLERANCE},
        "versions": versions(),
        "trained_with": policy.manifest.get("versions"),
    }
