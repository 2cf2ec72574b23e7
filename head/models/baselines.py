"""Heads on pooled vectors, which look at an image once and at no place in it: linear and perceptron.

They compute in float64, as scikit-learn does, which fits them: each candidate of a fixed grid, from which
`head.training.baselines` chooses. docs/heads.md says what each baseline is, and why its grid is that. Those by kernels
are in `head.models.svr`, one with a penalty a layer in `head.models.banded`.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from head.data.vectors import Vectors
from head.models.amnet import HeadOutput
from head.settings import TrainSettings

if TYPE_CHECKING:  # scikit-learn takes a second to import
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.neural_network import MLPRegressor

RIDGE_ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 6, 13))
LIBLINEAR = {"loss": "epsilon_insensitive", "dual": True, "C": 1.0, "epsilon": 1e-6, "intercept_scaling": 1.0}
MOST_PASSES = 1_000_000  # it needs some hundreds
MLP_SIZES = (64, 256)
MLP_ALPHAS = (0.01, 0.1, 1.0, 10.0)
MLP_BATCH, MLP_LR = 32, 1e-3
Values = dict[str, float]
Head = TypeVar("Head", bound=nn.Module)


@dataclass(frozen=True)
class Task:
    """Training vectors, and their scores y (n) of mean 0 and deviation 1, both weighted as the vectors are."""

    vectors: Vectors
    y: NDArray[np.float64]
    settings: TrainSettings

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x (n, D) and y (n), each line times the root of its weight: least squares of these are weighted."""
        if self.vectors.weights is None:
            return self.vectors.x, self.y
        roots = np.sqrt(self.vectors.weights)
        return self.vectors.x * roots[:, np.newaxis], self.y * roots


@dataclass(frozen=True)
class Candidate:
    """Hyperparameters and the head that they give, fitted when asked for; of one fitted by epochs a head an epoch."""

    values: Values
    heads: Iterator[nn.Module]


@dataclass(frozen=True)
class Baseline:
    """candidates yields as many as number says, which by_epochs are fitted epoch by epoch, to keep the best of them.

    Their values are the same for all training parts. most_vectors is on how many vectors it can be fitted, None for any
    number. way_out_of_negative gives for settings what to take instead where features are negative, '' if it takes any.
    """

    candidates: Callable[[Task], Iterator[Candidate]]
    number: Callable[[Task], int]
    most_vectors: int | None = None
    by_epochs: bool = False
    way_out_of_negative: Callable[[TrainSettings], str] = lambda settings: ""


@dataclass(frozen=True)
class LinearShape:
    """channels D is the length of a pooled vector, steps is T."""

    channels: int
    steps: int = 1


@dataclass(frozen=True)
class PerceptronShape:
    """channels D is the length of a pooled vector, hidden_size is H, steps is T."""

    channels: int
    hidden_size: int
    steps: int = 1


class Standardise(nn.Module):
    """Map pooled vectors (B, 1, D) or (B, D) to (B, D) float64 of mean 0 and deviation 1 over the training vectors."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(channels, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features of any float type, and of any device: some have no float64."""
        return (features.flatten(1).to(self.mean.device).double() - self.mean) / self.deviation


class LinearHead(nn.Module):
    """Score pooled vectors (B, 1, D) by a weighted sum of their standardised channels."""

    weight: Tensor

    def __init__(self, shape: LinearShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.register_buffer("weight", torch.zeros(shape.channels, dtype=torch.float64))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        return output_of(self.standardise(features) @ self.weight)


class AffineHead(nn.Module):
    """Score pooled vectors (B, 1, D) by a weighted sum of their standardised channels, and an intercept."""

    weight: Tensor
    intercept: Tensor

    def __init__(self, shape: LinearShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.register_buffer("weight", torch.zeros(shape.channels, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        return output_of(self.standardise(features) @ self.weight + self.intercept)


class PerceptronHead(nn.Module):
    """Score pooled vectors (B, 1, D) by one hidden layer of H rectified units."""

    def __init__(self, shape: PerceptronShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.hidden = nn.Linear(shape.channels, shape.hidden_size, dtype=torch.float64)
        self.output = nn.Linear(shape.hidden_size, 1, dtype=torch.float64)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        return output_of(self.output(functional.relu(self.hidden(self.standardise(features)))).squeeze(1))


def output_of(score: Tensor) -> HeadOutput:
    """Return scores (B) as the only step's; maps are empty, (B, 1, 0): there are no positions to attend to."""
    return HeadOutput(score, score.unsqueeze(1), score.new_empty((score.shape[0], 1, 0)))


def _linear(task: Task) -> Iterator[Candidate]:
    from sklearn.linear_model import LinearRegression

    # x and y have mean 0
    yield Candidate({}, _linear_head(task, *task.weighted(), LinearRegression(fit_intercept=False, copy_X=False)))


def _ridge(task: Task) -> Iterator[Candidate]:
    from sklearn.linear_model import Ridge

    x, y = task.weighted()
    for alpha in RIDGE_ALPHAS:
        model = Ridge(alpha, fit_intercept=False, copy_X=False)
        yield Candidate({"alpha": alpha}, _linear_head(task, x, y, model))


def _linear_head(
    task: Task, x: NDArray[np.float64], y: NDArray[np.float64], model: "LinearRegression | Ridge"
) -> Iterator[LinearHead]:
    model.fit(x, y)
    yield filled(LinearHead(LinearShape(x.shape[1])), task.vectors, {"weight": model.coef_})


def _lsvr(task: Task) -> Iterator[Candidate]:
    yield Candidate({}, _affine_head(task))


def _affine_head(task: Task) -> Iterator[AffineHead]:
    """Fit to vectors divided by the root of D, which are as long in the mean as those of length 1 that it was set for.

    Otherwise C = 1 is hardly a penalty, and liblinear does not converge.
    """
    from sklearn.svm import LinearSVR

    channels = task.vectors.x.shape[1]
    model = LinearSVR(**LIBLINEAR, fit_intercept=True, max_iter=MOST_PASSES, random_state=0)
    model.fit(task.vectors.x / math.sqrt(channels), task.y, sample_weight=task.vectors.weights)
    values = {"weight": model.coef_ / math.sqrt(channels), "intercept": model.intercept_[0]}
    yield filled(AffineHead(LinearShape(channels)), task.vectors, values)


def _mlp(task: Task) -> Iterator[Candidate]:
    for size, alpha in product(MLP_SIZES, MLP_ALPHAS):
        yield Candidate({"hidden_size": size, "alpha": alpha}, _perceptron_heads(task, size, alpha))


def _perceptron_heads(task: Task, size: int, alpha: float) -> Iterator[PerceptronHead]:
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(
        hidden_layer_sizes=(size,),
        alpha=alpha,
        batch_size=min(MLP_BATCH, len(task.y)),
        learning_rate_init=MLP_LR,
        random_state=np.random.RandomState(task.settings.seed % 2**32),  # a generator: another order each epoch
    )
    for _ in range(task.settings.epochs):
        _train_epoch(model, task)
        yield _perceptron_head(task, model)


def _train_epoch(model: "MLPRegressor", task: Task) -> None:
    """Run one epoch; scikit-learn turns an interrupt into a warning, here it stays one.

    On one core: its matrices are so small that threads wait for each other, ten times as long on a busy machine.
    """
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", "Training interrupted by user")
        model.partial_fit(task.vectors.x, task.y)
    if model.n_iter_ == 0:
        raise KeyboardInterrupt


def _perceptron_head(task: Task, model: "MLPRegressor") -> PerceptronHead:
    layers = zip(("hidden", "output"), model.coefs_, model.intercepts_, strict=True)
    values = {f"{layer}.{name}": one for layer, w, b in layers for name, one in (("weight", w.T), ("bias", b))}
    return filled(PerceptronHead(PerceptronShape(*model.coefs_[0].shape)), task.vectors, values)


def filled(head: Head, vectors: Vectors, values: dict[str, Any]) -> Head:
    """Return a head that standardises as its training vectors were and has these values, by their names in it."""
    scale = {"standardise.mean": vectors.mean, "standardise.deviation": vectors.deviation}
    head.load_state_dict({name: torch.as_tensor(np.asarray(value)) for name, value in {**scale, **values}.items()})
    return head


LINEAR = Baseline(_linear, lambda task: 1)
RIDGE = Baseline(_ridge, lambda task: len(RIDGE_ALPHAS))
LINEAR_SVR = Baseline(_lsvr, lambda task: 1)
PERCEPTRON = Baseline(_mlp, lambda task: len(MLP_SIZES) * len(MLP_ALPHAS), by_epochs=True)
