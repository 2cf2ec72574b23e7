"""A head whose fitting has ended, of whatever kind, and how it becomes a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from head.data.batches import SplitData
from head.evaluation.metrics import json_number, shown
from head.models.kinds import TargetScale
from head.runs.head_file import save_head
from head.runs.history import History, write_history
from head.runs.run import CHECKPOINT_NAME, Run, write_config
from head.training.job import TrainingJob


@dataclass(frozen=True)
class Fitted:
    """The head kept, the scale of its targets, one line of history an epoch or candidate, and the number of the best.

    details are more that the run's result should say, JSON-able.
    """

    module: nn.Module
    target: TargetScale
    history: History
    best_epoch: int
    details: Mapping[str, Any] = field(default_factory=dict)


def write_run(job: TrainingJob, fitted: Fitted, data: SplitData, config: dict[str, Any]) -> Run:
    """Write head, history and result into the job's folder, the result last; return the finished run."""
    head_sha256 = save_head(
        job.folder,
        fitted.module,
        target_mean=fitted.target.mean,
        target_scale=fitted.target.scale,
        train_images=[job.cache.images[row].sha256 for row in data.train.rows],
        constants=job.input.constants(job.cache),
    )
    write_history(job.folder, fitted.history)
    best = fitted.history[fitted.best_epoch - 1]
    lowest = min(fitted.history, key=lambda epoch: epoch["val_mse"])
    result = {
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "val_rho": json_number(best["val_rho"]),
        "val_mse": best["val_mse"],
        "lowest_mse_epoch": int(lowest["epoch"]),
        "lowest_mse_val_rho": json_number(lowest["val_rho"]),
        "lowest_mse_val_mse": lowest["val_mse"],
        "head_sha256": head_sha256,
        **fitted.details,
    }
    run = write_config(job.folder, {**config, "result": result})
    (job.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    return run


def runs_as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return finished runs and their results as JSON objects."""
    return [{"run": str(run.folder), "name": run.name, "split": run.split, **run.result.as_json()} for run in runs]


def describe_runs(runs: Sequence[Run]) -> str:
    """Return finished runs as text, one a line."""
    return "\n".join(map(describe_run, runs))


def describe_run(run: Run) -> str:
    """Return a finished run's best epoch and its epoch of lowest MSE as one line; of a baseline, its candidates."""
    result, unit = run.result, "epoch" if run.result.hyperparameters is None else "candidate"
    return (
        f"{run.folder}: rho {shown(result.val_rho)}, MSE {result.val_mse:.5f} at {unit} {result.best_epoch} "
        f"of {result.epochs}{_chosen(run)}, on {run.config.selected_on}; lowest MSE "
        f"{result.lowest_mse_val_mse:.5f} at {unit} {result.lowest_mse_epoch} "
        f"(rho {shown(result.lowest_mse_val_rho)})"
    )


def _chosen(run: Run) -> str:
    """Return a baseline's hyperparameters, and on how few images it was fitted if not on all."""
    fitted, images = run.result.fitted_images, run.config.train_images
    facts = [f"{name} {value:.4g}" for name, value in (run.result.hyperparameters or {}).items()]
    if fitted is not None and images is not None and fitted < images:
        facts.append(f"fitted on {fitted:,} of {images:,} images")
    return f" ({', '.join(facts)})" if facts else ""
