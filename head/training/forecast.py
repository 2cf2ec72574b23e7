"""What a training will take, before it is started: weights, memory and time, from a few steps on this machine.

Runs of a grid that differ in split, seed or target alone are one training, of which one run is timed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from featcache.base.devices import devices_for, resolve_device
from featcache.base.jobs import Workers
from featcache.base.memory import free_bytes, resident_bytes
from featcache.base.progress import OnProgress, Progress, duration, silent
from featcache.datasets.splits import Part
from head.data.batches import SplitData
from head.data.inputs import AHEAD
from head.evaluation.summary import without_seed
from head.models.baselines import Baseline
from head.models.fused.workspace import Workspace
from head.models.kinds import kind_for, stored_of
from head.training.baselines import task_of
from head.training.job import TrainingJob
from head.training.jobs import check_all
from head.training.train import device_of
from head.training.trainer import CHECKPOINT_SECONDS, Trainer, enough_memory, fold_data

_STEPS, _MOST_SECONDS = 3, 20.0
_COPIES = 4  # of its tensors, while a checkpoint is written: they, two by safetensors, and one with its digest


@dataclass(frozen=True)
class Runs:
    """How many runs a training has, and how many of them are finished already and would be kept."""

    name: str
    runs: int
    finished: int

    def as_text(self) -> str:
        """Return the runs as a line for a person."""
        there = f", of which {self.finished} {'is' if self.finished == 1 else 'are'} finished" if self.finished else ""
        return f"{self.name}: {self.runs} {'run' if self.runs == 1 else 'runs'}{there}"


@dataclass(frozen=True)
class GradientForecast:
    """memory is that of a process, a part a name, bytes its sum; free_bytes are what all processes may take.

    heads are in memory at once, and processes side by side. at_most_epochs and at_most_seconds are of a run, and of all
    runs that are not finished, one after another.
    """

    of: Runs
    device: str
    parameters: int
    trained: int
    heads: int
    memory: dict[str, int]
    bytes: int
    free_bytes: int
    processes: int
    batch_size: int
    steps_timed: int
    images_per_second: float
    epoch_seconds: float
    start_seconds: float
    at_most_epochs: int
    at_most_seconds: float
    ends_early: bool
    way_out: str

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        found = asdict(self)
        return {**found.pop("of"), **found}

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in self.memory.items())
        each = f" for each of {self.processes} processes" if self.processes > 1 else ""
        early = "; early stopping ends most sooner" if self.ends_early else ""
        epochs = "1 epoch" if self.at_most_epochs == 1 else f"{self.at_most_epochs:,} epochs"
        lines = [
            self.of.as_text(),
            f"weights  {self.parameters:,}, of which {self.trained:,} are trained",
            f"memory   about {_gigabytes(self.bytes)} GB{each}, {_gigabytes(self.free_bytes)} GB are free:",
            f"         {parts}",
            *([f"         {self.heads} heads at once, as train is cross-validated"] if self.heads > 1 else []),
            f"epoch    {duration(self.epoch_seconds)} at {self.images_per_second:,.1f} images/s, timed here just now "
            f"on {self.steps_timed} batches of {self.batch_size} ({self.device})",
            f"start    {self.start_seconds:.1f} s",
            f"time     at most {duration(self.at_most_seconds)} for the runs that are left, one after another, each of "
            f"at most {epochs}{early}",
        ]
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """Return that the memory will not do, and what would take less."""
        needed = self.processes * self.bytes
        if needed <= self.free_bytes:
            return []
        return [
            f"warning: {self.of.name}: takes about {_gigabytes(needed)} GB of memory, and "
            f"{_gigabytes(self.free_bytes)} GB are free; {self.way_out}"
        ]


@dataclass(frozen=True)
class BaselineForecast:
    """So many vectors are read of so many images, as bytes of memory, to fit so many candidates to each run.

    heads are how many sets of vectors are in memory at once.
    """

    of: Runs
    images: int
    vectors: int
    channels: int
    heads: int
    bytes: int
    candidates: int
    at_most_epochs: int

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        found = asdict(self)
        return {**found.pop("of"), **found}

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        folds = f", {self.heads} times as train is cross-validated" if self.heads > 1 else ""
        epochs = f", each of at most {self.at_most_epochs} epochs" if self.at_most_epochs > 1 else ""
        count = "1 candidate" if self.candidates == 1 else f"{self.candidates} candidates"
        return "\n".join(
            [
                self.of.as_text(),
                f"reads    {self.vectors:,} vectors of {self.channels:,} numbers, of {self.images:,} images: "
                f"{self.bytes:,} bytes in memory{folds}",
                f"fits     {count}{epochs}, by scikit-learn, which is not timed",
            ]
        )

    def warnings(self) -> list[str]:
        """Return nothing: what is read is bounded."""
        return []


@dataclass(frozen=True)
class Forecasts:
    """What each training of a grid will take."""

    trainings: Sequence[GradientForecast | BaselineForecast]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the forecasts as JSON objects."""
        return [one.as_json() for one in self.trainings]

    def as_text(self) -> str:
        """Return the forecasts as lines for a person."""
        return "\n\n".join(one.as_text() for one in self.trainings)

    def warnings(self) -> list[str]:
        """Return which trainings need more memory than is free."""
        return [warning for one in self.trainings for warning in one.warnings()]


Planned = tuple[TrainingJob, SplitData, bool]


def forecast(jobs: Sequence[TrainingJob], workers: Workers, *, on_progress: OnProgress = silent) -> Forecasts:
    """Time a few steps of each training on batches of its cache; nothing is written.

    Raises what `train_all` raises before it trains.
    """
    groups: dict[Any, list[Planned]] = {}
    for job, (data, finished) in zip(jobs, check_all(jobs), strict=True):
        groups.setdefault(replace(job.settings, seed=0), []).append((job, data, finished))
    found: list[GradientForecast | BaselineForecast] = []
    for group in groups.values():
        left = [(job, data) for job, data, finished in group if not finished]
        job, data = (left or [(job, data) for job, data, _ in group])[0]
        runs = Runs(without_seed(job.name), len(group), len(group) - len(left))
        baseline = kind_for(job.settings).baseline
        if baseline:
            found.append(_of_baseline(runs, job, data, baseline))
        else:
            at_once = min(workers.jobs, max(len(left), 1))
            found.append(_of_gradient(runs, job, data, [data for _, data in left], at_once))
        on_progress(Progress("forecast", len(found), len(groups), "trainings"))
    return Forecasts(found)


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
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with enough_memory(job, device), torch.random.fork_rng():
        started = time.perf_counter()
        trainer = Trainer(job, judged, device=device, on_progress=silent, on_history=lambda _: None)
        start_seconds = time.perf_counter() - started
        process = _load(trainer)
        batch = _warm_up(trainer)
        steps, train_seconds = _time_steps(trainer)
        judge_seconds = _time_prediction(trainer)
    epochs = _epochs(job, data)

    def seconds(of: SplitData) -> float:
        """Return those of all epochs of a run at most."""
        folds = sum(len(train.rows) for train, _ in of.folds) + (len(of.train.rows) if of.cross_validated else 0)
        trained = _epochs(job, of) * (folds * train_seconds + len(of.select.rows) * judge_seconds)
        return trained + _heads(of) * start_seconds

    images = sum(len(train.rows) for train, _ in data.folds)
    checkpoints = not data.cross_validated and seconds(data) > CHECKPOINT_SECONDS
    memory = {"process": process, **_memory(trainer, batch, heads, checkpoints=checkpoints, judged=not data.chosen)}
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device)
        memory = {"measured": torch.cuda.max_memory_allocated(device) + (heads - 1) * _of_head(trainer)}
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


class _Kept:
    """Counts the bytes that autograd keeps for gradients, each storage once, but for those of tensors there anyhow.

    most is how many they were at most at once.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        self._there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self._holders: Counter[int] = Counter()
        self._bytes = self.most = 0

    def hold(self, tensor: Tensor) -> Callable[[], None]:
        """Count a tensor; return what counts it no longer."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._there:
            return lambda: None
        self._bytes += 0 if self._holders[place] else size
        self._holders[place] += 1
        self.most = max(self.most, self._bytes)

        def release() -> None:
            self._holders[place] -= 1
            self._bytes -= 0 if self._holders[place] else size

        return release


class _Held:
    """A tensor that is counted as long as there is this."""

    def __init__(self, tensor: Tensor, kept: _Kept) -> None:
        self.tensor, self._release = tensor, kept.hold(tensor)

    def __del__(self) -> None:
        self._release()


@dataclass(frozen=True)
class _Batch:
    """Bytes that are kept for the gradient of a batch, or of the largest of its parts, and those of its features."""

    kept: int
    features: int


def _load(trainer: Trainer) -> int:
    """Take a step on the fewest images that can be, which loads and compiles all there is to; return what that takes.

    That is the memory of the process without the head's own.
    """
    trainer.model.train()
    fewest = 2 * trainer.settings.accumulate  # batch norm takes no less than two at once
    rows, views, scores = trainer.batches(1)[0]
    [features] = trainer.features([(rows[:fewest], views[:fewest])])
    trainer.step(features, scores[:fewest])
    return resident_bytes() - _of_head(trainer) - _bytes([features])


def _warm_up(trainer: Trainer) -> _Batch:
    """Take a step on the first batch, and count its memory."""
    [(rows, views, scores)] = trainer.batches(1)[:1]
    [features] = trainer.features([(rows, views)])
    kept = _Kept([features, *trainer.model.parameters(), *trainer.model.buffers()])
    with saved_tensors_hooks(lambda tensor: _Held(tensor, kept), lambda held: held.tensor):
        trainer.step(features, scores)
    return _Batch(kept.most, _bytes([features]))


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
    for (rows, _, scores), x in zip(timed, features, strict=False):
        if not steps:
            reading = trainer.waited / len(rows)  # nothing was read ahead of the first
        float(trainer.step(x, scores))  # a GPU is waited for
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


def _memory(trainer: Trainer, batch: _Batch, heads: int, *, checkpoints: bool, judged: bool) -> dict[str, int]:
    """Return the bytes of each part of a training's memory after a step, but for the process itself."""
    own, best = stored_of(trainer.model).values(), heads == 1 and judged
    moments = _bytes(_moments(trainer))
    of_batch = {"kept for gradients": batch.kept, "read ahead": (AHEAD + 1) * batch.features}
    checkpoint = _COPIES * ((1 + best) * _bytes(own) + moments) - sum(of_batch.values()) if checkpoints else 0
    return {
        "weights": heads * _bytes(_all(trainer.model)),
        "gradients": heads * _bytes(_gradients(trainer.model)),
        "moments": heads * moments,
        **({"best epoch": _bytes(own)} if best else {}),
        **({"arrays": heads * arrays} if (arrays := _arrays(trainer.model)) else {}),
        **of_batch,
        **({"more for a checkpoint": checkpoint} if checkpoint > 0 else {}),
    }


def _of_head(trainer: Trainer) -> int:
    model = trainer.model
    return sum(map(_bytes, (_all(model), _gradients(model), _moments(trainer)))) + _arrays(model)


def _all(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _gradients(model: nn.Module) -> list[Tensor]:
    return [one.grad for one in model.parameters() if one.grad is not None]


def _moments(trainer: Trainer) -> list[Tensor]:
    return [value for state in trainer.optimizer.state.values() for value in state.values()]


def _arrays(model: nn.Module) -> int:
    """Return the bytes of arrays that a head takes again in every batch."""
    spaces = [getattr(module, "workspace", None) for module in model.modules()]
    return sum(space.bytes for space in spaces if isinstance(space, Workspace))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _way_out(job: TrainingJob, heads: int, at_once: int) -> str:
    half = max(1, job.settings.batch_size // 2)
    ways = [f"--accumulate {2 * job.settings.accumulate}"] if job.uses("accumulate") else []
    ways += [f"--batch-size {half}", *([f"--jobs {at_once // 2}"] if at_once > 1 else [])]
    folds = f"; {heads} heads are in memory at once, which a val part would spare" if heads > 1 else ""
    return f"use {' or '.join(ways)}{folds}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g}"
