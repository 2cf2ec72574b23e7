"""A head whose fitting has ended, of whatever kind, and how it becomes a finished run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from featcache.cache import FeatureCache

from . import runs
from .data import SplitData
from .history import History, write_history
from .kinds import input_of
from .metrics import json_number
from .recipes import TargetScale
from .settings import TrainSettings


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


def write_run(
    folder: Path,
    fitted: Fitted,
    *,
    config: dict[str, Any],
    cache: FeatureCache,
    data: SplitData,
    settings: TrainSettings,
) -> runs.Run:
    """Write head, history and result into folder, the result last; return the finished run."""
    head_sha256 = runs.save_head(
        folder,
        fitted.module,
        target_mean=fitted.target.mean,
        target_scale=fitted.target.scale,
        train_images=[cache.images[row].sha256 for row in data.train.rows],
        constants=input_of(cache, settings).constants(cache),
    )
    write_history(folder, fitted.history)
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
    run = runs.write_config(folder, {**config, "result": result})
    (folder / runs.CHECKPOINT_NAME).unlink(missing_ok=True)
    return run
