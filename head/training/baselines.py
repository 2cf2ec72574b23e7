"""Fit a baseline to one split with scikit-learn: of all its candidates the best on the selection part is kept.

docs/heads.md says which stored views it is fitted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featcache.base.errors import InvalidSettings
from featcache.base.progress import OnProgress, Progress
from featcache.datasets.splits import Part
from head.data.batches import EVAL_VIEW, Choice, SplitData
from head.data.vectors import read_vectors
from head.data.weights import image_weights
from head.evaluation.metrics import Scores, judged, rank
from head.models.baselines import Baseline, Candidate, Task
from head.models.kinds import TargetScale, behind, kind_for, weighted_scale
from head.runs.history import OnHistory
from head.training.fitted import Fitted
from head.training.gradients.trainer import details_of
from head.training.job import TrainingJob

_BATCH = 1024


@dataclass(frozen=True)
class _Fold:
    """What is fitted on, in memory, its scale of targets, and features (m, 1, D) of what is predicted."""

    task: Task
    target: TargetScale
    held_out: Tensor

    @torch.inference_mode()
    def predict(self, module: nn.Module) -> Scores:
        scores = torch.cat([module(batch).score for batch in torch.split(self.held_out, _BATCH)])
        return scores.numpy() * self.target.scale + self.target.mean


@dataclass(frozen=True)
class _Choice:
    """The number of a candidate, how many epochs it was fitted, what it reached and predicted, and a head a fold."""

    number: int
    epochs: int
    line: dict[str, float]
    predicted: Scores
    heads: tuple[nn.Module, ...]

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Its own numbers, without those that judge it."""
        return {name: value for name, value in self.line.items() if name != "epoch" and not name.startswith("val_")}


def fit_baseline(job: TrainingJob, data: SplitData, *, on_progress: OnProgress, on_history: OnHistory) -> Fitted:
    """Fit a baseline, on the CPU whatever the device; its history has a line for each candidate, numbered as 'epoch'.

    The candidate of the highest rho on the selection part is kept, among equals the one of the lowest MSE, then the
    first; in cross-validation that of all held-out predictions, fitted once more on all of train. One that other runs
    chose is fitted alone. The same settings, data and machine give the same head.
    """
    baseline = kind_for(job.settings).baseline
    assert baseline
    if data.chosen:
        return _fit_chosen(job, baseline, data, data.chosen, on_progress=on_progress, on_history=on_history)
    folds = [_fold(job, baseline, *pair) for pair in data.folds]
    history: list[dict[str, float]] = []
    best: _Choice | None = None
    note = _left_out(data, folds[0])
    for number, candidates in enumerate(zip(*(baseline.candidates(fold.task) for fold in folds), strict=True), 1):
        found = _best_epoch(number, candidates, folds, data.select.scores, patience=job.settings.patience)
        if baseline.by_epochs:
            found.line["epochs"] = found.epochs
        history.append(found.line)
        if best is None or rank(found.line) > rank(best.line):
            best = found
        on_history(history)
        reached = f"rho {found.line['val_rho']:.3f}, best {best.line['val_rho']:.3f}{note}"
        on_progress(Progress(job.settings.head, number, baseline.number(folds[0].task), "candidates", reached))
    assert best
    task, target, module = folds[0].task, folds[0].target, best.heads[0]
    if data.cross_validated:
        task, target = task_of(job, baseline, data.train)
        module = _of_candidate(baseline, task, Choice(best.epochs, best.number))[1]
    whole = behind(task.vectors.projection, module)
    return Fitted(whole, target, history, best.number, best.predicted, _details(best.hyperparameters, task))


def check_features(job: TrainingJob, data: SplitData) -> None:
    """Raise `InvalidSettings` if the head takes no negative features, and training vectors have some."""
    baseline = kind_for(job.settings).baseline
    way_out = baseline.way_out_of_negative(job.settings) if baseline else ""
    if baseline and way_out and (layers := task_of(job, baseline, data.train)[0].vectors.negative_layers()):
        raise InvalidSettings(
            f"{job.cache.path}: --kernel {job.settings.kernel} takes features that are never negative, such as "
            f"histograms, and {' and '.join(layers)} {'has' if len(layers) == 1 else 'have'} negative ones; {way_out}"
        )


def _fit_chosen(
    job: TrainingJob, baseline: Baseline, data: SplitData, choice: Choice, *,
    on_progress: OnProgress, on_history: OnHistory,
) -> Fitted:  # fmt: skip
    """Fit one candidate to all of train; its line is the history."""
    task, target = task_of(job, baseline, data.train)
    candidate, module = _of_candidate(baseline, task, choice)
    values = {**candidate.values, **({"epochs": choice.epochs} if baseline.by_epochs else {})}
    number = choice.candidate or 1
    history = [{"epoch": number, **values}]
    on_history(history)
    on_progress(Progress(job.settings.head, 1, 1, "candidates", f"number {number} of {baseline.number(task)}"))
    whole = behind(task.vectors.projection, module)
    return Fitted(whole, target, history, number, details=_details(values, task))


def _of_candidate(baseline: Baseline, task: Task, choice: Choice) -> tuple[Candidate, nn.Module]:
    """Return a candidate and its head after so many epochs, fitted to a task."""
    candidate = next(islice(baseline.candidates(task), (choice.candidate or 1) - 1, None))
    return candidate, next(islice(candidate.heads, choice.epochs - 1, None))


def _details(values: dict[str, float], task: Task) -> dict[str, Any]:
    """Return hyperparameters, and what they were fitted on."""
    vectors = task.vectors
    fitted = {"hyperparameters": values, "fitted_images": vectors.images, "fitted_views_each": vectors.views_each}
    return {**fitted, **details_of(vectors.projection)}


def task_of(job: TrainingJob, baseline: Baseline, train: Part) -> tuple[Task, TargetScale]:
    """Read what a baseline is fitted to, and its scale of targets."""
    counted = image_weights(job.cache, train, job.settings.weight)
    weights = None if counted is None else counted.of_images
    how: dict[str, Any] = {"seed": job.settings.seed, "most_vectors": baseline.most_vectors, "weights": weights}
    vectors = read_vectors(job.cache, train, job.own_input, kept=job.settings.channels, **how)
    if vectors.weights is None:
        target = kind_for(job.settings).target(vectors.scores)
    else:
        target = weighted_scale(vectors.scores, vectors.weights)
    return Task(vectors, (vectors.scores - target.mean) / target.scale, job.settings), target


def _fold(job: TrainingJob, baseline: Baseline, train: Part, held_out: Part) -> _Fold:
    task, target = task_of(job, baseline, train)
    read = job.input.read(job.cache, held_out.rows, EVAL_VIEW)
    if task.vectors.projection:
        read = torch.from_numpy(task.vectors.projection.of_vectors(read.double().numpy()))
    return _Fold(task, target, read)


def _best_epoch(
    number: int, candidates: Sequence[Candidate], folds: Sequence[_Fold], truth: Scores, *, patience: int
) -> _Choice:
    """Return the best epoch of a candidate, the same in all folds, once `patience` epochs have brought nothing better.

    It is judged by the predictions of all folds together.
    """
    best: _Choice | None = None
    for epoch, heads in enumerate(zip(*(candidate.heads for candidate in candidates), strict=True), 1):
        predicted = np.concatenate([fold.predict(head) for fold, head in zip(folds, heads, strict=True)])
        line = {"epoch": number, **judged(predicted, truth), **candidates[0].values}
        if best is None or rank(line) > rank(best.line):
            best = _Choice(number, epoch, line, predicted, heads)
        elif epoch - best.epochs >= patience:
            break
    assert best
    return best


def _left_out(data: SplitData, fold: _Fold) -> str:
    n, used = len(data.folds[0][0].rows), fold.task.vectors.images
    return "" if used == n else f", fitted on {used:,} of {n:,} images, drawn by the seed"
