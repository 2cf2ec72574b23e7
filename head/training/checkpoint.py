"""The state of an unfinished training in one file, so that a run killed at any instant ends as if it had not been.

A safetensors file: tensors under model., best. and optimizer., everything else as JSON in its header.
Epochs draw their own random numbers from (seed, epoch), so no generator state is needed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from featcache.base.errors import CorruptFile
from featcache.base.files import write_durably
from head.models.kinds import fill, stored_of


@dataclass
class State:
    """Training as it stands: epochs done, their history, and the best epoch's weights."""

    epoch: int
    history: list[dict[str, float]]
    best: dict[str, Tensor]
    best_epoch: int = 0


def write_checkpoint(path: Path, state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint at once, durably, its sha256 behind its bytes."""
    tensors = {f"model.{name}": tensor for name, tensor in stored_of(model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    facts = {"epoch": state.epoch, "history": state.history, "best_epoch": state.best_epoch}
    data = safetensors.torch.save(tensors, {"facts": json.dumps(facts)})
    write_durably(path, data + hashlib.sha256(data).digest())


def read_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put a checkpoint back into model and optimizer and return the rest, or a new state where there is none.

    Raises `CorruptFile` if it does not have its digest.
    """
    if not path.is_file():
        return State(0, [], {})
    content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptFile(f"{path}: damaged; delete it, or start over with --no-resume")
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
