"""A checkpoint brings everything back, or says that it is damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featcache.base.errors import CorruptFile
from head.training.gradients.checkpoint import State, read_checkpoint, write_checkpoint

HISTORY: list[dict[str, float]] = [{"epoch": 1, "val_rho": float("nan"), "train_loss": 0.1 + 0.2}]


def make_training(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and its optimizer after two steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=1e-3)
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(6.0).reshape(2, 3)).square().mean().backward()
    optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def write(path: Path, seed: int = 0, epoch: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Write the checkpoint of a training, and return its model and optimizer."""
    model, optimizer = make_training(seed)
    write_checkpoint(path, State(epoch, HISTORY, weights(model), 1), model, optimizer)
    return model, optimizer


def test_a_checkpoint_brings_model_optimizer_best_epoch_and_facts_back(tmp_path: Path) -> None:
    model, optimizer = make_training(seed=0)
    best = weights(make_training(seed=1)[0])
    write_checkpoint(tmp_path / "checkpoint", State(3, HISTORY, best, 1), model, optimizer)
    other_model, other_optimizer = make_training(seed=2)
    found = read_checkpoint(tmp_path / "checkpoint", other_model, other_optimizer)
    assert (found.epoch, found.best_epoch) == (3, 1)
    assert repr(found.history) == repr(HISTORY)  # NaN is not equal to itself
    assert same(found.best, best)
    assert same(weights(other_model), weights(model))
    step(model, optimizer)
    step(other_model, other_optimizer)  # Adam's moments and step count came back too
    assert same(weights(other_model), weights(model))


def test_a_checkpoint_does_not_follow_later_training(tmp_path: Path) -> None:
    model, optimizer = write(tmp_path / "checkpoint")
    before = weights(model)
    step(model, optimizer)
    read_checkpoint(tmp_path / "checkpoint", model, optimizer)
    assert same(weights(model), before)


def test_where_there_is_no_checkpoint_training_begins(tmp_path: Path) -> None:
    model, optimizer = make_training(seed=0)
    before = weights(model)
    assert read_checkpoint(tmp_path / "checkpoint", model, optimizer) == State(0, [], {})
    assert same(weights(model), before)


@pytest.mark.parametrize("place", [0, 9, 200, -40, -1])
def test_a_flipped_byte_is_seen_and_the_way_out_is_named(tmp_path: Path, place: int) -> None:
    path = tmp_path / "checkpoint"
    training = write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"checkpoint: damaged; .*--no-resume"):
        read_checkpoint(path, *training)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 300])
def test_a_checkpoint_cut_short_is_seen(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "checkpoint"
    training = write(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptFile, match="damaged"):
        read_checkpoint(path, *training)


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint"
    model, optimizer = write(path, seed=0, epoch=1)
    before = weights(model)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featcache.base.files._write_and_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, seed=1, epoch=2)
    assert read_checkpoint(path, *make_training(seed=2)).epoch == 1
    assert same(read_checkpoint(path, model, optimizer).best, before)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
