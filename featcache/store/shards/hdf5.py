"""How this project opens and writes HDF5: without locks, times or variable-length text. Knows no layout."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.store.shards.codec import Codec


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, without locks, and whatever else in this process has it open.

    HDF5 refuses a file that is open already with other locking flags, as h5py's default ones are; a file that
    Python has opened it takes for another.
    """
    with path.open("rb", buffering=0) as raw, h5py.File(raw, "r") as file:
        yield file


def text_column(texts: list[str]) -> NDArray[Any]:
    """Return texts as fixed-length UTF-8, padded with NUL, of the HDF5 string type that says so."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=0) or 1))


def create_chunked(
    file: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], codec: Codec
) -> h5py.Dataset:
    """Create an empty dataset of chunks (1, 1, *shape[2:]) with the codec's filters; what is not there reads as NaN."""
    properties = codec.creation_properties((1, 1, *shape[2:]))
    return h5py.Dataset(_create(file, path, dtype, h5py.h5s.create_simple(shape), properties))


def create_virtual(
    file: h5py.File,
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    sources: Iterable[tuple[str, tuple[int, int, int, int]]],
) -> None:
    """Create a virtual dataset: each source is a file and the rows and views [r0, r1) x [v0, v1) that it holds.

    What no source holds reads as NaN, or as 0 where the type has none.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    for source, (r0, r1, v0, v1) in sources:
        block = (r1 - r0, v1 - v0, *shape[2:])
        space.select_hyperslab((r0, v0, *(0 for _ in shape[2:])), block)
        properties.set_virtual(space, source.encode(), path.encode(), h5py.h5s.create_simple(block))
    space.select_all()
    _create(file, path, dtype, space, properties)


def _create(file: h5py.File, path: str, dtype: np.dtype[Any], space: Any, properties: Any) -> Any:
    """Create a dataset in its group; what nothing fills reads as NaN where the type has it."""
    if dtype.kind == "f":
        properties.set_fill_value(np.array(np.nan, dtype))
    group, _, name = path.rpartition("/")
    return h5py.h5d.create(file.require_group(group).id, name.encode(), h5py.h5t.py_create(dtype), space, properties)


def set_attributes(file: h5py.File, attributes: dict[str, Any]) -> None:
    """Set attributes; text as fixed-length UTF-8."""
    for name, value in attributes.items():
        file.attrs[name] = text_column([value])[0] if isinstance(value, str) else value
