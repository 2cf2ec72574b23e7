"""Heads and the layer `views`: those that look at places refuse pixels, those on pooled vectors read colours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.base.errors import InvalidSettings
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.score import score_run
from head.models.kinds import input_of
from head.prediction.predictor import Predictor
from head.settings import settings_of
from head.share.export import export_head
from head.share.onnx import load_graph
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import QUICK_EXTRACT

BESIDE = replace(QUICK_EXTRACT, layers=("layer3", "views"), augs=1)


@pytest.fixture(scope="module")
def cache(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    out = tmp_path_factory.mktemp("views") / "beside"
    extract(open_dataset(str(tiny_dataset)), BESIDE, out)
    return open_cache(out)


@pytest.fixture(scope="module")
def alone(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    out = tmp_path_factory.mktemp("views") / "alone"
    extract(open_dataset(str(tiny_dataset)), replace(BESIDE, layers=("views",), encoding="uint8"), out)
    return open_cache(out)


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": "paper"},
        {"recipe": "published"},
        {"recipe": "paper", "attention": False},
        {"head": "ep"},
        {"head": "probe"},
    ],
)
def test_heads_that_look_at_places_refuse_pixels_and_name_what_they_read(
    cache: FeatureCache, alone: FeatureCache, given: dict[str, Any]
) -> None:
    message = r"pixels of views themselves, 64 x 64 .* name --layer layer3, or use"
    for layers in ((), ("views",), ("layer3", "views"), ("all",)):
        with pytest.raises(InvalidSettings, match=message):
            input_of(cache, settings_of(layers=layers, **given))
    with pytest.raises(InvalidSettings, match="extract a layer of the network as well, or use --head ridge"):
        input_of(alone, settings_of(**given))
    assert input_of(cache, settings_of(layers=("layer3",), **given)).layers == ("layer3",)


def test_nothing_is_written_where_a_head_is_refused(alone: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="pixels of views themselves"):
        train(TrainingJob(alone, "1", settings_of(), tmp_path / "run", "paper"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layers", [("views",), ("layer3", "views")])
def test_ridge_on_colours_predicts_what_it_is_scored_with(
    cache: FeatureCache, alone: FeatureCache, tiny_dataset: Path, tmp_path: Path, layers: tuple[str, ...]
) -> None:
    of = alone if len(layers) == 1 else cache
    folder = tmp_path / "split-1"
    settings = settings_of(head="ridge", layers=layers)
    run = train(TrainingJob(of, "1", settings, folder, "ridge"))
    scored = score_run(run, of)
    assert scored.metrics.rho > 0.9  # a score of this dataset is how bright its image is
    predictor = Predictor.load(folder)
    found = predictor.predict([tiny_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose([float(one) for one in found], scored.prediction, rtol=1e-5)


def test_a_head_on_colours_is_exported_whole(alone: FeatureCache, tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split-1"
    train(TrainingJob(alone, "1", settings_of(head="ridge"), folder, "ridge"))
    exported = export_head(folder, tmp_path / "out")
    graph = load_graph((exported.folder / "model.onnx").read_bytes())
    cached = alone.read(range(3), 0).reshape(3, 64, 64, 3)
    names = [tiny_dataset / "images" / alone.images[row].name for row in range(3)]
    wanted = [float(one) for one in Predictor.load(folder).predict(names)]
    np.testing.assert_allclose(graph(cached)[0], wanted, rtol=1e-4)
