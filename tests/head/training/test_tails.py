"""Trainings of tails: killed and resumed, on all images, in every encoding, and what they say when they fail."""

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch, ResourceError
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.evaluation.score import score_run
from head.models.kinds import stored_of
from head.runs.head_file import load_head
from head.runs.run import CHECKPOINT_NAME, Run, read_run
from head.settings import settings_of
from head.training.gradients.checkpoint import State
from head.training.gradients.trainer import Trainer
from head.training.train import train
from tests.head.training.test_train import TRAIN_SCRIPT, outcome
from tests.helpers.processes import Forked, run_forked
from tests.helpers.tails import RESNET, VIT, tail_job, tail_settings
from tests.helpers.tiny import QUICK_EXTRACT

CROPPED = {"dropout": 0.3, "crop": 48, "batch_norm": "trained", "epochs": 5, "patience": 5}
ADAPTED = {"layers": ("blocks.2",), "train": "lora-2", "dropout": 0.1, "epochs": 4, "patience": 4}


@pytest.fixture(scope="module")
def cache(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return RESNET.cache(tiny_dataset, tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def vit(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return VIT.cache(tiny_dataset, tmp_path_factory.mktemp("vit"))


@pytest.fixture(autouse=True)
def checkpoints_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)


def until(epoch: int) -> OnProgress:
    def interrupt(progress: Progress) -> None:
        if progress.stage.startswith("split") and progress.done == epoch:
            raise KeyboardInterrupt

    return interrupt


def tensors_in(path: Path, prefix: str = "") -> set[str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name.removeprefix(prefix) for name in header if name.startswith(prefix) and name != "__metadata__"}


# killed and resumed


def test_a_tail_with_dropout_and_crops_killed_and_started_again_gives_the_same_bytes(
    cache: FeatureCache, tmp_path: Path
) -> None:
    train(replace(tail_job(cache, tmp_path, **CROPPED), folder=tmp_path / "whole", name="paper"))
    command = (TRAIN_SCRIPT, cache.path, tmp_path / "cut", json.dumps(tail_settings(**CROPPED).as_json()))
    with Forked(*command) as process:
        for line in process.stdout:
            if int(line) == 2:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not read_run(tmp_path / "cut").finished
    again = run_forked(*command)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split()[0]) >= 2
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_with_additions_the_checkpoint_holds_what_is_trained_alone(vit: FeatureCache, tmp_path: Path) -> None:
    jobs = [tail_job(vit, tmp_path / name, **ADAPTED) for name in ("whole", "cut")]
    whole = train(jobs[0])
    with pytest.raises(KeyboardInterrupt):
        train(jobs[1], until(2))
    checkpoint = jobs[1].folder / CHECKPOINT_NAME
    wanted = set(stored_of(load_head(whole).module))
    assert tensors_in(checkpoint, "model.") == tensors_in(checkpoint, "best.") == wanted
    assert all(name.endswith((".down", ".up")) for name in wanted - {"output.weight", "output.bias", "frozen_sha256"})
    assert outcome(train(jobs[1]).folder) == outcome(whole.folder)


def test_on_all_images_it_goes_on_where_it_was_interrupted(cache: FeatureCache, tmp_path: Path) -> None:
    of = {"layers": ("layer3",), "epochs": 4, "patience": 4, "dropout": 0.2}
    found = []
    for home in (tmp_path / "whole" / "tail", tmp_path / "cut" / "tail"):
        for split in ("1", "2"):
            train(tail_job(cache, home, split, **of))
        job = tail_job(cache, home, "full", **of)
        if home.parent.name == "cut":
            with pytest.raises(KeyboardInterrupt):
                train(job, until(2))
            assert (job.folder / CHECKPOINT_NAME).is_file()
        found.append(train(job))
    assert found[0].result.estimate is not None and found[0].config.train_images == 41
    assert outcome(found[0].folder) == outcome(found[1].folder)


def without_val(cache: FeatureCache) -> FeatureCache:
    """Return a cache whose train is so small that it is cross-validated."""
    small = open_cache(cache.path)
    del small.splits["1"]["val"]
    return small


def test_of_a_small_set_every_fold_trains_a_network_of_its_own(cache: FeatureCache, tmp_path: Path) -> None:
    job = replace(tail_job(cache, tmp_path, layers=("layer3",), train="norms"), cache=without_val(cache))
    assert split_data(job.cache, "1", job.settings).cross_validated
    run = train(job)
    assert "-fold cross-validation within train" in run.config.selected_on


@pytest.mark.parametrize(("stage", "epoch"), [("split 1", 2), ("split 1, on all of train", 1)])
def test_a_cross_validation_goes_on_where_it_was_interrupted(
    cache: FeatureCache, tmp_path: Path, stage: str, epoch: int
) -> None:
    of = {"layers": ("layer3",), "epochs": 4, "patience": 4, "dropout": 0.2, "batch_norm": "trained"}
    whole = train(replace(tail_job(cache, tmp_path / "whole", **of), cache=without_val(cache)))
    job = replace(tail_job(cache, tmp_path / "cut", **of), cache=without_val(cache))
    assert whole.result.best_epoch is not None and whole.result.best_epoch > 1
    seen = list[tuple[str, int]]()

    def interrupt(progress: Progress) -> None:
        seen.append((progress.stage, progress.done))
        if seen[-1] == (stage, epoch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, interrupt)
    before = list(seen)
    assert outcome(train(job, lambda progress: seen.append((progress.stage, progress.done))).folder) == outcome(
        whole.folder
    )
    assert seen[len(before)] == before[-1]  # that epoch was computed, and not yet in a checkpoint
    assert not list(job.folder.glob("checkpoint*"))


def test_a_cross_validation_whose_checkpoint_is_damaged_says_so(cache: FeatureCache, tmp_path: Path) -> None:
    job = replace(tail_job(cache, tmp_path, layers=("layer3",), epochs=4, patience=4), cache=without_val(cache))
    with pytest.raises(KeyboardInterrupt):
        train(job, until(3))
    first, *_ = found = sorted(job.folder.glob("checkpoint-folds-*"))
    assert len(found) > 1
    first.write_bytes(first.read_bytes()[:-40])
    with pytest.raises(CorruptFile, match=r"checkpoint-folds-1-of-epoch-2: damaged; .* --no-resume"):
        train(job)
    first.unlink()
    with pytest.raises(CorruptFile, match=r"checkpoint-folds-1-of-epoch-2: missing; start over with --no-resume"):
        train(job)
    assert train(replace(job, resume=False)).finished


# what is stored


@pytest.mark.parametrize("part", ["all", "norms", "last-1", "lora-2"])
def test_what_is_loaded_again_is_what_was_trained(vit: FeatureCache, tmp_path: Path, part: str) -> None:
    settings = {"layers": ("blocks.2",), "train": part, "lr": 0.01, "backbone_lr": 0.01}
    run = train(tail_job(vit, tmp_path, **settings))
    data = split_data(vit, "1", tail_settings(**settings))
    head = load_head(run)
    features = run.input.read(vit, data.select.rows, 0)
    mse = float(np.mean((head.predict(features)[0].numpy() - data.select.scores) ** 2))
    assert run.result.val_mse == pytest.approx(mse, rel=1e-4)


def test_of_a_part_only_that_part_is_stored(vit: FeatureCache, tmp_path: Path) -> None:
    sizes = {}
    for part in ("all", "norms", "lora-2"):
        run = train(tail_job(vit, tmp_path / part, layers=("blocks.2",), train=part, epochs=1))
        sizes[part] = (run.folder / "head.safetensors").stat().st_size
    assert sizes["norms"] < sizes["lora-2"] < sizes["all"] / 10


@pytest.mark.parametrize("encoding", ["uint8", "bfloat16", "float16"])
def test_features_of_every_encoding_can_be_gone_on_from(tiny_dataset: Path, tmp_path: Path, encoding: str) -> None:
    precision = "bf16" if encoding == "bfloat16" else "fp32"
    stored = encoding if encoding != "bfloat16" else "float16"
    settings = replace(QUICK_EXTRACT, layers=("layer3", "views"), encoding=stored, precision=precision, augs=1)
    extract(open_dataset(str(tiny_dataset)), settings, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    for layer in ("layer3", "views"):
        run = train(tail_job(cache, tmp_path / layer, layers=(layer,)))
        assert set(load_head(run).constants) == ({"layer3"} if (stored, layer) == ("uint8", "layer3") else set())
        assert np.isfinite(score_run(run, cache).metrics.mse)


def test_of_several_ratings_each_has_a_network_of_its_own(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["path,beauty,age,split"]
    for k in range(30):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{rng.random():.3f},{rng.random():.3f},{('train', 'train', 'val', 'test')[k % 4]}")
    (tmp_path / "ratings.csv").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(str(tmp_path / "ratings.csv"), score_columns=("beauty", "age"))
    extract(dataset, replace(QUICK_EXTRACT, layers=("layer3",), augs=0), tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    runs: list[Run] = []
    for target in ("beauty", "age"):
        of = cache.of_target(target)
        (split,) = of.splits
        runs.append(train(tail_job(of, tmp_path / target, split, layers=("layer3",), train="last-1")))
    assert [run.data_name for run in runs] == ["cache, beauty", "cache, age"]
    assert load_head(runs[0]).target_mean != load_head(runs[1]).target_mean


# weights of the network


def test_weights_that_have_moved_are_given_and_kept_by_their_place(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RESNET.weights(tmp_path)
    monkeypatch.chdir(tmp_path)
    job = replace(tail_job(cache, tmp_path, layers=("layer3",), train="norms", epochs=1), weights=file.name)
    assert train(job).weights_source == str(file)


def test_a_head_of_which_a_part_was_trained_needs_the_weights_it_began_with(
    cache: FeatureCache, tmp_path: Path
) -> None:
    file = RESNET.weights(tmp_path)
    job = tail_job(cache, tmp_path, layers=("layer3",), train="norms", epochs=1)
    run = train(replace(job, weights=str(file)))
    scored = score_run(run, cache)
    moved = file.rename(tmp_path / "moved.safetensors")
    message = r"split-1: the weights of its network that were not trained are needed, and cannot be had: .*no such weig"
    with pytest.raises(BadInput, match=message + r".*--weights FILE"):
        score_run(run, cache)
    assert score_run(replace(run, weights=str(moved)), cache).metrics == scored.metrics
    with pytest.raises(Mismatch, match=r"split-1: .* the weights random are not those that the head was trained with"):
        load_head(run, weights="random")
    whole = train(replace(tail_job(cache, tmp_path / "all", layers=("layer3",), epochs=1), weights=str(moved)))
    moved.unlink()
    score_run(whole, cache)  # which has all of its own


# what it says when it fails


def test_a_tail_too_large_for_memory_is_told_of_its_own_options(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("head.training.gradients.trainer.untrained_head", exhausted)
    with pytest.raises(ResourceError, match=r"use a smaller --batch-size, or a larger --accumulate"):
        train(tail_job(cache, tmp_path))


def test_a_loss_that_is_not_finite_is_of_either_rate(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "head.training.gradients.trainer.loss", lambda *_, **__: torch.tensor(np.nan, requires_grad=True)
    )
    with pytest.raises(BadInput, match=r"the loss is not finite in epoch \d; use a lower --lr or --backbone-lr"):
        train(tail_job(cache, tmp_path))


def test_a_checkpoint_that_takes_long_is_written_less_often(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], list[float]()

    def slowly(*_: object) -> None:
        written.append(now[0])
        now[0] += 3.0

    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 15.0)
    monkeypatch.setattr("head.training.gradients.trainer.time.monotonic", lambda: now[0])
    monkeypatch.setattr("head.training.gradients.trainer.write_checkpoint", slowly)
    job = tail_job(cache, tmp_path)
    data = split_data(cache, job.split, job.settings)
    trainer = Trainer(job, data, device=torch.device("cpu"), on_progress=silent, on_history=lambda _: None)
    for _ in range(200):
        now[0] += 1.0
        trainer.save(State(0, [], {}))
    assert [b - a for a, b in itertools.pairwise(written)] == [64.0] * (len(written) - 1)
    assert written[0] == 16.0 and len(written) == 4


def test_a_run_does_not_go_on_from_another_network(cache: FeatureCache, tmp_path: Path) -> None:
    job = tail_job(cache, tmp_path)
    train(job)
    config = job.folder / "config.json"
    document = json.loads(config.read_text())
    assert len(document["network_sha256"]) == 64
    config.write_text(json.dumps({**document, "network_sha256": "0" * 64}))
    with pytest.raises(Mismatch, match=r"network_sha256: '0{64}' there"):
        train(job)


def test_other_weights_are_refused_before_anything_is_written(cache: FeatureCache, tmp_path: Path) -> None:
    job = replace(tail_job(cache, tmp_path), weights=str(tmp_path / "none.pth"))
    with pytest.raises(BadInput, match="no such weights file"):
        train(job)
    assert not job.folder.exists()


def test_weights_that_a_head_does_not_need_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    ridge = settings_of(head="ridge", layers=("layer3",))
    job = replace(tail_job(cache, tmp_path), settings=ridge, weights="random")
    with pytest.raises(InvalidSettings, match="--weights: of no effect on --head ridge; leave it out"):
        train(job)
