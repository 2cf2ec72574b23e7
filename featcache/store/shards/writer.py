"""A shard while it grows: an HDF5 file in memory, which becomes bytes for others to write. Touches no disk."""

import contextlib
import uuid
from collections.abc import Iterable

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.base.files import canonical_json
from featcache.images.identity import ImageRow
from featcache.images.views import View
from featcache.store.shards.format import (
    Block,
    Target,
    array_specs,
    chunk_digest,
    common_tables,
    tables_digest,
    version_of,
)
from featcache.store.shards.hdf5 import create_chunked, set_attributes
from featcache.store.shards.shard import StoredRow


class ShardWriter:
    """A shard in memory while it grows; `finish` returns the bytes of its file.

    codecs are those of the arrays that it stores, in the order of chunks. All methods are for one thread, but for
    `encode`.
    """

    def __init__(self, target: Target, block: Block) -> None:
        n, v = block.shape
        recipe, specs = target.recipe, array_specs(target.recipe)
        self.codecs = {array: target.codecs[array] for array in specs if array in target.codecs}
        self._block, self._constants = block, target.constants
        self._fingerprint = recipe.fingerprint
        self.rows: list[ImageRow] = [ImageRow("")] * n
        self._box = np.zeros((n, v, 4), "<i4")
        self._flip = np.zeros((n, v), "u1")
        self._digests = {array: np.zeros((n, v), "<u8") for array in self.codecs}
        self._attributes = {
            "format_version": version_of(recipe, self.codecs),
            "fingerprint": self._fingerprint,
            "recipe": canonical_json(recipe.as_json()),
            "rows": list(block.rows),
            "views": list(block.views),
        }
        name = uuid.uuid4().hex  # HDF5 knows files in memory by name, and there may be several
        self._file = h5py.File(name, "w", driver="core", backing_store=False, libver="latest")
        self._datasets = {
            array: create_chunked(self._file, array, (n, v, *specs[array].chunk_shape), specs[array].dtype, codec)
            for array, codec in self.codecs.items()
        }

    def set_image(self, i: int, image: ImageRow, views: list[View]) -> None:
        """Say which image row start + i is, and how its views are cut (none for an absent image)."""
        self.rows[i] = image
        for j, view in enumerate(views):
            self._box[i, j], self._flip[i, j] = view.box, view.flip

    def encode(self, array: str, values: NDArray[np.generic]) -> bytes:
        """Return values as `set_stored` takes them; without Python's lock, in any thread."""
        return self.codecs[array].encode(values)

    def set_stored(self, array: str, i: int, j: int, stored: bytes) -> None:
        """Store the chunk of row start + i and view start + j, encoded; `set_image` comes first.

        The order of the calls is that of the chunks in the file.
        """
        name, view = self.rows[i].name, self._block.views[0] + j
        digest = chunk_digest(stored, fingerprint=self._fingerprint, array=array, name=name, view=view)
        self._digests[array][i, j] = digest
        self._datasets[array].id.write_direct_chunk((i, j, 0, 0), stored, 0)

    def finish(self) -> bytes:
        """Write tables, attributes and their digest; return the HDF5 file's bytes and drop the file."""
        tables = common_tables(self.rows, self._box, self._flip, self._constants)
        tables |= {f"digests/{array}": values for array, values in self._digests.items()}
        for path, values in tables.items():
            self._file.create_dataset(path, data=values)
        set_attributes(self._file, {**self._attributes, "tables_digest": tables_digest(self._attributes, tables)})
        self._file.flush()
        image: bytes = self._file.id.get_file_image()
        self.close()
        return image

    def close(self) -> None:
        """Drop the shard in memory."""
        self._file.close()


def copied_shard(target: Target, block: Block, rows: Iterable[StoredRow]) -> bytes:
    """Return the bytes of a shard of stored rows alone: the same rows in the same block give the same file."""
    with contextlib.closing(ShardWriter(target, block)) as writer:
        for i, row in enumerate(rows):
            writer.set_image(i, row.row, row.views)
            for array, j, stored in row.chunks:
                writer.set_stored(array, i, j, stored)
        return writer.finish()
