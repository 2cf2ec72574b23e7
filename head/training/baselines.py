"""Fit a baseline to one split with scikit-learn: each candidate of a fixed grid, the best on the selection part kept.

docs/heads.md says what each baseline is, why its grid is that, and which stored views it is fitted on.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from featcache.base.progress import OnProgress, Progress, silent
from head.data.batches import EVAL_VIEW, SplitData
from head.evaluation.metrics import Scores, mean_squared_error, spearman
from head.models.baselines import (
    KernelHead,
    KernelShape,
    LinearHead,
    LinearShape,
    PerceptronHead,
    PerceptronShape,
    Standardise,
    squared_distance,
)
from head.runs.history import OnHistory, ignored
from head.settings import TrainSettings
from head.training.fitted import Fitted
from head.training.job import TrainingJob
from head.training.protocol import TargetScale
from head.training.vectors import Vectors, read_vectors

if TYPE_CHECKING:  # scikit-learn takes a second to import
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.neural_network import MLPRegressor
    from sklearn.svm import SVR

RIDGE_ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 6, 13))
SVR_COSTS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C, for scores of deviation 1
SVR_MARGINS = (0.1, 0.3)  # epsilon, in deviations of the scores
SVR_WIDTHS = (0.03, 0.1, 0.3, 1.0)  # gamma times D; standardised vectors are 2 D apart in the mean, squared
MLP_SIZES = (64, 256)
MLP_ALPHAS = (0.01, 0.1, 1.0, 10.0)
MLP_BATCH, MLP_LR = 32, 1e-3
MOST_SVR_VECTORS = 8000  # its matrices grow with the square: two of 0.5 GB
_BATCH = 1024
Values = dict[str, float]
Candidates = Iterator[tuple[Values, nn.Module]]


@dataclass(frozen=True)
class Baseline:
    """fit yields so many candidates; most_vectors is on how many it can be fitted, None for any number."""

    fit: "Callable[[_Task], Candidates]"
    candidates: int
    most_vectors: int | None = None


@dataclass(frozen=True)
class _Task:
    """Training vectors, their scores y (n) on the scale of target, and the features and scores to select on."""

    vectors: Vectors
    target: TargetScale
    y: Scores
    select: Tensor  # (m, 1, D)
    truth: Scores
    settings: TrainSettings

    @torch.inference_mode()
    def judge(self, module: nn.Module) -> dict[str, float]:
        """Return what history says of a head: rho, MSE and spread of its predictions for the selection part."""
        batches = [self.select[start : start + _BATCH] for start in range(0, len(self.select), _BATCH)]
        scores = torch.cat([module(batch).score for batch in batches])
        prediction = scores.numpy() * self.target.scale + self.target.mean
        return {
            "val_rho": spearman(prediction, self.truth),
            "val_mse": mean_squared_error(prediction, self.truth),
            "val_prediction_sd": float(np.std(prediction)),
        }


def fit_baseline(
    baseline: Baseline,
    job: TrainingJob,
    data: SplitData,
    *,
    device: torch.device | None = None,
    on_progress: OnProgress = silent,
    on_history: OnHistory = ignored,
) -> Fitted:
    """Fit a baseline, on the CPU whatever the device; its history has a line for each candidate, numbered as 'epoch'.

    The candidate of the highest rho on the selection part is kept, among equals the one of the lowest MSE, then the
    first. The same settings, data and machine give the same head.
    """
    cache, settings, source = job.cache, job.settings, job.input
    vectors = read_vectors(cache, data.train, source, seed=settings.seed, most_vectors=baseline.most_vectors)
    target = TargetScale(float(np.mean(vectors.scores)), float(np.std(vectors.scores)) or 1.0)
    y = (vectors.scores - target.mean) / target.scale
    select = source.read(cache, data.select.rows, EVAL_VIEW)
    task = _Task(vectors, target, y, select, data.select.scores, settings)
    history: list[dict[str, float]] = []
    best: tuple[int, Values, nn.Module] | None = None
    for number, (values, module) in enumerate(baseline.fit(task), 1):
        history.append({"epoch": number, **task.judge(module), **values})
        if best is None or _is_better(history[-1], history[best[0] - 1]):
            best = number, values, module
        on_history(history)
        top = history[best[0] - 1]["val_rho"]
        note = f"rho {history[-1]['val_rho']:.3f}, best {top:.3f}{_left_out(vectors, data)}"
        on_progress(Progress(settings.head, number, baseline.candidates, "candidates", note))
    assert best
    details = {
        "hyperparameters": best[1],
        "fitted_images": vectors.images,
        "fitted_views_each": vectors.views_each,
    }
    return Fitted(best[2], target, history, best[0], details)


def _left_out(vectors: Vectors, data: SplitData) -> str:
    n = len(data.train.rows)
    return "" if vectors.images == n else f", fitted on {vectors.images:,} of {n:,} images, drawn by the seed"


def _is_better(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether rho, then MSE of a is better; NaN, of constant predictions, is below every rho."""
    return _rank(a) > _rank(b)


def _rank(line: dict[str, float]) -> tuple[float, float]:
    return (-math.inf if math.isnan(line["val_rho"]) else line["val_rho"]), -line["val_mse"]


def _linear(task: _Task) -> Candidates:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression(fit_intercept=False, copy_X=False)  # x and y have mean 0
    yield {}, _linear_head(task, model)


def _ridge(task: _Task) -> Candidates:
    from sklearn.linear_model import Ridge

    for alpha in RIDGE_ALPHAS:
        yield {"alpha": alpha}, _linear_head(task, Ridge(alpha, fit_intercept=False, copy_X=False))


def _linear_head(task: _Task, model: "LinearRegression | Ridge") -> LinearHead:
    model.fit(task.vectors.x, task.y)
    head = LinearHead(LinearShape(channels=task.vectors.x.shape[1]))
    _set_scale(head.standardise, task.vectors)
    head.weight.copy_(torch.from_numpy(model.coef_))
    return head


def _svr(task: _Task) -> Candidates:
    """Fit with kernels computed here, once a width: libsvm takes the same and computes it 15 to 40 times slower."""
    from sklearn.svm import SVR

    x = torch.from_numpy(task.vectors.x)
    distance = squared_distance(x, x).numpy()  # (n, n)
    kernel = np.empty_like(distance)
    for width in SVR_WIDTHS:
        gamma = width / x.shape[1]
        np.exp(np.multiply(distance, -gamma, out=kernel), out=kernel)
        for cost, margin in product(SVR_COSTS, SVR_MARGINS):
            model = SVR(kernel="precomputed", C=cost, epsilon=margin).fit(kernel, task.y)
            yield {"C": cost, "epsilon": margin, "gamma": gamma}, _kernel_head(task, model, gamma)


def _kernel_head(task: _Task, model: "SVR", gamma: float) -> KernelHead:
    support = task.vectors.as_stored(model.support_)
    head = KernelHead(KernelShape(channels=support.shape[1], vectors=len(support)))
    _set_scale(head.standardise, task.vectors)
    head.support.copy_(torch.from_numpy(support))
    head.weight.copy_(torch.from_numpy(model.dual_coef_[0]))
    head.intercept.fill_(float(model.intercept_[0]))
    head.gamma.fill_(gamma)
    return head


def _mlp(task: _Task) -> Candidates:
    for size, alpha in product(MLP_SIZES, MLP_ALPHAS):
        yield _stopped_early(task, size, alpha)


def _stopped_early(task: _Task, size: int, alpha: float) -> tuple[Values, PerceptronHead]:
    """Train until `patience` epochs have brought nothing better on the selection part; return the best epoch's head."""
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(
        hidden_layer_sizes=(size,),
        alpha=alpha,
        batch_size=min(MLP_BATCH, len(task.y)),
        learning_rate_init=MLP_LR,
        random_state=np.random.RandomState(task.settings.seed % 2**32),  # a generator: another order each epoch
    )
    best: tuple[int, dict[str, float], PerceptronHead] | None = None
    for epoch in range(1, task.settings.epochs + 1):
        _train_epoch(model, task)
        head = _perceptron_head(task, model)
        judged = task.judge(head)
        if best is None or _is_better(judged, best[1]):
            best = epoch, judged, head
        elif epoch - best[0] >= task.settings.patience:
            break
    assert best
    return {"hidden_size": size, "alpha": alpha, "epochs": best[0]}, best[2]


def _train_epoch(model: "MLPRegressor", task: _Task) -> None:
    """Run one epoch; scikit-learn turns an interrupt into a warning, here it stays one.

    On one core: its matrices are so small that threads wait for each other, ten times as long on a busy machine.
    """
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", "Training interrupted by user")
        model.partial_fit(task.vectors.x, task.y)
    if model.n_iter_ == 0:
        raise KeyboardInterrupt


def _perceptron_head(task: _Task, model: "MLPRegressor") -> PerceptronHead:
    channels, size = model.coefs_[0].shape
    head = PerceptronHead(PerceptronShape(channels=channels, hidden_size=size))
    _set_scale(head.standardise, task.vectors)
    layers = zip((head.hidden, head.output), model.coefs_, model.intercepts_, strict=True)
    with torch.no_grad():
        for layer, weight, bias in layers:
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return head


def _set_scale(standardise: Standardise, vectors: Vectors) -> None:
    standardise.mean.copy_(torch.from_numpy(vectors.scaler.mean_))
    standardise.deviation.copy_(torch.from_numpy(vectors.scaler.scale_))


LINEAR = Baseline(_linear, 1)
RIDGE = Baseline(_ridge, len(RIDGE_ALPHAS))
KERNEL = Baseline(_svr, len(SVR_WIDTHS) * len(SVR_COSTS) * len(SVR_MARGINS), MOST_SVR_VECTORS)
PERCEPTRON = Baseline(_mlp, len(MLP_SIZES) * len(MLP_ALPHAS))
