"""The plan: what is kept, what is computed, and that rows never change their numbers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.base.errors import CorruptFile, Mismatch
from featcache.extraction.plan import ROWS_PER_SHARD, Plan, make_plan
from featcache.images.identity import ImageRow
from featcache.store.folder import existing_shards, refuse_other_recipes
from featcache.store.shards.format import Block
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
from tests.helpers.synthetic import RECIPE, make_arrays, write_shard

NOWHERE = Path("nowhere")


def shard(rows: tuple[int, int], views: tuple[int, int], *, absent: str = "", prefix: str = "img") -> Shard:
    """Return a shard without chunks; its images are called prefix-ROW."""
    images = [ImageRow(f"{prefix}-{row:04d}", absent=absent if row == rows[0] else "") for row in range(*rows)]
    n, v = rows[1] - rows[0], views[1] - views[0]
    return Shard(
        path=Path(f"{rows[0]:05d}-{views[0]:016x}{absent}.h5"),
        block=Block(rows, views),
        images=images,
        box=np.zeros((n, v, 4), np.int32),
        flip=np.zeros((n, v), np.uint8),
        arrays={},
        fingerprint=RECIPE.fingerprint,
        recipe=RECIPE,
        constants={},
        format_version=1,
    )


def names(count: int) -> list[str]:
    return [f"img-{row:04d}" for row in range(count)]


def plan_of(shards: list[Shard], count: int, views: int) -> Plan:
    return make_plan(shards, names(count), NOWHERE, views=views, recipe=RECIPE)


def coverage(plan: Plan) -> np.ndarray:
    """Return how often each (row, view) is covered by kept shards and blocks to do."""
    counts = np.zeros((len(plan.names), plan.views), int)
    for block in [*(kept.block for kept in plan.kept), *plan.todo]:
        counts[slice(*block.rows), slice(*block.views)] += 1
    return counts


def test_a_new_cache_is_cut_into_shards_of_64_rows() -> None:
    plan = plan_of([], 130, 3)
    assert plan.todo == [Block((0, 64), (0, 3)), Block((64, 128), (0, 3)), Block((128, 130), (0, 3))]
    assert plan.names == names(130)
    assert plan.views_to_do == 390


def test_large_maps_make_shards_of_fewer_rows() -> None:
    large = dataclasses.replace(RECIPE, layers=(("layer3", 14, 14, 1024),))
    plan = make_plan([], names(100), NOWHERE, views=101, recipe=large)
    assert plan.todo[0].rows == (0, 200 * 2**20 // (101 * 14 * 14 * 1024 * 2))


@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 6), st.data())
def test_kept_and_to_do_cover_everything_exactly_once(count: int, old: int, new: int, data: st.DataObject) -> None:
    blocks = plan_of([], count, old).todo
    kept = [shard(block.rows, block.views) for block in blocks if data.draw(st.booleans())]
    added = data.draw(st.integers(0, 100))
    plan = plan_of(kept, count + added, new)
    assert (coverage(plan) == 1).all()
    assert {s.block for s in plan.kept} == {s.block for s in kept}
    assert sorted(plan.names) == names(count + added)
    for s in kept:
        assert plan.names[slice(*s.block.rows)] == [image.name for image in s.images]


def test_resuming_gives_holes_the_names_they_were_planned_for() -> None:
    kept = [shard((64, 128), (0, 2))]
    plan = plan_of(kept, 130, 2)
    assert plan.names == names(130)
    assert plan.todo == [Block((0, 64), (0, 2)), Block((128, 130), (0, 2))]


def test_added_images_come_behind_the_others_even_if_their_names_sort_before() -> None:
    kept = [shard((0, 3), (0, 1))]
    plan = make_plan(kept, ["aaa", *names(3)], NOWHERE, views=1, recipe=RECIPE)
    assert plan.names == [*names(3), "aaa"]
    assert plan.todo == [Block((3, 4), (0, 1))]


def test_more_views_are_shards_of_their_own_and_fewer_change_nothing() -> None:
    kept = [shard((0, 3), (0, 2))]
    assert plan_of(kept, 3, 5).todo == [Block((0, 3), (2, 5))]
    fewer = plan_of(kept, 3, 1)
    assert (fewer.todo, fewer.views) == ([], 2)


def test_images_dropped_from_a_finished_dataset_keep_their_rows() -> None:
    plan = plan_of([shard((0, 5), (0, 1))], 3, 1)
    assert (plan.names, plan.todo) == (names(5), [])


def test_fewer_images_than_an_unfinished_cache_was_planned_for_are_a_mismatch() -> None:
    with pytest.raises(Mismatch, match="60 images fewer than this unfinished cache"):
        plan_of([shard((64, 128), (0, 1))], 4, 1)


def test_of_two_shards_of_one_block_the_one_with_fewer_absent_images_stays() -> None:
    worse, better = shard((0, 3), (0, 1), absent="truncated"), shard((0, 3), (0, 1))
    plan = plan_of([worse, better], 3, 1)
    assert ([s.path for s in plan.kept], plan.superseded, plan.todo) == ([better.path], [worse], [])


def test_an_absent_image_that_can_be_decoded_by_now_makes_its_shard_anew(tiny_dataset: Path) -> None:
    torn = shard((0, 3), (0, 1), absent="truncated")
    healed = next(path for path in (tiny_dataset / "images").iterdir() if path.suffix == ".jpg")
    images = [dataclasses.replace(torn.images[0], name=healed.name), *torn.images[1:]]
    torn = dataclasses.replace(torn, images=images)
    plan = make_plan([torn], [i.name for i in images], tiny_dataset / "images", views=1, recipe=RECIPE)
    assert (plan.kept, plan.superseded, plan.todo) == ([], [torn], [Block((0, 3), (0, 1))])
    assert plan.names == [i.name for i in images]


def test_contradicting_shards_are_corrupt() -> None:
    with pytest.raises(CorruptFile, match="two shards cover row 2 in different ways"):
        plan_of([shard((0, 4), (0, 1)), shard((2, 6), (1, 2))], 6, 2)
    with pytest.raises(CorruptFile, match="an image stands in two rows"):
        twin = shard((3, 6), (0, 1))
        images = [dataclasses.replace(image, name="img-0000") for image in twin.images]
        plan_of([shard((0, 3), (0, 1)), dataclasses.replace(twin, images=images)], 6, 1)


def test_only_files_named_like_shards_are_looked_at(tmp_path: Path) -> None:
    path = write_shard(tmp_path, make_arrays(), Block((0, 5), (0, 2)))
    for foreign in ("x.h5", ".tmp-00000-0000000000000000.h5-host-1", "00000-0000000000000000.h5.bak"):
        (tmp_path / "shards" / foreign).write_bytes(b"")
    assert [s.path for s in existing_shards(tmp_path)] == [path]


def test_another_recipe_is_refused_by_the_name_of_the_field(tmp_path: Path) -> None:
    write_shard(tmp_path, make_arrays(), Block((0, 5), (0, 2)))
    other = dataclasses.replace(RECIPE, image_size=64, seed=3)
    with pytest.raises(Mismatch) as caught:
        refuse_other_recipes(existing_shards(tmp_path), other, tmp_path)
    assert "image_size: 32 there, 64 asked for" in str(caught.value)
    assert "seed: 0 there, 3 asked for" in str(caught.value)
    assert "--out" in str(caught.value)


def test_a_damaged_shard_stops_the_plan(tmp_path: Path) -> None:
    path = write_shard(tmp_path, make_arrays(), Block((0, 5), (0, 2)))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CorruptFile, match=path.name):
        existing_shards(tmp_path)


def test_the_shard_size_is_the_documented_one() -> None:
    assert ROWS_PER_SHARD == 64


def test_of_twins_the_whole_one_stays_and_a_stray_file_is_left_alone(tmp_path: Path) -> None:
    block = Block((0, 5), (0, 2))
    good = write_shard(tmp_path, make_arrays(), block)
    data = bytearray(good.read_bytes())
    data[int(open_shard(good).arrays["features/first"].offsets[0, 0])] ^= 1
    damaged = good.with_name("00000-0000000000000000.h5")
    damaged.write_bytes(data)
    (tmp_path / "shards" / "00000-1111111111111111.h5").write_bytes(b"")
    with pytest.raises(CorruptFile, match="00000-1111111111111111.h5"):
        existing_shards(tmp_path)
    shards = existing_shards(tmp_path, listed={good.name})
    names = [image.name for image in shards[0].images]
    for order in (shards, shards[::-1]):
        found = make_plan(order, names, tmp_path / "images", views=2, recipe=RECIPE, listed={good.name})
        assert ([s.path for s in found.kept], [s.path for s in found.superseded]) == ([good], [damaged])
