"""Fit a head to one split of a cache: Adam on Eq. 13, early stopping on validation rho, the best epoch kept."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featcache.cache import FeatureCache
from featcache.errors import BadInput, Mismatch, list_problems
from featcache.files import make_folder, remove_temporaries
from featcache.lock import writer_lock
from featcache.progress import OnProgress, Progress, silent

from . import runs
from .baseline_fit import fit_baseline
from .checkpoint import pack, read_checkpoint, unpack, write_checkpoint
from .data import EVAL_VIEW, SplitData, epoch_batches, split_data
from .fitted import Fitted, write_run
from .history import OnHistory, ignored
from .kinds import input_of, untrained_head
from .metrics import Scores, mean_squared_error, spearman
from .model import loss
from .recipes import coverage_of, fix_feature_scale, target_scale
from .settings import TrainSettings

EVAL_BATCH = 256
CHECKPOINT_SECONDS = 15.0


@dataclass
class _State:
    """Training as it stands: epochs done, their history, and the best epoch's weights."""

    epoch: int
    history: list[dict[str, float]]
    best: dict[str, Tensor]
    best_epoch: int = 0

    def stale_epochs(self) -> int:
        return self.epoch - self.best_epoch


def train_split(
    cache: FeatureCache,
    split: str,
    settings: TrainSettings,
    folder: Path,
    *,
    name: str,
    resume: bool = True,
    on_progress: OnProgress = silent,
    on_history: OnHistory = ignored,
) -> runs.Run:
    """Train a head on one split, into folder, and return the finished run.

    on_history is given the history so far after each epoch, with how long they took.
    A run that is there is finished if it is not, and returned as it is if it is; resume=False starts over.
    The same settings, data and machine give the same weights, however often the training was killed.
    Raises `Mismatch` if folder holds a run of other settings or data.
    """
    runs.check_name(name)
    data = split_data(cache, split, settings)
    config = _config(cache, split, settings, data, name)
    make_folder(folder)
    with writer_lock(folder):
        remove_temporaries(folder)
        existing = _existing_run(folder, config) if resume else None
        if existing is not None and existing.finished:
            return existing
        if existing is None:  # in this order: a kill in between must not leave this run another's checkpoint
            (folder / runs.CHECKPOINT_NAME).unlink(missing_ok=True)
            runs.write_config(folder, config)
        runs.remove_results(folder)
        if settings.head == "amnet":
            fitted = _Trainer(cache, data, settings, config, folder, on_progress, on_history).run()
        else:
            fitted = fit_baseline(cache, data, settings, on_progress=on_progress, on_history=on_history)
        return write_run(folder, fitted, config=config, cache=cache, data=data, settings=settings)


def _config(cache: FeatureCache, split: str, settings: TrainSettings, data: SplitData, name: str) -> dict[str, Any]:
    return {
        "run_format_version": runs.RUN_FORMAT_VERSION,
        "name": name,
        "cache": cache.name,
        "split": split,
        "input": input_of(cache, settings).as_json(),
        "settings": settings.as_json(),
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


def _existing_run(folder: Path, config: dict[str, Any]) -> runs.Run | None:
    if not (folder / runs.CONFIG_NAME).is_file():
        return None
    run = runs.read_run(folder)
    problems = []
    for key in ("settings", "input", "data_sha256", "fingerprint", "views"):
        found, wanted = run.config.get(key), config[key]
        if isinstance(wanted, dict) and isinstance(found, dict):
            problems += [
                f"{field}: {found.get(field)!r} there, {wanted[field]!r} asked for"
                for field in wanted
                if found.get(field) != wanted[field]
            ]
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


class _Trainer:
    """Holds model, optimizer and state while one split is trained."""

    def __init__(
        self,
        cache: FeatureCache,
        data: SplitData,
        settings: TrainSettings,
        config: dict[str, Any],
        folder: Path,
        on_progress: OnProgress,
        on_history: OnHistory,
    ) -> None:
        self.cache, self.data, self.settings, self.config, self.folder = cache, data, settings, config, folder
        self.on_progress, self.on_history = on_progress, on_history
        self.input = input_of(cache, settings)
        self.target = target_scale(settings, data.train.scores)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model = untrained_head(cache, settings)
        fix_feature_scale(self.model, cache, data.train, layer=self.input.layers[0], seed=settings.seed)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, foreach=True
        )

    def run(self) -> Fitted:
        """Train from the checkpoint, if there is one, to the end; return the head of the best epoch."""
        state = self._restored()
        saved = time.monotonic()
        while state.epoch < self.settings.epochs and state.stale_epochs() < self.settings.patience:
            self._epoch(state)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save(state)
                saved = time.monotonic()
        return self._fitted(state)

    def _epoch(self, state: _State) -> None:
        state.epoch += 1
        started = time.monotonic()
        train_loss = self._train_epoch(state.epoch)
        training_seconds = time.monotonic() - started
        prediction = self._predict_selection()
        truth = self.data.select.scores
        rho = spearman(prediction, truth)
        state.history.append(
            {
                "epoch": state.epoch,
                "train_loss": train_loss,
                "val_rho": rho,
                "val_mse": mean_squared_error(prediction, truth),
                "val_prediction_sd": float(np.std(prediction)),
                "seconds": time.monotonic() - started,
                "images_per_second": len(self.data.train.rows) / max(training_seconds, 1e-9),
            }
        )
        if state.best_epoch == 0 or _better(rho, state.history[state.best_epoch - 1]["val_rho"]):
            state.best_epoch = state.epoch
            state.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.on_history(state.history)
        best = state.history[state.best_epoch - 1]
        note = f"rho {rho:.3f}, best {best['val_rho']:.3f} at epoch {state.best_epoch}"
        self.on_progress(Progress(f"split {self.config['split']}", state.epoch, self.settings.epochs, "epochs", note))

    def _train_epoch(self, epoch: int) -> float:
        """Run one epoch and return its mean loss."""
        self.model.train()
        total = 0.0
        with torch.random.fork_rng(devices=[]):  # dropout draws by (seed, epoch)
            torch.manual_seed(_epoch_seed(self.settings.seed, epoch))
            for rows, views, scores in epoch_batches(
                self.data.train,
                views=self.cache.views,
                seed=self.settings.seed,
                epoch=epoch,
                batch_size=self.settings.batch_size,
            ):
                features = self._features(rows, views)
                target = torch.from_numpy((scores - self.target.mean) / self.target.scale).float()
                value = loss(
                    self.model(features),
                    target,
                    attention_weight=self.settings.attention_weight,
                    coverage=coverage_of(self.settings),
                )
                self.optimizer.zero_grad()
                torch.autograd.backward(value)
                self.optimizer.step()
                total += float(value.detach()) * len(rows)
        mean = total / len(self.data.train.rows)
        if not math.isfinite(mean):
            raise BadInput(f"{self.folder}: the loss is not finite in epoch {epoch}; use a lower --lr")
        return mean

    @torch.inference_mode()
    def _predict_selection(self) -> Scores:
        self.model.eval()
        rows = self.data.select.rows
        parts = [
            self.model(self._features(rows[start : start + EVAL_BATCH], EVAL_VIEW)).score
            for start in range(0, len(rows), EVAL_BATCH)
        ]
        return torch.cat(parts).double().numpy() * self.target.scale + self.target.mean

    def _features(self, rows: Any, views: Any) -> Tensor:
        return self.input.read(self.cache, rows, views)

    def _restored(self) -> _State:
        checkpoint = read_checkpoint(self.folder / runs.CHECKPOINT_NAME)
        if checkpoint is None:
            return _State(0, [], {})
        best = unpack(checkpoint, self.model, self.optimizer)
        facts = checkpoint.facts
        return _State(facts["epoch"], facts["history"], best, facts["best_epoch"])

    def _save(self, state: _State) -> None:
        facts = {"epoch": state.epoch, "history": state.history, "best_epoch": state.best_epoch}
        write_checkpoint(self.folder / runs.CHECKPOINT_NAME, pack(self.model, state.best, self.optimizer, facts))

    def _fitted(self, state: _State) -> Fitted:
        self.model.load_state_dict(state.best)
        return Fitted(self.model, self.target, state.history, state.best_epoch)


def _better(rho: float, best: float) -> bool:
    """Whether rho beats the best so far; NaN, of constant predictions, beats nothing and is beaten by any number."""
    return rho > best or (math.isnan(best) and not math.isnan(rho))


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
