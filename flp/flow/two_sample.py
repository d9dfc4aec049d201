"""The two-sample test of a flow: can its latents be distinguished from draws of the prior at the same states?

If a flow models the behaviour, z = f⁻¹(s, a) is N(0, I) whatever s, and a classifier between (s, z) and (s, noise) has
an accuracy of 50 % on episodes it was not trained on (Lopez-Paz and Oquab, 2017). Its excess reveals what depends on
the state, which marginal moments of the latents cannot. Also reported is the share of z and z² that the state explains,
by ridge regression on random features; the classifier is given the regression's predictions, because where they vary
over short distances, as in mazes, a network would take long to find them.

Rows with a saturated coordinate are judged separately from the others, as are draws of the prior that decode to such an
action: for a perfect flow these two have equal distributions as well, unlike draws selected by the data's actions. How
many there are of either is a test of its own, which sees at once what a network hardly learns from latents: that a flow
blurs the edge beyond which saturated actions lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor

from flp.flow.matching import Pairs, evenly_spaced
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Learner, Logs
from flp.learner.trainer import Trainer
from flp.networks.mlp import MLP, standardize
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams

BATCH = 512  # rows of the data, and as many draws of the prior
LEARNING_RATE = 5e-3
REGRESSED = 2**15  # rows to which the regression is fitted
FEATURES, RIDGE = 255, 5.0  # random features, and the penalty per feature in rows
BANDWIDTHS = (0.5, 1.0, 2.0)  # of a third of the features each, in units of the standardised states


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset's episodes.

    Attributes:
        observations: `[n, o]`.
        values: actions or latents, `[n, a]`.
        saturated: whether a coordinate of the action is saturated, `[n]`, bool.
        episodes: each row's episode number, `[n]`.
    """

    observations: Tensor
    values: Tensor
    saturated: Tensor
    episodes: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def only(self, rows: Tensor) -> Rows:
        """A subset of the rows, by a mask or by indices."""
        return Rows(self.observations[rows], self.values[rows], self.saturated[rows], self.episodes[rows])


@dataclass(frozen=True)
class Scale:
    """How networks standardise states: factor · (s − mean) / std, with mean and std `[o]`."""

    mean: Tensor
    std: Tensor
    factor: float


def _powers(latents: Tensor) -> Tensor:
    return torch.cat([latents, latents.square()], -1)


class Regression:
    """E[(z, z²) | s] by ridge regression on random Fourier features (Rahimi and Recht, 2007).

    Args:
        train: states and latents.
        scale: how states are standardised.
        streams: random streams of the features, on the latents' device.
    """

    def __init__(self, train: Pairs, scale: Scale, streams: RunStreams) -> None:
        self.scale, width = scale, len(scale.mean)
        bandwidths = torch.tensor(BANDWIDTHS, device=streams.device).repeat(FEATURES // len(BANDWIDTHS))
        self.directions = scale.factor / math.sqrt(width) * bandwidths * streams.normal(width, FEATURES)[0]
        self.phases = 2 * math.pi * streams.uniform(FEATURES)[0]
        batch = train.batch(evenly_spaced(len(train), REGRESSED).to(streams.device))
        x, y = self.features(batch["observations"]), _powers(batch["actions"])
        self.centre, self.means = x.mean(0), y.mean(0)
        x = x - self.centre
        ridge = RIDGE * FEATURES * torch.eye(FEATURES, device=streams.device)
        self.weights = torch.linalg.solve(x.mT @ x + ridge, x.mT @ (y - self.means))

    def features(self, observations: Tensor) -> Tensor:
        """`[…, o]` to `[…, FEATURES]`."""
        standardized = (observations - self.scale.mean) / self.scale.std
        return math.sqrt(2) * torch.cos(standardized @ self.directions + self.phases)

    def __call__(self, observations: Tensor) -> Tensor:
        """Predicted deviations of (z, z²) from their means over the training rows, `[…, 2a]`."""
        expected: Tensor = (self.features(observations) - self.centre) @ self.weights
        return expected


class Classifier(Learner):
    """Logistic regression by a network: latents of the data (positive) versus draws of the prior."""

    def __init__(self, streams: RunStreams, regression: Regression, hidden: Sequence[int], updates: int) -> None:
        super().__init__()
        self.regression, scale = regression, regression.scale
        outputs = len(regression.means)
        self.latent_dim = outputs // 2
        self.net = MLP(streams, len(scale.mean) + outputs + self.latent_dim, hidden, 1)
        standardize(self.net, scale.mean, scale.std, scale.factor)
        self.optimizers = [Adam(self.net.parameters(), LEARNING_RATE, decay_steps=updates)]

    def forward(self, observations: Tensor, *latents: Tensor) -> Tensor:
        """Log odds of several latents `[R, B, a]` at states `[R, B, o]`, concatenated: `[R, latents · B]`."""
        features = torch.cat([observations, 2 * self.regression(observations)], -1)
        return self.net(torch.cat([torch.cat([features, z], -1) for z in latents], 1))[:, 0, :, 0]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`prior` ~ N(0, I), `[updates, R, B, a]`."""
        return {"prior": streams.normal(updates, batch_size, self.latent_dim).transpose(0, 1)}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One gradient step on the cross-entropy."""
        data, prior = self(batch["observations"], batch["actions"], noise["prior"]).chunk(2, 1)
        loss = (F.softplus(-data) + F.softplus(prior)).mean(1)
        descend(self.optimizers[0], loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def is_data(self, rows: Rows) -> Tensor:
        """Whether each row is classified as data, bool `[n]`."""
        odds: Tensor = self(rows.observations[None], rows.values[None])[0]
        return odds > 0


def two_sample_test(
    train: Pairs,
    held: Rows,
    prior: Rows,
    scale: Scale,
    hidden: Sequence[int],
    updates: int,
    seed: int,
    checkpoint: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Fit a classifier and a regression to some episodes' latents, and judge both on other episodes.

    Args:
        train: states and latents to fit to.
        held: latents of held-out episodes.
        prior: draws of the prior at the same states, `saturated` if they decode to a saturated action.
        scale: how states are standardised.
        hidden: widths of the classifier's hidden layers.
        updates: the classifier's gradient steps.
        seed: seed of all random numbers.
        checkpoint: called between chunks of steps.

    Returns:
        A dict for `all`, `saturated` and `other` rows, or None if data or prior have no such rows. Each has the numbers
        `rows` and `prior_rows`; `accuracy`, balanced between data and prior; its 95 % `interval`, None with a single
        episode; `r2` and `r2_squares` per dimension, the shares of z and z² that the state explains, relative to the
        training rows' means.
    """
    device = held.values.device
    regression = Regression(train, scale, RunStreams([seed_of("features", seed)], place=device))
    classifier = Classifier(RunStreams([seed_of("classifier", seed)], place=device), regression, hidden, updates)
    trainer = Trainer(classifier, train, RunStreams([seed_of("training", seed)], device), BATCH)
    trainer.run_to(updates, checkpoint)
    hits, rejections = classifier.is_data(held), ~classifier.is_data(prior)
    deviations = _powers(held.values) - regression.means
    total, residual = deviations.square(), (deviations - regression(held.observations)).square()

    def judge(data: Tensor, draws: Tensor) -> dict[str, Any] | None:
        if not (data.any() and draws.any()):
            return None
        accuracy, interval = _accuracy((hits[data], held.episodes[data]), (rejections[draws], prior.episodes[draws]))
        r2, r2_squares = (1 - residual[data].sum(0) / total[data].sum(0)).chunk(2)
        result = {"rows": int(data.sum()), "prior_rows": int(draws.sum()), "accuracy": accuracy, "interval": interval}
        return result | {"r2": r2.tolist(), "r2_squares": r2_squares.tolist()}

    everything = torch.ones_like(held.saturated)
    return {
        "all": judge(everything, everything),
        "saturated": judge(held.saturated, prior.saturated),
        "other": judge(~held.saturated, ~prior.saturated),
    }


def saturation_test(held: Rows, prior: Rows) -> dict[str, Any]:
    """Distinguish latents of the data from draws of the prior by whether they decode to a saturated action.

    Args:
        held: rows of the data.
        prior: draws of the prior at the same states.

    Returns:
        `data` and `prior`, the shares of saturated rows; `accuracy`, balanced, at least one half; its 95 % `interval`.
    """
    accuracy, interval = _accuracy((held.saturated, held.episodes), (~prior.saturated, prior.episodes))
    if accuracy < 0.5:
        accuracy, interval = 1 - accuracy, interval and [1 - interval[1], 1 - interval[0]]
    data, draws = (float(rows.saturated.double().mean()) for rows in (held, prior))
    return {"data": data, "prior": draws, "accuracy": accuracy, "interval": interval}


def _accuracy(*samples: tuple[Tensor, Tensor]) -> tuple[float, list[float] | None]:
    """The balanced accuracy over samples, and its 95 % interval, clustered by episode, whose rows are correlated.

    A sample is whether each row was classified correctly, bool `[n]`, and the rows' episodes `[n]`.
    """
    shares = [float(correct.double().mean()) for correct, _ in samples]
    numbers = torch.cat([episodes for _, episodes in samples]).unique()  # type: ignore[no-untyped-call]
    influence = torch.zeros(len(numbers), dtype=torch.float64)
    for share, (correct, episodes) in zip(shares, samples, strict=True):
        place = torch.searchsorted(numbers, episodes).cpu()
        influence.index_add_(0, place, (correct.cpu().double() - share) / (len(correct) * len(samples)))
    accuracy, count = sum(shares) / len(shares), len(numbers)
    if count < 2:
        return accuracy, None
    standard_error = math.sqrt(count / (count - 1) * float(influence.square().sum()))
    margin = float(stdtrit(count - 1, 0.975)) * standard_error
    return accuracy, [max(0.0, accuracy - margin), min(1.0, accuracy + margin)]
