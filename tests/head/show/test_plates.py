"""Drawings made in processes of their own are those made here, also where such a process is killed."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featcache.settings import ViewSettings
from head.data import batches
from head.prediction.predictor import Prediction
from head.show import overlay, plates

RUN: Any = SimpleNamespace(recipe=SimpleNamespace(view_settings=ViewSettings()), tokens="")


@pytest.fixture
def predictions(tiny_dataset: Path) -> list[Prediction]:
    paths = sorted((tiny_dataset / "images").glob("*.jpg"))[:4]
    maps = np.random.default_rng(0).random((4, 3, 4, 4), np.float32)
    return [Prediction(path, 0.6, (0.1, 0.2, 0.3), attention=one) for path, one in zip(paths, maps / 16, strict=True)]


def test_processes_draw_the_same_bytes(predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "usable_threads", lambda threads: 2)
    with plates.drawing(len(predictions)) as draw:
        drawn = [one() for one in [draw(RUN, prediction) for prediction in predictions]]
    assert drawn == [plates.draw_prediction(RUN, prediction) for prediction in predictions]


def test_what_a_killed_process_leaves_is_drawn_here(
    predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plates, "usable_threads", lambda threads: 2)
    with plates.drawing(len(predictions)) as draw:
        pool = draw.args[0]  # type: ignore[attr-defined]
        os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
        assert draw(RUN, predictions[0])() == plates.draw_prediction(RUN, predictions[0])
        assert draw(RUN, predictions[1])() == plates.draw_prediction(RUN, predictions[1])


def test_few_are_drawn_here(predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "ProcessPoolExecutor", None)
    with plates.drawing(3) as draw:
        assert draw(RUN, predictions[0])() == plates.draw_prediction(RUN, predictions[0])


def test_what_is_drawn_is_the_evaluation_view() -> None:
    assert overlay._EVAL_VIEW == batches.EVAL_VIEW
