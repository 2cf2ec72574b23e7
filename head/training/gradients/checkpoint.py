"""The state of an unfinished training in files, so that a run killed at any instant ends as if it had not been.

A safetensors file for a head: tensors under model., best. and optimizer., everything else as JSON in its header. The
heads of a cross-validation have a file each, and one more, written last, says of which epoch they are. Those that a
stack fits without a fold have a folder each, with what they predict for that fold once they are fitted.
Epochs draw their own random numbers from (seed, epoch), so no generator state is needed.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import CorruptFile
from featcache.base.files import write_durably
from head.models.kinds import fill, stored_of
from head.runs.run import CHECKPOINT_NAME

CHECKPOINT_SECONDS = 15.0
_QUICKLY = CHECKPOINT_SECONDS / 20  # a checkpoint that takes longer is written less often
_FOLDS = f"{CHECKPOINT_NAME}-folds"
_MEMBERS = f"{CHECKPOINT_NAME}s-of-members"
_HELD_OUT = "held-out"


class Optimizer(Protocol):
    """What keeps numbers of each weight from step to step: `torch.optim.Optimizer`, or what does the same."""

    param_groups: list[dict[str, Any]]

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, found: dict[str, Any], /) -> None: ...


Network = tuple[torch.nn.Module, Optimizer]


@dataclass
class State:
    """Training as it stands: epochs done, their history, and the best epoch's weights.

    held_out are in cross-validation the best epoch's predictions for all that is held out.
    """

    epoch: int
    history: list[dict[str, float]]
    best: dict[str, Tensor]
    best_epoch: int = 0
    held_out: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """All but weights, JSON-able."""
        return {name: value for name, value in vars(self).items() if name != "best"}


class Pace:
    """When checkpoints are written: every `CHECKPOINT_SECONDS`, of large heads so that they take a twentieth of it."""

    def __init__(self) -> None:
        self._saved, self._took = time.monotonic(), 0.0

    def write(self, checkpoint: Callable[[], None]) -> None:
        """Write a checkpoint if it is time for one."""
        started = time.monotonic()
        if started - self._saved > CHECKPOINT_SECONDS * max(1.0, self._took / _QUICKLY):
            checkpoint()
            self._saved = time.monotonic()
            self._took = self._saved - started


def write_checkpoint(path: Path, state: State, model: torch.nn.Module, optimizer: Optimizer) -> None:
    """Replace the checkpoint at once, durably, its sha256 behind its bytes."""
    tensors = {f"model.{name}": tensor for name, tensor in stored_of(model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _write_signed(path, safetensors.torch.save(tensors, {"facts": json.dumps(state.facts())}))


def read_checkpoint(path: Path, model: torch.nn.Module, optimizer: Optimizer, *, new: State | None = None) -> State:
    """Put a checkpoint back into model and optimizer and return the rest, or a new state where there is none.

    Raises `CorruptFile` if it does not have its digest.
    """
    if not path.is_file():
        return new or State(0, [], {})
    data = _read_signed(path)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = safetensors.torch.load(data)
    fill(model, _under("model.", tensors))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        number, _, key = name.partition(".")
        like = weights[int(number)]  # fused Adam takes moments in the order in memory that their weight has
        moments.setdefault(int(number), {})[key] = (
            torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return State(best=_under("best.", tensors), **json.loads(header["__metadata__"]["facts"]))


def write_folds(folder: Path, state: State, networks: Sequence[Network]) -> None:
    """Write a file for each head of a cross-validation, one head in memory at a time, and last their common state."""
    for number, (model, optimizer) in enumerate(networks):
        write_checkpoint(_of_fold(folder, number, state.epoch), State(state.epoch, [], {}), model, optimizer)
    _write_signed(folder / _FOLDS, json.dumps(state.facts()).encode())
    kept = {_of_fold(folder, number, state.epoch) for number in range(len(networks))}
    for path in folder.glob(f"{_FOLDS}-*"):  # of earlier epochs
        if path not in kept:
            path.unlink()


def read_folds(folder: Path, networks: Sequence[Network]) -> State:
    """Put the heads of a cross-validation back as they were; return their state, a new one where there is none.

    Raises `CorruptFile` if one is missing, or does not have its digest.
    """
    if not (folder / _FOLDS).is_file():
        return State(0, [], {})
    state = State(best={}, **json.loads(_read_signed(folder / _FOLDS)))
    for number, (model, optimizer) in enumerate(networks):
        path = _of_fold(folder, number, state.epoch)
        if not path.is_file():
            raise CorruptFile(f"{path}: missing; start over with --no-resume")
        read_checkpoint(path, model, optimizer)
    return state


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run, those by which others count first."""
    for path in (folder / CHECKPOINT_NAME, folder / _FOLDS, *folder.glob(f"{_FOLDS}-*")):
        path.unlink(missing_ok=True)
    if (folder / _MEMBERS).is_dir():
        shutil.rmtree(folder / _MEMBERS)


def folder_of_fit(folder: Path, member: int, fold: int) -> Path:
    """Return where the checkpoint of a stack's member is while it is fitted without a fold; both count from 0."""
    return folder / _MEMBERS / f"{member + 1}-fold-{fold + 1}"


def write_held_out(folder: Path, predictions: NDArray[np.float64]) -> None:
    """Keep predictions (n) for a fold, by a member that was fitted without it."""
    _write_signed(folder / _HELD_OUT, predictions.astype("<f8").tobytes())


def read_held_out(folder: Path) -> NDArray[np.float64] | None:
    """Return what `write_held_out` kept, None for nothing; raise `CorruptFile` if it does not have its digest."""
    path = folder / _HELD_OUT
    return np.frombuffer(_read_signed(path), "<f8").astype(np.float64) if path.is_file() else None


def _of_fold(folder: Path, number: int, epoch: int) -> Path:
    return folder / f"{_FOLDS}-{number + 1}-of-epoch-{epoch}"


def _write_signed(path: Path, data: bytes) -> None:
    """Write data and its sha256 behind it."""
    write_durably(path, data + hashlib.sha256(data).digest())


def _read_signed(path: Path) -> bytes:
    """Return the data of such a file; raise `CorruptFile` if it does not have its digest."""
    content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptFile(f"{path}: damaged; delete it, or start over with --no-resume")
    return data


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
