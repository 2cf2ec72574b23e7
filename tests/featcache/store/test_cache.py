"""Reading a sealed cache: the right features in any order, and an error for everything else."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.base.errors import BadInput, CacheIncomplete, CorruptFile, InvalidSettings
from featcache.images.identity import ImageRow
from featcache.store.cache import FeatureCache, find_cache, open_cache
from tests.helpers import synthetic
from tests.helpers.synthetic import ABSENT, BLOCKS, RECIPE, ROWS, VIEWS, Arrays, make_arrays, make_cache


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache") / "made", arrays, BLOCKS)


@pytest.fixture(scope="module")
def cache(folder: Path) -> FeatureCache:
    return open_cache(folder)


@pytest.fixture
def own(tmp_path: Path, arrays: Arrays) -> Path:
    """A cache of one's own, to be damaged."""
    return make_cache(tmp_path / "own", arrays, BLOCKS)


present_row = st.integers(0, ROWS - 1).filter(lambda row: row != ABSENT)


@given(st.lists(st.tuples(present_row, st.integers(0, VIEWS - 1)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_and_views_in_any_order(cache: FeatureCache, arrays: Arrays, wanted: list[tuple[int, int]]) -> None:
    rows, views = np.array(wanted).T
    for layer in ("first", "second.bn"):
        np.testing.assert_array_equal(cache.read(rows, views, layer), arrays[f"features/{layer}"][rows, views])
        np.testing.assert_array_equal(cache.read_pooled(rows, views, layer), arrays[f"pooled/{layer}"][rows, views])


def test_one_view_for_all_rows_and_a_buffer_of_ones_own(cache: FeatureCache, arrays: Arrays) -> None:
    out = np.empty((2, 3, 5), "<f2")
    assert cache.read([7, 0], 1, "first", out) is out
    np.testing.assert_array_equal(out, arrays["features/first"][[7, 0], 1])
    with pytest.raises(InvalidSettings, match=r"out must be C-contiguous float16 \(2, 3, 5\)"):
        cache.read([7, 0], 1, "first", np.empty((2, 3, 5), "<f4"))


def test_no_rows_give_an_empty_batch(cache: FeatureCache) -> None:
    assert cache.read(np.array([], int), 0).shape == (0, 7, 11)


def test_the_default_layer_is_the_last(cache: FeatureCache) -> None:
    assert cache.layer() == "second.bn"
    with pytest.raises(InvalidSettings, match=r"has no layer third; it has first, second\.bn"):
        cache.layer("third")


@pytest.mark.parametrize(("rows", "views"), [([ROWS], 0), ([-1], 0), ([0], VIEWS), ([0.5], 0)])
def test_rows_and_views_outside_are_refused(cache: FeatureCache, rows: list[int], views: int) -> None:
    with pytest.raises(InvalidSettings, match="must be whole numbers in"):
        cache.read(rows, views)


def test_an_absent_row_is_an_error_never_zeros(cache: FeatureCache) -> None:
    assert cache.present.tolist() == [row != ABSENT for row in range(ROWS)]
    with pytest.raises(BadInput, match=r"004 é\.jpg: has no features"):
        cache.read([0, ABSENT], 0)


def test_a_pickled_cache_and_many_threads_read_the_same(cache: FeatureCache, arrays: Arrays) -> None:
    copy = pickle.loads(pickle.dumps(cache))
    rows = np.array([0, 5, 12, 11, 3] * 5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda view: copy.read(rows, view, "first"), [0, 1] * 8):
            assert found.shape == (25, 3, 5)
    np.testing.assert_array_equal(copy.read(rows, 1, "first"), arrays["features/first"][rows, 1])


def test_a_missing_shard_is_corrupt_when_opened_and_when_read(own: Path) -> None:
    opened = open_cache(own)
    next((own / "shards").glob("00005-*")).unlink()
    with pytest.raises(CorruptFile, match="1 of 4 shards are missing or not as long as they were, first 00005-"):
        open_cache(own)
    with pytest.raises(CorruptFile, match="the shard is missing"):
        opened.read([5, 5], [0, 1])


def test_a_shard_that_is_not_the_committed_one_is_corrupt(own: Path) -> None:
    path = next((own / "shards").glob("00012-*"))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptFile, match="not as long as they were, first 00012-"):
        open_cache(own)


def test_a_shard_of_the_same_names_but_other_images_is_corrupt(own: Path, arrays: Arrays, tmp_path: Path) -> None:
    opened = open_cache(own)
    path = next((own / "shards").glob("00012-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "image", lambda row: ImageRow(f"dir/{row:03d} é.jpg", "f" * 64, 100, 200))
        path.write_bytes(synthetic.build_shard_bytes(arrays, synthetic.BLOCKS[3]))
    with pytest.raises(CorruptFile, match="it holds other images than rows 12-13"):
        opened.read([12], 0)


@pytest.mark.parametrize("damage", ["flipped", "missing", "of another generation"])
def test_without_a_trustworthy_index_the_shards_tell_the_same(own: Path, arrays: Arrays, damage: str) -> None:
    index = own / "cache.h5"
    if damage == "flipped":
        index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    elif damage == "missing":
        index.unlink()
    else:
        index.write_bytes(b"another cache.h5")
    cache = open_cache(own)
    assert [image.name for image in cache.images] == [f"dir/{row:03d} é.jpg" for row in range(ROWS)]
    np.testing.assert_array_equal(cache.read([0, 9], 1), arrays["features/second.bn"][[0, 9], 1])


def test_facts_of_the_cache(cache: FeatureCache) -> None:
    assert (cache.rows, cache.views, cache.name) == (ROWS, VIEWS, "made")
    assert cache.recipe == RECIPE
    assert cache.fingerprint == RECIPE.fingerprint
    assert cache.box[2, 1].tolist() == [1, 2, 4, 9]
    assert cache.flip[2].tolist() == [0, 1]


def test_an_unsealed_cache_is_incomplete(own: Path) -> None:
    (own / "manifest.json").unlink()
    with pytest.raises(CacheIncomplete, match="4 shards so far"):
        open_cache(own)


def test_the_only_cache_is_found(own: Path) -> None:
    assert find_cache(None, own.parent) == own
    assert find_cache("elsewhere") == Path("elsewhere")
    (own.parent / "second" / "shards").mkdir(parents=True)
    with pytest.raises(InvalidSettings, match=r"exactly one cache; found .*own, .*second"):
        find_cache(None, own.parent)
    with pytest.raises(InvalidSettings, match="found none"):
        find_cache(None, own.parent / "nothing")


def test_a_cache_opened_by_a_relative_path_is_read_from_anywhere(
    own: Path, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    cache = open_cache(own.name)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(cache.read([0], 1, "first")[0], arrays["features/first"][0, 1])
