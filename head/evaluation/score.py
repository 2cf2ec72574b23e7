"""Batch evaluation of runs on a cache: predictions, metrics, and the guard against scoring training images."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.base.devices import resolve_device
from featcache.base.errors import BadInput, InvalidSettings
from featcache.base.files import csv_bytes, write_durably
from featcache.recipe import check_same
from featcache.store.cache import FeatureCache
from head.calibration.intervals import Coverage, coverage
from head.data.batches import EVAL_VIEW, present_part
from head.evaluation.metrics import Metrics, Scores, json_number, mean_squared_error, measure
from head.evaluation.people import Ceiling, ceiling_of, of_ceiling
from head.models.kinds import kind_of
from head.runs.head_file import TrainedHead, load_head
from head.runs.run import Run

VIEW_CHOICES = ("eval", "all")


@dataclass(frozen=True)
class Scored:
    """One run's result on one part: metrics and, row by row, prediction (n) and step scores (n, T).

    absent counts images of the part that have no features; ceiling is that of the part's scores, if it is known.
    uncalibrated_mse is what metrics' mse is without the head's calibration, None if it has none, and coverage how many
    ratings its intervals hold, None if it gives none, or if they are by residuals of this very part.
    """

    run: Run
    part: str
    views: str
    metrics: Metrics
    absent: int
    names: list[str]
    truth: Scores
    prediction: Scores
    step_scores: Scores
    ceiling: Ceiling | None = None
    uncalibrated_mse: float | None = None
    coverage: Coverage | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; NaN becomes null."""
        config, result = self.run.config, self.run.result
        return {
            "run": str(self.run.folder),
            "name": self.run.name,
            "cache": config.cache,
            **({"target": config.target} if config.target else {}),
            "fingerprint": config.fingerprint,
            "split": self.run.split,
            "part": self.part,
            "views": self.views,
            "selected_on": config.selected_on,
            "best_epoch": result.best_epoch,
            "hyperparameters": result.hyperparameters,
            "lowest_mse_epoch": result.lowest_mse_epoch,
            "absent": self.absent,
            **{key: json_number(value) for key, value in asdict(self.metrics).items()},
            **of_ceiling(self.metrics.rho, self.metrics.rho_low, self.metrics.rho_high, self.ceiling),
            "uncalibrated_mse": self.uncalibrated_mse,
            "interval": self.coverage.as_json() if self.coverage else None,
        }


def score_run(
    run: Run, cache: FeatureCache, *, part: str = "test", views: str = "eval", device: str = "auto"
) -> Scored:
    """Score a run's head on one part of its split; views 'all' averages over every view of an image.

    The head computes on device.

    The cache may hold other images than the head was trained on; `head.runs.ratings.difference` says whether it does.
    Raises `Mismatch` if the cache has other features than the head was trained on, `BadInput` if the head
    was trained on any of the images, `InvalidSettings` if there is no such part.
    """
    if views not in VIEW_CHOICES:
        raise InvalidSettings(f"--views must be {' or '.join(VIEW_CHOICES)}, found {views!r}")
    if run.imported and not run.split:
        raise InvalidSettings(f"{run.folder}: unknown which split it was trained on; import it again with --split K")
    if part not in cache.splits.get(run.split, {}):
        raise InvalidSettings(f"{run.folder}: {cache.path} has no {part} part of split {run.split}; see --part")
    check_same(
        run.recipe,
        cache.recipe,
        where=str(run.folder),
        way_out="Score a head on the cache it was trained on, or on one extracted with the same recipe.",
    )
    head = load_head(run, resolve_device(device))
    listed = cache.splits[run.split][part]
    present = present_part(cache, listed)
    if not len(present.rows):
        raise BadInput(f"{cache.path}: no image of the {part} part of split {run.split} has features")
    refuse_training_images(head, run, [cache.images[row] for row in present.rows])
    step_scores, uncalibrated = predict_rows(
        head, cache, present.rows, run, views=range(cache.views) if views == "all" else [EVAL_VIEW]
    )
    prediction = step_scores.sum(axis=1)
    return Scored(
        run=run,
        part=part,
        views=views,
        metrics=measure(prediction, present.scores),
        absent=len(listed.rows) - len(present.rows),
        names=[cache.images[row].name for row in present.rows],
        truth=present.scores,
        prediction=prediction,
        step_scores=step_scores,
        ceiling=ceiling_of(cache, run.split, part),
        uncalibrated_mse=mean_squared_error(uncalibrated, present.scores) if head.calibration else None,
        coverage=None
        if _has_selected(part, run)
        else coverage(prediction, present.scores, head.residuals, rows=present.rows),
    )


def _has_selected(part: str, run: Run) -> bool:
    return run.config.selected_on.startswith(f"the {part} part")


def refuse_training_images(head: TrainedHead, run: Run, images: Sequence[Any]) -> None:
    """Raise `BadInput`, naming how many and the first few, if the head was trained on any of images."""
    seen = [image.name for image in images if image.sha256 in head.train_images]
    if seen:
        raise BadInput(
            f"{run.folder}: the head was trained on {len(seen):,} of these {len(images):,} images "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}); a score on them says nothing. "
            "Score it on images it has not seen, as in the test part of its own split. If that is what you do, files "
            "are there under two names: extract again with --drop-duplicates, which takes them out of train, and train "
            "again."
        )


def predict_rows(
    head: TrainedHead, cache: FeatureCache, rows: NDArray[np.int64], run: Run, *, views: Sequence[int]
) -> tuple[Scores, Scores]:
    """Return step scores (n, T) of rows, averaged over views, and scores (n) uncalibrated.

    Step scores add up to the calibrated score.
    """
    total, uncalibrated = np.zeros((len(rows), head.steps)), np.zeros(len(rows))
    size = kind_of(head.module).at_once
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    for view in views:
        batches = run.input.batches(cache, [(part, np.full(len(part), view)) for part in parts])
        steps = torch.cat([head.uncalibrated(features.to(head.device))[0] for features in batches]).cpu()
        total += head.calibrated(steps).numpy()
        uncalibrated += steps.sum(dim=1).numpy()
    return total / len(views), uncalibrated / len(views)


def write_scores(scored: Scored) -> None:
    """Write scores.json and predictions.csv beside the run; scores-PART-VIEWS.json for other than test and eval."""
    folder = scored.run.folder
    suffix = "" if (scored.part, scored.views) == ("test", "eval") else f"-{scored.part}-{scored.views}"
    write_durably(folder / f"scores{suffix}.json", (json.dumps(scored.as_json(), indent=1) + "\n").encode())
    write_durably(folder / f"predictions{suffix}.csv", predictions_csv(scored))


def predictions_csv(scored: Scored) -> bytes:
    """Return a table of the predictions, in the order of the result: name, score, prediction, m_1 to m_T."""
    steps = [f"m_{t}" for t in range(1, scored.step_scores.shape[1] + 1)]
    numbers = np.column_stack([scored.prediction, scored.step_scores])
    cells = zip(scored.names, scored.truth, numbers, strict=True)
    lines = [[name, repr(float(truth)), *(f"{value:.6f}" for value in values)] for name, truth, values in cells]
    return csv_bytes([["name", "score", "prediction", *steps], *lines])


def attention_of(cache: FeatureCache, run: Run, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]] | None:
    """Return where a run's head looks in the evaluation view of rows, in batches (B, T, H, W); None if it does not.

    What the sum of a map lacks of 1 is on tokens.
    """
    if not run.attends:
        return None
    head = load_head(run)
    size = kind_of(head.module).at_once
    batches = (rows[start : start + size] for start in range(0, len(rows), size))
    maps = (head.predict(run.input.read(cache, batch, EVAL_VIEW))[2].numpy() for batch in batches)  # (B, T, L)
    return (run.input.places(batch, run.recipe) for batch in maps)
