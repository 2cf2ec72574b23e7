"""Fit a baseline to one split with scikit-learn: of all its candidates the best on the selection part is kept.

docs/heads.md says which stored views it is fitted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from featcache.base.progress import OnProgress, Progress
from featcache.datasets.splits import Part
from head.data.batches import EVAL_VIEW, SplitData
from head.data.vectors import read_vectors
from head.evaluation.metrics import Scores, judged, rank
from head.models.baselines import Baseline, Candidate, Task
from head.models.kinds import TargetScale, kind_for
from head.runs.history import OnHistory
from head.training.fitted import Fitted
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
    """The number of a candidate, how many epochs it was fitted, what it reached, and its head of each fold."""

    number: int
    epochs: int
    line: dict[str, float]
    heads: tuple[nn.Module, ...]

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Its own numbers, without those that judge it."""
        return {name: value for name, value in self.line.items() if name != "epoch" and not name.startswith("val_")}


def fit_baseline(job: TrainingJob, data: SplitData, *, on_progress: OnProgress, on_history: OnHistory) -> Fitted:
    """Fit a baseline, on the CPU whatever the device; its history has a line for each candidate, numbered as 'epoch'.

    The candidate of the highest rho on the selection part is kept, among equals the one of the lowest MSE, then the
    first; in cross-validation that of all held-out predictions, fitted once more on all of train. The same settings,
    data and machine give the same head.
    """
    baseline = kind_for(job.settings).baseline
    assert baseline
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
        on_progress(Progress(job.settings.head, number, baseline.number, "candidates", reached))
    assert best
    whole, module = folds[0], best.heads[0]
    if data.cross_validated:
        whole = _fold(job, baseline, data.train, data.select)
        candidate = next(islice(baseline.candidates(whole.task), best.number - 1, None))
        module = next(islice(candidate.heads, best.epochs - 1, None))
    vectors = whole.task.vectors
    fitted = {"fitted_images": vectors.images, "fitted_views_each": vectors.views_each}
    return Fitted(module, whole.target, history, best.number, {"hyperparameters": best.hyperparameters, **fitted})


def _fold(job: TrainingJob, baseline: Baseline, train: Part, held_out: Part) -> _Fold:
    cache, settings, source = job.cache, job.settings, job.input
    vectors = read_vectors(cache, train, source, seed=settings.seed, most_vectors=baseline.most_vectors)
    target = kind_for(settings).target(vectors.scores)
    task = Task(vectors, (vectors.scores - target.mean) / target.scale, settings)
    return _Fold(task, target, source.read(cache, held_out.rows, EVAL_VIEW))


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
            best = _Choice(number, epoch, line, heads)
        elif epoch - best.epochs >= patience:
            break
    assert best
    return best


def _left_out(data: SplitData, fold: _Fold) -> str:
    n, used = len(data.folds[0][0].rows), fold.task.vectors.images
    return "" if used == n else f", fitted on {used:,} of {n:,} images, drawn by the seed"
