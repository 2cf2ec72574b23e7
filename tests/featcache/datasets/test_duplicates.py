"""The same file under several names: found, told, kept in one part of drawn splits, and taken out of others."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from featcache.datasets.dataset import Dataset, open_dataset
from featcache.datasets.duplicates import across_parts, find_duplicates, joined
from featcache.datasets.splits import PARTS, Part, why_untrainable
from featcache.store.cache import open_cache
from tests.featcache.datasets.test_ratings import parts, write
from tests.helpers.command_line import amnet

QUICK = ("--backbone", "timm:test_resnet", "--weights", "random", "--image-size", "64", "--precision", "fp32")


def test_files_of_the_same_bytes_are_found_whatever_their_names(tmp_path: Path) -> None:
    long = os.urandom(5000)
    contents = [b"a", long, b"b", long, b"a", long[:-1] + b"!", b"", b"", b"a"]
    paths = [tmp_path / f"{k}.jpg" for k in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert sorted(find_duplicates([*paths, tmp_path / "gone.jpg"])) == [[0, 4, 8], [1, 3]]
    assert find_duplicates([]) == []


def with_duplicates(folder: Path) -> str:
    """Return a table of ten images, of which 1 is 0, and 3, 5 and 7 are one file."""
    table = write(folder, "path,score\n" + "".join(f"{k}.jpg,{k}\n" for k in range(10)))
    for k in range(10):
        (folder / f"{k}.jpg").write_bytes(bytes([{1: 0, 5: 3, 7: 3}.get(k, k)]) * 9)
    return table


def test_drawn_splits_keep_them_together_and_they_are_told(tmp_path: Path) -> None:
    found = open_dataset(with_duplicates(tmp_path))
    for split in found.splits:
        part_of = {image: part for part, lines in parts(found, split).items() for image, _ in lines}
        assert len(part_of) == 10
        assert part_of["0.jpg"] == part_of["1.jpg"]
        assert part_of["3.jpg"] == part_of["5.jpg"] == part_of["7.jpg"]
    assert "5 images are 2 files under several names: 0.jpg = 1.jpg, 3.jpg = 5.jpg = 7.jpg" in found.notes
    assert not any("later part" in note for note in found.notes)


@pytest.fixture
def given_parts(tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny dataset's photographs in a table: a copy of one of train is in test, one of val's in test."""
    lines = ["path,score,split"]
    for k, path in enumerate(sorted((tiny_dataset / "images").glob("*.jpg"))[:20]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{k},{'train' if k < 10 else 'val' if k < 14 else 'test'}")
    names = [line.split(",")[0] for line in lines[1:]]
    for copied, copy in ((names[2], "of_train.jpg"), (names[11], "of_val.jpg")):
        (tmp_path / copy).write_bytes((tmp_path / copied).read_bytes())
        lines.append(f"{copy},7,test")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_given_splits_they_are_told_before_training_with_a_way_out(given_parts: Path) -> None:
    extract = ("extract", "--dataset", "mine.csv", *QUICK)
    said = amnet(*extract).stderr
    assert "warning: split 1: train holds 1 image of the same file as one of a later part" in said
    assert "warning: split 1: val holds 1 image of the same file as one of a later part" in said
    assert said.count("with --drop-duplicates of extract") == 2
    assert len(json.loads(amnet("cache-info", "--json").stdout)["duplicates"]) == 2
    assert sum(line.startswith("same file ") for line in amnet("cache-info").stdout.splitlines()) == 2
    said = amnet("train-head", "--split", "1", "--head", "ridge", "--name", "first").stderr
    assert "warning: split 1: train holds 1 image of the same file as one of a later part" in said
    assert "extract again with --drop-duplicates" in amnet("score-cache", status=3).stderr
    dropped = amnet(*extract, "--drop-duplicates").stderr
    assert "--drop-duplicates" not in dropped
    assert "split 1: 1 image taken out of train, as a later part has it" in dropped
    amnet("train-head", "--split", "1", "--head", "ridge", "--name", "second")
    result = amnet("score-cache")
    assert (
        "first/split-1: it was trained or selected on other images than its parts hold now; left out" in result.stderr
    )
    counts = json.loads(amnet("cache-info", "--json").stdout)["splits"]["1"]
    assert counts == {"train": 9, "val": 3, "test": 8}


@pytest.fixture
def look_alikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a network, and 24 different images of which three are there again, encoded anew, as copy_K.jpg."""
    rng = np.random.default_rng(3)
    for k in range(24):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        image = coarse.resize((96, 80), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{k:02}.png")
        if k % 8 == 3:
            image.save(tmp_path / f"copy_{k:02}.jpg", quality=60)
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN_WEIGHTS = ("--backbone", "timm:test_resnet", "--weights", "w.safetensors", "--image-size", "64")


def test_images_that_look_alike_are_told_and_drawn_into_one_part(look_alikes: Path) -> None:
    names = sorted(path.name for path in look_alikes.glob("*.[jp]*g"))
    write(look_alikes, "path,score\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names)))
    extract = ("extract", "--dataset", "mine.csv", *OWN_WEIGHTS)
    said = amnet(*extract).stderr
    groups = json.loads(amnet("cache-info", "--json").stdout)["near_duplicates"]
    of_image = {name: group for group in groups for name in group}
    assert all(f"{k:02}.png" in of_image[f"copy_{k:02}.jpg"] for k in (3, 11, 19))
    assert f"{len(of_image)} images look like another, in {len(groups)} groups (near-duplicates): " in said
    assert "each group is in one part: 5 splits were drawn" in said
    assert "look alike   03.png ~ copy_03.jpg" in amnet("cache-info").stdout
    cache = open_cache("cache/mine")
    for parts_of_split in cache.splits.values():
        part_of = {cache.images[row].name: part for part, found in parts_of_split.items() for row in found.rows}
        assert sorted(part_of) == names
        for group in groups:
            assert len({part_of[name] for name in group}) == 1
    again = amnet(*extract)  # nothing is computed, and nothing changes
    assert "each group is in one part" in again.stderr
    assert "look for near-duplicates" not in again.stderr
    assert open_cache("cache/mine").manifest.digest == cache.manifest.digest
    merged = amnet("merge-caches", "cache/merged", "cache/mine").stderr
    assert f"{len(of_image)} images look like another, in {len(groups)} groups (near-duplicates): " in merged
    assert open_cache("cache/merged").manifest.near_duplicates == cache.manifest.near_duplicates


def test_in_given_splits_look_alikes_are_told_with_a_way_out(look_alikes: Path) -> None:
    lines = [f"{k:02}.png,{k},{'train' if k < 14 else 'val' if k < 18 else 'test'}\n" for k in range(24)]
    lines += ["copy_03.jpg,3,test\ncopy_11.jpg,11,val\ncopy_19.jpg,19,test\n"]
    write(look_alikes, "path,score,split\n" + "".join(lines))
    extract = ("extract", "--dataset", "mine.csv", *OWN_WEIGHTS)
    said = amnet(*extract).stderr
    assert re.search(
        r"warning: split 1: train holds \d images? that look like one of a later part, first \d\d\.png ~ ", said
    )
    groups = json.loads(amnet("cache-info", "--json").stdout)["near_duplicates"]
    dropped = amnet(*extract, "--drop-duplicates").stderr
    assert re.search(r"split 1: \d images? taken out of train, as a later part has (it|them)", dropped)
    assert "warning: split 1" not in dropped
    cache = open_cache("cache/mine")
    in_part = {part: {cache.images[row].name for row in found.rows} for part, found in cache.splits["1"].items()}
    assert {"03.png", "11.png"}.isdisjoint(in_part["train"])
    assert {"copy_03.jpg", "19.png", "copy_19.jpg"} <= in_part["test"]  # which gives up nothing
    for group in groups:
        assert sum(not in_part[part].isdisjoint(group) for part in in_part) == 1


def rated(folder: Path, table: str, images: int) -> Dataset:
    """Return the dataset of a table of images 0.jpg, 1.jpg, ... that are all different files."""
    for k in range(images):
        (folder / f"{k}.jpg").write_bytes(bytes([k]) * 9)
    return open_dataset(write(folder, table))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(4, 30), grouped=st.booleans(), given_parts=st.booleans(), drop=st.booleans())
def test_splits_stay_as_good_as_they_were(
    tmp_path: Path, data: st.DataObject, n: int, grouped: bool, given_parts: bool, drop: bool
) -> None:
    scores = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=n, max_size=n))
    header = f"path,score{',group' * grouped}{',split' * given_parts}\n"
    lines = [
        f"{k}.jpg,{score}{f',{k % 3}' * grouped}{f',{PARTS[k % 3]}' * given_parts}\n" for k, score in enumerate(scores)
    ]
    before = replace(rated(tmp_path, header + "".join(lines), n), drop_duplicates=drop)
    rows = data.draw(st.permutations(range(n)))
    cut = data.draw(st.integers(0, n))
    groups = [rows[:cut], rows[cut:]]
    after = before.with_near_duplicates([group for group in groups if len(group) > 1])
    for split, parts_before in before.splits.items():
        parts_after = after.splits[split]
        assert {part for part, found in parts_after.items() if len(found.rows)} == set(parts_before)
    assert len(why_untrainable(after.splits, drawn=False)) <= len(why_untrainable(before.splits, drawn=False))
    kept = after.splits is before.splits or all(
        np.array_equal(after.splits[s][p].rows, found.rows)
        for s, ps in before.splits.items()
        for p, found in ps.items()
    )
    if not kept:
        assert not across_parts(after.splits, groups)


def test_where_no_group_could_be_kept_together_it_is_told(tmp_path: Path) -> None:
    found = rated(tmp_path, "path,score\n" + "".join(f"{k}.jpg,{k}\n" for k in range(4)), 4)
    apart = found.with_near_duplicates([(0, 1, 2, 3)])
    assert apart.ratings[""] is found.ratings[""]
    assert "warning: too few images are left with each group in one part" in apart.notes
    assert any("that look like one of a later part" in note for note in apart.notes)
    assert found.with_near_duplicates([]).ratings == found.ratings


def test_groups_that_share_a_member_are_one() -> None:
    assert joined([]) == []
    assert joined([[5, 3], [9, 8], [3, 7], [1]]) == [(1,), (3, 5, 7), (8, 9)]
    assert joined([["b", "a"], ["d"], ["c", "d", "b"]]) == [("a", "b", "c", "d")]
    assert joined([k, k + 1] for k in range(50_000)) == [tuple(range(50_001))]


def test_pairs_across_parts_take_no_longer_in_one_large_group() -> None:
    rows = np.arange(20_000)
    splits = {
        "1": {"train": Part(rows[:15_000], rows[:15_000] + 0.0), "test": Part(rows[15_000:], rows[15_000:] + 0.0)}
    }
    assert across_parts(splits, [rows.tolist()]) == {("1", "train"): [(k, 15_000) for k in range(15_000)]}
