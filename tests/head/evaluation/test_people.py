"""How far people agree with people is told where a cache has scores by other people, and is of its test parts alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from featcache.datasets.dataset import open_dataset
from featcache.datasets.reliability import Reliability
from featcache.extraction.extract import extract
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.repair import repair_cache
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.evaluate import evaluate
from head.evaluation.people import (
    Agreement,
    Ceiling,
    HumanConsistency,
    ceiling_from_json,
    ceiling_of,
    human_consistency,
    mean_ceiling,
    near_ceiling,
    of_ceiling,
)
from head.evaluation.statistics import rho_interval
from tests.helpers.command_line import amnet
from tests.helpers.others import write_others
from tests.helpers.tiny import TINY_EXTRACT

Desk = tuple[Path, Path, dict[str, dict[str, float]]]  # a dataset, its cache, and its scores by other people


@pytest.fixture
def desk(tiny_dataset: Path, tiny_cache: Path, tmp_path: Path) -> Desk:
    """Copies of the tiny dataset, with scores by other people, and of its cache, extracted before these were there."""
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data" / "tiny"))
    cache = Path(shutil.copytree(tiny_cache, tmp_path / "cache" / "tiny"))
    return data, cache, {"1": write_others(data, "1"), "2": write_others(data, "2", leave_out=3)}


@pytest.fixture
def cache(desk: Desk) -> FeatureCache:
    """The cache, extracted once more."""
    assert extract(open_dataset(str(desk[0])), TINY_EXTRACT, desk[1]).views_computed == 0
    return open_cache(desk[1])


def by_name(cache: FeatureCache) -> dict[str, dict[str, float]]:
    """Return the scores by other people of a cache, by split and image."""
    return {
        split: {cache.images[row].name: score for row, score in zip(part.rows, part.scores, strict=True)}
        for split, part in cache.others.items()
    }


def expected(data: Path, split: str, others: dict[str, float], without: tuple[str, ...] = ()) -> float:
    """Return what scipy makes of the two files of a split."""
    lines = [line.split() for line in (data / "splits" / f"test_{split}.txt").read_text().splitlines()]
    pairs = [(float(score), others[name]) for name, score in lines if name in others and name not in without]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def test_a_cache_takes_them_up_when_extract_is_run_again_and_computes_nothing(desk: Desk, cache: FeatureCache) -> None:
    assert by_name(cache) == desk[2]
    assert {part for parts in cache.splits.values() for part in parts} == {"train", "val", "test"}


def test_a_cache_from_before_has_none(tiny_cache: Path, tiny_runs: Path) -> None:
    cache = open_cache(tiny_cache)
    assert (cache.others, human_consistency(cache, cache.splits)) == ({}, None)
    assert "others" not in json.loads((tiny_cache / "manifest.json").read_text())


def test_rows_are_those_of_the_cache_where_it_grew(desk: Desk, tmp_path: Path) -> None:
    data, _, others = desk
    part = Path(shutil.copytree(data, tmp_path / "part"))
    for path in (part / "splits").glob("*_1.txt"):  # the images of split 2's test part alone come first
        path.unlink()
    for name in ("train_2", "val_2"):
        (part / "splits" / f"{name}.txt").unlink()
    extract(open_dataset(str(part)), TINY_EXTRACT, tmp_path / "grown")
    extract(open_dataset(str(data)), TINY_EXTRACT, tmp_path / "grown")
    grown = open_cache(tmp_path / "grown")
    assert [image.name for image in grown.images] != list(open_dataset(str(data)).names)
    assert by_name(grown) == others


def test_they_are_kept_when_a_cache_is_sealed_again(desk: Desk, cache: FeatureCache) -> None:
    sealed = (cache.path / "manifest.json").read_bytes()
    (cache.path / "cache.h5").write_bytes(b"damaged")
    assert repair_cache(cache.path).repaired == ["cache.h5"]
    assert (cache.path / "manifest.json").read_bytes() == sealed


def test_rho_is_that_of_scipy_over_the_images_that_both_have(desk: Desk, cache: FeatureCache) -> None:
    data, _, others = desk
    found = human_consistency(cache, ["2", "1", "2", "3"])
    assert found is not None
    assert list(found.by_split) == ["2", "1"]
    assert {split: n for split, (_, n) in found.by_split.items()} == {"1": 11, "2": 8}
    for split, (rho, _) in found.by_split.items():
        assert rho == pytest.approx(expected(data, split, others[split]), abs=1e-12)
        assert 0.2 < rho < 1


def test_images_without_features_are_left_out(torn_dataset: Path, torn_cache: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(torn_dataset, tmp_path / "data"))
    others = write_others(data, "1")
    extract(open_dataset(str(data)), TINY_EXTRACT, Path(shutil.copytree(torn_cache, tmp_path / "torn")))
    found = human_consistency(open_cache(tmp_path / "torn"), ["1"])
    torn = (data / "splits" / "test_1.txt").read_text().split()[0]
    assert found is not None
    assert found.by_split["1"] == (pytest.approx(expected(data, "1", others, (torn,)), abs=1e-12), 10)


def test_caches_are_merged_with_the_union_of_theirs(
    desk: Desk, cache: FeatureCache, tiny_cache: Path, tmp_path: Path
) -> None:
    data, _, others = desk
    (data / "splits" / "others_1.txt").unlink()
    extract(open_dataset(str(data)), TINY_EXTRACT, Path(shutil.copytree(tiny_cache, tmp_path / "second")))
    merge_caches(tmp_path / "out", [tmp_path / "second", cache.path])
    assert by_name(open_cache(tmp_path / "out")) == others


def test_score_cache_tells_it_under_the_table_and_in_json(
    desk: Desk, cache: FeatureCache, tiny_runs: Path, tmp_path: Path
) -> None:
    data, _, others = desk
    rho = {split: expected(data, split, others[split]) for split in others}
    mean, deviation = np.mean([*rho.values()]), np.std([*rho.values()], ddof=1)
    runs = shutil.copytree(tiny_runs, tmp_path / "runs")
    call = ("score-cache", "--cache", cache.path, "--runs", runs)
    text = amnet(*call).stdout.split("\n\n")[1]
    roots = {split: rho[split] ** 0.5 for split in rho}
    ceilings = [line for line in text.splitlines() if line.startswith("ceiling")]
    mean_of_roots = f"ceiling {np.mean([*roots.values()]):.3f} (95% "
    assert [line.startswith(mean_of_roots) for line in ceilings].count(True) == 1
    assert any(line.startswith(f"ceiling {roots['1']:.3f} (") and line.endswith(" (plain)") for line in ceilings)
    assert text.splitlines()[-1] == (
        f"people agree with people: rho {mean:.3f} +- {deviation:.3f} (over 2 splits, 8 to 11 images each)"
    )
    document = json.loads(amnet(*call, "--json").stdout)["human_consistency"]
    assert document == {
        "splits": {split: {"rho": pytest.approx(rho[split]), "n": n} for split, n in (("1", 11), ("2", 8))},
        "rho_mean": pytest.approx(mean),
        "rho_sd": pytest.approx(deviation),
    }
    one = amnet(*call, "--split", "1").stdout
    assert f"\npeople agree with people: rho {rho['1']:.3f} (11 images)\n" in one


@pytest.mark.parametrize("part", ["val", "test"])
def test_it_is_told_of_the_test_part_alone_and_of_caches_that_have_it(
    cache: FeatureCache, tiny_cache: Path, tiny_runs: Path, tmp_path: Path, part: str
) -> None:
    runs = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    found = evaluate(cache if part == "val" else open_cache(tiny_cache), runs, part=part)
    assert found.scored
    assert "people" not in found.as_text()
    assert "human_consistency" not in found.as_json()


def test_scores_are_those_of_a_cache_without_it(
    cache: FeatureCache, tiny_cache: Path, tiny_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    documents = [evaluate(one, runs).as_json() for one in (open_cache(tiny_cache), cache)]
    without = [{key: value for key, value in run.items() if "ceiling" not in key} for run in documents[1]["runs"]]
    assert documents[0]["runs"] == without != documents[1]["runs"]


@pytest.mark.parametrize(
    ("by_split", "text"),
    [
        ({"1": Agreement(0.75, 1111)}, "rho 0.750 (1,111 images)"),
        ({"1": Agreement(0.5, 30), "2": Agreement(0.7, 30)}, "rho 0.600 +- 0.141 (over 2 splits, 30 images each)"),
        (
            {"1": Agreement(0.5, 30), "2": Agreement(float("nan"), 1)},
            "rho undefined (over 2 splits, 1 to 30 images each)",
        ),
    ],
)
def test_the_line_says_mean_deviation_and_how_many(by_split: dict[str, Agreement], text: str) -> None:
    assert HumanConsistency(by_split).as_text() == f"people agree with people: {text}"


def test_what_is_undefined_is_null() -> None:
    found = HumanConsistency({"1": Agreement(float("nan"), 1)}).as_json()
    assert found == {"splits": {"1": {"rho": None, "n": 1}}, "rho_mean": None, "rho_sd": None}


def test_cache_info_tells_which_splits_have_them(cache: FeatureCache, tiny_cache: Path) -> None:
    line = "others       scores by other people of test images of splits 1, 2\n"
    for path, has in ((cache.path, True), (tiny_cache, False)):
        assert (line in amnet("cache-info", "--cache", path).stdout) is has
        document = json.loads(amnet("cache-info", "--cache", path, "--json").stdout)
        assert document.get("others") == ({"1": 11, "2": 8} if has else None)


def test_test_scores_of_one_group_of_two_have_the_root_of_their_agreement_for_a_ceiling(cache: FeatureCache) -> None:
    people = human_consistency(cache, ["1", "2"])
    assert people is not None
    for split, (rho, n) in people.by_split.items():
        found, bounds = ceiling_of(cache, split, "test"), rho_interval(rho, n)
        assert found is not None
        assert (found.rho, found.images) == (pytest.approx(rho**0.5), n)
        assert (found.low, found.high) == pytest.approx((max(bounds[0], 0) ** 0.5, bounds[1] ** 0.5))
    assert ceiling_of(cache, "1", "val") is None


def test_that_root_is_what_a_perfect_prediction_reaches() -> None:
    rng = np.random.default_rng(0)
    agreed = rng.normal(size=200_000)
    one, other = (agreed + rng.normal(scale=0.8, size=len(agreed)) for _ in range(2))
    assert spearmanr(agreed, other).statistic == pytest.approx(spearmanr(one, other).statistic ** 0.5, abs=0.01)


def test_a_reliability_of_the_dataset_counts_first_and_what_was_published_last(cache: FeatureCache) -> None:
    own = Reliability(0.9, "reliability.json", 0.85, 0.95, full=0.81, split_half=0.68)
    with_own, manifest = cache.of_target(), cache.manifest
    with_own.manifest = replace(manifest, reliability={"": own})
    for part in ("test", "val"):
        found = ceiling_of(with_own, "1", part)
        assert found is not None
        assert (found.rho, found.low, found.high) == (0.9, 0.85, 0.95)
        assert found.how.startswith(
            "root of 0.810, the reliability of all ratings; 0.680 is that of half of the raters"
        )
        assert found.how.endswith("; reliability.json")
    lamem = cache.of_target()
    lamem.manifest = replace(manifest, source={**manifest.source, "dataset": "lamem"})
    assert (found := ceiling_of(lamem, "1", "test")) is not None and found.rho != pytest.approx(0.8997, abs=1e-4)
    lamem.manifest = replace(lamem.manifest, others={})
    assert (found := ceiling_of(lamem, "1", "test")) is not None and found.rho == pytest.approx(0.8997, abs=1e-4)
    assert "0.680 is that of half of the raters alone; published: Khosla et al. 2015" in found.as_text()


def test_ceilings_of_splits_are_averaged_and_one_that_lacks_leaves_none() -> None:
    one, other = Ceiling(0.8, 0.7, 0.9, "it", 40), Ceiling(0.9, 0.8, 0.95, "it", 30)
    found = mean_ceiling({"1": one, "2": other}, 0.3)
    assert found is not None and found.low is not None and found.high is not None
    assert (found.rho, found.images, found.how) == (
        pytest.approx(0.85),
        30,
        "mean over 2 splits, 0.800 to 0.900, of the it",
    )
    assert found.low < 0.85 < found.high
    assert mean_ceiling({"1": one, "2": one}, 0.3) == one
    assert mean_ceiling({"1": one, "2": None}, 0.3) is mean_ceiling({}, 0.3) is None


def test_what_is_written_of_a_ceiling_is_read_again() -> None:
    ceiling = Ceiling(0.8, None, None, "it", 40)
    found = json.loads(json.dumps(of_ceiling(0.6, 0.5, 0.7, ceiling)))
    assert ceiling_from_json(found) == ceiling
    assert near_ceiling(found) == (
        "0.75 of the ceiling 0.800 that the agreement of raters sets, 95% interval 0.62 to 0.87"
    )
    assert (ceiling_from_json({}), near_ceiling({}), of_ceiling(0.6, 0.5, 0.7, None)) == (None, "", {})
