"""The shard's file format is pinned here, and so is what its reader does with damage."""

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from zstandard import ZstdDecompressor

from featcache.base.errors import BadInput, CorruptFile, FeatcacheError, HostileFile, Mismatch
from featcache.store.shards.format import Block, array_specs, chunk_digest
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
from tests.helpers.synthetic import ABSENT, RECIPE, Arrays, build_shard_bytes, image, make_arrays

BLOCK = Block((3, 6), (0, 2))


@pytest.fixture
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture
def path(tmp_path: Path, arrays: Arrays) -> Path:
    path = tmp_path / "00003-0123456789abcdef.h5"
    path.write_bytes(build_shard_bytes(arrays, BLOCK))
    return path


def read_all(path: Path) -> dict[str, bytes]:
    """Return everything that a reader gets out of a shard, by name."""
    shard, specs = open_shard(path, RECIPE), array_specs(RECIPE)
    found = {"images": repr(shard.images).encode(), "views": shard.box.tobytes() + shard.flip.tobytes()}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for array, index in shard.arrays.items():
            for i, j in np.argwhere(index.offsets >= 0).tolist():
                out = np.empty(specs[array].chunk_shape, specs[array].dtype)
                shard.read_chunk(descriptor, array, i, j, out, ZstdDecompressor())
                found[f"{array} {i} {j}"] = out.tobytes()
    finally:
        os.close(descriptor)
    return found


def test_every_chunk_comes_back_as_it_went_in(path: Path, arrays: Arrays) -> None:
    found = read_all(path)
    for array in array_specs(RECIPE):
        for i, row in enumerate(range(*BLOCK.rows)):
            for j in range(2):
                expected = None if row == ABSENT else arrays[array][row, j].tobytes()
                assert found.get(f"{array} {i} {j}") == expected


def test_plain_h5py_reads_the_same_features(path: Path, arrays: Arrays) -> None:
    with h5py.File(path) as file:
        for array in array_specs(RECIPE):
            np.testing.assert_array_equal(file[array][0], arrays[array][3])
            np.testing.assert_array_equal(file[array][2], arrays[array][5])


def test_the_layout_is_the_documented_one(path: Path) -> None:
    with h5py.File(path) as file:
        found = {}
        file.visititems(
            lambda name, item: found.update({name: (item.shape, item.dtype.str)} if hasattr(item, "shape") else {})
        )
        filters = {
            name: [file[name].id.get_create_plist().get_filter(k)[0] for k in range(4 if "features" in name else 1)
                   if k < file[name].id.get_create_plist().get_nfilters()]
            for name in ("features/first", "pooled/first")
        }  # fmt: skip
        chunks = {name: file[name].chunks for name in ("features/first", "pooled/second.bn")}
        attributes = set(file.attrs)
    assert found == {
        "features/first": ((3, 2, 3, 5), "<f2"),
        "features/second.bn": ((3, 2, 7, 11), "<f2"),
        "pooled/first": ((3, 2, 2, 5), "<f4"),
        "pooled/second.bn": ((3, 2, 2, 11), "<f4"),
        "digests/features/first": ((3, 2), "<u8"),
        "digests/features/second.bn": ((3, 2), "<u8"),
        "digests/pooled/first": ((3, 2), "<u8"),
        "digests/pooled/second.bn": ((3, 2), "<u8"),
        "images/name": ((3,), "|S14"),
        "images/sha256": ((3,), "|S64"),
        "images/width": ((3,), "<i4"),
        "images/height": ((3,), "<i4"),
        "images/absent": ((3,), "|S20"),
        "views/box": ((3, 2, 4), "<i4"),
        "views/flip": ((3, 2), "|u1"),
    }
    assert filters == {"features/first": [2, 32015, 3], "pooled/first": [3]}  # shuffle, zstd, Fletcher-32
    assert chunks == {"features/first": (1, 1, 3, 5), "pooled/second.bn": (1, 1, 2, 11)}
    assert attributes == {
        "format_version", "fingerprint", "recipe", "rows", "views", "tables_digest",
    }  # fmt: skip


def test_the_digest_of_a_chunk_is_pinned() -> None:
    digest = chunk_digest(b"stored bytes", fingerprint="f" * 64, array="features/layer3", name="a.jpg", view=3)
    assert digest == 11013252831784882641


def test_the_digest_depends_on_every_part_of_the_place() -> None:
    place = {"fingerprint": "f", "array": "a", "name": "n", "view": 1}
    others = [{**place, "fingerprint": "g"}, {**place, "array": "b"}, {**place, "name": "m"}, {**place, "view": 2}]
    digests = {chunk_digest(b"x", **other) for other in [place, *others]}  # type: ignore[arg-type]
    assert len(digests) == 5


def test_the_same_contents_give_the_same_bytes_at_another_time(arrays: Arrays) -> None:
    first = build_shard_bytes(arrays, BLOCK)
    time.sleep(1.1)  # HDF5's own time stamps count seconds
    assert build_shard_bytes(arrays, BLOCK) == first


def test_an_absent_image_has_a_reason_and_no_features(path: Path) -> None:
    shard = open_shard(path, RECIPE)
    assert shard.images[1] == image(ABSENT)
    with pytest.raises(BadInput, match=r"004 é.jpg: has no features in this cache \(truncated: cut short\)"):
        shard.read_chunk(-1, "features/first", 1, 0, np.empty((3, 5), "<f2"), ZstdDecompressor())


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_is_found_or_changes_nothing(path: Path, seed: int) -> None:
    good, whole = read_all(path), path.read_bytes()
    rng = np.random.default_rng(seed)
    found = 0
    for position in rng.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_all(path) == good
        except (CorruptFile, Mismatch):
            found += 1
    assert found > 30


def test_every_flip_in_chunks_and_digests_is_found(path: Path) -> None:
    shard, whole = open_shard(path, RECIPE), path.read_bytes()
    places = [
        (int(offset) + size // 2, index)
        for index in shard.arrays.values()
        for offset, size in zip(index.offsets.flat, index.sizes.flat, strict=True)
        if offset >= 0
    ]
    for position, _ in places:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match="do not have their digest"):
            read_all(path)
    assert len(places) == 16  # 2 images x 2 views x 4 arrays


def test_swapped_chunks_are_found(path: Path) -> None:
    index = open_shard(path, RECIPE).arrays["pooled/first"]
    a, b, size = int(index.offsets[0, 0]), int(index.offsets[2, 0]), int(index.sizes[0, 0])
    data = bytearray(path.read_bytes())
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=r"pooled/first of dir/003 é.jpg, view 0: the stored bytes"):
        read_all(path)


def test_a_truncated_shard_is_corrupt_at_any_length(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            read_all(path)


def test_a_file_cut_while_it_is_read_is_corrupt(path: Path) -> None:
    shard = open_shard(path, RECIPE)
    os.truncate(path, int(shard.arrays["features/first"].offsets[0, 0]) + 3)
    with path.open("rb") as file, pytest.raises(CorruptFile, match="it was cut short"):
        shard.read_chunk(file.fileno(), "features/first", 0, 0, np.empty((3, 5), "<f2"), ZstdDecompressor())


def test_another_fingerprint_is_a_mismatch(path: Path) -> None:
    import dataclasses

    other = dataclasses.replace(RECIPE, seed=1)
    with pytest.raises(Mismatch, match=f"fingerprint {RECIPE.fingerprint}, expected {other.fingerprint}"):
        open_shard(path, other)


@pytest.mark.parametrize("kind", ["external storage", "external link", "soft link", "virtual"])
def test_data_kept_in_another_file_is_hostile(path: Path, kind: str) -> None:
    secret = path.parent / "secret"
    secret.write_bytes(b"s" * 64)
    with h5py.File(path, "r+") as file:
        del file["images/width"]
        if kind == "external storage":
            file.create_dataset("images/width", (3,), "<i4", external=[(str(secret), 0, 12)])
        elif kind == "external link":
            file["images/width"] = h5py.ExternalLink(str(secret), "/x")
        elif kind == "soft link":
            file["images/width"] = h5py.SoftLink("/images/height")
        else:
            layout = h5py.VirtualLayout((3,), "<i4")
            layout[:] = h5py.VirtualSource(str(secret), "x", (3,), "<i4")
            file.create_virtual_dataset("images/width", layout)
    with pytest.raises(HostileFile, match="images/width"):
        open_shard(path, RECIPE)


def test_a_claimed_giant_table_is_refused_before_it_is_read(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["images/width"]
        file.create_dataset("images/width", (2**40,), "<i4", chunks=(1024,))
    with pytest.raises(HostileFile, match="images/width claims"):
        open_shard(path, RECIPE)


def test_a_newer_format_is_a_mismatch_that_says_so(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 3
    with pytest.raises(Mismatch, match="format version 3, this program reads up to 2"):
        open_shard(path, RECIPE)


def test_a_file_that_is_no_shard_is_corrupt(tmp_path: Path) -> None:
    for name, content in (("empty.h5", b""), ("text.h5", b"not HDF5" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptFile, match=f"{name}: not a complete shard"):
            open_shard(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(CorruptFile, match="not a complete shard"):
        open_shard(tmp_path / "other.h5")
    with pytest.raises(CorruptFile, match="missing"):
        open_shard(tmp_path / "absent.h5")


def test_errors_of_this_module_are_the_projects_own(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FeatcacheError) as caught:
        open_shard(path)
    assert caught.value.exit_code == 5


def test_a_shard_keeps_no_descriptor(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards: list[Shard] = [open_shard(path) for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(shards) == 20
