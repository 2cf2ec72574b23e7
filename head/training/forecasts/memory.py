"""How much memory a training takes: each part of it measured in a step, or computed from tensors."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from featcache.base.memory import resident_bytes
from head.data.channels import ProjectedInput
from head.data.inputs import AHEAD
from head.models.fused.workspace import Workspace
from head.models.kinds import stored_of
from head.training.gradients.trainer import Trainer

_COPIES = 4  # of its tensors, while a checkpoint is written: they, two by safetensors, and one with its digest


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
class BatchMemory:
    """Bytes that are kept for the gradient of a batch, or of the largest of its parts, and those of its features."""

    kept: int
    features: int


def load(trainer: Trainer) -> int:
    """Take a step on the fewest images that can be, which loads and compiles all there is to; return what that takes.

    That is the memory of the process without the head's own.
    """
    trainer.model.train()
    fewest = 2 * trainer.settings.accumulate  # batch norm takes no less than two at once
    rows, views, scores = trainer.batches(1)[0]
    few = rows[:fewest], views[:fewest], scores[:fewest]
    [features], [(target, _)] = trainer.features([few[:2]]), trainer.targets([few])
    trainer.step(features, target)
    held = trainer.input.held_bytes if isinstance(trainer.input, ProjectedInput) else 0
    return resident_bytes() - bytes_of_head(trainer) - _bytes([features]) - held


def warm_up(trainer: Trainer) -> BatchMemory:
    """Take a step on the first batch, and count its memory."""
    [batch] = trainer.batches(1)[:1]
    [features], [(target, _)] = trainer.features([batch[:2]]), trainer.targets([batch])
    kept = _Kept([features, *trainer.model.parameters(), *trainer.model.buffers()])
    with saved_tensors_hooks(lambda tensor: _Held(tensor, kept), lambda held: held.tensor):
        trainer.step(features, target)
    return BatchMemory(kept.most, _bytes([features]))


def memory_of(trainer: Trainer, batch: BatchMemory, heads: int, *, checkpoints: bool, judged: bool) -> dict[str, int]:
    """Return the bytes of each part of a training's memory after a step, but for the process itself."""
    own, best = stored_of(trainer.model).values(), heads == 1 and judged
    moments = _bytes(_moments(trainer))
    resident = {} if trainer.resident is None else {"resident features": trainer.resident.bytes}
    of_batch = {"kept for gradients": batch.kept, "read ahead": (AHEAD + 1) * batch.features}
    checkpoint = _COPIES * ((1 + best) * _bytes(own) + moments) - sum(of_batch.values()) if checkpoints else 0
    return {
        "weights": heads * _bytes(_all(trainer.model)),
        "gradients": heads * _bytes(_gradients(trainer.model)),
        "moments": heads * moments,
        **({"best epoch": _bytes(own)} if best else {}),
        **({"arrays": heads * arrays} if (arrays := _arrays(trainer.model)) else {}),
        **({"projected features": heads * projected} if (projected := projected_bytes(trainer)) else {}),
        **of_batch,
        **resident,
        **({"more for a checkpoint": checkpoint} if checkpoint > 0 else {}),
    }


def bytes_of_head(trainer: Trainer) -> int:
    model = trainer.model
    return sum(map(_bytes, (_all(model), _gradients(model), _moments(trainer)))) + _arrays(model)


def projected_bytes(trainer: Trainer) -> int:
    """Return the bytes of features that are kept projected, once all are there; 0 where none are."""
    return trainer.input.bytes if isinstance(trainer.input, ProjectedInput) else 0


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
