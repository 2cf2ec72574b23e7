"""Fit a baseline to one split with scikit-learn: of all its candidates the best on the selection part is kept.

docs/heads.md says which stored views it is fitted on.
"""

import torch
from torch import nn

from featcache.base.progress import OnProgress, Progress
from head.data.batches import EVAL_VIEW, SplitData
from head.data.vectors import read_vectors
from head.evaluation.metrics import judged, rank
from head.models.baselines import Task, Values
from head.models.kinds import kind_for
from head.runs.history import OnHistory
from head.training.fitted import Fitted
from head.training.job import TrainingJob

_BATCH = 1024


def fit_baseline(job: TrainingJob, data: SplitData, *, on_progress: OnProgress, on_history: OnHistory) -> Fitted:
    """Fit a baseline, on the CPU whatever the device; its history has a line for each candidate, numbered as 'epoch'.

    The candidate of the highest rho on the selection part is kept, among equals the one of the lowest MSE, then the
    first. The same settings, data and machine give the same head.
    """
    cache, settings, source, kind = job.cache, job.settings, job.input, kind_for(job.settings)
    assert kind.baseline
    vectors = read_vectors(cache, data.train, source, seed=settings.seed, most_vectors=kind.baseline.most_vectors)
    target = kind.target(vectors.scores)
    select = source.read(cache, data.select.rows, EVAL_VIEW)  # (m, 1, D)

    @torch.inference_mode()
    def judge(module: nn.Module) -> dict[str, float]:
        scores = torch.cat([module(batch).score for batch in torch.split(select, _BATCH)])
        return judged(scores.numpy() * target.scale + target.mean, data.select.scores)

    n, used = len(data.train.rows), vectors.images
    left_out = "" if used == n else f", fitted on {used:,} of {n:,} images, drawn by the seed"
    task = Task(vectors, (vectors.scores - target.mean) / target.scale, settings, lambda module: rank(judge(module)))
    history: list[dict[str, float]] = []
    best: tuple[int, Values, nn.Module] | None = None
    for number, (values, module) in enumerate(kind.baseline.candidates(task), 1):
        history.append({"epoch": number, **judge(module), **values})
        if best is None or rank(history[-1]) > rank(history[best[0] - 1]):
            best = number, values, module
        on_history(history)
        note = f"rho {history[-1]['val_rho']:.3f}, best {history[best[0] - 1]['val_rho']:.3f}{left_out}"
        on_progress(Progress(settings.head, number, kind.baseline.number, "candidates", note))
    assert best
    details = {"hyperparameters": best[1], "fitted_images": used, "fitted_views_each": vectors.views_each}
    return Fitted(best[2], target, history, best[0], details)
