"""Fit a head to one split of a cache, into a run that a kill at any instant leaves to be finished."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from featcache.base.commands import command
from featcache.base.devices import claimed, devices_for, resolve_device
from featcache.base.errors import InvalidSettings, Mismatch, refuse
from featcache.base.files import make_folder, remove_temporaries
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, silent
from featcache.store.cache import FeatureCache
from head.data.batches import SplitData, split_data
from head.data.weights import image_weights
from head.models.kinds import kind_for, shape_of
from head.runs.events import EventLog
from head.runs.head_file import check_head
from head.runs.history import OnHistory, read_history
from head.runs.ratings import data_digests, difference
from head.runs.run import (
    CONFIG_NAME,
    RUN_FORMAT_VERSION,
    Run,
    check_name,
    read_run,
    remove_results,
    write_config,
)
from head.training.baselines import check_features, fit_baseline
from head.training.fitted import Fitted, write_run
from head.training.full import choice_of, data_of_all, estimate_of, runs_on_splits, unseen_by
from head.training.gradients.checkpoint import remove_checkpoints
from head.training.gradients.fit import fit_by_gradient
from head.training.job import TrainingJob
from head.training.stack import fit_stack, members_of


def train(job: TrainingJob, on_progress: OnProgress = silent) -> Run:
    """Train a head on one split, into the job's folder, and return the finished run.

    The same settings, data and machine give the same weights, however often the training was killed.
    Raises `Mismatch` if folder holds a run of other settings or data.
    """
    if job.events is None:
        return _train(job, on_progress, lambda history: None)
    with closing(EventLog(job.events, job.settings.lr if job.uses("lr") else None)) as log:
        run = _train(job, on_progress, log)
        if log.empty and (history := read_history(run.folder)):  # it was finished before
            log(history)
    return run


def check_start(job: TrainingJob) -> tuple[SplitData, bool]:
    """Raise what `train` would raise before it trains; return its data, and whether it is finished; write nothing."""
    check_name(job.name)
    runs = runs_on_splits(job) if job.on_all_images else []
    data = _data(job, runs)
    config = _config(job, data, runs, resolve_device(job.device))
    existing = _existing_run(job, config) if job.resume else None
    _check(job, data)
    return data, existing is not None and existing.finished


def device_of(job: TrainingJob) -> torch.device:
    """Return the device that computes a job in this process: of several GPUs one that is not taken."""
    return torch.device(claimed(devices_for(resolve_device(job.device))))


def _train(job: TrainingJob, on_progress: OnProgress, on_history: OnHistory) -> Run:
    check_name(job.name)
    device = device_of(job)
    runs = runs_on_splits(job) if job.on_all_images else []
    data = _data(job, runs)
    config = _config(job, data, runs, device)
    _check(job, data)
    make_folder(job.folder)
    with writer_lock(job.folder):
        remove_temporaries(job.folder)
        existing = _existing_run(job, config) if job.resume else None
        if existing is not None and existing.finished:
            check_head(existing)
            return existing
        estimate, scored = estimate_of(runs, job, on_progress) if runs else (None, [])
        of_others = unseen_by([replace(run, weights=job.weights) for run in runs], scored) if runs else None
        if existing is None:  # in this order: a kill in between must not leave this run another's checkpoint
            remove_checkpoints(job.folder)
            write_config(job.folder, config)
        remove_results(job.folder)
        fitted = _fit(job, device)(job, data, on_progress=on_progress, on_history=on_history)
        details = {**fitted.details, **({"estimate": asdict(estimate)} if estimate else {})}
        return write_run(job, replace(fitted, details=details), data, config, of_others)


def _fit(job: TrainingJob, device: torch.device) -> Callable[..., Fitted]:
    """Return what fits a job's head."""
    if job.of_others:
        return partial(fit_stack, device=device)
    return fit_baseline if kind_for(job.settings).baseline else partial(fit_by_gradient, device=device)


def _data(job: TrainingJob, runs: Sequence[Run]) -> SplitData:
    """Return what is trained on: of a split, or all images, by what runs on the splits chose."""
    return data_of_all(job, runs) if runs else split_data(job.cache, job.split, job.settings)


def _check(job: TrainingJob, data: SplitData) -> None:
    """Raise `InvalidSettings` if the head cannot read these features, `BadInput` if its images cannot be weighted."""
    image_weights(job.cache, data.train, job.settings.weight)
    if kind_for(job.settings).baseline:
        check_features(job, data)
    elif not job.of_others:
        shape_of(job.cache, job.settings)


def _config(job: TrainingJob, data: SplitData, runs: Sequence[Run], device: torch.device) -> dict[str, Any]:
    cache, source = job.cache, job.cache.manifest.source
    return {
        "run_format_version": RUN_FORMAT_VERSION,
        "name": job.name,
        "cache": cache.name,
        **({"target": cache.target} if cache.target else {}),
        "split": job.split,
        "input": job.input.as_json(),
        "settings": job.settings.as_json(),
        **({"members": members_of(job), "member_weights": list(job.weighted_by)} if job.of_others else {}),
        "products": job.products(device),
        "selected_on": data.selected_on,
        **({"choice": choice_of(data, runs)} if runs else {}),
        "data_sha256": data.digest(cache),
        **data_digests(cache, job.split, job.settings.select_on, job.weighted_by),
        "train_images": len(data.train.rows),
        "absent_images": data.absent,
        "views": cache.views,
        "fingerprint": cache.fingerprint,
        "recipe": cache.recipe.as_json(),
        "weights_source": job.weights_source,
        **_network(job),
        "batch_size": int(source["batch_size"]),
        "torch": torch.__version__,
    }


def _network(job: TrainingJob) -> dict[str, str]:
    """Return the digest of the network that a head goes on from, where it is one; raise what its weights lack."""
    kind = kind_for(job.settings)
    if kind.started:
        started = kind.started(shape_of(job.cache, job.settings), job.cache.recipe, job.weights_source)
        return {"network_sha256": started}
    if job.weights:
        raise InvalidSettings(f"--weights: of no effect on {command('--head', job.settings.head)}; leave it out")
    return {}


def _existing_run(job: TrainingJob, config: dict[str, Any]) -> Run | None:
    folder = job.folder
    if not (folder / CONFIG_NAME).is_file():
        return None
    run = read_run(folder)
    document = {**run.config.document, "settings": run.settings}
    problems = []
    for key in ("settings", "input", "fingerprint", "views", "products", "network_sha256", "members", "choice"):
        found, wanted = document.get(key), config.get(key)
        if isinstance(wanted, dict) and isinstance(found, dict):
            problems += [
                f"{field}: {found.get(field)!r} there, {wanted[field]!r} asked for"
                for field in wanted
                if found.get(field) != wanted[field]
            ]
        elif found != wanted:
            problems.append(f"{key}: {found!r} there, {wanted!r} asked for")
    if problem := _other_data(run, job.cache, config):
        problems.append(problem)
    way_out = "Give this one another --name, or start over there with --no-resume."
    refuse(Mismatch, f"{folder}: holds a run of other settings or data:", problems, way_out)
    return run


def _other_data(run: Run, cache: FeatureCache, config: dict[str, Any]) -> str:
    """Return how a run's data differ from those that it would be trained on now, '' if they do not.

    One that is to go on takes the same rows in the same order as it began with, and one on all images all there are.
    """
    problem = difference(run, cache)
    if not problem and run.on_all_images and run.config.images_sha256 != config["images_sha256"]:
        return f"it was trained on {run.config.train_images:,} images, of {config['train_images']:,} that are there now"
    if problem or run.finished or run.config.document.get("data_sha256") == config["data_sha256"]:
        return problem
    return "its images are in other rows or another order than when it began"
