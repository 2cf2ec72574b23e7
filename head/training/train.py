"""Fit a head to one split of a cache: Adam on Eq. 13, early stopping on validation rho, the best epoch kept."""

from pathlib import Path
from typing import Any

import torch

from featcache.base.devices import claimed, devices_for, memory_errors, resolve_device
from featcache.base.errors import Mismatch, list_problems
from featcache.base.files import make_folder, remove_temporaries
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, silent
from featcache.store.cache import FeatureCache
from head.data.batches import SplitData, split_data
from head.models.fused.products import resolve_products
from head.models.kinds import input_of
from head.runs.history import OnHistory, ignored
from head.runs.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    RUN_FORMAT_VERSION,
    Run,
    check_name,
    read_run,
    remove_results,
    write_config,
)
from head.settings import TrainSettings
from head.training.fitted import write_run
from head.training.trainer import Trainer


def train_split(
    cache: FeatureCache,
    split: str,
    settings: TrainSettings,
    folder: Path,
    *,
    name: str,
    resume: bool = True,
    device: str = "auto",
    on_progress: OnProgress = silent,
    on_history: OnHistory = ignored,
) -> Run:
    """Train a head on one split, into folder, and return the finished run.

    on_history is given the history so far after each epoch, with how long they took. device is as `extract` takes it;
    of several GPUs each process takes one.
    A run that is there is finished if it is not, and returned as it is if it is; resume=False starts over.
    The same settings, data and machine give the same weights, however often the training was killed.
    Raises `Mismatch` if folder holds a run of other settings or data.
    """
    check_name(name)
    target = torch.device(claimed(devices_for(resolve_device(device))))
    data = split_data(cache, split, settings)
    config = _config(cache, split, settings, data, name, target)
    make_folder(folder)
    with writer_lock(folder):
        remove_temporaries(folder)
        existing = _existing_run(folder, config) if resume else None
        if existing is not None and existing.finished:
            return existing
        if existing is None:  # in this order: a kill in between must not leave this run another's checkpoint
            (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
            write_config(folder, config)
        remove_results(folder)
        if settings.head == "amnet":
            hint = f"for {folder}; use a smaller --batch-size or --hidden-size"
            with memory_errors(target, hint):
                trainer = Trainer(
                    cache, data, settings, folder, device=target, on_progress=on_progress, on_history=on_history
                )
                fitted = trainer.run()
        else:
            from head.training.baselines import fit_baseline  # scikit-learn takes a second to import

            fitted = fit_baseline(cache, data, settings, on_progress=on_progress, on_history=on_history)
        return write_run(folder, fitted, config=config, cache=cache, data=data, settings=settings)


def check_start(
    cache: FeatureCache,
    split: str,
    settings: TrainSettings,
    folder: Path,
    *,
    name: str,
    resume: bool = True,
    device: str = "auto",
) -> None:
    """Raise what `train_split` with these arguments would raise before it trains; write nothing."""
    check_name(name)
    config = _config(cache, split, settings, split_data(cache, split, settings), name, resolve_device(device))
    if resume:
        _existing_run(folder, config)


def _config(
    cache: FeatureCache, split: str, settings: TrainSettings, data: SplitData, name: str, device: torch.device
) -> dict[str, Any]:
    return {
        "run_format_version": RUN_FORMAT_VERSION,
        "name": name,
        "cache": cache.name,
        "split": split,
        "input": input_of(cache, settings).as_json(),
        "settings": settings.as_json(),
        "products": resolve_products(settings.precision, device) if settings.head == "amnet" else "fp32",
        "selected_on": data.selected_on,
        "data_sha256": data.digest(cache),
        "train_images": len(data.train.rows),
        "absent_images": data.absent,
        "views": cache.views,
        "fingerprint": cache.fingerprint,
        "recipe": cache.recipe.as_json(),
        "weights_source": cache.manifest.source["weights"],
        "batch_size": int(cache.manifest.source["batch_size"]),
        "torch": torch.__version__,
    }


def _existing_run(folder: Path, config: dict[str, Any]) -> Run | None:
    if not (folder / CONFIG_NAME).is_file():
        return None
    run = read_run(folder)
    document = run.config.as_json()
    problems = []
    for key in ("settings", "input", "data_sha256", "fingerprint", "views", "products"):
        found, wanted = document.get(key), config[key]
        if isinstance(wanted, dict) and isinstance(found, dict):
            problems += [
                f"{field}: {found.get(field)!r} there, {wanted[field]!r} asked for"
                for field in wanted
                if found.get(field) != wanted[field]
            ]
        elif found != wanted and key == "data_sha256":
            problems.append("images, scores or parts of the split: the cache's are no longer those it was trained on")
        elif found != wanted:
            problems.append(f"{key}: {found!r} there, {wanted!r} asked for")
    if problems:
        raise Mismatch(
            list_problems(
                f"{folder}: holds a run of other settings:",
                problems,
                "Give this one another --name, or start over there with --no-resume.",
            )
        )
    return run
