"""A published checkpoint of a model trained without attention: its file is the same, so the importer is told."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.base.errors import Mismatch
from head.models.published import PublishedHead, PublishedShape
from head.runs.run import read_run
from head.share.import_head import import_head
from tests.helpers.command_line import amnet
from tests.helpers.reference_published import as_arrays, random_checkpoint, score_features
from tests.helpers.small_resnet import small_resnet, small_resnet_for_resnet50

ATTENTION = ("e1.weight", "eh1.weight", "eh1.bias", "eh3.weight")
State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    with small_resnet_for_resnet50():
        yield


@pytest.fixture(scope="module")
def checkpoint() -> State:
    """All of it trained but the weights of attention, which are as PyTorch draws them."""
    state = random_checkpoint(positions=16, hidden_size=17, regressor_size=19, network=small_resnet)
    torch.manual_seed(0)
    channels = state["e1.weight"].shape[0]
    drawn = {
        "e1": nn.Linear(channels, channels, bias=False),
        "eh1": nn.Linear(17, 16),
        "eh3": nn.Linear(channels, 1, bias=False),
    }
    return state | {key: drawn[key.partition(".")[0]].state_dict()[key.partition(".")[2]] for key in ATTENTION}


def saved(path: Path, state: State) -> Path:
    torch.save({"model": state}, path)
    return path


def test_its_head_gives_every_position_the_same_weight(checkpoint: State, tmp_path: Path) -> None:
    imported = import_head(saved(tmp_path / "f.pkl", checkpoint), tmp_path / "run", attention=False)
    assert (imported.unknown_keys, imported.warnings()) == ((), [])
    assert not read_run(tmp_path / "run").attends
    without = as_arrays({key: value for key, value in checkpoint.items() if key not in ATTENTION})
    features = np.random.default_rng(0).normal(size=(16, imported.shape.channels))
    head = PublishedHead(imported.shape)
    assert imported.shape == PublishedShape(16, imported.shape.channels, 3, 17, 19, attention=False)
    head.load_state_dict({key: value for key, value in checkpoint.items() if key in head.state_dict()})
    found = head.eval()(torch.from_numpy(features).float().unsqueeze(0))
    wanted = score_features(without, features)
    assert found.score.item() / 2 + 0.754 == pytest.approx(wanted.y, abs=1e-5)
    attending = score_features(as_arrays(checkpoint), features)
    assert abs(attending.y - wanted.y) > 1e-3


@pytest.mark.parametrize("change", ["drawn", "trained", "a single weight trained"])
def test_untrained_attention_is_told(checkpoint: State, tmp_path: Path, change: str) -> None:
    state = dict(checkpoint)
    if change == "trained":
        state |= {key: 1.2 * state[key] for key in ATTENTION}
    elif change == "a single weight trained":
        state["e1.weight"] = state["e1.weight"].clone()
        state["e1.weight"][3, 5] = 2 / state["e1.weight"].shape[1] ** 0.5
    imported = import_head(saved(tmp_path / "f.pkl", state), tmp_path / "run")
    assert imported.attends_untrained == (change == "drawn")
    assert any("import it with --no-attention" in said for said in imported.warnings()) == (change == "drawn")


def test_a_file_without_weights_of_attention_says_the_way_out(checkpoint: State, tmp_path: Path) -> None:
    file = saved(tmp_path / "f.pkl", {key: value for key, value in checkpoint.items() if key not in ATTENTION})
    with pytest.raises(Mismatch, match="import it with --no-attention"):
        import_head(file, tmp_path / "run")
    said = amnet("import-head", file, "--out", tmp_path / "run", "--no-attention").stdout
    assert "head of 3 steps, without attention" in said


def test_the_same_file_with_and_without_attention_are_two_runs(checkpoint: State, tmp_path: Path) -> None:
    file = saved(tmp_path / "f.pkl", checkpoint)
    import_head(file, tmp_path / "run", attention=False)
    with pytest.raises(Mismatch, match="holds another run"):
        import_head(file, tmp_path / "run")
    assert import_head(file, tmp_path / "run", attention=False).run.result == read_run(tmp_path / "run").result
