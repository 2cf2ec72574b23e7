"""Tiny datasets and the real command on them: an untrained backbone, images of a few pixels, shards of a few rows."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import featcache.extraction.extract
import featcache.extraction.plan
from featcache.backbones.backbone import Backbone
from featcache.datasets.dataset import open_dataset
from featcache.extraction.log import ExtractReport
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache
from featcache.store.folder import INDEX_NAME, MANIFEST_NAME, shard_path, shard_paths

BACKBONE, IMAGE_SIZE, ROWS_PER_SHARD = "timm:test_vit", 80, 3
LAYERS = ("blocks.5", "cls")  # 5x5 positions, whose pooled vectors are stored, and 1, whose are not
Contents = dict[str, NDArray[Any]]


def make_dataset(folder: Path, *, images: int, bad: bool = False, seed: int = 0, prefix: str = "") -> Path:
    """Draw images of noise with scores, in one split; with bad, the last is cut short."""
    (folder / "images").mkdir(parents=True)
    (folder / "splits").mkdir()
    rng = np.random.default_rng(seed)
    names = [f"{prefix}{i:02d}.png" for i in range(images)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    if bad:
        path = folder / "images" / names[-1]
        path.write_bytes(path.read_bytes()[:200])
    for part, own in (("train", names[::2]), ("test", names[1::2])):
        lines = [f"{name} {names.index(name) / 100}\n" for name in own]
        (folder / "splits" / f"{part}_1.txt").write_text("".join(lines))
    return folder


def small_shards() -> None:
    """Make the shards of this process ROWS_PER_SHARD rows long."""
    featcache.extraction.plan.ROWS_PER_SHARD = ROWS_PER_SHARD


def settings_for(*, augs: int = 1, seed: int = 0, compression: str = "auto") -> ExtractSettings:
    """Return what `command` asks for, or with another compression."""
    return ExtractSettings(
        augs=augs,
        backbone=BACKBONE,
        layers=LAYERS,
        weights="random",
        views=ViewSettings(image_size=IMAGE_SIZE, seed=seed),
        compression=compression,
    )


def command(
    dataset: Path, out: Path, *, augs: int = 1, backbone: str = BACKBONE, layers: Sequence[str] = LAYERS
) -> list[str]:
    """Return the arguments of the command line that extracts dataset into out."""
    options = ["--backbone", backbone, "--weights", "random", "--image-size", str(IMAGE_SIZE), "--augs", str(augs)]
    named = [word for layer in layers for word in ("--layer", layer)]
    return ["extract", "--dataset", str(dataset), "--out", str(out), *options, *named, "--json"]


def run_command(arguments: list[str]) -> int:
    """Run the real command line in this process and return its exit status."""
    import cli

    small_shards()
    try:
        cli.main(arguments, prog_name="amnet")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def run(dataset: Path, out: Path, *, augs: int = 1, seed: int = 0, compression: str = "auto") -> ExtractReport:
    """Extract in this process, as the command does, with a backbone that is built once."""
    small_shards()
    featcache.extraction.extract.load_backbone = _load_backbone
    settings = settings_for(augs=augs, seed=seed, compression=compression)
    return featcache.extraction.extract.extract(open_dataset(str(dataset)), settings, out)


def run_mixed(dataset: Path, out: Path, *, seed: int = 0) -> None:
    """Extract a cache whose first shards are compressed with zstd, the next with lz4, and the others not at all."""
    for number, compression in enumerate(("zstd", "lz4", "none")):
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        for path in shard_paths(out):
            if int(path.name.partition("-")[0]) >= number * ROWS_PER_SHARD:
                path.unlink()
        run(dataset, out, seed=seed, compression=compression)


_build_backbone = featcache.extraction.extract.load_backbone


def _load_backbone(settings: ExtractSettings, *, views: int) -> Backbone:
    return _built(settings.views.seed)


@functools.cache
def _built(seed: int) -> Backbone:
    return _build_backbone(settings_for(seed=seed))


def contents(folder: Path) -> Contents:
    """Read everything in a sealed cache through the reader: tables, splits, and the arrays of the present rows."""
    cache = open_cache(folder)
    rows, views = np.flatnonzero(cache.present), range(cache.views)
    found: Contents = {"box": cache.box, "flip": cache.flip}
    found["images"] = np.array([repr(image) for image in cache.images])
    for split, parts in cache.splits.items():
        for name, part in parts.items():
            found[f"{split}/{name}/row"], found[f"{split}/{name}/score"] = part.rows, part.scores
    for layer in cache.recipe.layer_names:
        found[f"features/{layer}"] = np.stack([cache.read(rows, view, layer) for view in views], axis=1)
        found[f"pooled/{layer}"] = np.stack([cache.read_pooled(rows, view, layer) for view in views], axis=1)
    return found


def arrays_by_hdf5(folder: Path) -> Contents:
    """Read features and pooled vectors of the present rows as any HDF5 program does, without this project's reader."""
    with h5py.File(folder / INDEX_NAME, "r") as file:
        rows = np.flatnonzero(file["images/absent"][()] == b"")
        return {
            f"{group}/{name}": file[group][name][()][rows] for group in ("features", "pooled") for name in file[group]
        }


def same(a: Contents, b: Contents) -> bool:
    """Say whether two contents are equal bit for bit."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def checked_contents(folder: Path) -> Contents:
    """Return contents of an undamaged cache; raise `RuntimeError` if HDF5 itself reads other arrays there."""
    found = contents(folder)
    arrays = arrays_by_hdf5(folder)
    if not arrays or not same(arrays, {name: found[name] for name in arrays}):
        raise RuntimeError(f"{folder}: this project and HDF5 read different arrays from an undamaged cache")
    return found


def finals(folder: Path) -> dict[str, bytes]:
    """Return name and bytes of every file under a shard's final name."""
    return {path.name: path.read_bytes() for path in shard_paths(folder)}


def identities(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return inode, time of change and sha256 of every shard: a file that is written anew, even alike, differs."""
    found = {}
    for name, data in finals(folder).items():
        stat = shard_path(folder, name).stat()
        found[name] = (stat.st_ino, stat.st_mtime_ns, hashlib.sha256(data).hexdigest())
    return found


def temporaries(folder: Path) -> list[str]:
    """Return the names of temporary files anywhere in a cache."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".tmp-*"))
