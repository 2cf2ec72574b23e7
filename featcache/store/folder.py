"""What lies in the folder of a cache and what it is called, and the shards that are there, opened or refused."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch
from featcache.base.files import TEMPORARY_PREFIX
from featcache.base.lock import LOCK_NAME
from featcache.recipe import Recipe, check_same
from featcache.settings import PLUS
from featcache.store.shards.format import Block, shard_name
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard

MANIFEST_NAME = "manifest.json"  # its rename seals the cache
INDEX_NAME = "cache.h5"
FAILURES_NAME = "failures.csv"
TIMINGS_NAME = "timings.csv"  # a log beside the cache
DICTIONARY_NAME = "dictionary.safetensors"  # visual words that its descriptors count
DICTIONARY_DIGEST = "dictionary_sha256"  # in the source of its manifest
PROJECTION_NAME = "projection.safetensors"  # directions that its features are projected on, of a cache made of another
SHARDS_NAME = "shards"
OWN_NAMES = frozenset(
    {
        *(MANIFEST_NAME, INDEX_NAME, FAILURES_NAME, TIMINGS_NAME),
        *(DICTIONARY_NAME, PROJECTION_NAME, LOCK_NAME, SHARDS_NAME),
    }
)
NAME_PATTERN = re.compile(r"\d{5,}-[0-9a-f]{16}\.h5")  # as `shard_name` makes them


def shards_folder(folder: Path) -> Path:
    """Return where the shards of the cache in folder lie; without it there is no cache."""
    return folder / SHARDS_NAME


def dictionary_path(folder: Path) -> Path:
    """Return where the cache in folder has its visual words, if it counts any."""
    return folder / DICTIONARY_NAME


def weights_of_cache(folder: Path, source: Mapping[str, str]) -> str:
    """Return the weights that a manifest's source names, a dictionary of the cache itself by where it is now."""
    weights = source["weights"]
    if weights != DICTIONARY_NAME and not weights.endswith(f"{PLUS}{DICTIONARY_NAME}"):
        return weights
    return f"{weights.removesuffix(DICTIONARY_NAME)}{dictionary_path(folder.resolve())}"


def as_own_dictionary(folder: Path, weights: str) -> str:
    """Return what a manifest in folder says of weights: a dictionary there by its name alone, so that it can move."""
    own = str(dictionary_path(folder.resolve()))
    return weights.removesuffix(own) + DICTIONARY_NAME if weights.endswith(own) else weights


def shard_path(folder: Path, file: str) -> Path:
    """Return the path of the shard called file."""
    return folder / SHARDS_NAME / file


def shard_place(file: str) -> str:
    """Return the name of a shard relative to its cache's folder, as reports and cache.h5 say it."""
    return f"{SHARDS_NAME}/{file}"


def shard_paths(folder: Path, row: int | None = None) -> list[Path]:
    """Return the path of every file that is called as a shard, or those that begin at a row, sorted."""
    paths = sorted(shards_folder(folder).glob("*.h5" if row is None else f"{row:05d}-*.h5"))
    return [path for path in paths if NAME_PATTERN.fullmatch(path.name)]


def refuse_unknown_files(out: Path) -> None:
    """Raise `InvalidSettings` if out holds other things than a cache: they must not be mixed."""
    if out.is_dir() and not shards_folder(out).is_dir():
        harmless = (LOCK_NAME, DICTIONARY_NAME, PROJECTION_NAME, ".gitkeep")
        unknown = sorted(path.name for path in out.iterdir() if path.name not in harmless)
        if unknown:
            raise InvalidSettings(f"{out}: holds {', '.join(unknown[:3])} but no cache; give another folder with --out")


def existing_shards(folder: Path, listed: Collection[str] | None = None) -> list[Shard]:
    """Open every complete shard of the cache in folder.

    Where a manifest lists the shards of a sealed cache, another file that is no shard is left alone. Raises
    `CorruptFile` for a damaged one otherwise.
    """
    shards = []
    for path in shard_paths(folder):
        try:
            shards.append(open_shard(path))
        except CorruptFile:
            if listed is None or path.name in listed:
                raise
    return shards


def whole_shards(
    folder: Path,
    block: Block,
    recipe: Recipe,
    *,
    without: Collection[str] = (),
    passing: tuple[type[Exception], ...] = (CorruptFile, Mismatch),
) -> Iterator[tuple[Shard, bytes]]:
    """Yield each shard of that block and recipe whose file has the bytes that its name says, and the bytes.

    Files called as one of without are not opened; those that raise one of the errors in passing are passed over.
    """
    for path in shard_paths(folder, block.rows[0]):
        if path.name in without:
            continue
        try:
            shard, data = open_shard(path, recipe), path.read_bytes()
        except passing:
            continue
        if shard.block == block and shard_name(block, data) == path.name:
            yield shard, data


def refuse_other_recipes(
    shards: Iterable[Shard],
    recipe: Recipe,
    folder: Path,
    way_out: str = "Ask for the same recipe, or give another folder with --out.",
) -> None:
    """Raise `Mismatch`, naming the fields, if one of the shards in folder has another recipe."""
    for shard in shards:
        if shard.fingerprint != recipe.fingerprint:
            check_same(shard.recipe, recipe, where=str(folder), way_out=way_out)


def unknown_files(folder: Path, listed: Collection[str] | None) -> Iterator[str]:
    """Yield the names of files that are no part of the cache, and why; listed are the shards of its manifest."""
    for path in sorted(folder.iterdir()):
        if path.name not in OWN_NAMES:
            yield f"{path.name}: not part of the cache"
    shards = shards_folder(folder)
    for path in sorted(shards.iterdir()) if shards.is_dir() else ():
        if path.name.startswith(TEMPORARY_PREFIX):
            yield f"{shard_place(path.name)}: left by a writer that was killed, or of one that is at work"
        elif not NAME_PATTERN.fullmatch(path.name) or (listed is not None and path.name not in listed):
            yield f"{shard_place(path.name)}: not part of the cache"
