"""Fit a stack: weights of heads that are trained, by what each predicts for folds of train that it was fitted without.

A mean of heads is one whose weights are equal, so that nothing is fitted. docs/stacks.md has what was measured.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from featcache.base.files import make_folder
from featcache.base.progress import OnProgress, Progress, silent
from head.data.batches import EVAL_VIEW, Choice, SplitData, data_of_fold, folds_of_train
from head.data.several import SeveralInputs
from head.evaluation.metrics import Scores, judged
from head.evaluation.score import predict_rows
from head.models.kinds import TargetScale, head_as_json, kind_for
from head.models.stack import StackHead, StackShape, Weights, equal_weights, non_negative_weights
from head.runs.head_file import TrainedHead, load_head
from head.runs.history import OnHistory
from head.runs.run import Run
from head.training.baselines import fit_baseline
from head.training.fitted import Fitted
from head.training.gradients.checkpoint import folder_of_fit, read_held_out, write_held_out
from head.training.gradients.fit import fit_by_gradient
from head.training.job import TrainingJob, as_member

Weigh = Callable[[Scores, Scores], Weights]


def fit_stack(
    job: TrainingJob, data: SplitData, *, device: torch.device, on_progress: OnProgress, on_history: OnHistory
) -> Fitted:
    """Weigh a job's members; its history has one line.

    Each member is fitted once a fold, with what its run on the split chose, to all of train but that fold, and predicts
    the fold; the weights are of the least squared error of these predictions. The selection part, which no weight has
    seen, judges them with the members as their runs have them. In cross-validation the folds are those that select, and
    each is judged by weights of the others. On all images the weights are the means of those on the splits.
    """
    runs = job.member_runs
    heads = [load_head(run) for run in runs]
    weigh: Weigh = non_negative_weights if job.settings.head == "stack" else _equally
    line: dict[str, float] = {}
    predicted: Scores | None = None
    if data.chosen:
        *values, intercept = data.chosen.weights
        weights = Weights(tuple(values), intercept)
    elif data.cross_validated:
        held = held_out_predictions(job, job.member_runs, data, device, on_progress)
        truth = [fold.scores for _, fold in data.parts]
        weights = weigh(np.concatenate(held), np.concatenate(truth))
        predicted = _judged_by_others(held, truth, weigh)
    else:
        weights = _weigh(job, data, weigh, device, on_progress)
        seen = [_predict(head, job, run, data.select.rows) for head, run in zip(heads, runs, strict=True)]
        predicted = _weighted(weights, np.column_stack(seen))
    if predicted is not None:
        line = judged(predicted, data.select.scores)
    history = [{"epoch": 1, **line}]
    on_history(history)
    target = kind_for(job.settings).target(data.train.scores)
    hyperparameters = dict(zip(job.settings.members, weights.values, strict=True))
    details = {"hyperparameters": hyperparameters, "intercept": weights.intercept}
    return Fitted(_together(job, runs, heads, weights, target), target, history, 1, predicted, details)


def members_of(job: TrainingJob) -> dict[str, str]:
    """Return the digest of each member's head by its name, by which a stack of others is told apart."""
    return {name: run.result.head_sha256 for name, run in zip(job.settings.members, job.member_runs, strict=True)}


def _equally(predictions: Scores, scores: Scores) -> Weights:
    return equal_weights(predictions.shape[1])


def _weigh(job: TrainingJob, data: SplitData, weigh: Weigh, device: torch.device, on_progress: OnProgress) -> Weights:
    """Return weights by predictions for folds of train, or equal ones, which take none."""
    if weigh is _equally:
        return equal_weights(len(job.member_runs))
    held = held_out_predictions(job, job.member_runs, data, device, on_progress)
    truth = [fold.scores for _, fold in folds_of_train(job.cache, data, job.settings.seed)]
    return weigh(np.concatenate(held), np.concatenate(truth))


def held_out_predictions(
    job: TrainingJob, runs: Sequence[Run], data: SplitData, device: torch.device, on_progress: OnProgress
) -> list[Scores]:
    """Return for each fold of train predictions (n, M) by members that were fitted as runs say, but without it."""
    fits = list(_fits(job, runs, data, device))
    folds, found = len(fits) // len(runs), []
    for done, fit in enumerate(fits):
        on_progress(Progress(f"split {data.split}", done, len(fits), "fits of members without a fold"))
        found.append(fit())
    on_progress(Progress(f"split {data.split}", len(fits), len(fits), "fits of members without a fold"))
    return [np.column_stack(found[fold::folds]) for fold in range(folds)]


def _fits(
    job: TrainingJob, runs: Sequence[Run], data: SplitData, device: torch.device
) -> Iterator[Callable[[], Scores]]:
    """Yield what predicts each fold by each member, fold after fold of one member."""
    folds = folds_of_train(job.cache, data, job.settings.seed)
    for member, run in enumerate(runs):
        for fold, (kept, held) in enumerate(folds):
            one = as_member(job, run, folder_of_fit(job.folder, member, fold))
            yield partial(_fit_and_predict, one, run, data_of_fold(data, kept, _choice_of(run)), held.rows, device)


def _fit_and_predict(job: TrainingJob, run: Run, data: SplitData, rows: Any, device: torch.device) -> Scores:
    """Return predictions (n) for rows by a head that is fitted as a run was, to data; kept for a kill in between."""
    if (found := read_held_out(job.folder)) is not None:
        return found
    make_folder(job.folder)
    how: dict[str, Any] = {"on_progress": silent, "on_history": lambda history: None}
    if kind_for(job.settings).baseline:
        fitted = fit_baseline(job, data, **how)
    else:
        fitted = fit_by_gradient(job, data, device=device, **how)
    module = fitted.module.cpu().eval().requires_grad_(False)
    head = TrainedHead(module, fitted.target.mean, fitted.target.scale, frozenset(), {})
    found = _predict(head, job, run, rows)
    write_held_out(job.folder, found)
    return found


def _choice_of(run: Run) -> Choice:
    """Return what a finished run chose, on the same split."""
    result = run.result
    number = result.best_epoch or 1
    if kind_for(run.train_settings).baseline is None:
        return Choice(number)
    return Choice(int((result.hyperparameters or {}).get("epochs", 1)), number)


def _predict(head: TrainedHead, job: TrainingJob, run: Run, rows: Any) -> Scores:
    """Return scores (n) of rows, in the evaluation view, without the head's own calibration."""
    return predict_rows(head, job.cache, rows, run, views=[EVAL_VIEW])[1]


def _weighted(weights: Weights, predictions: Scores) -> Scores:
    scores: Scores = predictions @ np.array(weights.values) + weights.intercept
    return scores


def _judged_by_others(held: Sequence[Scores], truth: Sequence[Scores], weigh: Weigh) -> Scores:
    """Return scores of each fold, one after another, by weights of all the others."""
    found = []
    for k, predictions in enumerate(held):
        others = [place for place in range(len(held)) if place != k]
        weights = weigh(np.concatenate([held[j] for j in others]), np.concatenate([truth[j] for j in others]))
        found.append(_weighted(weights, predictions))
    return np.concatenate(found)


def _together(
    job: TrainingJob, runs: Sequence[Run], heads: Sequence[TrainedHead], weights: Weights, target: TargetScale
) -> StackHead:
    """Return members in one head, its weights and intercept in units of the members' and its own targets."""
    inputs = job.input
    assert isinstance(inputs, SeveralInputs)
    recipe = job.cache.recipe
    starts = {one: place.start for one, place in zip(inputs.inputs, inputs.slices(recipe), strict=True)}
    sizes = dict(zip(inputs.inputs, inputs.sizes(recipe), strict=True))
    shape = StackShape(
        members=tuple(head_as_json(head.module) for head in heads),
        sizes=tuple((starts[run.input], *sizes[run.input]) for run in runs),  # type: ignore[index]  # none of several
        steps=heads[0].steps if inputs.attends else 1,
        attends=inputs.attends,
    )
    module = StackHead(shape, [head.module for head in heads])
    values = np.array(weights.values)
    scales, means = (np.array([getattr(head, name) for head in heads]) for name in ("target_scale", "target_mean"))
    module.weigh(values * scales / target.scale, (weights.intercept + values @ means - target.mean) / target.scale)
    module.share_attention(values)
    return module
