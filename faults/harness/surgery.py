"""Changes inside a shard that leave it a well-formed file: chunks moved, dropped, or signed anew with their tables."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from featcache.store.folder import shard_path
from featcache.store.manifest import read_manifest, write_manifest
from featcache.store.shards.codec import Codec
from featcache.store.shards.format import tables_digest


class Chunk(NamedTuple):
    """A stored chunk of a shard: its array, its place there, its bytes in the file, and its digest."""

    array: str
    i: int
    j: int
    offset: int
    stored: bytes
    digest: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + len(self.stored)


def chunks(path: Path) -> list[Chunk]:
    """Return every stored chunk of a shard, in order of the file."""
    found = []
    with h5py.File(path, "r", locking=False) as file:
        for group in ("features", "pooled"):
            for name, dataset in file[group].items():
                digests = file[f"digests/{group}/{name}"][()]
                for k in range(dataset.id.get_num_chunks()):
                    info = dataset.id.get_chunk_info(k)
                    i, j = info.chunk_offset[:2]
                    _, stored = dataset.id.read_direct_chunk(info.chunk_offset)
                    found.append(Chunk(f"{group}/{name}", i, j, info.byte_offset, stored, int(digests[i, j])))
    return sorted(found, key=lambda chunk: chunk.offset)


def table_ranges(path: Path) -> dict[str, tuple[int, int]]:
    """Return the first byte and the one behind the last of each table in a shard's file."""
    with h5py.File(path, "r", locking=False) as file:
        return {
            name: (table.id.get_offset(), table.id.get_offset() + table.id.get_storage_size())
            for name, table in _tables(file)
            if table.id.get_offset() is not None
        }


def put_chunks(path: Path, placed: list[tuple[Chunk, Chunk]], *, signed: bool) -> None:
    """Store the bytes of each pair's second chunk in the place of its first; signed, with its digest and tables."""

    def edit(file: h5py.File) -> None:
        for place, chunk in placed:
            file[place.array].id.write_direct_chunk((place.i, place.j, 0, 0), chunk.stored, 0)
            if signed:
                file[f"digests/{place.array}"][place.i, place.j] = np.uint64(chunk.digest)

    _edit(path, edit, signed=signed)


def drop_chunk(path: Path, dropped: Chunk) -> None:
    """Take one chunk out of a shard, as if it had never been written, and sign the tables anew."""

    def edit(file: h5py.File) -> None:
        kept = _stored_chunks(file[dropped.array])
        kept = {place: stored for place, stored in kept.items() if place[:2] != (dropped.i, dropped.j)}
        _make_anew(file, dropped.array, file[dropped.array].id.get_create_plist(), kept)

    _edit(path, edit, signed=True)


def relabel(path: Path, array: str, codec: Codec) -> None:
    """Have an array claim the filters of another codec; its chunks stay what they are, and have their digests."""

    def edit(file: h5py.File) -> None:
        properties = codec.creation_properties(file[array].chunks)
        _make_anew(file, array, properties, _stored_chunks(file[array]))

    _edit(path, edit, signed=True)


def _stored_chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], bytes]:
    places = [dataset.id.get_chunk_info(k).chunk_offset for k in range(dataset.id.get_num_chunks())]
    return {place: dataset.id.read_direct_chunk(place)[1] for place in places}


def _make_anew(file: h5py.File, array: str, properties: Any, stored: dict[tuple[int, ...], bytes]) -> None:
    """Replace a dataset by one of other creation properties and chunks."""
    space, kind = file[array].id.get_space(), file[array].id.get_type()
    del file[array]
    new = h5py.h5d.create(file.id, array.encode(), kind, space, properties)
    for place, chunk in stored.items():
        new.write_direct_chunk(place, chunk, 0)


def sign_manifest(folder: Path) -> None:
    """Write the manifest of a cache anew, with the sizes and digests that its shards have now."""
    manifest = read_manifest(folder)
    entries = []
    for entry in manifest.shards:
        data = shard_path(folder, entry.file).read_bytes()
        entries.append(dataclasses.replace(entry, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(entries)))


def _edit(path: Path, edit: Callable[[h5py.File], None], *, signed: bool) -> None:
    with h5py.File(path, "r+", libver="latest", locking=False) as file:
        edit(file)
        if signed:
            attributes = {name: _plain(value) for name, value in file.attrs.items() if name != "tables_digest"}
            tables = {name: table[()] for name, table in _tables(file)}
            file.attrs.modify("tables_digest", np.bytes_(tables_digest(attributes, tables)))


def _tables(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield path and dataset of every table: all datasets that are not features or pooled vectors."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in found:
        if name.split("/")[0] not in ("features", "pooled"):
            yield name, file[name]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def bits_flipped(data: bytes, position: int, mask: int) -> bytes:
    """Return data with the bits of mask flipped in one byte."""
    spoilt = bytearray(data)
    spoilt[position] ^= mask
    return bytes(spoilt)
