"""Results with predictions, image by image, made from numbers, and evaluations of them: what figures are drawn from."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from featcache.store.cache import FeatureCache
from head.evaluation.compare import compare
from head.evaluation.evaluate import Evaluation
from head.evaluation.metrics import Metrics, mean_squared_error, spearman
from head.evaluation.score import Scored
from head.evaluation.summary import HeadSummary, summaries_of
from head.runs.run import Run
from tests.helpers.results import RESULT, scored

HISTORY = [
    {"epoch": 1, "train_loss": 0.90, "val_rho": 0.10, "val_mse": 0.050},
    {"epoch": 2, "train_loss": 0.50, "val_rho": 0.30, "val_mse": 0.020},
    {"epoch": 3, "train_loss": 0.30, "val_rho": 0.60, "val_mse": 0.030},
    {"epoch": 4, "train_loss": 0.20, "val_rho": 0.40, "val_mse": 0.040},
]


def predicted(
    name: str,
    split: str,
    truth: ArrayLike,
    steps: ArrayLike,
    *,
    home: Path | None = None,
    history: Sequence[dict[str, float]] = HISTORY,
    head: str = "amnet",
    **changes: Any,
) -> Scored:
    """Return a result of n images with true scores (n) and step scores (n, T); home is where its history is."""
    true, step_scores = np.array(truth, float), np.array(steps, float)
    prediction = step_scores.sum(axis=1)
    rho = spearman(prediction, true) if np.isfinite(prediction).all() else float("nan")
    spread = (float(prediction.std()), float(prediction.min()), float(prediction.max()), float(true.std()))
    metrics = Metrics(len(true), rho, rho, rho, mean_squared_error(prediction, true), *spread)
    result = {**RESULT, "best_epoch": 3, "lowest_mse_epoch": 2, "val_rho": 0.6}
    baseline = {} if head == "amnet" else {"hyperparameters": {"alpha": 1.0}}
    one = scored(name, split, rho, facts={"result": {**result, **baseline}}, head=head, **changes)
    folder = home / name / f"split-{split}" if home else one.run.folder
    if home:
        folder.mkdir(parents=True)
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(history[0]))
            writer.writeheader()
            writer.writerows(history)
    names = [f"{row}.jpg" for row in range(len(true))]
    return replace(
        one, run=Run(folder, one.run.config), metrics=metrics, names=names, truth=true, prediction=prediction,
        step_scores=step_scores,
    )  # fmt: skip


def row(*results: Scored) -> HeadSummary:
    """Return results as one row."""
    (only,) = summaries_of(results)
    return only


def evaluated(*results: Scored) -> Evaluation:
    """Return an evaluation of results, compared."""
    rows = summaries_of(results)
    return Evaluation([one.run for one in results], results, rows, compare(rows), [])


def cache_of(dataset: str = "mydata") -> FeatureCache:
    """Return something that says of which dataset it is, which is all that figures ask a cache."""
    return cast(FeatureCache, SimpleNamespace(manifest=SimpleNamespace(source={"dataset": dataset})))


def random_steps(n: int, steps: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return true scores (n) and step scores (n, T) that have something to do with them."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.2, 0.9, n)
    return truth, (truth[:, None] + rng.normal(0, 0.1, (n, steps))) / steps
