"""The manifest seals a cache; a damaged, foreign or newer one is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import CacheIncomplete, CorruptFile, HostileFile, Mismatch
from featcache.base.files import canonical_json
from featcache.store.manifest import _digest, read_manifest, write_manifest
from featcache.store.shards.codec import Codec
from tests.helpers.synthetic import BLOCKS, RECIPE, ROWS, VIEWS, make_arrays, make_cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "made", make_arrays(), BLOCKS)


def rewrite(cache: Path, **changes: object) -> None:
    """Change fields of the manifest and give it a fitting digest."""
    path = cache / "manifest.json"
    body = json.loads(path.read_text())
    del body["digest"]
    body.update(changes)
    path.write_text(canonical_json({**body, "digest": _digest(body)}))


def test_what_was_written_is_read(cache: Path) -> None:
    manifest = read_manifest(cache)
    assert (manifest.recipe, manifest.rows, manifest.views) == (RECIPE, ROWS, VIEWS)
    assert tuple(entry.block for entry in manifest.shards) == BLOCKS
    np.testing.assert_array_equal(manifest.ratings[""]["1"]["test"].rows, [5, 4])
    np.testing.assert_array_equal(manifest.ratings[""]["1"]["train"].scores, [0.1, 0.5, 0.25])


def test_its_fields_are_the_documented_ones(cache: Path) -> None:
    body = json.loads((cache / "manifest.json").read_text())
    assert set(body) == {
        "format_version", "recipe", "fingerprint", "rows", "views", "splits", "shards", "index_sha256", "source",
        "versions", "digest",
    }  # fmt: skip
    assert set(body["shards"][0]) == {"file", "rows", "views", "bytes", "sha256"}
    assert (cache / "manifest.json").read_text() == canonical_json(body)


def test_scores_by_other_people_are_a_field_where_there_are_any(cache: Path) -> None:
    assert read_manifest(cache).others == {}
    rewrite(cache, others={"1": {"row": [4, 5], "score": [0.5, 1.5]}})
    others = read_manifest(cache).others
    assert list(others) == ["1"]
    assert (others["1"].rows.tolist(), others["1"].scores.tolist()) == ([4, 5], [0.5, 1.5])
    before = (cache / "manifest.json").read_bytes()
    write_manifest(cache, read_manifest(cache))
    assert (cache / "manifest.json").read_bytes() == before


def test_no_manifest_means_no_cache_yet(tmp_path: Path) -> None:
    with pytest.raises(CacheIncomplete, match="no cache there; make one with: amnet extract"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000-0123456789abcdef.h5").touch()
    with pytest.raises(CacheIncomplete, match="not complete .1 shards so far.; run the same extract command again"):
        read_manifest(tmp_path)


def test_every_flipped_bit_is_found(cache: Path) -> None:
    path = cache / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises((CorruptFile, Mismatch)):
            read_manifest(cache)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"a": 1, "a": 2}', '{"recipe": 3}', "[" * 100_000, '{"recipe": {"format_version": 1}}'],
)
def test_nonsense_is_corrupt(cache: Path, text: str) -> None:
    (cache / "manifest.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"manifest\.json"):
        read_manifest(cache)


@pytest.mark.parametrize("name", ["x/../../../../escaped", "", "a b", "1\n"])
def test_a_split_that_files_could_not_be_named_after_is_hostile(cache: Path, name: str) -> None:
    parts = json.loads((cache / "manifest.json").read_text())["splits"]["1"]
    rewrite(cache, splits={name: parts})
    with pytest.raises(HostileFile, match="is not the name of a split"):
        read_manifest(cache)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "00000-0123456789abcdef.h5/x", "a.h5"])
def test_a_shard_outside_the_folder_is_hostile(cache: Path, name: str) -> None:
    entry = {"file": name, "rows": [0, 13], "views": [0, 2], "bytes": 1, "sha256": "0" * 64}
    rewrite(cache, shards=[entry])
    with pytest.raises(HostileFile, match="is not the name of a shard"):
        read_manifest(cache)


def test_codecs_are_read_back_and_nonsense_is_corrupt(cache: Path) -> None:
    assert "codecs" not in json.loads((cache / "manifest.json").read_text())  # of version 1, whose codecs are known
    sound = {"features/first": ["lz4", 0, False], "features/second.bn": ["zstd", 1, True]}
    rewrite(cache, format_version=2, codecs=[sound])
    (found,) = read_manifest(cache).codecs
    assert found == {"features/first": Codec("lz4"), "features/second.bn": Codec("zstd", 1, shuffle=True)}
    for wrong in ({}, {**sound, "features/x": ["lz4", 0, False]}, {**sound, "features/first": ["gzip", 0, False]}, 3):
        rewrite(cache, codecs=[wrong])
        with pytest.raises(CorruptFile, match="not a manifest of this version"):
            read_manifest(cache)


def test_a_newer_version_is_a_mismatch(cache: Path) -> None:
    rewrite(cache, recipe={**RECIPE.as_json(), "format_version": 3})
    with pytest.raises(Mismatch, match="format version 3, this program reads up to 2; upgrade it"):
        read_manifest(cache)


def test_missing_fields_are_corrupt(cache: Path) -> None:
    rewrite(cache, shards=[{"file": "00000-0123456789abcdef.h5"}])
    with pytest.raises(CorruptFile, match="not a manifest of this version"):
        read_manifest(cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": "a"},
        {"rows": -1},
        {"rows": 2**31},
        {"views": 1},
        {"views": 2**40},
        {"source": {}},
        {"source": {"root": "", "weights": "", "batch_size": "many"}},
        {"versions": {"torch": 2}},
        {"index_sha256": 7},
        {"splits": {"1": {"train": {"row": [0, ROWS], "score": [0, 1]}}}},
        {"splits": {"1": {"train": {"row": [0, 1], "score": [0]}}}},
        {"others": {"1": {"row": [5, ROWS], "score": [0, 1]}}},
        {"others": {"1": {"row": [5, 0], "score": [0, 1]}}},
        {"others": {"1": {"row": [5, 4], "score": [0]}}},
        {"others": {"1": {"row": [5], "score": ["NaN"]}}},
        {"others": {"2": {"row": [5], "score": [0]}}},
        {"others": {"1": {"row": [5]}}},
        {"others": [5]},
        {"near_duplicates": [[0, ROWS]]},
        {"near_duplicates": [[0, 1], [1, 2]]},
        {"near_duplicates": [[0, 1.5]]},
        {"near_duplicates": ["ab"]},
        {"near_duplicates": 7},
        {"shards": []},
        {"shards": 7},
    ],
)
def test_values_that_no_cache_has_are_corrupt_though_the_digest_fits(cache: Path, changes: dict[str, object]) -> None:
    rewrite(cache, **changes)
    with pytest.raises(CorruptFile, match="not a manifest of this version"):
        read_manifest(cache)


@pytest.mark.parametrize(
    "change",
    [{"rows": [0, 2**31]}, {"views": [0, 2**31]}, {"rows": [0, 6]}, {"rows": [0.0, 5]}, {"rows": [0]}, {"bytes": 16}],
)
def test_a_shard_that_cannot_be_is_corrupt_and_allocates_nothing(cache: Path, change: dict[str, object]) -> None:
    shards = json.loads((cache / "manifest.json").read_text())["shards"]
    rewrite(cache, shards=[{**shards[0], **change}, *shards[1:]])
    with pytest.raises(CorruptFile, match="not a manifest of this version"):
        read_manifest(cache)


@pytest.mark.parametrize("text", ['{"versions":"\\ud800"}', '{"rows":1e999}'])
def test_what_is_no_canonical_json_is_corrupt(cache: Path, text: str) -> None:
    body = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps({**body, **json.loads(text)}))
    with pytest.raises(CorruptFile):
        read_manifest(cache)


def test_a_flipped_bit_is_damage_and_never_a_newer_version(cache: Path) -> None:
    whole = (cache / "manifest.json").read_bytes()
    at = whole.index(b'"format_version":1')
    for position in range(at, at + 18):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            (cache / "manifest.json").write_bytes(damaged)
            with pytest.raises(CorruptFile):
                read_manifest(cache)
