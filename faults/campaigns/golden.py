"""Sealed caches of every released format version, in tests/golden: read bit for bit, and refused if they were newer.

`make_golden` wrote them, from arrays of random numbers alone; it is here to say how, not to be run again.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faults.harness import stub
from faults.harness.trial import Campaign
from featcache.base.errors import Mismatch
from featcache.base.files import canonical_json
from featcache.datasets.splits import Part
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.maintenance.verify import verify_cache
from featcache.recipe import Recipe
from featcache.settings import ENCODINGS
from featcache.store.cache import open_cache
from featcache.store.folder import MANIFEST_NAME, shard_paths
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import digest_of_constants, pool
from featcache.store.shards.format import NEWEST_VERSION, Block, Target, array_specs, codecs_of
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter

HOME = Path(__file__).parents[2] / "tests" / "golden"
ROWS, VIEWS, ABSENT = 5, 3, 2
BLOCKS = (Block((0, 5), (0, 2)), Block((0, 5), (2, 3)))
SPLITS = {
    "1": {
        "train": Part(np.array([4, 0, 2]), np.array([0.25, 0.5, 1.0])),
        "test": Part(np.array([1]), np.array([0.125])),
    }
}
LAYERS = (("first", 1, 3, 5), ("second.bn", 7, 1, 11))


def run(campaign: Campaign) -> None:
    """Read every golden cache, and a copy that claims to be of the next version."""
    folders = sorted(path.parent for path in HOME.glob("v*/*/manifest.json"))
    if not folders:
        campaign.bad(f"{HOME}: no golden cache there")
    for folder in folders:
        name = f"{folder.parent.name} {folder.name}"
        problem = _difference(folder)
        if problem:
            campaign.bad(f"{name}: {problem}")
        else:
            campaign.good(f"{name}: exact")
        for place, copy in (("manifest", _newer_manifest), ("shard", _newer_shard)):
            _judge_newer(campaign, f"{name}, newer {place}", copy(folder, campaign.folder("newer") / "cache"))


def _difference(folder: Path) -> str:
    """Say where a golden cache reads differently from what was put into it."""
    cache = open_cache(folder)
    with np.load(folder.with_name(f"{folder.name}.npz")) as file:
        expected = dict(file)
    if cache.fingerprint != str(expected.pop("fingerprint")):
        return f"fingerprint {cache.fingerprint}"
    found = _contents(folder)
    if found.keys() != expected.keys():
        return f"holds {sorted(found)}, expected {sorted(expected)}"
    if different := [name for name in found if not _equal(name, found[name], expected[name])]:
        return f"differs in {different}"
    by_hdf5 = stub.arrays_by_hdf5(folder)
    if not by_hdf5 or not stub.same(by_hdf5, {name: found[name] for name in by_hdf5}):
        return "HDF5 reads other arrays through cache.h5"
    report = verify_cache(folder, threads=1)
    return "" if report.ok else f"verify says {report.problems}"


def _equal(name: str, found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Return whether arrays are the same, pooled features to the last bits that processors round differently."""
    if name.startswith("pooled/"):  # which some caches do not store, but have computed when they are read
        return bool(np.allclose(found, expected, rtol=1e-6, atol=1e-7))
    return np.array_equal(found, expected)


def _contents(folder: Path) -> stub.Contents:
    """Return everything in a cache, and each layer's constants."""
    cache = open_cache(folder)
    constants = {f"constants/{layer}": cache.constants(layer) for layer in cache.recipe.layer_names}
    return {**stub.contents(folder), **{name: values for name, values in constants.items() if values is not None}}


def _newer_manifest(folder: Path, copy: Path) -> Path:
    """Copy a cache and have its manifest claim the next format version, with the right digest."""
    shutil.copytree(folder, copy)
    body: dict[str, Any] = json.loads((copy / MANIFEST_NAME).read_text())
    del body["digest"]
    body["format_version"] = NEWEST_VERSION + 1
    digest = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    (copy / MANIFEST_NAME).write_text(canonical_json({**body, "digest": digest}))
    return copy


def _newer_shard(folder: Path, copy: Path) -> Path:
    """Copy a cache and have one of its shards claim the next format version."""
    import h5py

    shutil.copytree(folder, copy)
    with h5py.File(shard_paths(copy)[0], "r+", libver="latest", locking=False) as file:
        file.attrs.modify("format_version", NEWEST_VERSION + 1)
    return copy


def _judge_newer(campaign: Campaign, name: str, folder: Path) -> None:
    try:
        stub.contents(folder)
    except Mismatch as error:
        if f"version {NEWEST_VERSION + 1}" in str(error):
            campaign.good("newer version: Mismatch")
        else:
            campaign.bad(f"{name}: refused for another reason: {error}")
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        campaign.bad(f"{name}: {error!r}, expected Mismatch")
    else:
        campaign.bad(f"{name}: read without an error", silent=True)


def make_golden(home: Path) -> None:
    """Write a cache of each encoding into home, and NAME.npz beside it with all that must be read from it.

    One layer is not compressed and has no pooled vectors, the other is compressed with lz4 and has them.
    """
    for encoding, kind in ENCODINGS.items():
        rng = np.random.default_rng(1)
        constants = {layer: _constants(rng, channels) for layer, _, _, channels in LAYERS} if kind.calibrated else {}
        recipe = _recipe(encoding, digest_of_constants(constants))
        codecs = codecs_of(recipe, {"first": Codec("none"), "second.bn": Codec("lz4")}, ["second.bn"])
        target = Target(recipe, codecs, constants)
        arrays = _arrays(rng, target)
        _write_cache(home / encoding, arrays, target)
        expected: stub.Contents = {f"constants/{layer}": values for layer, values in constants.items()}
        expected |= {**_expected(arrays), "fingerprint": np.array(target.recipe.fingerprint)}
        np.savez_compressed(home / f"{encoding}.npz", **expected)  # type: ignore[arg-type]


def _recipe(encoding: str, calibration: str) -> Recipe:
    return Recipe(
        backbone="golden",
        weights="0123456789abcdef" * 4,
        layers=LAYERS,
        precision="fp32",
        mean=(0.5, 0.25, 0.125),
        std=(0.25, 0.5, 1.0),
        image_size=32,
        eval_view="center",
        crop_scale=(0.08, 1.0),
        crop_ratio=(0.75, 4 / 3),
        seed=3,
        encoding=encoding,
        calibration=calibration,
    )


def _constants(rng: np.random.Generator, channels: int) -> NDArray[np.float32]:
    return np.stack([rng.uniform(0.01, 1, channels), rng.integers(0, 256, channels)]).astype("<f4")


def _arrays(rng: np.random.Generator, target: Target) -> stub.Contents:
    """Draw contents (N, V, ...) for every array, the smallest and largest numbers of its type among them.

    Vectors that are not stored are those of the features.
    """
    arrays = {}
    for name, spec in array_specs(target.recipe).items():
        shape = (ROWS, VIEWS, *spec.chunk_shape)
        if spec.dtype.kind == "u":
            arrays[name] = rng.integers(0, 256, shape).astype(spec.dtype)
        else:
            info = np.finfo(spec.dtype)
            arrays[name] = rng.normal(size=shape).astype(spec.dtype)
            arrays[name][0, 0].flat[:5] = info.max, info.min, info.smallest_subnormal, 0.0, -0.0
    for layer in target.recipe.layer_names:
        if f"pooled/{layer}" not in target.codecs:
            features, constants = arrays[f"features/{layer}"], target.constants.get(layer)
            for i, j in np.ndindex(ROWS, VIEWS):
                arrays[f"pooled/{layer}"][i, j] = pool(torch.from_numpy(features[i, j]), constants).numpy()
    return arrays


def _image(row: int) -> ImageRow:
    name = f"dir {row}/é{row}.jpg"
    if row == ABSENT:
        return ImageRow(name, absent="truncated: cut short")
    return ImageRow(name, hashlib.sha256(name.encode()).hexdigest(), 100 + row, 200 + row)


def _view(row: int, view: int) -> View:
    return View(Box(view, row, view + 30, row + 70), bool((row + view) % 2))


def _write_cache(folder: Path, arrays: stub.Contents, target: Target) -> None:
    with CacheWriter(folder) as writer:
        for block in BLOCKS:
            writer.commit(block, _shard(arrays, block, target))
        source = {"dataset": "golden", "root": "nowhere", "weights": "random", "batch_size": "16"}
        writer.seal(target.recipe, rows=ROWS, views=VIEWS, ratings={"": SPLITS}, source=source, versions={"torch": "0"})


def _shard(arrays: stub.Contents, block: Block, target: Target) -> bytes:
    writer = ShardWriter(target, block)
    views = range(*block.views)
    for i, row in enumerate(range(*block.rows)):
        writer.set_image(i, _image(row), [_view(row, view) for view in views] if row != ABSENT else [])
        for j, view in enumerate(views) if row != ABSENT else ():
            for array in writer.codecs:
                writer.set_stored(array, i, j, writer.encode(array, arrays[array][row, view]))
    return writer.finish()


def _expected(arrays: stub.Contents) -> stub.Contents:
    """Return what `stub.contents` must find."""
    present = [row for row in range(ROWS) if row != ABSENT]
    box, flip = np.zeros((ROWS, VIEWS, 4), np.int32), np.zeros((ROWS, VIEWS), np.uint8)
    for row in present:
        for view in range(VIEWS):
            box[row, view], flip[row, view] = _view(row, view)
    found = {name: array[present] for name, array in arrays.items()}
    found |= {"box": box, "flip": flip, "images": np.array([repr(_image(row)) for row in range(ROWS)])}
    for split, parts in SPLITS.items():
        for part, values in parts.items():
            found |= {f"{split}/{part}/row": values.rows, f"{split}/{part}/score": values.scores}
    return found
