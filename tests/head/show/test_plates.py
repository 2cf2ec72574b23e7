"""Drawings made in processes of their own are those made here, also where such a process is killed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featcache.settings import ViewSettings
from head.data import batches
from head.prediction.predictor import Prediction
from head.show import overlay, plates
from tests.helpers.tiny import ROOT

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


def test_all_processes_start_before_the_first_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "usable_threads", lambda threads: 2)
    with plates.drawing(4) as draw:
        assert len(draw.args[0]._processes) == 2  # type: ignore[attr-defined]


def test_a_process_ends_with_its_parent_from_the_first() -> None:
    code = (
        "import sys; from head.show import plates\n"
        "plates.end_with = lambda parent: sys.exit('matplotlib' in sys.modules)\n"
        "plates._prepare(1); sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("error", [OSError(errno.EAGAIN, "no more processes"), ImportError("no sem_open")])
def test_where_no_processes_are_to_be_had_all_is_drawn_here(
    predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(plates, "usable_threads", lambda threads: 2)
    for of, name in ((plates.ProcessPoolExecutor, "submit"), (plates, "ProcessPoolExecutor")):
        monkeypatch.setattr(of, name, failing)
        with plates.drawing(len(predictions)) as draw:
            assert draw(RUN, predictions[0])() == plates.draw_prediction(RUN, predictions[0])


def test_few_are_drawn_here(predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "ProcessPoolExecutor", None)
    with plates.drawing(3) as draw:
        assert draw(RUN, predictions[0])() == plates.draw_prediction(RUN, predictions[0])


def test_what_is_drawn_is_the_evaluation_view() -> None:
    assert overlay._EVAL_VIEW == batches.EVAL_VIEW
