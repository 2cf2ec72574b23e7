"""Random batches of views from one cache: this reader against plain h5py, a DataLoader over h5py, npy and memcpy.

Every way reads the same batches, one after another in each round, so that what else the machine does hits all alike;
figures are medians over rounds. The DataLoader reads them all at once, after the others, from workers that keep the
dataset open; its figure is the mean without its first batch and what it had ready by then. The file cache is warm.
Digests are checked by this reader on every read, of features that are compressed and of the same not compressed, which
are to be read nearly as fast as an npy memmap.

With --photographs, features of photographs are read as each codec stores them, in caches that take turns in each round.

Example: python -m bench.read
Example: python -m bench.read --photographs photos/ --images 64
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import hdf5plugin  # noqa: F401  registers the zstd filter with HDF5
import numpy as np
import torch
from numpy.typing import NDArray

from bench.cache import LAYER, make_cache
from bench.features import as_encoding, constants_of, drawn, real
from featcache.base.devices import resolve_device
from featcache.extraction.calibration import WORTH_IT, gain
from featcache.settings import COMPRESSIONS, ENCODINGS
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import INDEX_NAME, existing_shards, shard_path
from featcache.store.shards.format import chunk_digest, codec_named
from featcache.store.shards.shard import opened

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
Read = Callable[[Pairs, NDArray[Any]], object]


class H5pyViews(torch.utils.data.Dataset[torch.Tensor]):
    """What a competent user writes: a map-style dataset that opens the HDF5 file in the worker that reads it."""

    def __init__(self, path: Path, pairs: Pairs) -> None:
        self.path, self.pairs = path, pairs
        self.dataset: h5py.Dataset | None = None

    def __len__(self) -> int:
        return len(self.pairs[0])

    def __getitem__(self, k: int) -> torch.Tensor:
        if self.dataset is None:
            self.dataset = h5py.File(self.path, "r")[f"features/{LAYER}"]
        return torch.from_numpy(self.dataset[self.pairs[0][k], self.pairs[1][k]])


def plain_h5py(dataset: h5py.Dataset) -> Read:
    """Return a reader that takes one view after another from an open dataset."""

    def read(pairs: Pairs, out: NDArray[Any]) -> None:
        for k, (i, j) in enumerate(zip(*pairs, strict=True)):
            out[k] = dataset[i, j]

    return read


def shard_by_shard(cache: FeatureCache) -> Read:
    """Return plain h5py on the shards, all open, as fast as it can be: no virtual dataset in between."""
    datasets = [
        h5py.File(shard_path(cache.path, entry.file), "r")[f"features/{LAYER}"] for entry in cache.manifest.shards
    ]
    size = len(datasets[0])

    def read(pairs: Pairs, out: NDArray[Any]) -> None:
        for k, (i, j) in enumerate(zip(*pairs, strict=True)):
            out[k] = datasets[i // size][i % size, j]

    return read


def to_a_device(cache: FeatureCache, shape: tuple[int, ...], device: torch.device) -> Read:
    """Return a reader that reads a batch into pinned memory, copies it to a device, and waits for it."""
    like = torch.from_numpy(cache.read(0, 0))
    host = torch.empty(shape, dtype=like.dtype, pin_memory=device.type == "cuda")
    there = torch.empty(shape, dtype=like.dtype, device=device)

    def read(pairs: Pairs, out: NDArray[Any]) -> None:
        cache.read(*pairs, out=host.numpy())
        there.copy_(host, non_blocking=True)
        there[0, 0, 0].item()
        out[:] = host.numpy()  # to be compared

    return read


def dataloader(path: Path, batches: list[Pairs]) -> float:
    """Return seconds a batch of a DataLoader with 2 workers over h5py, without the time its workers take to start."""
    rows, views = (np.concatenate([pairs[axis] for pairs in batches]) for axis in (0, 1))
    size = len(batches[0][0])
    loader = torch.utils.data.DataLoader(H5pyViews(path, (rows, views)), size, num_workers=2, prefetch_factor=1)
    iterator = iter(loader)
    for _ in range(3):  # the first, and one that each worker has ready
        next(iterator)
    started = time.perf_counter()
    count = sum(1 for _ in iterator)
    return (time.perf_counter() - started) / count


def digest_share(cache: FeatureCache, pairs: Pairs, seconds: float) -> float:
    """Return the share of a batch's time, one thread, that checking its digests takes."""
    shards, stored = existing_shards(cache.path), []
    for row, view in zip(*(axis.tolist() for axis in pairs), strict=True):
        shard = next(shard for shard in shards if row in range(*shard.block.rows))
        with opened(shard) as descriptor:
            i = row - shard.block.rows[0]
            stored.append((shard.read_stored(descriptor, f"features/{LAYER}", i, view), cache.images[row].name, view))
    fingerprint = cache.fingerprint
    started = time.perf_counter()
    for data, name, view in stored:
        chunk_digest(data, fingerprint=fingerprint, array=f"features/{LAYER}", name=name, view=view)
    return (time.perf_counter() - started) / seconds


def feature_bytes(cache: FeatureCache) -> int:
    """Return the stored bytes of all feature chunks."""
    shards = existing_shards(cache.path)
    return int(sum(shard.arrays[f"features/{LAYER}"].sizes.sum() for shard in shards))


def measure(folder: Path, features: NDArray[np.float16], *, views: int, encoding: str, batch: int, rounds: int,
            device: torch.device) -> Any:  # fmt: skip
    """Return figures of one encoding."""
    constants = constants_of(features) if ENCODINGS[encoding].calibrated else None
    path = make_cache(folder / encoding, features, views=views, constants=constants)
    plain = make_cache(folder / f"{encoding}-plain", features, views=views, constants=constants, compression="none")
    one, two, plain_one, plain_two = (open_cache(p, threads=threads) for p in (path, plain) for threads in (1, 2))
    shape, dtype = (batch, *features.shape[1:]), one.read(0, 0).dtype
    raw = np.lib.format.open_memmap(folder / "raw.npy", "w+", dtype, (one.rows, views, *features.shape[1:]))
    for start in range(0, one.rows, 16):
        rows = np.arange(start, min(start + 16, one.rows))
        for view in range(views):
            raw[rows, view] = two.read(rows, view)
    virtual = h5py.File(path / INDEX_NAME, "r")[f"features/{LAYER}"]
    ways: dict[str, Read] = {
        "reader_2_threads": lambda pairs, out: two.read(*pairs, out=out),
        "reader_1_thread": lambda pairs, out: one.read(*pairs, out=out),
        "not_compressed_2_threads": lambda pairs, out: plain_two.read(*pairs, out=out),
        "not_compressed_1_thread": lambda pairs, out: plain_one.read(*pairs, out=out),
        "h5py": plain_h5py(virtual),
        "h5py_on_shards": shard_by_shard(one),
        "npy_memmap": lambda pairs, out: np.copyto(out, raw[pairs]),
        "memcpy": lambda pairs, out: np.copyto(out, source),
    }
    if device.type != "cpu":
        ways["reader_2_threads_to_device"] = to_a_device(two, shape, device)
    rng = np.random.default_rng(0)
    batches = [(rng.integers(0, one.rows, batch), rng.integers(0, views, batch)) for _ in range(max(rounds, 4) + 1)]
    source, out, expected = np.ones(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number, pairs in enumerate(batches[: rounds + 1]):
        np.copyto(expected, raw[pairs])
        for name, read in ways.items():
            started = time.perf_counter()
            read(pairs, out)
            elapsed = time.perf_counter() - started
            if number:  # the first opens files and warms up
                times[name].append(elapsed)
            if name != "memcpy" and not np.array_equal(out, expected):
                raise AssertionError(f"{name} read other values")
    seconds = {name: median(values) for name, values in times.items()}
    seconds["dataloader_h5py_2_workers"] = dataloader(path / INDEX_NAME, batches)
    mine = seconds["reader_2_threads"]
    return {
        "share_of_raw_float16": round(feature_bytes(one) / features.nbytes, 4),
        "views_per_second": {name: round(batch / value) for name, value in seconds.items()},
        "gigabytes_per_second": {name: round(out.nbytes / value / 1e9, 3) for name, value in seconds.items()},
        "times_h5py": round(seconds["h5py"] / mine, 2),
        "times_h5py_on_shards": round(seconds["h5py_on_shards"] / mine, 2),
        "times_one_thread": round(seconds["reader_1_thread"] / mine, 2),
        "times_dataloader": round(seconds["dataloader_h5py_2_workers"] / mine, 2),
        "not_compressed_times_npy_memmap": round(seconds["npy_memmap"] / seconds["not_compressed_2_threads"], 2),
        "digests_share_of_reading": round(digest_share(one, batches[-1], seconds["reader_1_thread"]), 4),
    }


def compare_codecs(
    folder: Path, features: NDArray[np.float16], *, views: int, encoding: str, batch: int, rounds: int
) -> Any:
    """Return views/s and bytes of caches of the same features, one for each codec; auto is what extract takes."""
    constants = constants_of(features) if ENCODINGS[encoding].calibrated else None
    names = [name for name in COMPRESSIONS if name != "auto"]
    paths = {
        name: make_cache(folder / name, features, views=views, constants=constants, compression=name) for name in names
    }
    ways = {(name, threads): open_cache(path, threads=threads) for name, path in paths.items() for threads in (1, 2)}
    rng = np.random.default_rng(0)
    first = ways["zstd", 1]
    out, expected = (np.empty((batch, *features.shape[1:]), first.read(0, 0).dtype) for _ in range(2))
    times: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        pairs = rng.integers(0, first.rows, batch), rng.integers(0, views, batch)
        first.read(*pairs, out=expected)
        for way, cache in ways.items():
            started = time.perf_counter()
            cache.read(*pairs, out=out)
            elapsed = time.perf_counter() - started
            if number:  # the first opens files and warms up
                times[way].append(elapsed)
            if not np.array_equal(out, expected):
                raise AssertionError(f"{way} read other values")
    seconds = {way: median(values) for way, values in times.items()}
    sizes = {name: sum(entry.bytes for entry in ways[name, 1].manifest.shards) for name in names}
    worth = gain(as_encoding(features[:16], encoding), codec_named("zstd", ENCODINGS[encoding]))
    return {
        "auto": "zstd" if worth >= WORTH_IT else "none",
        "views_per_second": {f"{name}, {threads} threads": round(batch / s) for (name, threads), s in seconds.items()},
        "times_zstd": {name: round(seconds["zstd", 2] / seconds[name, 2], 2) for name in names},
        "bytes": sizes,
        "bytes_to_zstd": {name: round(size / sizes["zstd"], 3) for name, size in sizes.items()},
    }


def _of_photographs(photographs: Path, images: int, **how: int) -> Any:
    """Return what `compare_codecs` finds for each kind of real features and each encoding."""
    found: dict[str, Any] = {"images": images, **how}
    for kind, features in real(photographs, images * how["views"]).items():
        found[kind] = {}
        for encoding in ENCODINGS:
            with tempfile.TemporaryDirectory() as folder:
                found[kind][encoding] = compare_codecs(Path(folder), features, encoding=encoding, **how)
    return found


@click.command()
@click.option("--photographs", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of photographs: compare codecs on their features.")  # fmt: skip
@click.option("--images", default=256, show_default=True)
@click.option("--views", default=4, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--device", default="auto", show_default=True, help="Also copy batches there, if it is not the CPU.")
def main(photographs: Path | None, images: int, views: int, batch: int, rounds: int, device: str) -> None:
    """Print one JSON line of figures for both encodings, on drawn features of which 70% are zero."""
    if photographs:
        click.echo(json.dumps(_of_photographs(photographs, images, views=views, batch=batch, rounds=rounds)))
        return
    features = drawn(images * views)
    result: dict[str, Any] = {"views": images * views, "batch": batch, "rounds": rounds, "zeros": 0.7}
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ENCODINGS:
            result[encoding] = measure(
                Path(folder), features, views=views, encoding=encoding, batch=batch, rounds=rounds,
                device=resolve_device(device),
            )  # fmt: skip
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
