"""The dictionary of visual words: learnt once, by a rule that looks at no score, and kept with the cache."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.base.errors import BadInput, CorruptFile, Mismatch
from featcache.base.jobs import Workers
from featcache.datasets.dataset import Dataset, open_dataset
from featcache.datasets.splits import Part
from featcache.extraction.dictionary import images_to_learn_on
from featcache.extraction.extract import extract
from featcache.extraction.forecast import forecast
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.repair import repair_cache
from featcache.maintenance.verify import verify_cache
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache
from head.prediction.predictor import Predictor
from head.settings import settings_of
from head.training.job import TrainingJob
from head.training.train import train

WORDS = ExtractSettings(augs=1, backbone="descriptors:pixels,sift", views=ViewSettings(image_size=64))
NAME = "dictionary.safetensors"


@pytest.fixture(scope="module")
def cache(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words") / "cache"
    extract(open_dataset(str(tiny_dataset)), WORDS, out)
    return out


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of the dictionary and of each shard."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / NAME, *folder.glob("shards/*"))
    }


def test_the_same_dataset_gives_the_same_dictionary_and_features_by_workers_too(
    cache: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    extract(open_dataset(str(tiny_dataset)), WORDS, tmp_path / "again", workers=Workers(2))
    assert digests(tmp_path / "again") == digests(cache)
    assert verify_cache(cache).ok


def test_a_run_that_was_killed_behind_the_dictionary_goes_on_with_it(
    cache: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    out.mkdir()
    shutil.copy(cache / NAME, out)
    extract(open_dataset(str(tiny_dataset)), replace(WORDS, augs=0), out)
    report = extract(open_dataset(str(tiny_dataset)), WORDS, out)  # more views, and the words of before
    assert report.views_computed == report.images
    assert digests(out)[NAME] == digests(cache)[NAME]


def test_a_dictionary_left_behind_by_other_settings_is_learnt_anew(
    cache: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    dataset, other = open_dataset(str(tiny_dataset)), replace(WORDS, views=replace(WORDS.views, seed=5))
    for settings in (other, replace(WORDS, backbone="descriptors:ssim")):  # another seed; words that are not in it
        left, new = (tmp_path / f"{settings.backbone[-4:]} {name}" for name in ("left", "new"))
        _copy(cache, left)
        for out in (left, new):
            extract(dataset, settings, out)
        assert digests(left) == digests(new)
        assert digests(left)[NAME] != digests(cache)[NAME]


def test_a_forecast_learns_nothing_and_writes_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    found = forecast(open_dataset(str(tiny_dataset)), WORDS, tmp_path / "cache")
    assert not found.warnings()
    assert "auto" not in found.execution
    assert list(tmp_path.iterdir()) == []


def test_heads_predict_from_a_cache_that_was_moved(cache: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(cache, moved)
    there = open_cache(moved)
    assert there.manifest.source["weights"] == NAME
    job = TrainingJob(there, "1", settings_of(head="ridge", layers=("sift",)), tmp_path / "run", "ridge")
    predictor = Predictor.load(train(job).folder)
    assert str(moved) in predictor.run.weights_source
    name = there.images[0].name
    image = predictor.predict([tiny_dataset / "images" / name])
    assert np.isfinite([one.score for one in image]).all()


@pytest.mark.parametrize("damage", ["missing", "not the file"])
def test_a_dictionary_that_is_lost_or_changed_is_a_problem_that_repair_leaves(
    cache: Path, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    if damage == "missing":
        (copy / NAME).unlink()
    else:
        (copy / NAME).write_bytes((copy / NAME).read_bytes() + b"x")
    (problem,) = verify_cache(copy).problems
    assert problem.file == NAME
    assert problem.what.startswith(damage)
    assert [one.file for one in repair_cache(copy).unrepaired] == [NAME]
    shutil.copy(cache / NAME, copy)
    assert verify_cache(copy).ok


def test_a_lost_dictionary_is_learnt_again_or_said_to_be_lost(cache: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    copy, dataset = tmp_path / "copy", open_dataset(str(tiny_dataset))
    shutil.copytree(cache, copy)
    (copy / NAME).unlink()
    with pytest.raises(CorruptFile, match=rf"{NAME}: missing, and the images that there are now give other words"):
        extract(_only(dataset, dataset.names[:20]), WORDS, copy)
    assert not (copy / NAME).exists()
    assert extract(dataset, WORDS, copy).views_computed == 0
    assert digests(copy) == digests(cache)


def test_caches_of_one_dictionary_are_merged_with_it_and_others_are_refused(
    cache: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(str(tiny_dataset))
    halves = [_only(dataset, names) for names in (dataset.names[:20], dataset.names[20:])]
    given = replace(WORDS, weights=str(cache / NAME))
    for k, half in enumerate(halves):
        extract(half, given if k else replace(WORDS, weights=str(_copy(cache, tmp_path / "0"))), tmp_path / str(k))
    for first in (0, 1):  # one that has the words, and one that took them from elsewhere
        out = tmp_path / f"both {first}"
        merge_caches(out, [tmp_path / str(first), tmp_path / str(1 - first)])
        assert digests(out)[NAME] == digests(cache)[NAME]
        assert open_cache(out).manifest.source["weights"] == NAME
        assert verify_cache(out).ok
        (out / NAME).unlink()
        assert [problem.file for problem in verify_cache(out).problems] == [NAME]
    extract(halves[0], replace(WORDS, views=replace(WORDS.views, seed=5)), tmp_path / "other")
    with pytest.raises(Mismatch, match=r"(?s)weights: .*Parts that count visual words need one dictionary"):
        merge_caches(tmp_path / "wrong", [tmp_path / "other", tmp_path / "1"])


def test_weights_of_the_network_that_are_not_there_are_told_before_words_are_learnt(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    wrong = replace(WORDS, backbone="timm:test_resnet+descriptors:sift", weights="imagenet+words.safetensors")
    with pytest.raises(BadInput, match=r"imagenet\+words.safetensors: no such weights file; .* 'imagenet \+ FILE'"):
        extract(open_dataset(str(tiny_dataset)), wrong, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def _copy(cache: Path, folder: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(cache / NAME, folder))


def _only(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """Return a dataset of some images, all of them to train on."""
    part = Part(np.arange(len(names)), np.linspace(0, 1, len(names)))
    return replace(dataset, names=names, ratings={"": {"1": {"train": part}}}, same=(), groups=())


def test_words_are_learnt_on_training_images_those_of_fewest_test_parts_first() -> None:
    names = tuple("abcdefgh")

    def parts(train: str, test: str) -> Mapping[str, Part]:
        rows = {part: np.array([names.index(name) for name in of]) for part, of in (("train", train), ("test", test))}
        return {part: Part(found, np.arange(len(found), dtype=float)) for part, found in rows.items()}

    splits = {"1": dict(parts("abcdf", "eg")), "2": dict(parts("aecdg", "bf"))}
    dataset = Dataset("made up", Path("images"), names, {"": splits})
    found = images_to_learn_on(dataset)
    assert set(found[:3]) == set("acd")  # tested on by none
    assert set(found[3:]) == set("befg")  # by one each; h is in no part
    scored = {split: {part: Part(of.rows, -of.scores) for part, of in parts.items()} for split, parts in splits.items()}
    assert images_to_learn_on(replace(dataset, ratings={"": scored})) == found


def test_images_too_alike_to_learn_from_are_refused(tmp_path: Path) -> None:
    lines = []
    for k in range(30):
        Image.new("RGB", (80, 80), (k, k, k)).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{k / 30}\n")
    (tmp_path / "ratings.csv").write_text("path,score\n" + "".join(lines))
    dataset = open_dataset(str(tmp_path / "ratings.csv"))
    with pytest.raises(BadInput, match=r"images give no dictionary for sift: .* differ: give more images"):
        extract(dataset, WORDS, tmp_path / "cache")
    assert not (tmp_path / "cache" / NAME).exists()
