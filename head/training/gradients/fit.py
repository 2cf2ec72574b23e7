"""How a head is fitted by gradients: with early stopping, in cross-validation, or for so many epochs."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from featcache.base.progress import OnProgress, Progress
from head.data.batches import SplitData
from head.data.resident import Resident
from head.models.kinds import fill
from head.runs.history import OnHistory
from head.runs.run import CHECKPOINT_NAME
from head.training.fitted import Fitted
from head.training.gradients.checkpoint import Pace, State, read_checkpoint, read_folds, write_folds
from head.training.gradients.trainer import Trainer, enough_memory, goes_on, is_best, reached, train_together
from head.training.job import TrainingJob


def fold_data(data: SplitData) -> list[SplitData]:
    """Return what each head of a cross-validation is trained on and judged by."""
    return [replace(data, train=train, select=held, parts=()) for train, held in data.parts]


def fit_by_gradient(
    job: TrainingJob, data: SplitData, *, device: torch.device, on_progress: OnProgress, on_history: OnHistory
) -> Fitted:
    """Train from the checkpoint, if there is one, to the end; return the head of the best epoch.

    In cross-validation a head a fold is trained epoch by epoch, the best epoch is that of all held-out predictions, and
    a head is trained on all of train for so many epochs. Where the number of epochs was chosen by other runs, it is the
    head after so many.
    """
    with enough_memory(job, device):
        resident = job.resident_features(data, device)
        how: dict[str, Any] = {"device": device, "resident": resident, "on_history": on_history}
        how["heads"] = len(data.parts) + 1
        how["on_progress"] = _telling(resident, on_progress)
        if data.cross_validated:
            return _fit_by_cross_validation(job, data, how)
        if data.chosen:
            return _fit_for(data.chosen.epochs, job, data, how)
        return _fit_with_early_stopping(job, data, how)


def _telling(resident: Resident | None, on_progress: OnProgress) -> OnProgress:
    """Return what tells progress and that features are held, if so; no run says that: it is the same without."""
    if resident is None:
        return on_progress
    held = f"{resident.bytes / 1e9:,.3g} GB of features held on {resident.device}"
    return lambda one: on_progress(replace(one, note=f"{one.note}; {held}"))


def _fit_with_early_stopping(job: TrainingJob, data: SplitData, how: dict[str, Any]) -> Fitted:
    """Train until the selection part is predicted no better; return the head of the best epoch."""
    trainer = Trainer(job, data, **how)
    state = read_checkpoint(job.folder / CHECKPOINT_NAME, trainer.model, trainer.optimizer)
    for _ in trainer.epochs(state):
        pass
    fill(trainer.model, state.best)
    predicted = trainer.predict_selection()
    return Fitted(trainer.head, trainer.target, state.history, state.best_epoch, predicted, trainer.details)


def _fit_for(epochs: int, job: TrainingJob, data: SplitData, how: dict[str, Any]) -> Fitted:
    """Train for so many epochs, from the checkpoint if there is one; none of them is judged."""
    trainer = Trainer(job, data, **how)
    state = read_checkpoint(job.folder / CHECKPOINT_NAME, trainer.model, trainer.optimizer)
    while state.epoch < epochs:
        state.epoch += 1
        state.history.append(train_together([trainer], state.epoch, None)[0])
        how["on_history"](state.history)
        note = f"loss {state.history[-1]['train_loss']:.4g}"
        how["on_progress"](Progress(f"split {data.split}", state.epoch, epochs, "epochs", note))
        trainer.save(state)
    return Fitted(trainer.head, trainer.target, state.history, epochs, details=trainer.details)


def _fit_by_cross_validation(job: TrainingJob, data: SplitData, how: dict[str, Any]) -> Fitted:
    """Find the best epoch, unless the checkpoint of the head on all of train is there, and train that head."""
    path = job.folder / CHECKPOINT_NAME
    chosen = State(0, [], {}) if path.is_file() else _choose_epoch(job, data, how)
    whole = Trainer(job, data, **how)
    state = read_checkpoint(path, whole.model, whole.optimizer, new=chosen)
    while state.epoch < state.best_epoch:
        state.epoch += 1
        note = f"loss {whole.train_epoch(state.epoch):.4g}"
        stage = f"split {data.split}, on all of train"
        how["on_progress"](Progress(stage, state.epoch, state.best_epoch, "epochs", note))
        whole.save(state)
    held_out = np.array(state.held_out) if state.held_out else None  # a checkpoint of an earlier version has none
    return Fitted(whole.head, whole.target, state.history, state.best_epoch, held_out, whole.details)


def _choose_epoch(job: TrainingJob, data: SplitData, how: dict[str, Any]) -> State:
    """Train a head a fold, from their checkpoint if there is one; return their history and best epoch."""
    folds, pace = [Trainer(job, fold, **how) for fold in fold_data(data)], Pace()
    networks = [(fold.model, fold.optimizer) for fold in folds]
    state = read_folds(job.folder, networks)
    while goes_on(job.settings, epochs=state.epoch, best_epoch=state.best_epoch):
        state.epoch += 1
        line, predicted = train_together(folds, state.epoch, data.select.scores)
        state.history.append(line)
        if is_best(state.history, state.best_epoch) and predicted is not None:
            state.best_epoch, state.held_out = state.epoch, predicted.tolist()
        how["on_history"](state.history)
        note = f"{data.selected_on}: {reached(state.history, state.best_epoch)}"
        how["on_progress"](Progress(f"split {data.split}", state.epoch, job.settings.epochs, "epochs", note))
        pace.write(lambda: write_folds(job.folder, state, networks))
    return State(0, state.history, {}, state.best_epoch, state.held_out)
