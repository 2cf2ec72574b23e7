"""What each HDF5 filter makes of features: share of the raw float16 bytes, and speed through h5py and this reader.

Example: python -m bench.codecs --images photos/
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from bench.features import as_encoding, drawn, real
from featcache.settings import ENCODINGS
from featcache.store.shards.codec import Codec
from featcache.store.shards.format import codec_named

REPEATS = 3


def filters(encoding: str) -> dict[str, dict[str, Any]]:
    """Return h5py's options of each candidate; byte shuffle does nothing to single bytes."""
    plain = {
        "none": {},
        "gzip 4": {"compression": "gzip", "compression_opts": 4},
        "zstd 1": hdf5plugin.Zstd(clevel=1),
        "zstd 3": hdf5plugin.Zstd(clevel=3),
        "zstd 9": hdf5plugin.Zstd(clevel=9),
        "lz4": hdf5plugin.LZ4(),
        "bitshuffle + lz4": hdf5plugin.Bitshuffle(cname="lz4"),
        "bitshuffle + zstd 1": hdf5plugin.Bitshuffle(cname="zstd", clevel=1),
        "bitshuffle in blocks of 65,536 + zstd 1": hdf5plugin.Bitshuffle(nelems=65_536, cname="zstd", clevel=1),
        "blosc, zstd 1": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.NOSHUFFLE),
        "blosc2, zstd 1": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.NOFILTER),
    }
    if not ENCODINGS[encoding].shuffle:
        return plain
    return {
        **plain,
        "shuffle + gzip 4": {"shuffle": True, "compression": "gzip", "compression_opts": 4},
        "shuffle + zstd 1": {"shuffle": True, **hdf5plugin.Zstd(clevel=1)},
        "shuffle + zstd 3": {"shuffle": True, **hdf5plugin.Zstd(clevel=3)},
        "shuffle + zstd 9": {"shuffle": True, **hdf5plugin.Zstd(clevel=9)},
        "blosc, shuffle, zstd 1": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE),
        "blosc, shuffle, lz4": hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE),
        "blosc2, shuffle, zstd 1": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.SHUFFLE),
        "blosc2, bitshuffle, zstd 1": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE),
    }


def own_codecs(encoding: str) -> dict[str, Codec]:
    """Return the candidates that this project's reader decodes itself."""
    own = {"none": Codec("none"), "lz4": Codec("lz4")}
    own |= {f"zstd {level}": Codec("zstd", level) for level in (1, 3, 9)}
    if not ENCODINGS[encoding].shuffle:
        return own
    return {**own, **{f"shuffle + zstd {level}": Codec("zstd", level, shuffle=True) for level in (1, 3, 9)}}


def best_seconds(work: Callable[[], Any]) -> float:
    """Return the shortest of a few runs."""
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def through_h5py(values: NDArray[Any], options: dict[str, Any], path: Path) -> dict[str, float]:
    """Return share and MB/s (of decoded bytes) of writing and reading chunk by chunk through h5py."""
    out = np.empty_like(values[0])

    def write() -> None:
        with h5py.File(path, "w", libver="latest") as file:
            chunk = (1, *values.shape[1:])
            dataset = file.create_dataset("x", values.shape, values.dtype, chunks=chunk, fletcher32=True, **options)
            for k, view in enumerate(values):
                dataset[k] = view

    def read() -> None:
        with h5py.File(path, "r", rdcc_nbytes=0) as file:
            dataset = file["x"]
            for k in range(len(values)):
                dataset.read_direct(out, np.s_[k])

    write_seconds = best_seconds(write)
    with h5py.File(path, "r") as file:
        stored = file["x"].id.get_storage_size()
    raw = values.size * 2
    return {
        "share": round(stored / raw, 4),
        "h5py_write_mb_s": round(values.nbytes / write_seconds / 1e6),
        "h5py_read_mb_s": round(values.nbytes / best_seconds(read) / 1e6),
    }


def by_itself(values: NDArray[Any], codec: Codec) -> dict[str, float]:
    """Return MB/s (of decoded bytes) of this project's encoding and decoding, one thread."""
    stored = [codec.encode(view) for view in values]
    out = np.empty_like(values[0])
    encode_seconds = best_seconds(lambda: [codec.encode(view) for view in values])
    decode_seconds = best_seconds(lambda: [codec.decode_into(chunk, out) for chunk in stored])
    return {
        "encode_mb_s": round(values.nbytes / encode_seconds / 1e6),
        "decode_mb_s": round(values.nbytes / decode_seconds / 1e6),
    }


def measure(features: NDArray[np.float16], folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each encoding and what every candidate makes of features (views, L, D) in it."""
    for encoding in ENCODINGS:
        values = as_encoding(features, encoding)
        own = own_codecs(encoding)
        yield (
            encoding,
            {
                name: through_h5py(values, options, folder / "x.h5")
                | (by_itself(values, own[name]) if name in own else {})
                for name, options in filters(encoding).items()
            },
        )


@click.command()
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of photographs.")
@click.option("--views", default=24, show_default=True)
def main(images: Path | None, views: int) -> None:
    """Print one JSON line: per kind of features, encoding and filter, share of raw float16 and MB/s."""
    chosen = {name: str(codec_named("zstd", kind)) for name, kind in ENCODINGS.items()}
    result: dict[str, Any] = {"chosen": chosen}
    with tempfile.TemporaryDirectory() as folder:
        for name, features in {"drawn, 70% zeros": drawn(views), **real(images, views)}.items():
            result[name] = {
                "shape": list(features.shape),
                "zeros": round(float((features == 0).mean()), 3),
                **dict(measure(features, Path(folder))),
            }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
