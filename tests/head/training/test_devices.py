"""Heads train on every device: the same weights again, about those of the CPU, and scored where they were trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.jobs import Workers
from featcache.base.progress import silent
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.evaluation.score import score_run
from head.runs.head_file import load_head
from head.runs.run import HEAD_NAME, Run, read_run
from head.settings import TrainSettings, settings_of
from head.training.forecasts.forecast import forecast
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.gpu import EACH_DEVICE
from tests.helpers.tails import RESNET, tail_settings
from tests.helpers.tiny import PART_SIZES, TINY_TRAIN

SHORT = {"epochs": 3, "batch_size": 10, "dropout": 0.0, "precision": "fp32"}  # devices draw other dropout
STEPWISE = {"hidden_size": 16, "regressor_size": 8}
HEADS = {
    "amnet": settings_of(**SHORT, **STEPWISE),
    "no attention": settings_of(attention=False, **SHORT, **STEPWISE),
    "published": settings_of("published", **SHORT, **STEPWISE),
    "ep": settings_of(head="ep", **SHORT),
    "probe": settings_of(head="probe", **SHORT),
}


@pytest.fixture(scope="module")
def pixels(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Views of 64 pixels beside layers, of an untrained network whose weights are in a file."""
    return RESNET.cache(tiny_dataset, tmp_path_factory.mktemp("pixels"))


def run_of(cache: FeatureCache, folder: Path, settings: TrainSettings, device: str, **how: str) -> Run:
    return train(TrainingJob(cache, "1", settings, folder, "run", device=device, **how))


def check_alike(cache: FeatureCache, folder: Path, settings: TrainSettings, device: str) -> None:
    """Twice on the device, held in its memory or not, are the same bytes; predictions are about those of the CPU."""
    ways = {"first": "no", "again": "no", "held": "yes"}
    runs = [run_of(cache, folder / way, settings, device, resident=resident) for way, resident in ways.items()]
    assert len({(run.folder / HEAD_NAME).read_bytes() for run in runs}) == 1
    there, here = (score_run(runs[0], cache, device=one).prediction for one in (device, "cpu"))
    np.testing.assert_allclose(there, here, atol=1e-4)
    by_cpu = run_of(cache, folder / "cpu", settings, "cpu")
    np.testing.assert_allclose(here, score_run(by_cpu, cache, device="cpu").prediction, atol=5e-3)


@EACH_DEVICE
@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_maps_learns_the_same_again_and_about_what_it_does_on_the_cpu(
    name: str, device: str, tiny_cache: Path, tmp_path: Path
) -> None:
    check_alike(open_cache(tiny_cache), tmp_path, HEADS[name], device)


@EACH_DEVICE
def test_a_head_of_8_bits_and_several_layers_does_too(device: str, layered_cache: Path, tmp_path: Path) -> None:
    check_alike(open_cache(layered_cache), tmp_path, replace(HEADS["amnet"], layers=("all",)), device)


@EACH_DEVICE
@pytest.mark.parametrize("layer", ["views", "layer3"])
def test_a_network_that_is_trained_further_does_too(
    layer: str, device: str, pixels: FeatureCache, tmp_path: Path
) -> None:
    check_alike(pixels, tmp_path, tail_settings(layers=(layer,), dropout=0.0), device)


@EACH_DEVICE
def test_dropout_and_bfloat16_products_give_the_same_weights_again(
    device: str, tiny_cache: Path, tmp_path: Path
) -> None:
    cache, settings = open_cache(tiny_cache), replace(HEADS["amnet"], dropout=0.5, precision="bf16")
    runs = [run_of(cache, tmp_path / name, settings, device) for name in ("first", "again")]
    assert len({(run.folder / HEAD_NAME).read_bytes() for run in runs}) == 1
    assert runs[0].config.document["products"] == "bf16"


@EACH_DEVICE
def test_a_dry_run_says_what_a_training_takes_there(device: str, tiny_cache: Path, tmp_path: Path) -> None:
    job = TrainingJob(open_cache(tiny_cache), "1", TINY_TRAIN, tmp_path / "run", "run", device=device)
    [found] = forecast([job], Workers()).trainings
    document = found.as_json()
    assert document["device"].startswith(device)
    assert document["bytes"] > 0
    assert ("measured" in document["memory"]) == (device == "cuda")


def test_a_dry_run_forks_the_generators_of_its_device_alone(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked, own = [], torch.random.fork_rng  # of all devices PyTorch warns where there are several
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices=None: (forked.append(devices), own(devices))[1])
    job = TrainingJob(open_cache(tiny_cache), "1", TINY_TRAIN, tmp_path / "run", "run", device="cpu")
    forecast([job], Workers())
    assert forked and all(devices == [] for devices in forked)


@EACH_DEVICE
@pytest.mark.parametrize("head", ["ridge", "svr"])
def test_a_baseline_is_scored_where_asked(head: str, device: str, tiny_cache: Path, tmp_path: Path) -> None:
    cache = open_cache(tiny_cache)
    run = run_of(cache, tmp_path / head, settings_of(head=head), device)
    there, here = (score_run(run, cache, device=one).prediction for one in (device, "cpu"))
    np.testing.assert_allclose(there, here, atol=1e-9)


@EACH_DEVICE
def test_a_head_is_scored_on_the_device_that_is_asked_for(
    device: str, tiny_runs: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loaded(run: Run, where: torch.device) -> object:
        asked.append(where.type)
        return load_head(run, where)

    monkeypatch.setattr("head.evaluation.score.load_head", loaded)
    score_run(read_run(tiny_runs / "tiny" / "paper" / "split-1"), open_cache(tiny_cache), device=device)
    assert asked == [device]


@pytest.mark.parametrize("weight", ["none", "n"])
def test_targets_of_an_epoch_go_to_the_device_together(
    weight: str, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(tiny_cache)
    data, cpu = split_data(cache, "1", TINY_TRAIN), torch.device("cpu")
    job = TrainingJob(cache, "1", TINY_TRAIN, tmp_path, "run")
    trainer = Trainer(job, data, device=cpu, on_progress=silent, on_history=lambda _: None)
    if weight != "none":
        trainer.weights = np.linspace(0, 2, cache.rows)
    given: list[int] = []
    own = Trainer.targets
    monkeypatch.setattr(Trainer, "targets", lambda self, batches: (given.append(len(batches)), own(self, batches))[1])
    batches = trainer.batches(1)
    for (rows, _, scores), (target, weights) in zip(batches, own(trainer, batches), strict=True):
        wanted = torch.from_numpy((scores - trainer.target.mean) / trainer.target.scale).float()
        assert torch.equal(target, wanted)
        if weight == "none":
            assert weights is None
        else:
            assert weights is not None and trainer.weights is not None
            assert torch.equal(weights, torch.from_numpy(trainer.weights[rows]).float())
    trainer.train_epoch(1)
    assert given == [len(batches)] == [-(-PART_SIZES["train"] // TINY_TRAIN.batch_size)]
