"""Numbers of ratings, standard errors and reliabilities go from a table into its cache, and stay there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import CorruptFile
from featcache.datasets.dataset import Dataset, open_dataset
from featcache.extraction.extract import extract
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.repair import repair_cache
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from tests.helpers.command_line import amnet
from tests.helpers.rated_tables import RELIABILITY, write_facts, write_rated
from tests.helpers.tiny import TINY_EXTRACT

Desk = tuple[Path, Path, dict[str, tuple[int, float]]]  # a table, its cache, and n and se of each image


@pytest.fixture
def desk(tiny_dataset: Path, tiny_cache: Path, tmp_path: Path) -> Desk:
    """A table of the tiny dataset's images, and the copy of its cache, extracted once more from the table."""
    table, out = tmp_path / "rated.csv", Path(shutil.copytree(tiny_cache, tmp_path / "cache" / "rated"))
    known = write_rated(tiny_dataset, table)
    assert extract(dataset_of(table, tiny_dataset), TINY_EXTRACT, out).views_computed == 0
    return table, out, known


def dataset_of(table: Path, dataset: Path) -> Dataset:
    return open_dataset(str(table), root=dataset / "images")


def by_name(cache: FeatureCache) -> dict[str, tuple[int, float]]:
    found = cache.raters
    assert found and found.counts is not None and found.errors is not None
    columns = zip(found.rows.tolist(), found.counts.tolist(), found.errors.tolist(), strict=True)
    return {cache.images[row].name: (n, se) for row, n, se in columns}


def test_a_cache_takes_them_up_and_computes_nothing(desk: Desk, tiny_cache: Path) -> None:
    cache = open_cache(desk[1])
    assert by_name(cache) == desk[2]
    assert cache.reliability and cache.reliability.ceiling == RELIABILITY["ceiling"]
    before = open_cache(tiny_cache)
    assert (before.raters, before.reliability) == (None, None)
    assert not {"raters", "reliability"} & json.loads((tiny_cache / "manifest.json").read_text()).keys()


def test_rows_are_those_of_the_cache_where_it_grew(desk: Desk, tiny_dataset: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    lines = desk[0].read_text().splitlines(keepends=True)
    few.write_text("".join([lines[0], *(line for line in lines[1:] if "train" in line)][:30]))
    extract(dataset_of(few, tiny_dataset), TINY_EXTRACT, tmp_path / "grown")
    extract(dataset_of(desk[0], tiny_dataset), TINY_EXTRACT, tmp_path / "grown")
    grown = open_cache(tmp_path / "grown")
    assert [image.name for image in grown.images] != [image.name for image in open_cache(desk[1]).images]
    assert by_name(grown) == desk[2]


def test_an_error_that_is_not_there_is_null(desk: Desk, tiny_dataset: Path) -> None:
    table, out, known = desk
    (name, (n, se)) = next(iter(known.items()))
    table.write_text(table.read_text().replace(f",{n},{se},", f",{n},,", 1))
    write_facts(table)
    extract(dataset_of(table, tiny_dataset), TINY_EXTRACT, out)
    assert json.loads((out / "manifest.json").read_text())["raters"][""]["se"].count(None) == 1
    assert np.isnan(by_name(open_cache(out))[name][1])


def test_they_are_kept_when_a_cache_is_sealed_again(desk: Desk) -> None:
    sealed = (desk[1] / "manifest.json").read_bytes()
    (desk[1] / "cache.h5").write_bytes(b"damaged")
    assert repair_cache(desk[1]).repaired == ["cache.h5"]
    assert (desk[1] / "manifest.json").read_bytes() == sealed


def test_merged_caches_have_them_and_no_ceiling_that_only_one_has(desk: Desk, tiny_cache: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(desk[1], tmp_path / "second"))
    merged = merge_caches(tmp_path / "both", [desk[1], second])
    both = open_cache(tmp_path / "both")
    assert (by_name(both), both.reliability) == (desk[2], open_cache(second).reliability)
    assert not any("reliability" in line for line in merged.warnings())
    write_manifest(second, replace(read_manifest(second), reliability={}))
    merged = merge_caches(tmp_path / "one", [desk[1], second])
    assert open_cache(tmp_path / "one").reliability is None
    assert sum("do not have one reliability" in line for line in merged.warnings()) == 1


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("raters", {"": {"row": [0, 0], "n": [1, 2]}}),
        ("raters", {"": {"row": [0, 99], "n": [1, 2]}}),
        ("raters", {"": {"row": [0, 1], "n": [1]}}),
        ("raters", {"": {"row": [0, 1], "n": [1, 0]}}),
        ("raters", {"": {"row": [0, 1], "se": [1, -0.5]}}),
        ("raters", {"": {"row": [0, 1]}}),
        ("raters", {"beauty": {"row": [0, 1], "n": [1, 2]}}),
        ("reliability", {"": {"ceiling": 2, "source": "it"}}),
        ("reliability", {"": {"ceiling": 0.5}}),
        ("reliability", {"beauty": {"ceiling": 0.5, "source": "it"}}),
    ],
)
def test_a_manifest_whose_raters_cannot_be_is_refused(desk: Desk, key: str, change: object) -> None:
    from featcache.base.files import canonical_json
    from featcache.store.manifest import _digest

    body = {**json.loads((desk[1] / "manifest.json").read_text()), key: change}
    body.pop("digest")
    (desk[1] / "manifest.json").write_text(canonical_json({**body, "digest": _digest(body)}))
    with pytest.raises(CorruptFile, match="not a manifest of this version"):
        read_manifest(desk[1])


def test_cache_info_tells_them(desk: Desk, tiny_cache: Path) -> None:
    text = amnet("cache-info", "--cache", desk[1]).stdout
    assert "raters       numbers of ratings and standard errors of 41 scores\n" in text
    assert "ceiling      0.866, 95% interval 0.810 to 0.910 (rated.json)\n" in text
    assert set(json.loads(amnet("cache-info", "--cache", desk[1], "--json").stdout)) >= {"raters", "ceiling"}
    assert "ceiling" not in amnet("cache-info", "--cache", tiny_cache).stdout
