"""Chunks are byte for byte what HDF5's own filters write, and what is damaged or foreign is refused."""

import contextlib
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import hdf5plugin
import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import featcache.store.shards.codec
from featcache.base.errors import CorruptFile
from featcache.store.shards.codec import CHECKSUM_BYTES, Codec, codec_of, fletcher32

RAW, ZSTD, LZ4 = Codec("none"), Codec("zstd", 3, shuffle=True), Codec("lz4")
CODECS = st.sampled_from([RAW, Codec("zstd", 1, shuffle=True), ZSTD, LZ4, Codec("lz4", shuffle=True)])
CHUNKS = st.sampled_from(["<f2", "<f4", "|u1"]).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(max_dims=4, max_side=13))
)
BIG = np.random.default_rng(3).integers(0, 256, 2**17 + 2**16 + 1, np.uint8)  # more than a block of the checksum


@contextmanager
def dataset_of(shape: tuple[int, ...], dtype: np.dtype[Any], **filters: Any) -> Iterator[h5py.Dataset]:
    """Give an HDF5 dataset in memory that is one chunk."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        yield file.create_dataset("x", shape, dtype, chunks=shape, **filters)


@contextmanager
def dataset_of_codec(codec: Codec, chunk: NDArray[Any]) -> Iterator[h5py.Dataset]:
    """Give an HDF5 dataset in memory that is one chunk, made by the codec's own creation properties."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        space = h5py.h5s.create_simple(chunk.shape)
        kind = h5py.h5t.py_create(chunk.dtype)
        h5py.h5d.create(file.id, b"x", kind, space, codec.creation_properties(chunk.shape))
        yield file["x"]


def stored_by_hdf5(codec: Codec, chunk: NDArray[Any]) -> bytes:
    """Return what HDF5's filters make of a chunk."""
    with dataset_of_codec(codec, chunk) as dataset:
        dataset[...] = chunk
        dataset.flush()
        return bytes(dataset.id.read_direct_chunk((0,) * chunk.ndim)[1])


def decoded(codec: Codec, stored: bytes, like: NDArray[Any]) -> NDArray[Any]:
    out = np.empty_like(like, order="C")
    codec.decode_into(stored, out)
    return out


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=300))
@example(data=b"\0")
@example(data=b"\xff" * 257)
@example(data=b"\xff\xff" * 65_537)
@example(data=BIG.tobytes())
def test_fletcher32_is_hdf5s(data: bytes) -> None:
    assert stored_by_hdf5(RAW, np.frombuffer(data, np.uint8)) == data + fletcher32(data)


def test_fletcher32_of_a_known_text() -> None:
    sum1 = sum2 = 0
    for high, low in zip(b"ace", b"bd\0", strict=True):  # words ab, cd and e with an empty low half
        sum1 = (sum1 + 256 * high + low) % 65535
        sum2 = (sum2 + sum1) % 65535
    assert fletcher32(b"abcde") == (sum2 << 16 | sum1).to_bytes(4, "little")


@settings(deadline=None)
@given(codec=CODECS, chunk=CHUNKS)
@example(codec=ZSTD, chunk=BIG)
def test_hdf5_reads_what_the_codec_writes(codec: Codec, chunk: NDArray[Any]) -> None:
    with dataset_of_codec(codec, chunk) as dataset:
        dataset.id.write_direct_chunk((0,) * chunk.ndim, codec.encode(chunk))
        assert dataset[...].tobytes() == chunk.tobytes()


@settings(deadline=None)
@given(codec=CODECS, chunk=CHUNKS)
def test_the_codec_reads_what_hdf5_writes(codec: Codec, chunk: NDArray[Any]) -> None:
    stored = stored_by_hdf5(codec, chunk)
    assert stored[-CHECKSUM_BYTES:] == fletcher32(stored[:-CHECKSUM_BYTES])
    assert decoded(codec, stored, chunk).tobytes() == chunk.tobytes()


@settings(deadline=None)
@given(codec=CODECS, chunk=CHUNKS)
def test_a_chunk_round_trips_and_is_always_the_same_bytes(codec: Codec, chunk: NDArray[Any]) -> None:
    stored = codec.encode(chunk)
    assert stored == codec.encode(chunk.copy())
    assert decoded(codec, stored, chunk).tobytes() == chunk.tobytes()


@pytest.mark.parametrize("codec", [RAW, ZSTD])
def test_a_chunk_is_stored_in_c_order_whatever_its_order_in_memory(codec: Codec) -> None:
    chunk = np.arange(5 * 7, dtype="<f2").reshape(5, 7).T
    assert codec.encode(chunk) == codec.encode(np.ascontiguousarray(chunk))
    np.testing.assert_array_equal(decoded(codec, codec.encode(chunk), chunk), chunk)


def test_a_chunk_is_decoded_into_its_place_in_a_batch() -> None:
    batch = np.full((3, 5, 7), -1, "<f2")
    ZSTD.decode_into(ZSTD.encode(np.ones((5, 7), "<f2")), batch[1])
    assert (batch[1] == 1).all()
    assert (batch[[0, 2]] == -1).all()


def test_zeros_are_small() -> None:
    assert len(ZSTD.encode(np.zeros((1, 1, 196, 1024), "<f2"))) < 200


@pytest.mark.parametrize(
    "codec", [RAW, Codec("zstd", 1), Codec("zstd", 19, shuffle=True), LZ4, Codec("lz4", shuffle=True)]
)
def test_creation_properties_name_their_codec(codec: Codec) -> None:
    properties = codec.creation_properties((1, 1, 5, 7))
    assert codec_of(properties) == codec
    assert properties.get_chunk() == (1, 1, 5, 7)
    assert not properties.get_obj_track_times()
    with dataset_of_codec(codec, np.zeros((5, 7), "<f2")) as dataset:
        assert codec_of(dataset.id.get_create_plist()) == codec


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"shuffle": True, "fletcher32": True},
        {"shuffle": True, **hdf5plugin.Zstd(3)},
        {"fletcher32": True, **hdf5plugin.Bitshuffle()},
    ],
    ids=["none", "gzip", "lzf", "no compression", "no checksum", "bitshuffle"],
)
def test_other_filters_are_left_to_hdf5(filters: dict[str, Any]) -> None:
    with dataset_of((5, 7), np.dtype("<f2"), **filters) as dataset:
        assert codec_of(dataset.id.get_create_plist()) is None


CHUNK = np.random.default_rng(5).normal(size=(11, 13)).astype("<f2")
FRAME = ZSTD.encode(CHUNK)[:-CHECKSUM_BYTES]


def summed(payload: bytes) -> bytes:
    """Return a payload with the right checksum, as a forger would store it."""
    return payload + fletcher32(payload)


@pytest.mark.parametrize(
    ("codec", "stored", "message"),
    [
        (RAW, RAW.encode(CHUNK[:-1]), "a chunk of 260 bytes, expected 286"),
        (RAW, summed(CHUNK.tobytes() + b"\0"), "a chunk of 287 bytes, expected 286"),
        (RAW, b"", "a chunk of 0 bytes, expected 286"),
        (ZSTD, ZSTD.encode(CHUNK[:-1]), "a zstd frame of 260 bytes, expected 286"),
        (ZSTD, ZSTD.encode(np.zeros(2**27, np.uint8)), "a zstd frame of 134217728 bytes, expected 286"),
        (ZSTD, summed(zstandard.ZstdCompressor(write_content_size=False).compress(CHUNK.tobytes())), "zstd frame"),
        (ZSTD, summed(FRAME + b"\0"), "zstd cannot decompress"),
        (ZSTD, summed(FRAME + FRAME), "not one zstd frame of 286 bytes"),
        (ZSTD, summed(FRAME[:-1]), "not one zstd frame of 286 bytes"),
        (ZSTD, summed(FRAME[:9]), "not one zstd frame of 286 bytes"),
        (ZSTD, summed(gzip.compress(CHUNK.tobytes(), mtime=0)), "zstd cannot decompress"),
        (ZSTD, summed(CHUNK.tobytes()), "zstd cannot decompress"),
        (ZSTD, summed(b""), "zstd cannot decompress"),
        (ZSTD, b"", "zstd cannot decompress"),
    ],
    ids=[
        "raw short", "raw trailing", "raw empty", "smaller", "bomb", "no size", "trailing byte", "two frames",
        "truncated", "header only", "gzip", "not compressed", "nothing but a checksum", "empty",
    ],
)  # fmt: skip
def test_what_does_not_fit_exactly_is_corrupt(codec: Codec, stored: bytes, message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        decoded(codec, stored, CHUNK)


def lz4_chunk(total: int, block: int, *stored: bytes) -> bytes:
    """Return a chunk as HDF5's lz4 filter frames it, with its checksum."""
    framed = b"".join(len(one).to_bytes(4, "big") + one for one in stored)
    return summed(total.to_bytes(8, "big") + block.to_bytes(4, "big") + framed)


PACKED = lz4.block.compress(bytes(286), store_size=False)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        summed(b""),
        summed(CHUNK.tobytes()),
        ZSTD.encode(CHUNK),
        LZ4.encode(CHUNK[:-1]),
        LZ4.encode(np.zeros(2**27, np.uint8)),
        lz4_chunk(286, 0, PACKED),
        lz4_chunk(286, 286),
        lz4_chunk(286, 286, PACKED[:-1]),
        lz4_chunk(286, 286, PACKED + b"0"),
        lz4_chunk(286, 286, PACKED, b""),
        lz4_chunk(286, 286, lz4.block.compress(bytes(285), store_size=False)),
        lz4_chunk(286, 286, lz4.block.compress(bytes(287), store_size=False)),
        lz4_chunk(286, 143, PACKED),
        summed(lz4_chunk(286, 286, CHUNK.tobytes())[:-5]),
        summed(lz4_chunk(286, 286, PACKED)[:14]),
    ],
    ids=[
        "empty", "nothing but a checksum", "not compressed", "zstd", "smaller", "bomb", "blocks of nothing", "no block",
        "truncated", "longer", "trailing block", "block too small", "block too large", "one block of two",
        "cut in a block that is not compressed", "cut in a size",
    ],
)  # fmt: skip
def test_an_lz4_chunk_that_does_not_fit_exactly_is_corrupt(stored: bytes) -> None:
    with pytest.raises(CorruptFile, match="lz4"):
        decoded(LZ4, stored, CHUNK)


def test_an_lz4_chunk_is_framed_as_hdf5_frames_it() -> None:
    noise = np.random.default_rng(7).integers(0, 256, 286, np.uint8)  # which lz4 does not make smaller
    assert LZ4.encode(noise) == stored_by_hdf5(LZ4, noise) == lz4_chunk(286, 286, noise.tobytes())
    assert lz4_chunk(286, 286, PACKED) == LZ4.encode(np.zeros(286, np.uint8))


@pytest.mark.parametrize("block", [1, 100, 286, 1000])
def test_lz4_in_blocks_of_any_size_is_read(block: int) -> None:
    values = np.arange(143, dtype="<f2") // 9
    with dataset_of(values.shape, values.dtype, fletcher32=True, **hdf5plugin.LZ4(nbytes=block)) as dataset:
        dataset[...] = values
        dataset.flush()
        codec, stored = codec_of(dataset.id.get_create_plist()), bytes(dataset.id.read_direct_chunk((0,))[1])
    assert codec == LZ4
    assert decoded(LZ4, stored, values).tobytes() == values.tobytes()


def test_large_chunks_are_several_blocks_of_lz4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.store.shards.codec, "_LZ4_BLOCK", 100)
    with dataset_of_codec(LZ4, CHUNK) as dataset:
        dataset.id.write_direct_chunk((0, 0), LZ4.encode(CHUNK))
        np.testing.assert_array_equal(dataset[...], CHUNK)
    assert decoded(LZ4, LZ4.encode(CHUNK), CHUNK).tobytes() == CHUNK.tobytes()


@settings(deadline=None, max_examples=200)
@given(stored=st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: LZ4.encode(CHUNK)[:16] + tail))
def test_any_bytes_of_lz4_are_decoded_or_corrupt(stored: bytes) -> None:
    with contextlib.suppress(CorruptFile):
        assert decoded(LZ4, stored, CHUNK).shape == CHUNK.shape


@pytest.mark.parametrize(
    "values",
    [("gzip", 0, False), ("zstd", 23, True), ("zstd", 1, 1), ("lz4", 1, False), ("none", 0, True), ("zstd", "1")],
)
def test_no_codec_is_made_of_nonsense(values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="no codec"):
        Codec(*values)


@pytest.mark.parametrize("claimed", [100, 200, 255])
def test_a_frame_that_lies_about_its_size_is_corrupt(claimed: int) -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(201)))
    assert frame[5] == 201  # a one-byte content size
    frame[5] = claimed
    with pytest.raises(CorruptFile, match="zstd cannot decompress"):
        decoded(ZSTD, summed(bytes(frame)), np.empty(claimed, np.uint8))


@settings(deadline=None)
@given(codec=CODECS, place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_other_programs_notice_a_flipped_bit(codec: Codec, place: int, bit: int) -> None:
    stored = bytearray(codec.encode(CHUNK))
    stored[place % len(stored)] ^= 1 << bit
    with dataset_of_codec(codec, CHUNK) as dataset:
        dataset.id.write_direct_chunk((0, 0), bytes(stored))
        with pytest.raises(OSError, match="checksum|filter"):
            dataset[...]


@settings(deadline=None, max_examples=200)
@given(stored=st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: FRAME[:24] + tail))
def test_any_bytes_are_decoded_or_corrupt(stored: bytes) -> None:
    try:
        out = decoded(ZSTD, stored, CHUNK)
    except CorruptFile:
        return
    assert out.shape == CHUNK.shape


@pytest.mark.parametrize("dtype", ["u1", "<f2"])
def test_zstd_without_shuffle_is_read_by_hdf5_and_by_its_own_name(dtype: str) -> None:
    codec, chunk = Codec("zstd", 1), np.arange(15).astype(dtype).reshape(3, 5)
    with h5py.File("no shuffle", "w", driver="core", backing_store=False) as file:
        properties = codec.creation_properties((3, 5))
        space, kind = h5py.h5s.create_simple((3, 5)), h5py.h5t.py_create(np.dtype(dtype))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, properties))
        dataset.id.write_direct_chunk((0, 0), codec.encode(chunk))
        np.testing.assert_array_equal(dataset[()], chunk)
        assert codec_of(dataset.id.get_create_plist()) == codec
    out = np.empty_like(chunk)
    codec.decode_into(codec.encode(chunk), out)
    np.testing.assert_array_equal(out, chunk)
