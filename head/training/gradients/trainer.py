"""What trains one head by gradients, an epoch at a time: Adam on Eq. 13, and its checkpoints.

The next batches are read while the current one is computed; the epoch with the best validation rho is kept.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.base.devices import keep_float32, keep_order, memory_errors
from featcache.base.errors import BadInput
from featcache.base.progress import OnProgress, Progress
from featcache.store.projection import Projection
from head.data.batches import EVAL_VIEW, Batch, SplitData, epoch_batches
from head.data.channels import ProjectedInput, fit_channels
from head.data.inputs import HeadInput
from head.data.resident import Resident
from head.data.transfer import batches_on
from head.data.weights import image_weights
from head.evaluation.metrics import Scores, judged, rank
from head.models.amnet import HeadOutput, loss
from head.models.kinds import Beginning, behind, kind_for, stored_of, untrained_head
from head.runs.history import History, OnHistory
from head.runs.run import CHECKPOINT_NAME
from head.settings import TrainSettings
from head.training.gradients.adam import Adam
from head.training.gradients.checkpoint import Pace, State, write_checkpoint
from head.training.job import TrainingJob


def goes_on(settings: TrainSettings, *, epochs: int, best_epoch: int) -> bool:
    """Return whether training goes on after so many epochs, of which one was the best."""
    return epochs < settings.epochs and epochs - best_epoch < settings.patience


def is_best(history: History, best_epoch: int) -> bool:
    """Return whether the last epoch of a history is better than the best before it, 0 for none."""
    return best_epoch == 0 or rank(history[-1])[0] > rank(history[best_epoch - 1])[0]


def reached(history: History, best_epoch: int) -> str:
    """Return in words what the last epoch of a history reached, and the best."""
    return f"rho {history[-1]['val_rho']:.3f}, best {history[best_epoch - 1]['val_rho']:.3f} at epoch {best_epoch}"


class Trainer:
    """Holds model, optimizer and state while one split is trained.

    resident holds features that trainers of one run read; without it they come from the cache in every epoch. heads is
    how many trainers that run has at once.
    """

    def __init__(
        self,
        job: TrainingJob,
        data: SplitData,
        *,
        device: torch.device,
        on_progress: OnProgress,
        on_history: OnHistory,
        resident: Resident | None = None,
        heads: int = 1,
    ) -> None:
        self.cache, self.settings, self.folder = job.cache, job.settings, job.folder
        self.data, self.device, self.resident = data, device, resident
        self.input, self.projection = _reading(job, data, heads)
        self.on_progress, self.on_history = on_progress, on_history
        self.waited = 0.0  # seconds spent waiting for features, in this epoch
        self.pace = Pace()
        self.products = job.products(device)
        keep_float32(device)
        keep_order(device)
        kind, settings = kind_for(job.settings), job.settings
        self.target, self.coverage = kind.target(data.train.scores), kind.coverage(settings.steps)
        self.weights = _by_row(job, data)
        self.attention_weight = settings.attention_weight if job.uses("attention_weight") else 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model = untrained_head(job.cache, settings)
        kind.begin(self.model, Beginning(job.cache, data.train, self.input, settings.seed, job.weights_source))
        self.model.to(device)
        groups = kind.groups(self.model, settings)
        self.optimizer = Adam(groups, weight_decay=settings.weight_decay)
        self.at_once = kind.at_once
        self.rates = "--lr or --backbone-lr" if job.uses("backbone_lr") else "--lr"

    @property
    def head(self) -> nn.Module:
        """The head as it reads all channels: the model, behind its projection if it has one."""
        return behind(self.projection, self.model)

    @property
    def details(self) -> dict[str, Any]:
        """What the run's result should say beside what all say."""
        return details_of(self.projection)

    def epochs(self, state: State) -> Iterator[None]:
        """Train on from state, which is kept up to date; yield after each epoch."""
        while goes_on(self.settings, epochs=state.epoch, best_epoch=state.best_epoch):
            self._epoch(state)
            self.save(state)
            yield

    def _epoch(self, state: State) -> None:
        state.epoch += 1
        state.history.append(train_together([self], state.epoch, self.data.select.scores)[0])
        if is_best(state.history, state.best_epoch):
            state.best_epoch = state.epoch
            state.best = {name: tensor.clone() for name, tensor in stored_of(self.model).items()}
        self.on_history(state.history)
        note = reached(state.history, state.best_epoch)
        self.on_progress(Progress(f"split {self.data.split}", state.epoch, self.settings.epochs, "epochs", note))

    def save(self, state: State) -> None:
        """Write a checkpoint if it is time for one."""
        path = self.folder / CHECKPOINT_NAME
        self.pace.write(lambda: write_checkpoint(path, state, self.model, self.optimizer))

    def batches(self, epoch: int) -> list[Batch]:
        """Return rows, views and scores of each batch of an epoch."""
        of, cache = self.settings, self.cache
        how = {"seed": of.seed, "epoch": epoch, "batch_size": of.batch_size}
        shards_of = cache.shards_of if of.order == "shards" else None
        return list(epoch_batches(self.data.train, views=cache.views, shards_of=shards_of, **how))

    def train_epoch(self, epoch: int) -> float:
        """Run one epoch and return its mean loss."""
        self.model.train()
        self.waited = 0.0
        batches, seed = self.batches(epoch), self.settings.seed
        losses, devices = [], [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws by (seed, epoch)
            state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(state >> np.uint64(1)))
            features = self.features([(rows, views) for rows, views, _ in batches])
            for (rows, _, _), target, x in zip(batches, self.targets(batches), features, strict=True):
                losses.append(self.step(x, *target) * len(rows))
        mean = float(torch.stack(losses).sum()) / len(self.data.train.rows)
        if not math.isfinite(mean):
            raise BadInput(f"{self.folder}: the loss is not finite in epoch {epoch}; use a lower {self.rates}")
        return mean

    def targets(self, batches: Sequence[Batch]) -> list[tuple[Tensor, Tensor | None]]:
        """Return scores on the head's own scale, and weights if images have any, (B) each, of each batch.

        They go to the device in one copy: one a batch would wait for what is computed there.
        """
        sizes = [len(rows) for rows, _, _ in batches]
        rows, scores = (np.concatenate([batch[place] for batch in batches]) for place in (0, 2))

        def split(values: Scores) -> tuple[Tensor, ...]:
            return torch.split(torch.from_numpy(values).float().to(self.device), sizes)

        weights = [None] * len(sizes) if self.weights is None else split(self.weights[rows])
        return list(zip(split((scores - self.target.mean) / self.target.scale), weights, strict=True))

    def step(self, features: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fit one batch, its images weighted if so given; return its loss, wherever it is computed.

        A batch is computed in as many parts as the settings say, whose gradients add up to those of the whole.
        """
        self.optimizer.zero_grad()
        size = -(-len(features) // self.settings.accumulate)
        total = target.new_zeros(())
        parts = zip(torch.split(features, size), torch.split(target, size), strict=True)
        for place, (some, wanted) in enumerate(parts):
            counted = None if weights is None else weights[place * size : (place + 1) * size]
            value = self._loss(some, wanted, counted) * (len(some) / len(features))
            torch.autograd.backward(value)
            total += value.detach()
        self.optimizer.step()
        return total

    def _loss(self, features: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        return loss(
            self._output(features),
            target,
            attention_weight=self.attention_weight,
            coverage=self.coverage,
            order_penalty=self.settings.order_penalty,
            weights=weights,
        )

    def _output(self, features: Tensor) -> HeadOutput:
        """Return what the head makes of a batch, its large products of matrices in the type that was chosen."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.products == "bf16"):
            output: HeadOutput = self.model(features)
        return output

    @torch.inference_mode()
    def predict_selection(self) -> Scores:
        """Return the scores of the selection part."""
        self.model.eval()
        rows, size = self.data.select.rows, self.at_once
        views = np.full(len(rows), EVAL_VIEW)
        pairs = [(rows[start : start + size], views[start : start + size]) for start in range(0, len(rows), size)]
        scores = torch.cat([self._output(features).score for features in self.features(pairs)])
        return scores.cpu().double().numpy() * self.target.scale + self.target.mean

    def features(self, pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Iterator[Tensor]:
        """Yield what the head reads of each batch of (rows, views), on its device."""
        read = None if self.resident is None else self.resident.batches(pairs)
        batches = read or batches_on(self.device, self.input, self.cache, pairs)
        while True:
            started = time.monotonic()
            features = next(batches, None)
            self.waited += time.monotonic() - started
            if features is None:
                return
            yield features


def _reading(job: TrainingJob, data: SplitData, heads: int) -> tuple[HeadInput | ProjectedInput, Projection | None]:
    """Return what the model is trained on, and the projection that it went through, found from the training part."""
    source, channels = job.own_input, job.settings.channels
    if not channels:
        return source, None
    projection = fit_channels(job.cache, data.train, source, channels=channels, seed=job.settings.seed)
    rows = len(data.train.rows) + len(data.select.rows)
    return ProjectedInput(job.cache, source, projection, rows, sharing=heads * job.processes), projection


def details_of(projection: Projection | None) -> dict[str, Any]:
    """Return what a run's result says of the channels that its head keeps; nothing where those are all."""
    if projection is None:
        return {}
    channels, kept = projection.channels
    found = {"of": channels, "kept": kept, "variance": projection.variance, "vectors": projection.vectors}
    return {"channels": found}


def _by_row(job: TrainingJob, data: SplitData) -> Scores | None:
    """Return the weight of each row of the cache (N), 1 for those not trained on; None where all count alike."""
    found = image_weights(job.cache, data.train, job.settings.weight)
    if found is None:
        return None
    weights = np.ones(job.cache.rows)
    weights[data.train.rows] = found.of_images
    return weights


def enough_memory(job: TrainingJob, device: torch.device) -> AbstractContextManager[None]:
    """Return what turns running out of memory into an error that says of which job, and what would take less."""
    others = {"hidden_size": " or --hidden-size", "accumulate": ", or a larger --accumulate"}
    words = ["--batch-size", *(words for field, words in others.items() if job.uses(field))]
    held = job.resident != "no" and not job.settings.channels  # projected features are kept whatever is asked for
    smaller = "".join([*words, *([", or --resident no"] if held else [])])
    return memory_errors(device, f"for {job.folder}; use a smaller {smaller}")


def train_together(
    trainers: Sequence[Trainer], epoch: int, truth: Scores | None
) -> tuple[dict[str, float], Scores | None]:
    """Train an epoch in each of several folds, or of one; return its line of history, judged by all they predict.

    Those predictions stand beside it. Without truth nothing is predicted or judged.
    """
    started = time.monotonic()
    losses = [trainer.train_epoch(epoch) for trainer in trainers]
    training_seconds = time.monotonic() - started
    predicted: Scores | None = None
    judgement: dict[str, float] = {}
    if truth is not None:
        predicted = np.concatenate([trainer.predict_selection() for trainer in trainers])
        judgement = judged(predicted, truth)
    line = {
        "epoch": epoch,
        "train_loss": float(np.mean(losses)),
        **judgement,
        "seconds": time.monotonic() - started,
        "images_per_second": sum(len(one.data.train.rows) for one in trainers) / max(training_seconds, 1e-9),
        "waiting_seconds": sum(trainer.waited for trainer in trainers),
    }
    return line, predicted
