"""The state of an unfinished training in one file, so that a run killed at any instant ends as if it had not been.

A safetensors file: tensors under model., best. and optimizer., everything else as JSON in its header.
Epochs draw their own random numbers from (seed, epoch), so no generator state is needed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from featcache.base.errors import CorruptFile
from featcache.base.files import write_durably


@dataclass(frozen=True)
class Checkpoint:
    """Where training stands after an epoch: tensors by name, and the JSON-able rest (epoch, history, best epoch)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def pack(
    model: torch.nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> Checkpoint:
    """Gather the state of training."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    return Checkpoint(tensors, facts)


def unpack(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put a checkpoint's state back into model and optimizer; return the best epoch's weights."""
    model.load_state_dict(_under("model.", checkpoint.tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", checkpoint.tensors).items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return _under("best.", checkpoint.tensors)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at once, durably, its sha256 behind its bytes."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    data = safetensors.torch.save(tensors, {"facts": json.dumps(checkpoint.facts)})
    write_durably(path, data + hashlib.sha256(data).digest())


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint, or None where there is none; raise `CorruptFile` if it does not have its digest."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptFile(f"{path}: damaged; delete it, or start over with --no-resume")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Checkpoint(safetensors.torch.load(data), json.loads(header["__metadata__"]["facts"]))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
