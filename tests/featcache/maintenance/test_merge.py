"""Merged caches hold every image of their inputs, as it was; inputs stay untouched, contradictions are refused."""

import dataclasses
import errno
import hashlib
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import featcache.extraction.plan
import featcache.maintenance.merge
from featcache.base.errors import (
    BadInput,
    CacheIncomplete,
    CorruptFile,
    InvalidSettings,
    Locked,
    Mismatch,
    StorageError,
)
from featcache.base.files import digest_of_file, make_folder
from featcache.base.lock import writer_lock
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from featcache.datasets.splits import Part
from featcache.extraction.extract import extract
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.verify import verify_cache
from featcache.recipe import Recipe
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import shard_paths, shards_folder
from featcache.store.manifest import read_manifest
from featcache.store.shards.format import Block, Codecs, Target, array_specs, codecs_of_version_1
from featcache.store.shards.opening import open_shard
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter, commit
from tests.helpers.synthetic import RECIPE
from tests.helpers.tiny import TINY_EXTRACT

Scores = Mapping[str, float]


def features_of(name: str, array: str, view: int) -> NDArray[np.generic]:
    """Return what a synthetic cache holds of an image."""
    spec = array_specs(RECIPE)[array]
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(array.encode()), view])
    return rng.normal(size=spec.chunk_shape).astype(spec.dtype)


def identity(name: str, content: str = "") -> ImageRow:
    return ImageRow(name, hashlib.sha256((content or name).encode()).hexdigest(), 50 + len(name), 70)


def make_shards(
    folder: Path,
    names: Sequence[str],
    blocks: Sequence[Block],
    *,
    absent: Sequence[str] = (),
    contents: Mapping[str, str] | None = None,
    recipe: Recipe = RECIPE,
    codecs: Codecs | None = None,
) -> Path:
    """Write the shards of blocks of an extraction whose row i is names[i]."""
    make_folder(shards_folder(folder))
    for block in blocks:
        writer = ShardWriter(Target(recipe, codecs or codecs_of_version_1(recipe)), block)
        for i, name in enumerate(names[slice(*block.rows)]):
            if name in absent:
                writer.set_image(i, ImageRow(name, absent="truncated: cut short"), [])
                continue
            views = [View(Box(view, 0, len(name), 9), view % 2 == 1) for view in range(*block.views)]
            writer.set_image(i, identity(name, (contents or {}).get(name, "")), views)
            for j, view in enumerate(range(*block.views)):
                for array in writer.codecs:
                    writer.set_stored(array, i, j, writer.encode(array, features_of(name, array, view)))
        commit(folder, block, writer.finish())
    return folder


def make(
    folder: Path,
    names: Sequence[str],
    *,
    rows_per_shard: int = 3,
    view_ranges: Sequence[tuple[int, int]] = ((0, 2),),
    splits: Mapping[str, Mapping[str, Scores]] | None = None,
    others: Mapping[str, Scores] | None = None,
    absent: Sequence[str] = (),
    contents: Mapping[str, str] | None = None,
    recipe: Recipe = RECIPE,
    codecs: Codecs | None = None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write and seal a cache whose row i is names[i]."""
    starts = range(0, len(names), rows_per_shard)
    blocks = [Block((row, min(row + rows_per_shard, len(names))), views) for row in starts for views in view_ranges]
    make_shards(folder, names, blocks, absent=absent, contents=contents, recipe=recipe, codecs=codecs)
    row_of = {name: row for row, name in enumerate(names)}

    def part_of(scores: Scores) -> Part:
        return Part(np.array([row_of[name] for name in scores], np.int64), np.array([*scores.values()], np.float64))

    parts = {
        split: {part: part_of(scores) for part, scores in by_part.items()} for split, by_part in (splits or {}).items()
    }
    with CacheWriter(folder) as writer:
        writer.listed = {path.name: digest_of_file(path) for path in shard_paths(folder)}
        writer.seal(
            recipe,
            rows=len(names),
            views=view_ranges[-1][1],
            ratings={"": parts},
            source={"dataset": folder.name, "root": "nowhere", "weights": "random", "batch_size": "16"},
            versions=dict(versions or {"torch": "0"}),
            others={split: part_of(scores) for split, scores in (others or {}).items()},
        )
    return folder


def snapshot(*folders: Path) -> dict[Path, tuple[str, int]]:
    """Return digest and time of every file in folders."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (digest_of_file(path), path.stat().st_mtime_ns) for path in paths}


def shard_digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_of_file(path) for path in (folder / "shards").iterdir()}


def splits_by_name(cache: FeatureCache) -> dict[str, dict[str, dict[str, float]]]:
    return {
        split: {
            part: {cache.images[row].name: score for row, score in zip(values.rows, values.scores, strict=True)}
            for part, values in parts.items()
        }
        for split, parts in cache.splits.items()
    }


def assert_holds(cache: FeatureCache, names: set[str], absent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Check that every image and view is there as `features_of` says, and nothing else."""
    assert sorted(image.name for image in cache.images) == sorted(names)
    for row, image in enumerate(cache.images):
        if image.name in absent:
            assert image.absent == "truncated: cut short"
            assert not cache.present[row]
            continue
        assert image == identity(image.name)
        for view in range(cache.views):
            assert (cache.box[row, view].tolist(), cache.flip[row, view]) == ([view, 0, len(image.name), 9], view % 2)
            for layer in cache.recipe.layer_names:
                np.testing.assert_array_equal(
                    cache.read([row], view, layer)[0], features_of(image.name, f"features/{layer}", view)
                )
                np.testing.assert_array_equal(
                    cache.read_pooled([row], view, layer)[0], features_of(image.name, f"pooled/{layer}", view)
                )


A, B_NAMES = ["a", "b/é", "c", "d", "e"], ["p", "q", "r r", "s"]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two sealed caches of different images, with splits."""
    first = make(
        tmp_path / "first",
        A,
        splits={"1": {"train": {"c": 0.25, "a": 0.5}, "test": {"e": 1.0}}, "10": {"val": {"a": 2}}},
    )
    second = make(
        tmp_path / "second", B_NAMES, rows_per_shard=2,
        splits={"1": {"train": {"s": 0.125}, "val": {"p": 0.75}}, "2": {"test": {"q": -1.0}}},
    )  # fmt: skip
    return first, second


def test_different_images_follow_one_another(two: tuple[Path, Path], tmp_path: Path) -> None:
    before = snapshot(*two)
    report = merge_caches(tmp_path / "out", two)
    assert report.as_json() == {
        "folder": str(tmp_path / "out"), "images": 9, "views": 2, "shards": 4, "complete": True,
    }  # fmt: skip
    cache = open_cache(tmp_path / "out")
    assert [image.name for image in cache.images] == A + B_NAMES
    assert_holds(cache, {*A, *B_NAMES})
    assert verify_cache(tmp_path / "out").ok
    assert not verify_cache(tmp_path / "out").unknown
    assert snapshot(*two) == before


def test_splits_are_joined_by_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge_caches(tmp_path / "out", two)
    cache = open_cache(tmp_path / "out")
    assert splits_by_name(cache) == {
        "1": {"train": {"c": 0.25, "a": 0.5, "s": 0.125}, "val": {"p": 0.75}, "test": {"e": 1.0}},
        "2": {"test": {"q": -1.0}},
        "10": {"val": {"a": 2.0}},
    }
    assert [*cache.splits] == ["1", "2", "10"]
    assert cache.manifest.source["dataset"] == "first+second"


def test_the_order_of_inputs_changes_the_rows_alone(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge_caches(tmp_path / "out", two[::-1])
    assert [image.name for image in open_cache(tmp_path / "out").images] == B_NAMES + A
    assert_holds(open_cache(tmp_path / "out"), {*A, *B_NAMES})


def test_one_input_is_copied_as_it_is(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge_caches(tmp_path / "out", [two[0]])
    assert shard_digests(tmp_path / "out") == shard_digests(two[0])
    assert splits_by_name(open_cache(tmp_path / "out")) == splits_by_name(open_cache(two[0]))


def test_merged_caches_can_be_merged(two: tuple[Path, Path], tmp_path: Path) -> None:
    third = make(tmp_path / "third", ["x", "y"])
    merge_caches(tmp_path / "out", two)
    merge_caches(tmp_path / "more", [tmp_path / "out", third, two[1]])
    assert_holds(open_cache(tmp_path / "more"), {*A, *B_NAMES, "x", "y"})


def test_images_in_both_inputs_are_kept_once(tmp_path: Path) -> None:
    first = make(tmp_path / "first", A, splits={"1": {"train": {"a": 0.5, "c": 0.25}}})
    second = make(tmp_path / "second", ["c", "z", "a"], splits={"1": {"train": {"c": 0.25, "z": 1.0}}})
    assert merge_caches(tmp_path / "out", [first, second]).images == 6
    cache = open_cache(tmp_path / "out")
    assert_holds(cache, {*A, "z"})
    assert splits_by_name(cache) == {"1": {"train": {"a": 0.5, "c": 0.25, "z": 1.0}}}
    assert verify_cache(tmp_path / "out").ok


@pytest.mark.parametrize("order", [1, -1])
def test_an_image_that_is_absent_in_one_input_is_taken_from_the_other(tmp_path: Path, order: int) -> None:
    first = make(tmp_path / "first", A, absent=["a", "c"])
    second = make(tmp_path / "second", ["x", "c", "b/é"], absent=["x", "b/é"])
    merge_caches(tmp_path / "out", [first, second][::order])
    assert_holds(open_cache(tmp_path / "out"), {*A, "x"}, {"a", "x"})
    rows = (tmp_path / "out" / "failures.csv").read_text().splitlines()
    assert sorted(rows) == ["a,truncated: cut short", "name,reason", "x,truncated: cut short"]
    assert verify_cache(tmp_path / "out").ok


POOL = [f"{letter}{number}" for letter in "pq" for number in range(4)]
VIEW_RANGES = st.sampled_from([[(0, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)]])
INPUTS = st.tuples(
    st.lists(st.sampled_from(POOL), unique=True, min_size=1, max_size=5),
    st.sets(st.sampled_from(POOL)),
    st.integers(2, 4),
    VIEW_RANGES,
)


@settings(deadline=None, max_examples=12)
@given(inputs=st.lists(INPUTS, min_size=1, max_size=3))
def test_any_inputs_give_every_image_once_with_all_its_views(
    inputs: list[tuple[list[str], set[str], int, list[tuple[int, int]]]],
) -> None:
    score = {name: number / 7 for number, name in enumerate(POOL)}
    with tempfile.TemporaryDirectory() as home:
        folders = [
            make(
                Path(home) / f"in-{number}",
                names,
                absent=[*absent],
                rows_per_shard=rows_per_shard,
                view_ranges=ranges,
                splits={"1": {"train": {name: score[name] for name in names}}},
            )
            for number, (names, absent, rows_per_shard, ranges) in enumerate(inputs)
        ]
        report = merge_caches(Path(home) / "out", folders)
        names = {name for found, *_ in inputs for name in found}
        there = {name for found, absent, *_ in inputs for name in found if name not in absent}
        cache = open_cache(Path(home) / "out")
        assert (report.images, report.views, report.complete) == (len(names), 3, True)
        assert_holds(cache, names, names - there)
        assert splits_by_name(cache) == {"1": {"train": {name: score[name] for name in names}}}
        assert verify_cache(Path(home) / "out").problems == []


def test_views_of_one_image_may_come_from_two_inputs(tmp_path: Path) -> None:
    first = make_shards(tmp_path / "first", A, [Block((0, 5), (0, 1))])
    second = make_shards(tmp_path / "second", A, [Block((0, 5), (1, 2))])
    report = merge_caches(tmp_path / "out", [second, first])
    assert (report.images, report.views, report.shards, report.complete) == (5, 2, 2, False)
    assert shard_digests(tmp_path / "out") == shard_digests(first) | shard_digests(second)


@pytest.mark.parametrize("order", [1, -1])
def test_an_input_with_fewer_views_does_not_hide_the_one_that_has_them_all(tmp_path: Path, order: int) -> None:
    few = make(tmp_path / "few", ["a", "c"], view_ranges=[(0, 1)])
    whole = make(tmp_path / "whole", A, view_ranges=[(0, 2)])
    merge_caches(tmp_path / "out", [whole, few][::order])
    assert_holds(open_cache(tmp_path / "out"), {*A})


PLAN = [Block((row, min(row + 3, 11)), (0, 2)) for row in range(0, 11, 3)]
NAMES = [f"{number:02d}.jpg" for number in range(11)]


@pytest.mark.parametrize("parts", [([0, 2], [1, 3]), ([3], [0, 1]), ([0, 1, 2], [1, 2, 3]), ([2], [0])])
def test_parts_of_one_extraction_keep_rows_and_files(tmp_path: Path, parts: tuple[list[int], list[int]]) -> None:
    folders = [
        make_shards(tmp_path / f"part-{number}", NAMES, [PLAN[k] for k in part]) for number, part in enumerate(parts)
    ]
    before = snapshot(*folders)
    report = merge_caches(tmp_path / "out", folders)
    assert not report.complete
    assert report.images == sum(PLAN[k].shape[0] for k in {*parts[0], *parts[1]})
    assert shard_digests(tmp_path / "out") == shard_digests(folders[0]) | shard_digests(folders[1])
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(CacheIncomplete):
        open_cache(tmp_path / "out")
    assert verify_cache(tmp_path / "out").ok
    assert snapshot(*folders) == before


def test_a_finished_cache_and_a_part_of_it_are_merged(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", NAMES)
    part = make_shards(tmp_path / "part", NAMES, PLAN[1:2])
    assert not merge_caches(tmp_path / "out", [part, whole]).complete
    assert shard_digests(tmp_path / "out") == shard_digests(whole)


def test_parts_of_different_extractions_have_to_be_finished_first(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", NAMES)
    part = make_shards(tmp_path / "part", A, [Block((0, 3), (0, 2))])
    with pytest.raises(CacheIncomplete, match="part: not complete, and its rows are not those of the other inputs"):
        merge_caches(tmp_path / "out", [whole, part])
    assert not (tmp_path / "out").exists()


def test_different_recipes_are_refused_by_field(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = make(tmp_path / "other", ["z"], recipe=replace(RECIPE, seed=7, eval_view="squash"))
    with pytest.raises(Mismatch, match=r"other: made with another recipe:\n  eval_view: .*\n  seed: 7 there, 0 asked"):
        merge_caches(tmp_path / "out", [*two, other])
    assert not (tmp_path / "out").exists()


def test_an_unfinished_input_of_two_recipes_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    mixed = make_shards(tmp_path / "mixed", NAMES, PLAN[:2])
    make_shards(mixed, NAMES, PLAN[2:], recipe=replace(RECIPE, seed=7))
    part = make_shards(tmp_path / "part", NAMES, PLAN[1:2])
    with pytest.raises(Mismatch, match="seed"):
        merge_caches(tmp_path / "out", [part, mixed])
    assert not (tmp_path / "out").exists()


def test_other_images_under_the_same_names_are_refused_and_all_listed(tmp_path: Path) -> None:
    first = make(tmp_path / "first", A)
    second = make(tmp_path / "second", ["d", "x", "a", "c"], contents={"a": "other", "d": "other"})
    with pytest.raises(Mismatch) as caught:
        merge_caches(tmp_path / "out", [first, second])
    assert str(caught.value).split("\n") == [
        "these names are different images in different inputs:", "  a", "  d", "Rename them before extracting.",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_contradicting_splits_are_refused_and_all_listed(tmp_path: Path) -> None:
    first = make(
        tmp_path / "first", A,
        splits={"1": {"train": {"a": 0.5, "c": 0.25}, "test": {"d": 1.0}}, "2": {"train": {"a": 0.5}}},
    )  # fmt: skip
    second = make(
        tmp_path / "second", A,
        splits={"1": {"train": {"a": 0.75, "d": 1.0}, "val": {"c": 0.25}}, "2": {"train": {"a": 0.5}}},
    )  # fmt: skip
    with pytest.raises(BadInput, match="the splits of the inputs contradict each other") as caught:
        merge_caches(tmp_path / "out", [first, second])
    problems = str(caught.value).split("\n")[1:-1]
    assert len(problems) == 3
    assert problems[0] == "  train_1: a has two scores"
    assert [problem.split(":")[1].split()[0] for problem in problems[1:]] == ["c", "d"]
    assert not (tmp_path / "out").exists()


def test_scores_by_other_people_are_joined_and_contradictions_refused(tmp_path: Path) -> None:
    splits = {"1": {"test": {"a": 0.5, "c": 0.25, "d": 1.0}}, "2": {"test": {"a": 1.0, "c": 2.0, "d": 0.0}}}
    first = make(tmp_path / "first", A, splits=splits, others={"1": {"a": 0.5, "c": 1.0}})
    second = make(tmp_path / "second", A, splits=splits, others={"1": {"c": 1.0, "d": 3.0}, "2": {"a": 4.0}})
    third = make(tmp_path / "third", A, splits=splits, others={"1": {"a": 0.75, "c": 2.0}})
    merge_caches(tmp_path / "out", [first, second])
    cache = open_cache(tmp_path / "out")
    assert {
        split: {cache.images[row].name: score for row, score in zip(part.rows, part.scores, strict=True)}
        for split, part in cache.others.items()
    } == {"1": {"a": 0.5, "c": 1.0, "d": 3.0}, "2": {"a": 4.0}}
    with pytest.raises(BadInput, match="the splits of the inputs contradict each other") as caught:
        merge_caches(tmp_path / "not", [first, third])
    assert str(caught.value).split("\n")[1:-1] == ["  others_1: a has two scores", "  others_1: c has two scores"]
    assert not (tmp_path / "not").exists()
    with pytest.raises(InvalidSettings, match="is a finished cache of something else"):
        merge_caches(tmp_path / "out", [first, make(tmp_path / "plain", A, splits=splits)])


def test_different_numbers_of_views_are_refused_and_all_images_listed(tmp_path: Path) -> None:
    first, second = make(tmp_path / "first", A), make(tmp_path / "second", ["x", "y"], view_ranges=[(0, 1)])
    for inputs in ([first, second], [second, first]):
        with pytest.raises(Mismatch) as caught:
            merge_caches(tmp_path / "out", inputs)
        assert str(caught.value).split("\n") == [
            "the inputs do not hold the same views of every image:", "  x: 1 of 2 views", "  y: 1 of 2 views",
            "Bring each to 2 views first: amnet extract --augs 1 --dataset NAME_OR_PATH --out DIR",
        ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written_to_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    sealed, foreign = make(tmp_path / "sealed", ["z"]), tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InvalidSettings, match="first is an input as well; give a new folder"):
        merge_caches(two[0], two)
    with pytest.raises(InvalidSettings, match="is an input as well"):
        merge_caches(tmp_path / "second" / ".." / "first", two)
    with pytest.raises(InvalidSettings, match="an input is named twice"):
        merge_caches(tmp_path / "out", [two[0], two[1], tmp_path / "second" / ".." / "first"])
    with pytest.raises(InvalidSettings, match="sealed is a finished cache of something else; give a new folder"):
        merge_caches(sealed, two)
    with pytest.raises(InvalidSettings, match=r"foreign: holds thesis\.txt but no cache"):
        merge_caches(foreign, two)
    assert snapshot(tmp_path) == before


def test_an_unfinished_cache_as_an_input_cannot_be_the_place_either(tmp_path: Path) -> None:
    part = make_shards(tmp_path / "part", NAMES, PLAN[:1])
    other = make_shards(tmp_path / "other", NAMES, PLAN[1:])
    with pytest.raises(InvalidSettings, match="part is an input as well"):
        merge_caches(part, [part, other])


def test_a_place_that_holds_shards_of_something_else_is_not_mixed_with_them(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = make_shards(tmp_path / "out", NAMES, PLAN[:2])
    try:
        merge_caches(out, two)
    except (InvalidSettings, Mismatch):
        return
    assert {entry.file for entry in open_cache(out).manifest.shards} == set(shard_digests(out))


def test_no_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        merge_caches(tmp_path / "out", [])


def test_what_is_no_cache_is_no_input(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty" / "shards").mkdir(parents=True)
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(CacheIncomplete, match=f"{folder.name}: no cache there, and no shard of one"):
            merge_caches(tmp_path / "out", [two[0], folder])
    next((two[1] / "shards").iterdir()).unlink()
    with pytest.raises(CorruptFile, match="the shard is missing"):
        merge_caches(tmp_path / "out", two)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_merge_goes_on_to_the_same_files(two: tuple[Path, Path], tmp_path: Path, stop_at: int) -> None:
    merge_caches(tmp_path / "undisturbed", two)

    def interrupt(progress: Progress) -> None:
        assert (progress.total, progress.unit) == (4, "shards")
        if progress.done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_caches(tmp_path / "out", two, on_progress=interrupt)
    assert len(shard_digests(tmp_path / "out")) == stop_at
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "out" / "shards" / ".tmp-00000-abc.h5-host-1").write_bytes(b"half")
    merge_caches(tmp_path / "out", two)
    same = {path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*")}
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")} == same
    assert shard_digests(tmp_path / "out") == shard_digests(tmp_path / "undisturbed")
    assert_holds(open_cache(tmp_path / "out"), {*A, *B_NAMES})
    assert verify_cache(tmp_path / "out").ok


def test_the_same_merge_gives_the_same_files_at_another_time(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge_caches(tmp_path / "out", two)
    time.sleep(1.1)  # HDF5's own time stamps count seconds
    merge_caches(tmp_path / "later", two)
    for name in ("cache.h5", "manifest.json"):
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("stop_at", [2, 5, 6])
def test_a_merge_interrupted_while_it_writes_goes_on(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    plain, written = Path.replace, list[Path]()

    def interrupt(path: Path, target: Path) -> Path:
        written.append(path)
        if len(written) == stop_at:  # 5 is that of cache.h5, 6 that of the manifest
            raise KeyboardInterrupt
        return plain(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            merge_caches(tmp_path / "out", two)
    assert not (tmp_path / "out" / "manifest.json").exists()
    merge_caches(tmp_path / "out", two)
    assert_holds(open_cache(tmp_path / "out"), {*A, *B_NAMES})
    assert verify_cache(tmp_path / "out").ok


def test_an_interrupted_merge_leaves_nothing_to_a_merge_of_other_inputs(two: tuple[Path, Path], tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    third = make(tmp_path / "third", ["x", "y"])
    with pytest.raises(KeyboardInterrupt):
        merge_caches(tmp_path / "out", two, on_progress=interrupt)
    try:
        merge_caches(tmp_path / "out", [two[0], third])
    except (InvalidSettings, Mismatch):
        return
    assert not verify_cache(tmp_path / "out").unknown


def test_shards_of_the_same_rows_that_hold_other_images_are_no_plan(tmp_path: Path) -> None:
    make_shards(tmp_path, NAMES, PLAN[:1])
    make_shards(tmp_path, A, [Block((0, 3), (0, 2))])
    with pytest.raises((CorruptFile, Mismatch)):
        featcache.extraction.plan.make_plan(
            featcache.store.folder.existing_shards(tmp_path), NAMES[:3], tmp_path / "images", views=2, recipe=RECIPE
        )


def test_a_full_disk_is_a_storage_error_and_seals_nothing(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StorageError, match="No space left on device"):
            merge_caches(tmp_path / "out", two)
    assert not list((tmp_path / "out" / "shards").iterdir())
    assert merge_caches(tmp_path / "out", two).complete


@pytest.mark.parametrize("array", ["features/first", "pooled/second.bn"])
def test_a_damaged_chunk_names_its_file_and_nothing_is_sealed(
    two: tuple[Path, Path], tmp_path: Path, array: str
) -> None:
    path = max((two[1] / "shards").iterdir())
    data = bytearray(path.read_bytes())
    data[int(open_shard(path).arrays[array].offsets[1, 1]) + 2] ^= 8
    path.write_bytes(data)
    before, open_files = snapshot(*two), sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(CorruptFile, match=rf"second/shards/{path.name}: {array} of s, view 1: the stored bytes do not"):
        merge_caches(tmp_path / "out", two)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "cache.h5").exists()
    assert snapshot(*two) == before
    assert sorted(os.listdir("/proc/self/fd")) == open_files  # noqa: PTH208


def test_damaged_tables_are_noticed_before_anything_is_written(two: tuple[Path, Path], tmp_path: Path) -> None:
    path = max((two[1] / "shards").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"r rs", b"r xs"))
    assert path.read_bytes() != whole
    with pytest.raises(CorruptFile, match=path.name):
        merge_caches(tmp_path / "out", two)
    assert not (tmp_path / "out").exists()


def test_one_writer_at_a_time(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with writer_lock(tmp_path / "out"), pytest.raises(Locked, match="being written by process"):
        merge_caches(tmp_path / "out", two)


def half_of(dataset: Path, folder: Path, number: int) -> Path:
    """Make the dataset of every second image."""
    (folder / "splits").mkdir(parents=True)
    names = [name for name in open_dataset(str(dataset)).names if int(name[-6:-4]) % 2 == number]
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "images" / name, folder / "images" / name)
    for path in (dataset / "splits").iterdir():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.split()[0] in names]
        (folder / "splits" / path.name).write_text("".join(lines))
    return folder


def test_two_halves_of_a_dataset_are_the_whole(tiny_dataset: Path, tiny_cache: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        half = half_of(tiny_dataset, tmp_path / f"half-{number}", number)
        extract(open_dataset(str(half)), TINY_EXTRACT, tmp_path / f"cache-{number}")
    report = merge_caches(tmp_path / "out", [tmp_path / "cache-0", tmp_path / "cache-1"])
    assert (report.images, report.views, report.complete) == (41, 3, True)
    assert verify_cache(tmp_path / "out").ok
    merged, whole = open_cache(tmp_path / "out"), open_cache(tiny_cache)
    assert merged.fingerprint == whole.fingerprint
    row_of = {image.name: row for row, image in enumerate(merged.images)}
    rows = [row_of[image.name] for image in whole.images]
    assert [merged.images[row] for row in rows] == whole.images
    for view in range(3):
        np.testing.assert_array_equal(merged.read(rows, view), whole.read(range(41), view))
        np.testing.assert_array_equal(merged.read_pooled(rows, view), whole.read_pooled(range(41), view))
    np.testing.assert_array_equal(merged.box[rows], whole.box)
    np.testing.assert_array_equal(merged.flip[rows], whole.flip)
    assert splits_by_name(merged) == splits_by_name(whole)
    again = extract(open_dataset(str(tiny_dataset)), TINY_EXTRACT, tmp_path / "out")
    assert again.views_computed == 0
    assert splits_by_name(open_cache(tmp_path / "out")) == splits_by_name(whole)


def test_extract_goes_on_with_merged_parts(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 8)
    dataset = open_dataset(str(tiny_dataset))
    extract(dataset, TINY_EXTRACT, tmp_path / "whole")
    shards = sorted((tmp_path / "whole" / "shards").iterdir())
    assert len(shards) == 6
    for number, chosen in enumerate([shards[::2], shards[1::2], shards[1:3]]):
        (tmp_path / f"part-{number}" / "shards").mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, tmp_path / f"part-{number}" / "shards")
    parts = [tmp_path / f"part-{number}" for number in range(3)]
    assert not merge_caches(tmp_path / "all", parts[:2]).complete
    assert shard_digests(tmp_path / "all") == shard_digests(tmp_path / "whole")
    assert extract(dataset, TINY_EXTRACT, tmp_path / "all").views_computed == 0
    manifests = [open_cache(tmp_path / name).manifest for name in ("all", "whole")]
    assert manifests[0].shards == manifests[1].shards
    assert merge_caches(tmp_path / "some", parts[1:]).images == 4 * 8 - 7  # the last shard is of one row
    assert extract(dataset, TINY_EXTRACT, tmp_path / "some").views_computed == 3 * (41 - 25)
    assert shard_digests(tmp_path / "some") == shard_digests(tmp_path / "whole")


def test_a_merged_cache_grows(tiny_dataset: Path, tiny_cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "splits").mkdir()
    Image.new("RGB", (70, 50), "teal").save(other / "images" / "teal.png")
    (other / "splits" / "test_1.txt").write_text("teal.png 0.5\n")
    extract(open_dataset(str(other)), TINY_EXTRACT, tmp_path / "teal")
    merge_caches(tmp_path / "out", [tmp_path / "teal", tiny_cache])
    union = Path(shutil.copytree(tiny_dataset, tmp_path / "union"))
    shutil.copy(other / "images" / "teal.png", union / "images")
    with (union / "splits" / "test_1.txt").open("a") as file:
        file.write("teal.png 0.5\n")
    report = extract(open_dataset(str(union)), dataclasses.replace(TINY_EXTRACT, augs=3), tmp_path / "out")
    assert (report.images, report.views, report.views_computed) == (42, 4, 42)
    assert verify_cache(tmp_path / "out").ok


def test_a_finished_merge_run_again_changes_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    first = merge_caches(tmp_path / "out", two)
    before = snapshot(tmp_path)
    assert merge_caches(tmp_path / "out", two) == first
    assert snapshot(tmp_path) == before


def test_a_merge_into_an_input_is_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidSettings, match="lies in the input"):
        merge_caches(two[0] / "inside", two)


def test_inputs_of_other_decoders_are_merged_and_told(tmp_path: Path) -> None:
    old, new, older = "libjpeg-turbo 3.1.2", "libjpeg-turbo 3.2.0", "libjpeg 6.2"
    a = make(tmp_path / "a", ["a.jpg"], versions={"torch": "0", "jpeg": old, "webp": "libwebp 1.6.0"})
    b = make(tmp_path / "b", ["b.jpg"], versions={"torch": "1", "jpeg": new, "webp": "libwebp 1.6.0"})
    c = make(tmp_path / "c", ["c.jpg"], versions={"torch": "0", "jpeg": older})
    wanted = f"warning: the inputs decoded jpeg with {old} and {new}; such images have slightly other pixels"
    for _ in range(2):  # a merge that is there already says the same
        (said,) = merge_caches(tmp_path / "ab", [a, b]).warnings()
        assert said.startswith(wanted)
    assert read_manifest(tmp_path / "ab").versions == {
        "torch": "0", "jpeg": f"{old} + {new}", "webp": "libwebp 1.6.0",
    }  # fmt: skip
    report = merge_caches(tmp_path / "abc", [tmp_path / "ab", c])
    assert report.as_json()["decoders"] == [f"jpeg with {old} + {new} and {older}"]


@pytest.mark.parametrize("other", [{"torch": "1", "pillow": "12.0.0"}, {"torch": "1", "jpeg": "libjpeg-turbo 3.2.0"}])
def test_inputs_of_the_same_decoders_or_of_unknown_ones_are_not_told(tmp_path: Path, other: dict[str, str]) -> None:
    known = {"torch": "0", "pillow": "13.0.0", "jpeg": "libjpeg-turbo 3.2.0"}
    a = make(tmp_path / "a", ["a.jpg"], versions=known)
    b = make(tmp_path / "b", ["b.jpg"], versions=other)
    report = merge_caches(tmp_path / "ab", [a, b])
    assert report.warnings() == []
    assert "decoders" not in report.as_json()
    assert read_manifest(tmp_path / "ab").versions == known
