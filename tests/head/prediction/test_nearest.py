"""The nearest rated images are those that are nearest, of images that the head was trained on, and far is far."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.base.errors import BadInput, InvalidSettings, Mismatch
from featcache.store.cache import FeatureCache, open_cache
from head.data.inputs import HeadInput
from head.prediction.nearest import FAR_QUANTILE, MOST, RatedImages, rated_images
from head.prediction.predictor import Predictor
from head.prediction.text import Predictions
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.show.page.gallery import gallery_of
from head.show.page.live.explore import predict_bytes
from head.show.page.thumbnails import Pictures
from tests.helpers.command_line import amnet
from tests.helpers.results import changed

CHANNELS = 6


@pytest.fixture
def planted() -> RatedImages:
    """Three clusters of ten images each, of the ratings 0.1, 0.5 and 0.9."""
    rng = np.random.default_rng(0)
    centres = np.repeat(4 * rng.normal(size=(3, CHANNELS)), 10, axis=0)
    vectors = (centres + 0.1 * rng.normal(size=centres.shape)).astype(np.float32)
    ratings, names = np.repeat([0.1, 0.5, 0.9], 10), [f"{k}.jpg" for k in range(40)]
    one, none = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    return RatedImages(HeadInput(("layer3",), "mean"), np.arange(5, 35), ratings, vectors, none, one, 0.3, names)


def run_folder(tiny_runs: Path, split: str = "1", name: str = "paper") -> Path:
    return tiny_runs / "tiny" / name / f"split-{split}"


def rated(cache: FeatureCache, *folders: Path) -> RatedImages:
    runs = [read_run(folder) for folder in folders]
    return rated_images(cache, runs, frozenset[str]().union(*(load_head(run).train_images for run in runs)))


def train_names(cache: FeatureCache, *splits: str) -> set[str]:
    return {cache.images[row].name for split in splits for row in cache.splits[split]["train"].rows}


def test_an_image_is_nearest_to_those_of_its_cluster(planted: RatedImages) -> None:
    (first, last) = planted.of(planted.vectors[[3, 25]] + 0.01)
    assert [one.rating for one in first.nearest] == [0.1] * MOST
    assert [one.rating for one in last.nearest] == [0.9] * MOST
    assert (first.nearest[0].row, first.nearest[0].image) == (8, "8.jpg")
    distances = [one.distance for one in first.nearest]
    assert distances == sorted(distances) and distances[0] == pytest.approx(0.01, rel=1e-2)


def test_an_image_away_from_all_clusters_is_far(planted: RatedImages) -> None:
    (near, far) = planted.of(np.stack([planted.vectors[0], planted.vectors[0] + 1]))
    assert (near.far, far.far) == (False, True)


def test_of_equal_distances_the_first_row_comes_first(planted: RatedImages) -> None:
    alike = replace(planted, vectors=np.zeros_like(planted.vectors))
    (found,) = alike.of(np.zeros((1, CHANNELS), np.float32))
    assert [one.row for one in found.nearest] == [5, 6, 7, 8, 9]


def test_rated_are_the_training_images_with_the_mean_of_their_scores(cache: FeatureCache, tiny_runs: Path) -> None:
    found = rated(cache, *[run_folder(tiny_runs, split) for split in ("1", "2")])
    wanted: dict[int, list[float]] = {}
    for split in ("1", "2"):
        part = cache.splits[split]["train"]
        for row, score in zip(part.rows.tolist(), part.scores.tolist(), strict=True):
            wanted.setdefault(row, []).append(score)
    assert dict(zip(found.rows.tolist(), found.ratings.tolist(), strict=True)) == pytest.approx(
        {row: np.mean(scores) for row, scores in wanted.items()}
    )
    assert any(len(scores) == 2 for scores in wanted.values())


def test_far_is_what_few_training_images_are_from_each_other(cache: FeatureCache, tiny_runs: Path) -> None:
    found = rated(cache, run_folder(tiny_runs))
    means = cache.read_pooled(found.rows, 0, "layer3")[:, 0]
    vectors = (means - means.mean(axis=0)) / means.std(axis=0)
    apart = np.sqrt(np.mean((vectors[:, None] - vectors[None]) ** 2, axis=2))
    np.fill_diagonal(apart, np.inf)
    assert found.far_beyond == pytest.approx(np.quantile(apart.min(axis=1), FAR_QUANTILE), rel=1e-4)
    for row, one in zip(found.rows, found.of_rows(cache, found.rows), strict=True):
        assert one.nearest[0].row == row and one.nearest[0].distance < 1e-6 and not one.far


def test_predictions_have_the_neighbours_that_the_cache_has_of_the_same_image(
    cache: FeatureCache, tiny_runs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    predictor = Predictor.load(run_folder(tiny_runs), cache=cache)
    assert predictor.rated is not None
    row = int(cache.splits["1"]["test"].rows[0])
    path = tiny_dataset / "images" / cache.images[row].name
    found = predictor(path)
    (wanted,) = predictor.rated.of_rows(cache, np.array([row]))
    assert found.neighbours is not None
    assert [one.row for one in found.neighbours.nearest] == [one.row for one in wanted.nearest]
    assert {one.image for one in found.neighbours.nearest} <= train_names(cache, "1")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "noise.png")
    noise = predictor(tmp_path / "noise.png")
    assert noise.neighbours is not None and noise.neighbours.far
    told = Predictions([found, noise]).warnings()
    assert any("1 of 2 images are far from all images that the head was trained on" in one for one in told)
    assert not any("far from all" in one for one in Predictions([found]).warnings())


def test_the_command_names_them_in_json_and_marks_far_images_in_the_table(
    tiny_cache: Path, tiny_runs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    cache = open_cache(tiny_cache)
    image = tiny_dataset / "images" / cache.images[int(cache.splits["1"]["train"].rows[0])].name
    asked = ["--head", str(run_folder(tiny_runs)), str(image)]
    (found,) = json.loads(amnet("predict", *asked, "--cache", str(tiny_cache), "--json").stdout)
    assert len(found["nearest"]) == MOST and found["far"] is False and found["in_training"] is True
    assert found["nearest"][0]["image"] == cache.images[int(cache.splits["1"]["train"].rows[0])].name
    assert set(found["nearest"][0]) == {"image", "rating", "distance"}
    amnet("predict", *asked, "--cache", str(tiny_cache), "--csv", str(tmp_path / "table.csv"))
    (line,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert line["far"] == "no"
    (without,) = json.loads(amnet("predict", *asked, "--json").stdout)
    assert "nearest" not in without and "far" not in without


def test_another_cache_and_heads_that_have_no_neighbours_are_refused(
    cache: FeatureCache, torn_cache: Path, layered_cache: Path, tiny_runs: Path
) -> None:
    run = read_run(run_folder(tiny_runs))
    some = load_head(run).train_images
    with pytest.raises(Mismatch, match="Name the cache that the head was trained on"):
        rated_images(open_cache(layered_cache), [run], some)
    with pytest.raises(InvalidSettings, match="reads pixels alone, by which no images are near; leave --cache out"):
        rated_images(cache, [changed(run, input={"layers": ["views"], "pooling": "maps"})], some)
    with pytest.raises(BadInput, match="has 0 of the 23 images that .* was trained on; name the cache"):
        rated_images(cache, [changed(run, split="nine")], some)
    strangers = frozenset(f"{k:064x}" for k in range(23))
    with pytest.raises(BadInput, match="has 0 of the 23 images that .* was trained on; name the cache"):
        rated_images(cache, [run], strangers)
    both = [read_run(path) for path in sorted((tiny_runs / "tiny" / "paper").glob("split-*"))]
    with pytest.raises(
        BadInput,
        match=rf"has 0 of the 23 images that 2 runs, {re.escape(str(both[0].folder))} and others, were trained on; "
        "name the cache that they were trained on",
    ):
        rated_images(cache, both, strangers)


def test_pages_show_them_with_their_pictures(
    cache: FeatureCache, evaluation: object, tiny_runs: Path, tiny_dataset: Path
) -> None:
    gallery = gallery_of(cache, evaluation)  # type: ignore[arg-type]
    for entry in gallery.entries:
        told = entry.as_json()
        rows = [row for row, _, _ in told["near"]]
        assert len(rows) == MOST and told["far"] in (True, False)
        assert set(rows) <= set(cache.splits[entry.split]["train"].rows.tolist())
        assert set(rows) <= {*gallery.rows, *gallery.near_rows}
    predictor = Predictor.load(run_folder(tiny_runs), cache=cache)
    photograph = (tiny_dataset / "images" / cache.images[0].name).read_bytes()
    found = predict_bytes(predictor, photograph, pictures=Pictures(cache, tiny_dataset / "images"))
    assert len(found["nearest"]) == MOST and all(one["picture"] for one in found["nearest"])
    assert "nearest" not in predict_bytes(Predictor.load(run_folder(tiny_runs)), photograph)


def test_a_cache_of_other_ratings_of_the_same_images_is_refused(cache: FeatureCache, tiny_runs: Path) -> None:
    run = read_run(run_folder(tiny_runs))
    rescored = open_cache(cache.path)
    train = rescored.splits["1"]["train"]
    rescored.splits["1"]["train"] = replace(train, scores=train.scores * 100)
    with pytest.raises(Mismatch, match="is not what these runs were trained on:"):
        rated_images(rescored, [run], load_head(run).train_images)
