"""Results of runs made from numbers, without a head or a cache."""

from pathlib import Path
from typing import Any

import numpy as np

from head.evaluation.metrics import Metrics
from head.evaluation.score import Scored
from head.runs.config import config_from_json
from head.runs.run import Run

NOTHING = np.zeros(0)
CONFIG = {
    "name": "paper",
    "cache": "mydata",
    "fingerprint": "0" * 64,
    "split": "1",
    "input": {"layers": ["layer3"], "pooling": "maps"},
    "settings": {},
    "recipe": {},
    "selected_on": "the val part",
    "weights_source": "random",
    "batch_size": 16,
}
RESULT = {"head_sha256": "0" * 64, "best_epoch": 31, "lowest_mse_epoch": 31}


def run_of(folder: Path, **facts: Any) -> Run:
    """Return a run that says these facts of itself, and otherwise those above."""
    return Run(folder, config_from_json({**CONFIG, **facts}))


def changed(run: Run, **facts: Any) -> Run:
    """Return a run that says these facts of itself instead of its own."""
    return Run(run.folder, config_from_json({**run.config.document, **facts}))


def scored(
    name: str,
    split: str,
    rho: float,
    mse: float = 0.01,
    *,
    val_rho: float | None = 0.5,
    home: str = "",
    facts: dict[str, Any] | None = None,
    **changes: Any,
) -> Scored:
    """Return a result on 100 images of a run with these numbers, trained on 300, in home/split or runs/name/split.

    facts are of its configuration, changes of its settings.
    """
    settings = {"steps": 3, "seed": 0, "select_on": "val", **changes}
    selected_on = "the val part" if settings["select_on"] == "val" else "the test part itself (optimistic)"
    config = {
        "name": name,
        "split": split,
        "selected_on": selected_on,
        "settings": settings,
        "train_images": 300,
        "result": {**RESULT, "val_rho": val_rho},
        **(facts or {}),
    }
    metrics = Metrics(100, rho, rho - 0.1, rho + 0.1, mse, 0.125, 0.25, 0.75, 0.2)
    names = [f"{split}-{k}.jpg" for k in range(100)]
    run = run_of(Path(home or f"runs/{name}", split), **config)
    return Scored(run, "test", "eval", metrics, 0, names, NOTHING, NOTHING, NOTHING)


THREE_SPLITS = [scored("paper", "1", 0.5, 0.010), scored("paper", "2", 0.6, 0.012), scored("paper", "3", 0.7, 0.020)]
