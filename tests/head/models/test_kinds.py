"""A stored head names its kind, and no other name is taken for it; a new kind is its file and a line in two tables."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.store.cache import open_cache
from head.evaluation.score import score_run
from head.models.amnet import HeadOutput
from head.models.baselines import Baseline, Candidate, LinearHead, LinearShape, Task
from head.models.kinds import KINDS, Kind, head_as_json, head_from_json
from head.runs.head_file import load_head
from head.settings import HEADS, TrainSettings
from head.training.job import TrainingJob
from head.training.train import train

SHAPE = LinearShape(7)


@dataclass(frozen=True)
class ToyShape:
    """Sizes of a toy head, by the names that they have everywhere."""

    channels: int
    steps: int = 1


class ToyHead(nn.Module):
    """Score pooled vectors (B, 1, D) by a weighted sum."""

    def __init__(self, shape: ToyShape) -> None:
        super().__init__()
        self.shape = shape
        self.weights = nn.Linear(shape.channels, 1)

    def forward(self, features: Tensor) -> HeadOutput:
        score = self.weights(features.flatten(1).float()).squeeze(1)
        return HeadOutput(score, score.unsqueeze(1), score.new_empty((len(score), 1, 0)))


def toy_candidates(task: Task) -> Iterator[Candidate]:
    """Yield heads of the least squares on shrunken scores, the last of which is the best by MSE."""
    weight = np.linalg.lstsq(task.vectors.x / task.vectors.deviation, task.y, rcond=None)[0]
    for share in (0.1, 1.0):
        head = ToyHead(ToyShape(len(weight)))
        offset = torch.from_numpy(task.vectors.mean * weight).sum()
        head.load_state_dict({"weights.weight": torch.from_numpy(share * weight)[None], "weights.bias": -offset[None]})
        yield Candidate({"share": share}, iter([head]))


def test_a_stored_kind_gives_the_head_that_it_was() -> None:
    stored = head_as_json(LinearHead(SHAPE))
    assert stored == {"kind": "linear", "shape": asdict(SHAPE)}
    assert isinstance(head_from_json(stored["kind"], stored["shape"]), LinearHead)


@pytest.mark.parametrize("kind", ["ridge", "unheard of"])
def test_a_kind_that_no_run_stores_is_refused(kind: str) -> None:
    with pytest.raises(KeyError, match=kind):
        head_from_json(kind, asdict(SHAPE))


GRADIENT = (HEADS["mlp"] | {"lr", "weight_decay", "batch_size", "precision"}, None)
LEAST_SQUARES = (HEADS["ridge"], Baseline(toy_candidates, lambda task: 2))


@pytest.mark.parametrize(("fields", "baseline"), [GRADIENT, LEAST_SQUARES], ids=["gradient", "baseline"])
def test_a_new_kind_is_trained_stored_and_scored_with_a_line_in_two_tables(
    tiny_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: frozenset[str],
    baseline: Baseline | None,
) -> None:
    monkeypatch.setitem(HEADS, "toy", fields)
    monkeypatch.setitem(KINDS, "toy", Kind("a toy", ToyShape, ToyHead, scale=lambda head: None, baseline=baseline))
    settings = TrainSettings(head="toy", pooling="mean", lr=0.05, batch_size=11, epochs=7)
    assert settings.default_name() == "toy,lr=0.05,batch-size=11,epochs=7,pooling=mean"
    cache = open_cache(tiny_cache)
    run = train(TrainingJob(cache, "1", settings, tmp_path, "toy"))
    assert run.result.epochs == (2 if baseline else 7)
    assert isinstance(load_head(run).module, ToyHead)
    assert np.isfinite(score_run(run, cache).prediction).all()
