"""What a page knows of each image is what was scored, and pictures are of the very files that were extracted."""

import base64
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.base.errors import InvalidSettings
from featcache.images.identity import ImageRow
from featcache.store.cache import FeatureCache
from head.evaluation.compare import compare
from head.evaluation.evaluate import Evaluation
from head.evaluation.score import attention_of
from head.evaluation.summary import summaries_of
from head.explain.occlusion import occlusion_of
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.show.page.gallery import Entry, Gallery, find_summary, gallery_of, pack_maps, pack_occlusion, shown_summary
from head.show.page.thumbnails import SMALLEST_SIDE, Thumbnail, images_folder, thumbnails_of
from tests.helpers.results import changed, scored


@pytest.fixture(scope="module")
def gallery(cache: FeatureCache, evaluation: Evaluation) -> Gallery:
    return gallery_of(cache, evaluation, shown=names_of(evaluation).index("paper"))


def names_of(evaluation: Evaluation) -> list[str]:
    return [row.name for row in evaluation.summaries]


def test_every_image_is_there_once_for_each_split_with_what_each_row_predicts(
    cache: FeatureCache, evaluation: Evaluation, gallery: Gallery
) -> None:
    wanted: dict[tuple[str, str], dict[str, float]] = {}
    for row in evaluation.summaries:
        for result in row.scored:
            for name, truth, prediction in zip(result.names, result.truth, result.prediction, strict=True):
                wanted.setdefault((result.run.split, name), {"truth": truth})[row.name] = prediction
    found = {(entry.split, cache.images[entry.row].name): entry for entry in gallery.entries}
    assert found.keys() == wanted.keys()
    assert len(gallery.entries) == len(found) == 22
    for key, entry in found.items():
        assert entry.truth == wanted[key]["truth"]
        assert entry.predictions == tuple(wanted[key].get(name) for name in names_of(evaluation))
        assert sum(entry.steps) == pytest.approx(wanted[key]["paper"])
    assert {entry.split for entry in gallery.entries if None in entry.predictions} == {"2"}  # plain has split 1 alone


def test_maps_are_those_of_the_head_to_a_level(cache: FeatureCache, runs: Path, gallery: Gallery) -> None:
    run = read_run(runs / "tiny" / "paper" / "split-2")
    entries = [entry for entry in gallery.entries if entry.split == "2"]
    features = run.input.read(cache, np.array([entry.row for entry in entries]), 0)
    maps = load_head(run).predict(features)[2].numpy()
    for entry, wanted in zip(entries, maps, strict=True):
        assert entry.maps is not None
        packed = entry.maps
        assert packed.levels.shape == (3, 4, 4)
        unpacked = packed.levels.astype(float) / 255 * packed.high
        np.testing.assert_allclose(unpacked.reshape(3, 16), wanted, atol=packed.high / 509)
        assert packed.high == pytest.approx(float(wanted.max()))


def test_packed_maps_are_in_units_of_an_even_share() -> None:
    maps = np.full((2, 3, 5), 1 / 15, np.float32)
    maps[1, 2, 4] = 2 / 15
    packed = pack_maps(maps).as_json()
    assert (packed["shape"], packed["high"]) == ([2, 3, 5], 2)
    assert base64.b64decode(packed["levels"]) == b"\x80" * 29 + b"\xff"


def test_packed_maps_have_what_is_on_tokens_beside_them() -> None:
    maps = np.stack([np.full((3, 5), 0.75 / 15, np.float32), np.zeros((3, 5), np.float32)])
    packed = pack_maps(maps).as_json()
    assert packed["on_tokens"] == [0.25, 1]
    assert base64.b64decode(packed["levels"]) == b"\xff" * 15 + b"\0" * 15
    assert pack_maps(np.zeros((1, 3, 5), np.float32)).as_json()["on_tokens"] == [1]


def test_occlusion_has_as_many_levels_below_no_change_as_above() -> None:
    maps = np.zeros((1, 2, 3), np.float32)
    maps[0, 0, 1], maps[0, 1, 2] = -0.02, 0.01
    packed = pack_occlusion(maps)
    assert packed is not None
    assert packed.levels.ravel().tolist() == [127, 0, 127, 127, 127, 190]
    assert (packed.as_json()["kind"], packed.as_json()["high"]) == ("occlusion", 0.02)
    assert pack_occlusion(np.full((1, 2, 2), np.nan, np.float32)) is None


def test_a_head_without_attention_has_occlusion(cache: FeatureCache, runs: Path, evaluation: Evaluation) -> None:
    plain = read_run(runs / "tiny" / "plain" / "split-1")
    found = gallery_of(cache, evaluation, shown=names_of(evaluation).index("plain"))
    entries = [entry for entry in found.entries if entry.split == "1"]
    (wanted,) = occlusion_of(cache, plain, np.array([entry.row for entry in entries]))
    for entry, one in zip(entries, wanted, strict=True):
        assert entry.maps is not None
        assert entry.maps.occlusion
        np.testing.assert_allclose((entry.maps.levels - 127.0) / 127 * entry.maps.high, one, atol=entry.maps.high / 254)


def test_images_are_as_many_as_their_maps_have_room_for(cache: FeatureCache, evaluation: Evaluation) -> None:
    shown = shown_summary(evaluation, "paper")
    every = gallery_of(cache, evaluation, shown=shown)
    taken = len(json.dumps([entry.as_json() for entry in every.entries]))
    few = gallery_of(cache, evaluation, shown=shown, budget=taken // 2)
    assert every.images // 3 < len(few.rows) <= every.images // 2
    assert (few.images, few.ratings) == (every.images, every.ratings)
    assert all(entry.maps and entry.steps for entry in few.entries)
    assert gallery_of(cache, evaluation, shown=shown, budget=taken * 3 // 2).rows == every.rows
    assert len(gallery_of(cache, evaluation, shown=shown, budget=1).rows) == 1


def test_a_head_without_attention_looks_nowhere(cache: FeatureCache, runs: Path) -> None:
    plain = read_run(runs / "tiny" / "plain" / "split-1")
    assert attention_of(cache, plain, np.array([0, 1])) is None
    assert not plain.attends
    assert read_run(runs / "tiny" / "paper" / "split-1").attends


def test_predictions_are_those_of_a_heads_first_seed(cache: FeatureCache, evaluation: Evaluation) -> None:
    first = next(result for result in evaluation.scored if result.run.name == "paper")
    run = changed(first.run, settings={**first.run.config.settings, "seed": 7})
    later = replace(first, run=run, prediction=first.prediction + 1)
    both = [later, first]
    found = gallery_of(cache, Evaluation([], both, summaries_of(both), [], []))
    assert [entry.predictions for entry in found.entries] == [(value,) for value in first.prediction]


def evaluation_of(*names: str, against: str | None = None) -> Evaluation:
    """Return an evaluation of heads on two splits; ridge is a baseline, and names are by falling validation rho."""
    results = [
        scored(name, split, 0.5, val_rho=0.9 - 0.1 * k, head="ridge" if name == "ridge" else "amnet", steps=k + 2)
        for k, name in enumerate(names)
        for split in ("1", "2")
    ]
    rows = summaries_of(results)
    return Evaluation([], results, rows, compare(rows, against=against), [])


def test_maps_are_of_the_reference_or_else_of_the_best_that_looks() -> None:
    assert shown_summary(evaluation_of("best", "other"), None) == 0
    assert shown_summary(evaluation_of("best", "other", against="other"), None) == 1
    assert shown_summary(evaluation_of("ridge", "other", "third"), None) == 1
    assert shown_summary(evaluation_of("ridge"), None) == 0
    assert shown_summary(evaluation_of("best", "ridge"), "ridge") == 1


def test_a_row_is_found_by_its_name_or_that_of_a_run() -> None:
    (result,) = [scored("paper,seed=3", "1", 0.5)]
    assert find_summary({"paper": [result.run]}, "paper") == 0
    assert find_summary({"both": [], "paper (here)": [result.run]}, "paper,seed=3") == 1
    with pytest.raises(InvalidSettings, match="--head ridge: no such row; name one of a, b"):
        find_summary({"a": [], "b": []}, "ridge")
    with pytest.raises(InvalidSettings, match="--head paper: more than one row; name one of a, b"):
        find_summary({"a": [result.run], "b": [result.run]}, "paper")


def test_of_too_many_images_the_extremes_are_kept_and_others_by_lot(
    cache: FeatureCache, evaluation: Evaluation, gallery: Gallery
) -> None:
    few = gallery_of(cache, evaluation, shown=gallery.shown, most=10)
    assert (len(few.rows), few.images) == (10, len(gallery.rows))
    assert [entry.as_json() for entry in few.entries] == [
        entry.as_json() for entry in gallery.entries if entry.row in few.rows
    ]
    truths = [entry.truth for entry in gallery.entries]
    assert {min(truths), max(truths)} <= {entry.truth for entry in few.entries}
    worst = max(gallery.entries, key=lambda entry: abs((entry.predictions[gallery.shown] or 0) - entry.truth))
    assert worst.row in few.rows
    assert gallery_of(cache, evaluation, shown=gallery.shown, most=10).rows == few.rows


def opened(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.problem == ""
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.as_text())))


def test_a_picture_is_its_image_made_small(cache: FeatureCache, tiny_dataset: Path) -> None:
    folder = images_folder(cache, None)
    assert folder == tiny_dataset / "images"
    for image, thumbnail in zip(cache.images, thumbnails_of(cache.images, folder, budget=10**7), strict=True):
        small, whole = opened(thumbnail), Image.open(folder / image.name)
        assert small.format == "WEBP"
        assert small.size == whole.size  # none is larger than a thumbnail
        assert np.asarray(small).mean() == pytest.approx(np.asarray(whole).mean(), abs=4)


def test_pictures_are_smaller_where_their_bytes_would_be_too_many(cache: FeatureCache, tiny_dataset: Path) -> None:
    images, folder = cache.images[:9], tiny_dataset / "images"
    whole = sum(len(one.data) for one in thumbnails_of(images, folder, budget=10**7))
    found = thumbnails_of(images, folder, budget=whole // 2)
    assert sum(len(one.data) for one in found) <= whole // 2
    sizes = [opened(one).size for one in found]
    side = max(map(max, sizes))
    assert side < max(max(image.width, image.height) for image in images)
    assert [max(size) for size in sizes] == [min(side, max(image.width, image.height)) for image in images]


def test_a_picture_is_of_the_file_that_was_extracted_or_there_is_none(
    cache: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset / "images", folder)
    gone, changed, cut, good = [image for image in cache.images if "/" not in image.name][:4]
    (folder / gone.name).unlink()
    Image.new("RGB", (60, 60), "red").save(folder / changed.name, "JPEG")
    data = (folder / cut.name).read_bytes()
    (folder / cut.name).write_bytes(data[: len(data) // 2])
    shutil.copy(folder / good.name, tmp_path / "outside.jpg")
    outside = ImageRow("../outside.jpg", good.sha256, good.width, good.height)
    rooted = ImageRow(str(tmp_path / "outside.jpg"), good.sha256, good.width, good.height)
    nul = ImageRow("a\0b", good.sha256, good.width, good.height)
    found = thumbnails_of([gone, changed, cut, outside, rooted, nul, good], folder, budget=10**7)
    assert [one.problem.partition(":")[0] for one in found] == [
        "unreadable", "changed", "truncated", "unsafe", "unsafe", "unreadable", "",
    ]  # fmt: skip
    assert [bool(one.data) for one in found] == [False] * 6 + [True]


def test_a_root_without_images_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="--root .*: .*/images is no folder; name the one that the dataset is in"):
        images_folder(cache, tmp_path)


@pytest.mark.parametrize("budget", [0, -5])
def test_pictures_are_as_small_as_they_can_be_where_there_is_no_room(
    cache: FeatureCache, tiny_dataset: Path, tmp_path: Path, budget: int
) -> None:
    images = cache.images[:3]
    for thumbnail in thumbnails_of(images, tiny_dataset / "images", budget=budget):
        assert max(opened(thumbnail).size) == SMALLEST_SIDE
    assert all(one.problem for one in thumbnails_of(images, tmp_path, budget=budget))  # and none at all is no error


def test_what_is_not_finite_is_null_in_json(gallery: Gallery) -> None:
    entry = Entry("1", 0, 0.5, (math.nan, None, math.inf, 0.25), (math.nan, 1.0), pack_maps(np.full((1, 2, 2), np.nan)))
    found = json.loads(json.dumps(entry.as_json(), allow_nan=False))
    assert (found["predictions"], found["steps"], found["maps"]) == ([None, None, None, 0.25], [None, 1.0], None)


def test_ratings_are_quantiles_of_the_scores_of_all_images(cache: FeatureCache, gallery: Gallery) -> None:
    scores = {entry.row: entry.truth for entry in gallery.entries}
    assert (gallery.ratings[0], gallery.ratings[-1]) == (min(scores.values()), max(scores.values()))
    assert gallery.ratings[50] in scores.values()
    assert np.mean(np.array(list(scores.values())) <= gallery.ratings[50]) == pytest.approx(0.5, abs=1 / len(scores))


def test_entries_are_json(gallery: Gallery) -> None:
    text = json.dumps([entry.as_json() for entry in gallery.entries], allow_nan=False)
    assert json.loads(text)[0]["maps"]["shape"] == [3, 4, 4]
