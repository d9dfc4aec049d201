"""The two-sample test of a flow: can its latents be told from the prior's draws at the same states?

Where a flow is the behaviour's, z = f⁻¹(s, a) is N(0, I) whatever s, and a classifier between (s, z) and (s, noise) is
right half of the time on episodes that it was not trained on (Lopez-Paz and Oquab, 2017). How far above is what it has
learnt to tell: marginal moments of the latents cannot see what depends on the state. Beside it stands what the state
explains of z and of z², by ridge regression on random features; the classifier is shown its predictions, for where they
vary over short distances, as in mazes, a network would take long to find them.

Rows with a saturated coordinate are judged apart from the others, as are draws of the prior that decode to such an
action: of a perfect flow both are of the same distribution, too. Chosen by the data's actions alone they would not be.
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

from flp.flow.matching import Pairs, spread
from flp.learner.nets import MLP, standardize
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Learner, Logs
from flp.learner.trainer import CHUNK, Trainer
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams

BATCH = 512  # of the data, and as many draws of the prior
LEARNING_RATE = 5e-3
REGRESSED = 2**15  # rows that the regression is fitted to
FEATURES, RIDGE = 255, 5.0  # its random features, and how many rows' worth of evidence against each of them
BANDWIDTHS = (0.5, 1.0, 2.0)  # of a third of them each, in units of the scale at which states are shown


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset's episodes.

    Attributes:
        observations: `[n, o]`.
        values: actions or latents, `[n, a]`.
        saturated: whether a coordinate of the action is saturated, `[n]`, bool.
        episodes: the number of each row's episode, `[n]`.
    """

    observations: Tensor
    values: Tensor
    saturated: Tensor
    episodes: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def only(self, rows: Tensor) -> Rows:
        """Some of the rows, by a mask or by their numbers."""
        return Rows(self.observations[rows], self.values[rows], self.saturated[rows], self.episodes[rows])


@dataclass(frozen=True)
class Scale:
    """How states are shown to networks: (s - mean) / std, times factor."""

    mean: Tensor
    std: Tensor
    factor: float


def _powers(latents: Tensor) -> Tensor:
    return torch.cat([latents, latents.square()], -1)


class Regression:
    """What states predict of (z, z²): ridge regression on random Fourier features (Rahimi and Recht, 2007).

    Args:
        train: states and latents.
        scale: how the states are shown.
        streams: of the features, on the latents' device.
    """

    def __init__(self, train: Pairs, scale: Scale, streams: RunStreams) -> None:
        self.scale, width = scale, len(scale.mean)
        bandwidths = torch.tensor(BANDWIDTHS, device=streams.device).repeat(FEATURES // len(BANDWIDTHS))
        self.directions = scale.factor / math.sqrt(width) * bandwidths * streams.normal(width, FEATURES)[0]
        self.phases = 2 * math.pi * streams.uniform(FEATURES)[0]
        batch = train.batch(spread(len(train), REGRESSED).to(streams.device))
        x, y = self.features(batch["observations"]), _powers(batch["actions"])
        self.centre, self.means = x.mean(0), y.mean(0)
        x = x - self.centre
        ridge = RIDGE * FEATURES * torch.eye(FEATURES, device=streams.device)
        self.weights = torch.linalg.solve(x.mT @ x + ridge, x.mT @ (y - self.means))

    def features(self, observations: Tensor) -> Tensor:
        """`[…, o]` to `[…, FEATURES]`."""
        shown = (observations - self.scale.mean) / self.scale.std
        return math.sqrt(2) * torch.cos(shown @ self.directions + self.phases)

    def __call__(self, observations: Tensor) -> Tensor:
        """How far the expected z and z² lie from the training rows' means, `[…, 2a]`."""
        expected: Tensor = (self.features(observations) - self.centre) @ self.weights
        return expected


class Classifier(Learner):
    """Logistic regression by a network: latents of data (positive) or draws of the prior at the same states."""

    def __init__(self, streams: RunStreams, regression: Regression, hidden: Sequence[int], updates: int) -> None:
        super().__init__()
        self.regression, scale = regression, regression.scale
        outputs = len(regression.means)
        self.latent_dim = outputs // 2
        self.net = MLP(streams, len(scale.mean) + outputs + self.latent_dim, hidden, 1)
        standardize(self.net, scale.mean, scale.std, scale.factor)
        self.optimizers = [Adam(self.net.parameters(), LEARNING_RATE, decay_steps=updates)]

    def forward(self, observations: Tensor, *latents: Tensor) -> Tensor:
        """Log odds of several latents of each state, `[R, latents · B]`."""
        shown = torch.cat([observations, 2 * self.regression(observations)], -1)
        odds: Tensor = self.net(torch.cat([torch.cat([shown, z], -1) for z in latents], 1))
        return odds[:, 0, :, 0]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """The prior's draws."""
        return {"prior": streams.normal(updates, batch_size, self.latent_dim).transpose(0, 1)}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step down the cross-entropy."""
        data, prior = self(batch["observations"], batch["actions"], noise["prior"]).chunk(2, 1)
        loss = (F.softplus(-data) + F.softplus(prior)).mean(1)
        descend(self.optimizers[0], loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def positive(self, rows: Rows) -> Tensor:
        """Whether each row is taken for data, `[n]`, bool."""
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
        held: latents of other episodes.
        prior: draws of the prior at the same states; `saturated` is what they decode to.
        scale: how the states are shown.
        hidden: widths of the classifier's hidden layers.
        updates: its gradient steps.
        seed: of all random numbers.
        checkpoint: called between chunks of steps.

    Returns:
        `all`, `saturated` and `other`, a part being None where data or prior have no such rows. Of each: `rows` and
        `prior_rows`, their numbers; `accuracy`, the mean of the shares of either that are told rightly; its 95 %
        `interval`, None where there is one episode; `r2` and `r2_squares` per dimension, what the state explains of z
        and of z² as a share of their distance from the training rows' means.
    """
    device = held.values.device
    regression = Regression(train, scale, RunStreams([seed_of("features", seed)], place=device))
    classifier = Classifier(RunStreams([seed_of("classifier", seed)], place=device), regression, hidden, updates)
    trainer = Trainer(classifier, train, RunStreams([seed_of("training", seed)], device), BATCH)
    while trainer.step < updates:
        trainer.chunk(min(CHUNK, updates - trainer.step))
        checkpoint()
    hits, rejections = classifier.positive(held), ~classifier.positive(prior)
    off = _powers(held.values) - regression.means
    baseline, left = off.square(), (off - regression(held.observations)).square()

    def part(mine: Tensor, theirs: Tensor) -> dict[str, Any] | None:
        if not (mine.any() and theirs.any()):
            return None
        accuracy, interval = _accuracy((hits[mine], held.episodes[mine]), (rejections[theirs], prior.episodes[theirs]))
        r2, r2_squares = (1 - left[mine].sum(0) / baseline[mine].sum(0)).chunk(2)
        found = {"rows": int(mine.sum()), "prior_rows": int(theirs.sum()), "accuracy": accuracy, "interval": interval}
        return found | {"r2": r2.tolist(), "r2_squares": r2_squares.tolist()}

    everything = torch.ones_like(held.saturated)
    return {
        "all": part(everything, everything),
        "saturated": part(held.saturated, prior.saturated),
        "other": part(~held.saturated, ~prior.saturated),
    }


def _accuracy(*samples: tuple[Tensor, Tensor]) -> tuple[float, list[float] | None]:
    """The mean of the samples' shares of right rows, and its interval over episodes, whose rows are alike.

    A sample is what was told rightly and the rows' episodes.
    """
    shares = [float(right.double().mean()) for right, _ in samples]
    numbers = torch.cat([episodes for _, episodes in samples]).unique()  # type: ignore[no-untyped-call]
    influence = torch.zeros(len(numbers), dtype=torch.float64)
    for share, (right, episodes) in zip(shares, samples, strict=True):
        place = torch.searchsorted(numbers, episodes).cpu()
        influence.index_add_(0, place, (right.cpu().double() - share) / (len(right) * len(samples)))
    accuracy, count = sum(shares) / len(shares), len(numbers)
    if count < 2:
        return accuracy, None
    deviation = math.sqrt(count / (count - 1) * float(influence.square().sum()))
    reach = float(stdtrit(count - 1, 0.975)) * deviation
    return accuracy, [max(0.0, accuracy - reach), min(1.0, accuracy + reach)]
