"""8 bits from images to predictions: constants are settled once, travel with the shards, and let caches be merged."""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import featcache.extraction.calibration
import featcache.extraction.plan
from featcache.backbones.backbone import Backbone
from featcache.base.errors import BadInput, CacheIncomplete, CorruptFile, InvalidSettings, Mismatch
from featcache.datasets.dataset import open_dataset
from featcache.extraction.calibration import SAMPLE_IMAGES, sample_names
from featcache.extraction.extract import extract
from featcache.extraction.log import ExtractReport
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.verify import verify_cache
from featcache.recipe import check_same
from featcache.settings import ExtractSettings
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.encoding import decode, digest_of_constants
from head.evaluation.score import score_run
from head.prediction.predictor import Predictor
from head.runs.run import read_run
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import TINY_EXTRACT, TINY_TRAIN

UINT8 = dataclasses.replace(TINY_EXTRACT, encoding="uint8")


def run(dataset: Path, out: Path, settings: ExtractSettings = UINT8) -> ExtractReport:
    return extract(open_dataset(str(dataset)), settings, out)


def shard_digests(folder: Path) -> dict[str, str]:
    """Return name and sha256 of every file in shards/."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "shards").iterdir()}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 17)


@pytest.fixture(scope="module")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 8-bit cache of `tiny_dataset`, of three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 17)
        out = tmp_path_factory.mktemp("uint8") / "tiny"
        run(tiny_dataset, out)
    return out


@pytest.fixture
def own(reference: Path, tmp_path: Path) -> Path:
    """A copy of the cache, to be changed."""
    return Path(shutil.copytree(reference, tmp_path / "own"))


@pytest.fixture(scope="module")
def few(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of seven other images, each darker than those of `tiny_dataset`."""
    folder = tmp_path_factory.mktemp("data") / "few"
    (folder / "images").mkdir(parents=True)
    (folder / "splits").mkdir()
    names = sorted(path.name for path in (tiny_dataset / "images").glob("*.jpg"))[:7]
    for name in names:
        with Image.open(tiny_dataset / "images" / name) as file:
            file.point(lambda value: value // 2).save(folder / "images" / f"dark-{name}", "JPEG", quality=90)
    (folder / "splits" / "test_1.txt").write_text("".join(f"dark-{name} 0.25\n" for name in names))
    return folder


def every_row(cache: FeatureCache, view: int) -> torch.Tensor:
    """Return the decoded features of a view, (N, L, D)."""
    return decode(torch.from_numpy(cache.read(range(cache.rows), view)), cache.constants())


def test_features_are_those_of_float16_to_within_half_a_step(reference: Path, tiny_cache: Path) -> None:
    coarse, fine = open_cache(reference), open_cache(tiny_cache)
    constants = coarse.constants("layer3")
    assert constants is not None
    assert (constants.shape, constants.dtype) == ((2, 256), np.dtype("<f4"))
    assert fine.constants("layer3") is None
    assert coarse.read([3, 0], 0).dtype == np.uint8
    for view in (0, 1):  # what the constants were taken from: all images, as they are fewer than the sample
        exact = every_row(fine, view)
        error = (every_row(coarse, view) - exact).abs()
        assert bool((error <= torch.from_numpy(constants[0]) / 2 + exact.abs() * 2.0**-10).all())
        assert float(error.max()) > 0


def test_views_that_were_not_sampled_may_be_clamped_and_no_more(reference: Path, tiny_cache: Path) -> None:
    coarse, fine = open_cache(reference), open_cache(tiny_cache)
    constants = coarse.constants()
    assert constants is not None
    scale, zero = torch.from_numpy(constants)
    exact = every_row(fine, 2)
    nearest = exact.clamp(min=-zero * scale, max=(255 - zero) * scale)
    assert bool(((every_row(coarse, 2) - nearest).abs() <= scale / 2 + exact.abs() * 2.0**-10).all())


def test_pooled_vectors_are_those_of_the_decoded_features(reference: Path) -> None:
    cache = open_cache(reference)
    decoded = every_row(cache, 1).double().numpy()
    pooled = cache.read_pooled(range(41), 1)
    np.testing.assert_allclose(pooled[:, 0], decoded.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled[:, 1], decoded.std(axis=1), rtol=1e-4, atol=1e-5)


def test_every_shard_and_the_index_hold_the_constants(reference: Path) -> None:
    wanted = open_cache(reference).constants("layer3")
    for path in (*(reference / "shards").iterdir(), reference / "cache.h5"):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["encoding/layer3"][()], wanted)
            assert file["features/layer3"].dtype == np.uint8


def test_the_recipe_says_which_constants(reference: Path) -> None:
    cache = open_cache(reference)
    constants = cache.constants("layer3")
    assert constants is not None
    assert cache.recipe.encoding == "uint8"
    assert cache.recipe.calibration == digest_of_constants({"layer3": constants})


def test_without_the_index_the_constants_come_from_the_shards(own: Path, reference: Path) -> None:
    (own / "cache.h5").unlink()
    np.testing.assert_array_equal(open_cache(own).constants(), open_cache(reference).constants())
    assert open_cache(own).read([40], 1).tobytes() == open_cache(reference).read([40], 1).tobytes()


def test_constants_that_are_not_those_of_the_recipe_are_corrupt(own: Path, reference: Path) -> None:
    path = min((own / "shards").iterdir())
    constants = open_cache(reference).constants()
    assert constants is not None
    data = path.read_bytes()
    assert data.count(constants.tobytes()) == 1
    changed = constants.copy()
    changed[0, 5] *= 2
    path.write_bytes(data.replace(constants.tobytes(), changed.tobytes()))
    with pytest.raises(CorruptFile, match=path.name):
        open_cache(own).read([0], 0)


def test_another_run_gives_the_same_files(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    run(tiny_dataset, tmp_path / "again")
    assert shard_digests(tmp_path / "again") == shard_digests(reference)


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_deleted_shard_is_made_anew_byte_by_byte(tiny_dataset: Path, own: Path, reference: Path, shard: int) -> None:
    sorted((own / "shards").iterdir())[shard].unlink()
    assert run(tiny_dataset, own).views_computed == 3 * (17, 17, 7)[shard]
    assert shard_digests(own) == shard_digests(reference)


def test_more_views_keep_constants_and_fingerprint(tiny_dataset: Path, own: Path, reference: Path) -> None:
    report = run(tiny_dataset, own, dataclasses.replace(UINT8, augs=3))
    assert (report.views_computed, report.fingerprint) == (41, open_cache(reference).fingerprint)
    assert shard_digests(reference).items() <= shard_digests(own).items()
    np.testing.assert_array_equal(open_cache(own).constants(), open_cache(reference).constants())


def test_the_number_of_views_does_not_matter_to_the_constants(
    tiny_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    report = run(tiny_dataset, tmp_path / "one view", dataclasses.replace(UINT8, augs=0))
    assert report.fingerprint == open_cache(reference).fingerprint


def test_more_images_keep_constants_and_fingerprint(
    tiny_dataset: Path, own: Path, reference: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "larger"
    shutil.copytree(tiny_dataset, larger)
    Image.new("RGB", (70, 50), "white").save(larger / "images" / "white.png")
    with (larger / "splits" / "test_2.txt").open("a") as file:
        file.write("white.png 1.0\n")
    report = run(larger, own)
    assert (report.views_computed, report.fingerprint) == (3, open_cache(reference).fingerprint)


def test_float16_is_refused_where_8_bits_are_by_this_one_field(tiny_dataset: Path, own: Path) -> None:
    before = shard_digests(own)
    with pytest.raises(Mismatch) as caught:
        run(tiny_dataset, own, TINY_EXTRACT)
    lines = str(caught.value).split("\n")
    assert lines[1:-1] == ['  encoding: "uint8" there, "float16" asked for']
    assert shard_digests(own) == before


def test_8_bits_are_refused_where_float16_is_by_this_one_field(tiny_dataset: Path, tiny_cache: Path) -> None:
    with pytest.raises(Mismatch) as caught:
        run(tiny_dataset, tiny_cache)
    lines = str(caught.value).split("\n")
    assert lines[1:-1] == ['  encoding: "float16" there, "uint8" asked for']


def test_other_images_have_other_constants_and_are_not_merged(few: Path, reference: Path, tmp_path: Path) -> None:
    run(few, tmp_path / "few")
    assert open_cache(tmp_path / "few").fingerprint != open_cache(reference).fingerprint
    with pytest.raises(Mismatch) as caught:
        merge_caches(tmp_path / "out", [reference, tmp_path / "few"])
    found = re.findall(r"^  (\w+): .* there, .* asked for$", str(caught.value), re.MULTILINE)
    assert found == ["calibration"]
    assert not (tmp_path / "out").exists()


def test_constants_of_another_cache_let_the_two_be_merged(few: Path, reference: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(UINT8, calibrate_like=str(reference))
    report = run(few, tmp_path / "few", settings)
    assert report.fingerprint == open_cache(reference).fingerprint
    np.testing.assert_array_equal(open_cache(tmp_path / "few").constants(), open_cache(reference).constants())
    merged = merge_caches(tmp_path / "out", [reference, tmp_path / "few"])
    assert (merged.images, merged.views, merged.complete) == (48, 3, True)
    assert verify_cache(tmp_path / "out").ok
    cache, alone = open_cache(tmp_path / "out"), open_cache(tmp_path / "few")
    row_of = {image.name: row for row, image in enumerate(cache.images)}
    rows = [row_of[image.name] for image in alone.images]
    assert cache.read(rows, 1).tobytes() == alone.read(range(7), 1).tobytes()
    np.testing.assert_array_equal(cache.constants(), alone.constants())
    assert run(few, tmp_path / "few").views_computed == 0  # the constants are in the shards by now


def test_constants_of_a_cache_of_another_recipe_are_refused_by_field(
    few: Path, reference: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(UINT8.views, eval_view="squash")
    for like, views, field in ((tiny_cache, UINT8.views, "encoding"), (reference, other, "eval_view")):
        settings = dataclasses.replace(UINT8, calibrate_like=str(like), views=views)
        with pytest.raises(Mismatch, match=rf"made with another recipe:\n  {field}: .*\nTake the constants of"):
            run(few, tmp_path / "out", settings)
        assert not list((tmp_path / "out" / "shards").iterdir())
    with pytest.raises(CacheIncomplete, match="no cache there"):
        run(few, tmp_path / "out", dataclasses.replace(UINT8, calibrate_like=str(tmp_path / "nowhere")))


def test_constants_go_with_8_bits_alone() -> None:
    with pytest.raises(InvalidSettings, match="--calibrate-like goes with --encoding uint8"):
        dataclasses.replace(TINY_EXTRACT, calibrate_like="cache/other")
    with pytest.raises(InvalidSettings, match="--encoding must be float16 or uint8, found 'int4'"):
        dataclasses.replace(TINY_EXTRACT, encoding="int4")


def test_a_head_learns_from_8_bits_and_predicts_what_it_scores(
    tiny_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    cache, folder = open_cache(reference), tmp_path / "tiny" / "paper" / "split-1"
    train(TrainingJob(cache, "1", TINY_TRAIN, folder, "paper"))
    test, val = (score_run(read_run(folder), cache, part=part) for part in ("test", "val"))
    assert test.metrics.n == 11
    names = (test.names + val.names)[:16]  # the batch of extract
    found = Predictor.load(folder).predict([tiny_dataset / "images" / name for name in names])
    wanted = np.concatenate([test.prediction, val.prediction])[:16]
    np.testing.assert_allclose([image.score for image in found], wanted, atol=1e-5)
    assert np.ptp(wanted) > 0


def test_a_head_without_attention_predicts_what_it_scores(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    cache, folder = open_cache(reference), tmp_path / "tiny" / "plain" / "split-2"
    train(TrainingJob(cache, "2", dataclasses.replace(TINY_TRAIN, attention=False), folder, "plain"))
    test = score_run(read_run(folder), cache)
    found = Predictor.load(folder).predict([tiny_dataset / "images" / name for name in test.names])
    np.testing.assert_allclose([image.score for image in found], test.prediction, atol=1e-5)


def test_a_head_is_scored_on_caches_of_its_own_constants_alone(few: Path, reference: Path, tmp_path: Path) -> None:
    cache, folder = open_cache(reference), tmp_path / "tiny" / "paper" / "split-1"
    train(TrainingJob(cache, "1", dataclasses.replace(TINY_TRAIN, epochs=1), folder, "paper"))
    run(few, tmp_path / "own constants")
    with pytest.raises(Mismatch, match=r"made with another recipe:\n  calibration: "):
        score_run(read_run(folder), open_cache(tmp_path / "own constants"))
    run(few, tmp_path / "like", dataclasses.replace(UINT8, calibrate_like=str(reference)))
    assert score_run(read_run(folder), open_cache(tmp_path / "like")).metrics.n == 7


def test_images_that_cannot_be_decoded_are_no_sample(tiny_dataset: Path, tmp_path: Path) -> None:
    torn = Path(shutil.copytree(tiny_dataset, tmp_path / "torn"))
    for path in list((torn / "images").rglob("*.jpg"))[1:]:
        path.write_bytes(b"not an image")
    assert len(run(torn, tmp_path / "out").absent) == 40
    for path in (torn / "images").rglob("*.jpg"):
        path.write_bytes(b"not an image")
    with pytest.raises(BadInput, match="none of the 41 images to calibrate uint8 on can be decoded"):
        run(torn, tmp_path / "none")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_ruins_no_constants(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plain: Callable[[Backbone, torch.Tensor], dict[str, torch.Tensor]] = Backbone.__call__
    calls: list[int] = []

    def broken_once(self: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = plain(self, pixels)["layer3"].clone()
        if not calls:  # the sample, of which view 1 is not extracted
            features[1, 3, 5] = value
        calls.append(len(pixels))
        return {"layer3": features}

    monkeypatch.setattr(Backbone, "__call__", broken_once)
    try:
        run(tiny_dataset, tmp_path, dataclasses.replace(UINT8, augs=0))
    except BadInput:
        return
    constants = open_cache(tmp_path).constants()
    assert constants is not None
    assert np.isfinite(constants).all()


def test_the_sample_is_of_all_images_or_of_as_many_as_are_drawn(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    plain = featcache.extraction.calibration.load_ahead

    def noting(images: Path, work: list[tuple[str, tuple[int, int]]], recipe: featcache.recipe.Recipe) -> object:
        seen.extend(name for name, views in work if views == (0, 2))
        return plain(images, work, recipe)

    monkeypatch.setattr(featcache.extraction.calibration, "load_ahead", noting)
    run(tiny_dataset, tmp_path)
    assert sorted(seen) == sorted(open_dataset(str(tiny_dataset)).names)


NAMES = st.lists(st.text(max_size=9), unique=True, max_size=90)


@settings(deadline=None)
@given(names=NAMES, seed=st.integers(0, 9), shuffler=st.randoms())
def test_the_sample_depends_on_no_order_and_only_shrinks_by_what_is_added(
    names: list[str], seed: int, shuffler: object
) -> None:
    drawn = sample_names(names, seed=seed)
    assert len(drawn) == len(set(drawn)) == min(len(names), SAMPLE_IMAGES)
    assert set(drawn) <= set(names)
    shuffled = list(names)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sample_names(shuffled, seed=seed) == drawn
    new = [f"{name} too" for name in names if f"{name} too" not in names][:3]
    assert set(sample_names(names + new, seed=seed)) - set(new) <= set(drawn)
    assert sample_names(names, seed=seed, size=5) == drawn[:5]


def test_another_seed_draws_another_sample() -> None:
    names = [f"{number}.jpg" for number in range(500)]
    assert set(sample_names(names, seed=0)) != set(sample_names(names, seed=1))


def test_recipes_of_different_encodings_differ_by_that_field(reference: Path, tiny_cache: Path) -> None:
    with pytest.raises(Mismatch) as caught:
        check_same(open_cache(reference).recipe, open_cache(tiny_cache).recipe, where="here", way_out="So.")
    assert str(caught.value) == 'here: made with another recipe:\n  encoding: "uint8" there, "float16" asked for\nSo.'
