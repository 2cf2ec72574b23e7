"""A head whose fitting has ended, of whatever kind, how it becomes a finished run, and what came of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from featcache.base.commands import command
from featcache.base.errors import BadInput, FeatcacheError
from featcache.store.projection import kept_in_words
from head.calibration.calibration import Calibration, cross_fitted, fit_calibration
from head.calibration.intervals import LEVEL, half_width
from head.data.batches import SplitData
from head.data.weights import image_weights
from head.evaluation.marks import marks_of_training
from head.evaluation.metrics import Scores, json_number, mean_squared_error, shown
from head.models.kinds import TargetScale
from head.runs.head_file import save_head
from head.runs.history import History, write_history
from head.runs.ratings import write_other_ratings
from head.runs.run import Run, write_config
from head.training.gradients.checkpoint import remove_checkpoints
from head.training.job import TrainingJob


@dataclass(frozen=True)
class Fitted:
    """The head kept, the scale of its targets, one line of history an epoch or candidate, and the number of the best.

    predicted are its scores of the selection part or, in cross-validation, those of the folds' heads for what was held
    out; None where nothing was selected, or where they are not known. details are more that the run's result should
    say, JSON-able.
    """

    module: nn.Module
    target: TargetScale
    history: History
    best_epoch: int
    predicted: Scores | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unseen:
    """What ratings of images that a head was not fitted to say of its scores.

    calibration maps scores to them, None for none; residuals (n) are how far they are from scores, absolute, after it.
    facts are what the run's result says of it.
    """

    calibration: Calibration | None = None
    residuals: Scores = field(default_factory=lambda: np.zeros(0))
    facts: Mapping[str, Any] = field(default_factory=dict)


def unseen(predicted: Scores | None, truth: Scores, kind: str) -> Unseen:
    """Return what predictions (n) and ratings (n) of images that a head was not fitted to come to.

    kind is `TrainSettings.calibrate`. Residuals are those of scores calibrated each by the others; where there is no
    calibration, facts have the problem, and residuals are those of scores as they are.
    """
    if predicted is None:
        return Unseen()
    if not np.isfinite(predicted).all():
        problem = {"calibration": {"kind": "none", "problem": "some predictions are not finite"}}
        return Unseen(facts={} if kind == "none" else problem)
    as_they_are = Unseen(residuals=np.abs(predicted - truth))
    if kind == "none":
        return as_they_are
    try:
        calibration = fit_calibration(kind, predicted, truth)
    except BadInput as error:
        return replace(as_they_are, facts={"calibration": {"kind": "none", "problem": str(error)}})
    residuals = np.abs(cross_fitted(kind, predicted, truth) - truth)
    mse = {"val_mse": float(np.mean(residuals**2)), "uncalibrated_val_mse": mean_squared_error(predicted, truth)}
    return Unseen(calibration, residuals, {"calibration": {"kind": kind, **mse}})


def write_run(
    job: TrainingJob, fitted: Fitted, data: SplitData, config: dict[str, Any], of_others: Unseen | None = None
) -> Run:
    """Write head, history and result into the job's folder, the result last; return the finished run.

    of_others is what other runs say of images that they were not fitted to, where data selects by none.
    """
    found = of_others or unseen(fitted.predicted, data.select.scores, job.settings.calibrate)
    head_sha256 = save_head(
        job.folder,
        fitted.module,
        target_mean=fitted.target.mean,
        target_scale=fitted.target.scale,
        train_images=[job.cache.images[row].sha256 for row in data.train.rows],
        constants=job.input.constants(job.cache),
        calibration=found.calibration,
        residuals=found.residuals,
    )
    write_history(job.folder, fitted.history)
    write_other_ratings(job.folder, job.cache, job.split, job.settings.select_on, job.weighted_by)
    weights = image_weights(job.cache, data.train, job.settings.weight)
    result = {
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        **_judgement(fitted, len(data.select.rows)),
        "head_sha256": head_sha256,
        "score_range": [float(data.train.scores.min()), float(data.train.scores.max())],
        **({} if weights is None else {"weights": weights.as_json()}),
        **found.facts,
        **_interval(found.residuals),
        **fitted.details,
    }
    run = write_config(job.folder, {**config, "result": result})
    remove_checkpoints(job.folder)
    return run


def _interval(residuals: Scores) -> dict[str, Any]:
    """Return the half-width of the usual interval, None if images are too few for one, and of how many it is."""
    return {"interval": {"level": LEVEL, "half_width": half_width(residuals, LEVEL), "images": len(residuals)}}


def _judgement(fitted: Fitted, images: int) -> dict[str, Any]:
    """Return what the best epoch reached on the images of the selection part, and the one of the lowest MSE.

    Where there are none, nothing was judged.
    """
    if not images:
        return {"val_rho": None, "lowest_mse_epoch": None}
    best = fitted.history[fitted.best_epoch - 1]
    lowest = min(fitted.history, key=lambda epoch: epoch["val_mse"])
    return {
        "val_rho": json_number(best["val_rho"]),
        "val_mse": best["val_mse"],
        "val_images": images,
        "lowest_mse_epoch": int(lowest["epoch"]),
        "lowest_mse_val_rho": json_number(lowest["val_rho"]),
        "lowest_mse_val_mse": lowest["val_mse"],
    }


@dataclass(frozen=True)
class Trained:
    """The finished runs of several jobs, in their order, and the errors that ended the others."""

    runs: Sequence[Run]
    errors: Sequence[FeatcacheError]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the runs and their results as JSON objects."""
        return [
            {"run": str(run.folder), "name": run.name, "split": run.split, **run.result.document} for run in self.runs
        ]

    def as_text(self) -> str:
        """Return a line for each run: its best epoch and its epoch of lowest MSE; of a baseline, its candidates."""
        return "\n".join(map(_described, self.runs))

    def warnings(self) -> list[str]:
        """Return how many images were left out, and which heads rank in reverse."""
        absent = max((run.config.absent_images for run in self.runs), default=0)
        return [
            *([f"{absent} images without features were left out"] if absent else []),
            *(f"warning: {problem}" for run in self.runs if (problem := _uncalibrated(run))),
            *(f"warning: {mark}" for mark in marks_of_training(self.runs)),
        ]


def _described(run: Run) -> str:
    if run.estimate:
        facts = [run.chosen, _fitted_on(run), _kept(run).removeprefix(", "), f"chosen on {run.config.selected_on}"]
        return f"{run.folder}: {', '.join(filter(None, facts))}{_weighted(run)}; {run.estimate}{_calibrated(run)}"
    result, unit = run.result, "epoch" if run.result.hyperparameters is None else "candidate"
    return (
        f"{run.folder}: rho {shown(result.val_rho)}, MSE {result.val_mse:.5f} at {unit} {result.best_epoch} "
        f"of {result.epochs}{_chosen(run)}{_kept(run)}, on {run.config.selected_on}; lowest MSE "
        f"{result.lowest_mse_val_mse:.5f} at {unit} {result.lowest_mse_epoch} "
        f"(rho {shown(result.lowest_mse_val_rho)}){_weighted(run)}{_calibrated(run)}"
    )


def _kept(run: Run) -> str:
    """Return how many channels its head keeps, and which share of the variance, '' where those are all."""
    found = run.result.channels
    return f", on {kept_in_words(found['of'], found['kept'], found['variance'])}" if found else ""


def _calibrated(run: Run) -> str:
    """Return what calibration did to the MSE, '' without."""
    found = run.result.calibration
    return f"; {text}" if found and (text := found.as_text(run.config.selected_on)) else ""


def _uncalibrated(run: Run) -> str:
    """Return why a run that was to be calibrated is not, '' if it is or was not to be."""
    problem = run.result.calibration.problem if run.result.calibration else ""
    asked = command("--calibrate", run.settings["calibrate"])
    return f"{run.folder}: {asked}: scores are left as they are, {problem}" if problem else ""


def _chosen(run: Run) -> str:
    """Return a baseline's hyperparameters, and on how few images it was fitted if not on all."""
    facts = [f"{name} {value:.4g}" for name, value in (run.result.hyperparameters or {}).items()]
    facts += [few] if (few := _fitted_on(run)) else []
    return f" ({', '.join(facts)})" if facts else ""


def _weighted(run: Run) -> str:
    """Return how many equally weighted images the weighted ones are worth, and the floor of their standard errors."""
    weights = run.result.document.get("weights")
    if weights is None:
        return ""
    floor = ""
    if "se_at_least" in weights:
        floor = f"; standard errors below {weights['se_at_least']:.3g} ({weights['images_at_floor']:,}) count as that"
    worth = f"worth {weights['effective_images']:,.0f} of {run.config.train_images:,} equal images"
    return f", weighted by {run.settings['weight']} ({worth}{floor})"


def _fitted_on(run: Run) -> str:
    fitted, images = run.result.fitted_images, run.config.train_images
    few = fitted is not None and images is not None and fitted < images
    return f"fitted on {fitted:,} of {images:,} images" if few else ""
