"""history.csv, and the event files that TensorBoard itself reads back."""

import math
from contextlib import closing
from pathlib import Path

import pytest

from featcache.base.errors import InvalidSettings, StorageError
from head.runs.events import EventLog, check_tensorboard
from head.runs.history import read_history, write_history
from tests.helpers.event_files import scalars

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "val_rho": 0.1 * epoch,
        "val_mse": 0.5 / epoch,
        "val_prediction_sd": 0.25,
        "seconds": 2.0 * epoch,
        "images_per_second": 100.0 * epoch,
    }
    for epoch in (1, 2, 3, 4, 5)
]


def test_the_history_has_one_line_an_epoch(tmp_path: Path) -> None:
    write_history(tmp_path, [{"epoch": 1, "val_rho": 0.1 + 0.2}, {"epoch": 2, "val_rho": float("nan")}])
    assert (tmp_path / "history.csv").read_bytes() == b"epoch,val_rho\n1,0.30000000000000004\n2,nan\n"


def test_how_long_epochs_took_is_not_in_the_history_file(tmp_path: Path) -> None:
    write_history(tmp_path, HISTORY)
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,val_rho,val_mse,val_prediction_sd"


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    write_history(tmp_path, [{"epoch": 1, "val_rho": 0.1 + 0.2}, {"epoch": 2, "val_rho": math.nan}])
    first, second = read_history(tmp_path)
    assert first == {"epoch": 1, "val_rho": 0.1 + 0.2}
    assert math.isnan(second["val_rho"])


def test_tensorboard_reads_a_point_an_epoch(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "run", lr=0.01)) as log:
        assert log.empty
        for epochs in range(1, len(HISTORY) + 1):
            log(HISTORY[:epochs])
        assert not log.empty
    found = scalars(tmp_path / "run")
    assert sorted(found) == [
        "speed/images_per_second", "speed/seconds", "train/loss", "train/lr",
        "val/mse", "val/prediction_sd", "val/rho",
    ]  # fmt: skip
    assert found["train/loss"] == [(epoch, pytest.approx(1 / epoch)) for epoch in (1, 2, 3, 4, 5)]
    assert found["val/rho"] == [(epoch, pytest.approx(0.1 * epoch)) for epoch in (1, 2, 3, 4, 5)]
    assert found["speed/images_per_second"] == [(epoch, 100 * epoch) for epoch in (1, 2, 3, 4, 5)]
    assert found["train/lr"] == [(epoch, pytest.approx(0.01)) for epoch in (1, 2, 3, 4, 5)]


def test_every_epoch_is_on_disk_before_the_next(tmp_path: Path) -> None:
    log = EventLog(tmp_path, lr=0.01)
    log(HISTORY[:1])
    log(HISTORY[:2])
    assert [step for step, _ in scalars(tmp_path)["val/rho"]] == [1, 2]  # nothing was closed
    log.close()


def test_epochs_that_are_done_again_are_there_once(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path, lr=0.01)) as killed:
        killed(HISTORY[:4])
    again = [{**epoch, "val_rho": 0.9} for epoch in HISTORY[2:]]
    with closing(EventLog(tmp_path, lr=0.01)) as resumed:  # from a checkpoint of epoch 2
        resumed(HISTORY[:2] + again[:1])
        resumed(HISTORY[:2] + again)
    assert len(list(tmp_path.iterdir())) == 1
    wanted = [(1, 0.1), (2, 0.2), (3, 0.9), (4, 0.9), (5, 0.9)]
    assert scalars(tmp_path)["val/rho"] == [(step, pytest.approx(rho)) for step, rho in wanted]


def test_a_run_that_starts_over_leaves_nothing_of_the_longer_one_before(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path, lr=0.01)) as longer:
        longer(HISTORY)
    with closing(EventLog(tmp_path, lr=0.01)) as shorter:
        shorter(HISTORY[:2])
    assert [step for step, _ in scalars(tmp_path)["val/rho"]] == [1, 2]


def test_a_folder_that_cannot_be_is_said_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run: .*give another folder with --tensorboard"):
        EventLog(tmp_path / "file" / "run", lr=0.01)(HISTORY)


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match=r"--tensorboard needs TensorBoard: pip install .*\[tensorboard\]"):
        check_tensorboard()
