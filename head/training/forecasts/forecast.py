"""What a training will take, before it is started: weights, memory and time, from a few steps on this machine.

Runs of a grid that differ in split, seed or target alone are one training, of which one run is timed.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch

from featcache.base.devices import devices_for, resolve_device
from featcache.base.jobs import Workers
from featcache.base.memory import free_bytes, resident_bytes
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.splits import Part
from head.data.batches import SplitData, folds_of_train
from head.evaluation.summary import without_seed
from head.models.baselines import Baseline
from head.models.kinds import kind_for
from head.training.baselines import task_of
from head.training.forecasts.memory import bytes_of_head, load, memory_of, warm_up
from head.training.forecasts.results import BaselineForecast, Forecasts, GradientForecast, MembersForecast, Runs
from head.training.gradients.checkpoint import CHECKPOINT_SECONDS
from head.training.gradients.fit import fold_data
from head.training.gradients.trainer import Trainer, enough_memory
from head.training.job import TrainingJob
from head.training.jobs import check_all
from head.training.train import device_of

_STEPS, _MOST_SECONDS = 3, 20.0


Planned = tuple[TrainingJob, SplitData, bool]


def forecast(jobs: Sequence[TrainingJob], workers: Workers, *, on_progress: OnProgress = silent) -> Forecasts:
    """Time a few steps of each training on batches of its cache; nothing is written.

    Raises what `train_all` raises before it trains.
    """
    groups: dict[Any, list[Planned]] = {}
    for job, (data, finished) in zip(jobs, check_all(jobs), strict=True):
        groups.setdefault(replace(job.settings, seed=0), []).append((job, data, finished))
    found: list[GradientForecast | BaselineForecast | MembersForecast] = []
    for group in groups.values():
        left = [(job, data) for job, data, finished in group if not finished]
        job, data = (left or [(job, data) for job, data, _ in group])[0]
        runs = Runs(without_seed(job.name), len(group), len(group) - len(left))
        baseline = kind_for(job.settings).baseline
        if job.of_others:
            found.append(_of_others(runs, job, data))
        elif baseline:
            found.append(_of_baseline(runs, job, data, baseline))
        else:
            at_once = min(workers.jobs, max(len(left), 1))
            found.append(_of_gradient(runs, job, data, [data for _, data in left], at_once))
        on_progress(Progress("forecast", len(found), len(groups), "trainings"))
    return Forecasts(found)


def _of_others(runs: Runs, job: TrainingJob, data: SplitData) -> MembersForecast:
    weighed = not data.chosen and (job.settings.head == "stack" or data.cross_validated)
    folds = len(folds_of_train(job.cache, data, job.settings.seed)) if weighed else 0
    return MembersForecast(runs, members=len(job.member_runs), folds=folds)


def _of_baseline(runs: Runs, job: TrainingJob, data: SplitData, baseline: Baseline) -> BaselineForecast:
    task = task_of(job, baseline, data.folds[0][0])[0]
    x = task.vectors.x
    return BaselineForecast(
        runs,
        images=task.vectors.images,
        vectors=len(x),
        channels=x.shape[1],
        heads=_heads(data),
        bytes=_heads(data) * x.nbytes,
        candidates=1 if data.chosen else baseline.number(task),
        at_most_epochs=_epochs(job, data) if baseline.by_epochs else 1,
    )


def _of_gradient(
    runs: Runs, job: TrainingJob, data: SplitData, left: Sequence[SplitData], at_once: int
) -> GradientForecast:
    device, heads = device_of(job), _heads(data)
    free = free_bytes() + resident_bytes()
    first = fold_data(data)[0] if data.cross_validated else data
    size = kind_for(job.settings).at_once
    judged = replace(first, select=Part(first.select.rows[:size], first.select.scores[:size]))
    devices = [device] if device.type == "cuda" else []
    if devices:
        torch.cuda.reset_peak_memory_stats(device)
    with enough_memory(job, device), torch.random.fork_rng(devices):
        started = time.perf_counter()
        beside = replace(job, processes=at_once)
        resident = beside.resident_features(data, device)
        quiet: dict[str, Any] = {"on_progress": silent, "on_history": lambda _: None}
        trainer = Trainer(beside, judged, device=device, resident=resident, heads=heads, **quiet)
        start_seconds = time.perf_counter() - started
        process = load(trainer)
        batch = warm_up(trainer)
        steps, train_seconds = _time_steps(trainer)
        judge_seconds = _time_prediction(trainer)
    epochs = _epochs(job, data)

    def seconds(of: SplitData) -> float:
        """Return those of all epochs of a run at most."""
        folds = sum(len(train.rows) for train, _ in of.folds) + (len(of.train.rows) if of.cross_validated else 0)
        trained = _epochs(job, of) * (folds * train_seconds + len(of.select.rows) * judge_seconds)
        return trained + _heads(of) * start_seconds

    images = sum(len(train.rows) for train, _ in data.folds)
    parts = {"checkpoints": seconds(data) > CHECKPOINT_SECONDS, "judged": not data.chosen}
    memory = {"process": process, **memory_of(trainer, batch, heads, **parts)}
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device)
        memory = {"measured": torch.cuda.max_memory_allocated(device) + (heads - 1) * bytes_of_head(trainer)}
        free = torch.cuda.mem_get_info(device)[0] + reserved
    weights = list(trainer.model.parameters())
    return GradientForecast(
        runs,
        device=str(device),
        parameters=sum(one.numel() for one in weights),
        trained=sum(one.numel() for one in weights if one.requires_grad),
        heads=heads,
        memory=memory,
        bytes=sum(memory.values()),
        free_bytes=free,
        processes=-(-at_once // len(devices_for(resolve_device(job.device)))),
        batch_size=min(job.settings.batch_size, len(first.train.rows)),
        steps_timed=steps,
        images_per_second=1 / train_seconds,
        epoch_seconds=images * train_seconds + len(data.select.rows) * judge_seconds,
        start_seconds=start_seconds,
        at_most_epochs=epochs,
        at_most_seconds=sum(map(seconds, left)),
        ends_early=not data.chosen and job.settings.patience < epochs,
        way_out=_way_out(job, heads, at_once),
    )


def _heads(data: SplitData) -> int:
    """Return how many heads are in memory at once: in cross-validation one a fold, and one of all of train."""
    return len(data.parts) + 1


def _epochs(job: TrainingJob, data: SplitData) -> int:
    return data.chosen.epochs if data.chosen else job.settings.epochs


def _time_steps(trainer: Trainer) -> tuple[int, float]:
    """Return how many steps were timed, and the seconds of an image: of computing, or of reading if that is slower.

    They are on whole batches of an epoch, without the first where there are others.
    """
    batches = trainer.batches(1)
    whole = [batch for batch in batches if len(batch[0]) == len(batches[0][0])]
    timed = list(islice(cycle(whole[1:] or whole), _STEPS))
    steps, images, reading = 0, 0, 0.0
    trainer.waited = 0.0
    started = time.perf_counter()
    features = trainer.features([(rows, views) for rows, views, _ in timed])
    for (rows, _, _), (target, _), x in zip(timed, trainer.targets(timed), features, strict=False):
        if not steps:
            reading = trainer.waited / len(rows)  # nothing was read ahead of the first
        float(trainer.step(x, target))  # a GPU is waited for
        steps, images = steps + 1, images + len(rows)
        if time.perf_counter() - started > _MOST_SECONDS:
            break
    computing = (time.perf_counter() - started - trainer.waited) / images
    return steps, max(computing, reading)


def _time_prediction(trainer: Trainer) -> float:
    """Return the seconds of an image of the selection part, 0 where there is none."""
    images = len(trainer.data.select.rows)
    if not images:
        return 0.0
    started = time.perf_counter()
    trainer.predict_selection()
    return (time.perf_counter() - started) / images


def _way_out(job: TrainingJob, heads: int, at_once: int) -> str:
    half = max(1, job.settings.batch_size // 2)
    ways = [f"--accumulate {2 * job.settings.accumulate}"] if job.uses("accumulate") else []
    ways += [f"--batch-size {half}", *([f"--jobs {at_once // 2}"] if at_once > 1 else [])]
    folds = f"; {heads} heads are in memory at once, which a val part would spare" if heads > 1 else ""
    return f"use {' or '.join(ways)}{folds}"
