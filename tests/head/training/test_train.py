"""Training against a plain loop over live features, and runs that are interrupted, killed, repeated or refused."""

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Locked, Mismatch, ResourceError
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import open_dataset
from featcache.datasets.splits import Part
from featcache.extraction.extract import extract
from featcache.images.loading import load_image
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import epoch_batches, split_data
from head.evaluation.metrics import mean_squared_error, spearman
from head.evaluation.score import score_run, write_scores
from head.models.amnet import AMNetHead, loss
from head.models.kinds import untrained_head
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings
from head.training import train as training
from head.training.job import TrainingJob
from tests.helpers.processes import Forked, run_forked
from tests.helpers.tiny import TINY_EXTRACT, TINY_TRAIN

SHORT = replace(TINY_TRAIN, epochs=5, dropout=0.5)  # dropout, so that its random numbers count
Outcome = tuple[bytes, bytes, dict[str, object]]
Whole = Callable[..., Outcome]


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


def train(
    cache: FeatureCache,
    folder: Path,
    settings: TrainSettings = SHORT,
    *,
    split: str = "1",
    on_progress: OnProgress = silent,
    **more: Any,
) -> Run:
    return training.train(TrainingJob(cache, split, settings, folder, "paper", **more), on_progress)


def train_until(epoch: int, cache: FeatureCache, folder: Path, settings: TrainSettings = SHORT) -> list[int]:
    """Interrupt a training as it reports an epoch; return the epochs that it reported."""
    seen: list[int] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress.done)
        if progress.done == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cache, folder, settings, on_progress=interrupt)
    return seen


def outcome(folder: Path) -> Outcome:
    """Return head, history and result: what two equal trainings must agree in."""
    head, history = ((folder / name).read_bytes() for name in ("head.safetensors", "history.csv"))
    return head, history, read_run(folder).result.document


@pytest.fixture(scope="module")
def whole(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return the outcome of a training that nothing interrupts; one of the same settings is done once."""

    @lru_cache
    def outcome_of(settings: TrainSettings = SHORT) -> Outcome:
        folder = tmp_path_factory.mktemp("whole")
        train(open_cache(tiny_cache), folder, settings)
        return outcome(folder)

    return outcome_of


def history_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def script_rho(monkeypatch: pytest.MonkeyPatch, rhos: list[float]) -> None:
    """Make validation give these rhos, epoch by epoch."""
    left: Iterator[float] = iter(rhos)
    monkeypatch.setattr("head.evaluation.metrics.spearman", lambda prediction, truth: next(left))


# what is learnt


@pytest.mark.parametrize("name", ["paper", "plain"])
def test_training_learns_what_can_be_learnt(tiny_runs: Path, cache: FeatureCache, name: str) -> None:
    folder = tiny_runs / "tiny" / name / "split-1"
    losses = [epoch["train_loss"] for epoch in history_of(folder)]
    assert min(losses[-3:]) < losses[0] / 3
    metrics = score_run(read_run(folder), cache).metrics
    assert metrics.rho_low > 0.5
    assert metrics.mse < metrics.truth_sd**2 / 3  # the mean alone would give truth_sd squared


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The backbone of `tiny_cache`."""
    return load_backbone(TINY_EXTRACT)


@pytest.mark.parametrize("attention", [True, False])
def test_training_on_the_cache_is_training_on_live_features(
    tiny_dataset: Path, cache: FeatureCache, backbone: Backbone, tmp_path: Path, attention: bool
) -> None:
    settings = replace(SHORT, attention=attention, dropout=0.0, weight_decay=1e-3, attention_weight=0.1, seed=2)
    run = train(cache, tmp_path, settings)
    model, losses, rho, mse = train_live(tiny_dataset, cache, backbone, settings, epochs=run.result.best_epoch)
    history = history_of(tmp_path)
    np.testing.assert_allclose([epoch["train_loss"] for epoch in history[: len(losses)]], losses, rtol=1e-3)
    assert run.result.document["val_rho"] == pytest.approx(rho, abs=1e-9)
    assert run.result.document["val_mse"] == pytest.approx(mse, rel=1e-3)
    state = load_head(run).module.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            state[name], tensor, rtol=1e-3, atol=5e-4, msg=name
        )  # Adam turns last bits into steps


@pytest.mark.parametrize("sign", [1, -1])
def test_steps_against_the_order_that_a_penalty_asks_for_become_smaller(
    cache: FeatureCache, tmp_path: Path, sign: int
) -> None:
    def unwanted(penalty: float) -> float:
        run = train(cache, tmp_path / str(penalty), replace(SHORT, order_penalty=penalty))
        rises = np.diff(score_run(run, cache).step_scores, axis=1)
        return float(np.square(np.minimum(sign * rises, 0)).sum())

    assert unwanted(30.0 * sign) < unwanted(0.0) / 4


def train_live(
    dataset_folder: Path, cache: FeatureCache, backbone: Backbone, settings: TrainSettings, *, epochs: int
) -> tuple[AMNetHead, list[float], float, float]:
    """Train without stored features: decode, cut and run the backbone for every batch.

    Of the cache only the rows' names and the split are used. Returns the model after the last epoch, each
    epoch's loss, and validation rho and MSE.
    """

    def live(rows: Iterator[int], views: Iterator[int]) -> Tensor:
        pixels = []
        for row, view in zip(rows, views, strict=True):
            name = cache.images[row].name
            path = dataset_folder / "images" / name
            pixels.append(load_image(path, name, (view, view + 1), cache.recipe).pixels[0])
        features = backbone(torch.from_numpy(np.stack(pixels)))["layer3"].half().float()
        return features.clone()  # not an inference tensor

    part, select = cache.splits["1"]["train"], cache.splits["1"]["val"]
    torch.manual_seed(settings.seed)
    model = untrained_head(cache, settings)
    draws = epoch_batches(part, views=3, seed=settings.seed, epoch=0, batch_size=1000)
    everything = torch.cat([live(rows, views) for rows, views, _ in draws])
    model.set_feature_scale(everything.mean(dim=(0, 1)), everything.std(dim=(0, 1), correction=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    centre = part.scores.mean()
    reach = abs(part.scores - centre).max()
    losses = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows, views, scores in epoch_batches(
            part, views=3, seed=settings.seed, epoch=epoch, batch_size=settings.batch_size
        ):
            target = torch.from_numpy((scores - centre) / reach).float()
            value = loss(model(live(rows, views)), target, attention_weight=settings.attention_weight)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
        losses.append(total / len(part.rows))
    with torch.no_grad():
        score = model.eval()(live(select.rows, np.zeros_like(select.rows))).score.double().numpy() * reach + centre
    return model, losses, spearman(score, select.scores), mean_squared_error(score, select.scores)


def test_scores_are_centred_on_the_training_mean_and_scaled_to_one(tiny_runs: Path, cache: FeatureCache) -> None:
    head, scores = load_head(read_run(tiny_runs / "tiny" / "paper" / "split-1")), cache.splits["1"]["train"].scores
    scaled = (scores - head.target_mean) / head.target_scale
    assert abs(scaled.mean()) < 1e-12
    assert abs(scaled).max() == pytest.approx(1)


def test_absent_images_are_neither_trained_on_nor_recorded(torn_cache: Path, tmp_path: Path) -> None:
    cache = open_cache(torn_cache)
    run = train(cache, tmp_path, replace(SHORT, epochs=1))
    assert (run.config.train_images, run.config.absent_images) == (22, 2)
    present = split_data(cache, "1", SHORT).train.rows
    assert load_head(run).train_images == {cache.images[row].sha256 for row in present}


# which epoch is kept, and when training ends


def test_the_best_epoch_is_the_first_of_highest_validation_rho(tiny_runs: Path) -> None:
    for split in ("1", "2"):
        folder = tiny_runs / "tiny" / "paper" / f"split-{split}"
        history, result = history_of(folder), read_run(folder).result.document
        best = int(np.argmax([epoch["val_rho"] for epoch in history]))
        assert [epoch["epoch"] for epoch in history] == list(range(1, result["epochs"] + 1))
        assert result["best_epoch"] == best + 1
        assert (result["val_rho"], result["val_mse"]) == (history[best]["val_rho"], history[best]["val_mse"])


def test_the_epoch_of_lowest_validation_mse_is_reported_beside_it(tiny_runs: Path) -> None:
    folder = tiny_runs / "tiny" / "paper" / "split-1"
    history, result = history_of(folder), read_run(folder).result.document
    lowest = int(np.argmin([epoch["val_mse"] for epoch in history]))
    assert result["lowest_mse_epoch"] == lowest + 1 != result["best_epoch"]
    assert result["lowest_mse_val_rho"] == history[lowest]["val_rho"]
    assert result["lowest_mse_val_mse"] == history[lowest]["val_mse"]


def test_the_head_is_that_of_the_best_epoch(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_rho(monkeypatch, [0.1, 0.5, 0.2, 0.4])
    train(cache, tmp_path / "four", replace(SHORT, epochs=4))
    script_rho(monkeypatch, [0.1, 0.5])
    train(cache, tmp_path / "two", replace(SHORT, epochs=2))
    assert outcome(tmp_path / "four")[0] == outcome(tmp_path / "two")[0]


def test_validation_rho_is_that_of_the_head_that_is_kept(tiny_runs: Path, cache: FeatureCache) -> None:
    run = read_run(tiny_runs / "tiny" / "paper" / "split-1")
    metrics = score_run(run, cache, part="val").metrics
    assert metrics.rho == pytest.approx(run.result.document["val_rho"])
    assert metrics.mse == pytest.approx(run.result.document["val_mse"], rel=1e-5)


def test_training_ends_after_so_many_epochs_without_a_better_rho(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_rho(monkeypatch, [0.1, 0.2, 0.1, 0.3, 0.3, 0.2, 0.9])
    run = train(cache, tmp_path, replace(SHORT, epochs=7, patience=2))
    assert (run.result.epochs, run.result.best_epoch) == (6, 4)


def test_an_epoch_whose_rho_is_undefined_is_never_better_than_one_whose_rho_is(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_rho(monkeypatch, [math.nan, -0.1, 0.2, math.nan])
    assert train(cache, tmp_path, replace(SHORT, epochs=4)).result.best_epoch == 3


def test_a_run_whose_rho_was_never_defined_ends_with_its_first_epoch_and_a_plain_json_configuration(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_rho(monkeypatch, [math.nan] * 3)
    train(cache, tmp_path, replace(SHORT, epochs=5, patience=2))
    config = json.loads(
        (tmp_path / "config.json").read_text(), parse_constant=lambda word: pytest.fail(f"holds {word}")
    )
    assert (config["result"]["best_epoch"], config["result"]["epochs"]) == (1, 3)
    assert config["result"]["val_rho"] is None


def test_a_loss_that_is_not_finite_ends_the_training(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "head.training.gradients.trainer.loss", lambda output, target, **constants: output.score.sum() * math.nan
    )
    with pytest.raises(BadInput, match=r"the loss is not finite in epoch 1; use a lower --lr"):
        train(cache, tmp_path)


# the same again


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_generators(cache: FeatureCache, tmp_path: Path) -> None:
    torch.manual_seed(1)
    train(cache, tmp_path / "a")
    torch.manual_seed(2)
    train(cache, tmp_path / "b")
    train(cache, tmp_path / "c", replace(SHORT, seed=1))
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert outcome(tmp_path / "a")[0] != outcome(tmp_path / "c")[0]


def test_training_leaves_the_global_generators_as_they_were(cache: FeatureCache, tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(cache, tmp_path, replace(SHORT, epochs=1))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("epoch", range(1, SHORT.epochs + 1))
def test_a_run_interrupted_after_any_epoch_ends_as_if_it_had_not_been(
    cache: FeatureCache, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, attention: bool
) -> None:
    settings = replace(SHORT, attention=attention)
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    train_until(epoch, cache, tmp_path / "cut", settings)
    resumed: list[int] = []
    train(cache, tmp_path / "cut", settings, on_progress=lambda progress: resumed.append(progress.done))
    assert resumed == list(range(epoch, SHORT.epochs + 1))  # it went on from the checkpoint
    assert outcome(tmp_path / "cut") == whole(settings)
    assert not (tmp_path / "cut" / "checkpoint").exists()


def test_a_run_interrupted_at_each_epoch_in_turn_ends_as_if_it_had_not_been(
    cache: FeatureCache, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    for epoch in range(1, SHORT.epochs + 1):
        train_until(epoch, cache, tmp_path / "cut")
    train(cache, tmp_path / "cut")
    assert outcome(tmp_path / "cut") == whole()


def test_a_run_stopped_for_lack_of_progress_stops_at_the_same_epoch_when_interrupted(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SHORT, patience=2, epochs=9)
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    rhos = [0.1, 0.3, 0.2, 0.2]
    script_rho(monkeypatch, rhos)
    train(cache, tmp_path / "whole", settings)
    script_rho(monkeypatch, rhos)
    train_until(3, cache, tmp_path / "cut", settings)
    script_rho(monkeypatch, rhos[2:])
    train(cache, tmp_path / "cut", settings)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_run_interrupted_while_it_writes_its_result_ends_as_if_it_had_not_been(
    cache: FeatureCache, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr("head.training.fitted.write_history", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "cut")
    assert not read_run(tmp_path / "cut").finished  # though its head is there
    train(cache, tmp_path / "cut")
    assert outcome(tmp_path / "cut") == whole()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


TRAIN_SCRIPT = """
import json, sys
from pathlib import Path
import torch
import head.training.train
import head.training.gradients.checkpoint
from featcache.store.cache import open_cache
from head.settings import TrainSettings
from head.training.job import TrainingJob

torch.set_num_threads(1)
head.training.gradients.checkpoint.CHECKPOINT_SECONDS = 0
cache, folder, settings = sys.argv[1:]
head.training.train.train(
    TrainingJob(open_cache(cache), "1", TrainSettings(**json.loads(settings)), Path(folder), "paper"),
    on_progress=lambda progress: print(progress.done, flush=True),
)
"""


def test_a_process_killed_at_a_random_epoch_and_started_again_gives_the_same_bytes(
    cache: FeatureCache, tmp_path: Path
) -> None:
    settings = replace(SHORT, epochs=14)
    train(cache, tmp_path / "whole", settings)
    killed_at = int(np.random.default_rng().integers(1, 9))
    command = (TRAIN_SCRIPT, cache.path, tmp_path / "cut", json.dumps(settings.as_json()))
    with Forked(*command) as process:
        for line in process.stdout:
            if int(line) == killed_at:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not read_run(tmp_path / "cut").finished
    again = run_forked(*command)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split()[0]) >= killed_at
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole"), f"killed at epoch {killed_at}"


# what is already in the folder


def test_a_finished_run_is_returned_without_training(cache: FeatureCache, tmp_path: Path) -> None:
    first = train(cache, tmp_path)
    written = (tmp_path / "head.safetensors").stat()
    called: list[Progress] = []
    assert train(cache, tmp_path, on_progress=called.append) == first
    assert not called
    assert (tmp_path / "head.safetensors").stat() == written


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.02}, "lr: 0.01 there, 0.02 asked for"),
        ({"attention": False}, "attention: True there, False asked for"),
        ({"select_on": "test"}, "select_on: 'val' there, 'test' asked for"),
        ({"seed": 3, "steps": 2}, "(?s)steps: 3 there, 2 asked for.*seed: 0 there, 3 asked for"),
    ],
)
def test_a_run_of_other_settings_is_refused_with_the_field_both_values_and_the_way_out(
    cache: FeatureCache, tmp_path: Path, change: dict[str, object], message: str, finished: bool
) -> None:
    if finished:
        train(cache, tmp_path, replace(SHORT, epochs=1))
    else:
        train_until(1, cache, tmp_path, replace(SHORT, epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with pytest.raises(Mismatch, match=message) as caught:
        train(cache, tmp_path, replace(SHORT, epochs=1, **change))
    assert str(tmp_path) in str(caught.value)
    assert "--name" in str(caught.value)
    assert "--no-resume" in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == before


def test_a_run_of_other_scores_is_refused(cache: FeatureCache, tiny_cache: Path, tmp_path: Path) -> None:
    train(cache, tmp_path, replace(SHORT, epochs=1))
    other = open_cache(tiny_cache)
    part = other.splits["1"]["train"]
    other.splits["1"]["train"] = Part(part.rows, part.scores + 0.01)
    with pytest.raises(Mismatch, match="it was trained or selected on other scores of these images"):
        train(other, tmp_path, replace(SHORT, epochs=1))


def test_a_run_on_other_pictures_of_the_same_names_is_refused(
    cache: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    train(cache, tmp_path / "run", replace(SHORT, epochs=1))
    shutil.copytree(tiny_dataset, tmp_path / "data")
    name = cache.images[cache.splits["1"]["train"].rows[0]].name
    Image.new("RGB", (64, 64), "red").save(tmp_path / "data" / "images" / name)
    extract(open_dataset(str(tmp_path / "data")), TINY_EXTRACT, tmp_path / "tiny")
    with pytest.raises(Mismatch, match="it was trained or selected on other images than its parts hold now"):
        train(open_cache(tmp_path / "tiny"), tmp_path / "run", replace(SHORT, epochs=1))


def test_a_finished_run_whose_head_is_damaged_is_no_success(cache: FeatureCache, tmp_path: Path) -> None:
    train(cache, tmp_path / "run")
    file = tmp_path / "run" / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match=r"head\.safetensors: missing or damaged; .* --no-resume"):
        train(cache, tmp_path / "run")
    assert train(cache, tmp_path / "run", resume=False).finished


def test_no_resume_starts_over_where_a_run_of_other_settings_is_finished(
    cache: FeatureCache, whole: Whole, tmp_path: Path
) -> None:
    train(cache, tmp_path, replace(SHORT, epochs=2))
    run = train(cache, tmp_path, resume=False)
    assert run.config.settings == SHORT.as_json()
    assert outcome(tmp_path) == whole()


def test_no_resume_forgets_the_checkpoint_of_an_unfinished_run(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    train_until(4, cache, tmp_path)
    epochs: list[int] = []
    train(cache, tmp_path, resume=False, on_progress=lambda progress: epochs.append(progress.done))
    assert epochs == [1, 2, 3, 4, 5]


def test_no_resume_is_the_way_out_of_a_damaged_checkpoint(
    cache: FeatureCache, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    train_until(4, cache, tmp_path / "cut")
    content = bytearray((tmp_path / "cut" / "checkpoint").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "cut" / "checkpoint").write_bytes(content)
    with pytest.raises(CorruptFile, match="--no-resume"):
        train(cache, tmp_path / "cut")
    train(cache, tmp_path / "cut", resume=False)
    assert outcome(tmp_path / "cut") == whole()


def test_scores_of_a_head_do_not_outlive_it(cache: FeatureCache, tmp_path: Path) -> None:
    write_scores(score_run(train(cache, tmp_path, replace(SHORT, epochs=1)), cache))
    train(cache, tmp_path, replace(SHORT, epochs=2), resume=False)
    assert not (tmp_path / "scores.json").exists()
    assert not (tmp_path / "predictions.csv").exists()


def test_what_cannot_be_trained_on_is_refused_before_the_folder_is_made(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="has no split 9"):
        train(cache, tmp_path / "run", split="9")
    with pytest.raises(InvalidSettings, match="has no layer layer9; it has layer3"):
        train(cache, tmp_path / "run", replace(SHORT, layers=("layer9",)))
    assert not (tmp_path / "run").exists()


def test_one_process_at_a_time_trains_a_run(cache: FeatureCache, tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(Locked, match="being written by process"):
        train(cache, tmp_path)


def test_what_a_killed_writer_left_is_cleared(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / ".tmp-checkpoint-host-1").write_bytes(b"half")
    train(cache, tmp_path, replace(SHORT, epochs=1))
    finished = {"config.json", "head.safetensors", "history.csv", "lock", "other_ratings.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == finished


def test_a_head_too_large_for_memory_is_refused_with_the_way_out(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("head.training.gradients.trainer.untrained_head", exhausted)
    with pytest.raises(ResourceError, match=r"cpu is out of memory for .*run; use a smaller --batch-size or --hidden"):
        train(open_cache(tiny_cache), tmp_path / "run")
