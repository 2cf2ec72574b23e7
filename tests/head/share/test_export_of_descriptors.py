"""Heads on hand-made descriptors, alone and beside a network, exported and used from the export alone."""

import shutil
from pathlib import Path

import pytest

from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache
from head.prediction.predictor import Predictor
from head.settings import settings_of
from head.share.export import BACKBONE_NAME, export_head
from head.training.job import TrainingJob
from head.training.train import train

NETWORK = "timm:test_resnet"


@pytest.mark.parametrize(
    ("backbone", "weights", "source"),
    [
        ("descriptors:pixels", "imagenet", "none"),
        (f"{NETWORK}+descriptors:pixels", "random", BACKBONE_NAME),
        (f"{NETWORK}+descriptors:pixels,sift", "random", f"{BACKBONE_NAME} + {BACKBONE_NAME}"),
    ],
)
def test_what_is_exported_predicts_without_cache_and_run(
    backbone: str, weights: str, source: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = ExtractSettings(backbone=backbone, weights=weights, views=ViewSettings(image_size=64))
    extract(open_dataset(str(tiny_dataset)), settings, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    run = train(TrainingJob(cache, "1", settings_of(head="ridge", layers=("all",)), tmp_path / "run", "ridge"))
    image = tiny_dataset / "images" / cache.images[0].name
    score = Predictor.load(run.folder)(image).score

    (exported,) = export_head(run.folder, tmp_path / "export", whole=False, with_backbone=True).runs
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "run")
    assert exported.config.weights_source == source
    assert (tmp_path / "export" / BACKBONE_NAME).exists() == (source != "none")
    assert Predictor.load(tmp_path / "export")(image).score == score
